"""The label description of ITK-SNAP: names and colours of the values of a label map, which does not hold them."""

from __future__ import annotations

from collections.abc import Mapping

_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""


def description(structures: Mapping[str, int], colours: Mapping[str, str]) -> str:
    """The text of a file for ``Segmentation > Import label descriptions``, or ``itksnap -l``.

    Args:
        structures: Name to value, without background.
        colours: Name to ``#rrggbb``.
    """
    lines = [_line(0, (0, 0, 0), 0, "Clear Label")]
    for name, value in sorted(structures.items(), key=lambda item: item[1]):
        lines.append(_line(value, rgb(colours[name]), 1, name))
    return _HEAD + "".join(lines)


def rgb(colour: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three numbers up to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _line(value: int, colour: tuple[int, int, int], shown: int, name: str) -> str:
    red, green, blue = colour
    text = " ".join(name.split()).replace('"', "'")  # which ends a name there
    return f'{value:5d} {red:4d} {green:4d} {blue:4d} {shown:4d} {shown:4d} {shown:4d}    "{text}"\n'
