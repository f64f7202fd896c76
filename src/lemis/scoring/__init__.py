"""Label maps against references: which belong together, what may not be scored, the scores, and their summary."""
