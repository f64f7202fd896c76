"""Extra losses of fine-tuning, one file each."""
