"""Scans in a report that one can go through: which of them, made small for display, and what shows them."""
