"""Files of scans, one format each: from what lies on disk to an array with its grid, and label maps back."""
