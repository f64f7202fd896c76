"""Lemis: label-efficient medical image segmentation.

Every command is a function of the same name: ``from lemis.verbs.fit import fit``.
"""

__version__ = "0.1.0"
