"""Segmentation of one image without a label, one file per method: ``Settings``, ``segment``. The folder is the list."""
