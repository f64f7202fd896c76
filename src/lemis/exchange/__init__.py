"""Weights that go to other programs, and weights that come from them."""
