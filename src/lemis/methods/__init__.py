"""Pre-training methods, one paper per file: ``Settings``, ``Views``, ``Method``. The folder is the list."""
