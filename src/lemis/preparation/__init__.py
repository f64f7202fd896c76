"""Scans resampled, normalised and stored once, with their keypoints, for every run of a work folder."""
