"""Which scans to label next, one file per way."""
