"""What two or more papers share: pure, small, each tested against a slow version."""
