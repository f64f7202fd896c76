"""Ways to fine-tune with unlabelled scans too, one file each."""
