"""HTML report and figures. No PyTorch here."""
