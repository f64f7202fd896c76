"""Scores, intervals and tables. No PyTorch here."""
