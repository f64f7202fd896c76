"""Training: what is trained, by which settings, and the one loop."""
