"""How far each label map can be trusted without a label: what is measured of it, what runs know, and the table."""
