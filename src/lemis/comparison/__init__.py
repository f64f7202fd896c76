"""Comparisons: the plan, its cells, where they run, and their tables."""
