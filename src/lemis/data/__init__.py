"""Scans: from a folder of files to batches of views on the device."""
