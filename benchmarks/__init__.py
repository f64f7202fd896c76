"""Speed and memory, side by side with the alternatives, as ratios measured in one run: ``make bench``."""
