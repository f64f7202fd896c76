"""Which file is what: from a folder or a list to an index of scans, their subjects, frame and folds."""
