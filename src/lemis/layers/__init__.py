"""Layers that networks are built of; each is used by two of them or more, or tested by itself."""
