"""The folder of a run: where it lies, what it holds, what it was trained on."""
