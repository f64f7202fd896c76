"""DICOM: which files are (``folders``), one file (``tags``, ``grid``, ``pixels``), a scan (``series``, ``voxels``)."""
