"""Prediction back on the scan's own grid."""
