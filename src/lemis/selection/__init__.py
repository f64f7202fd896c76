"""Which scans to label next: what scans are like, what networks make of them, and the pool that is chosen from."""
