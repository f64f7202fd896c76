"""From prepared scans to batches of views on the device."""
