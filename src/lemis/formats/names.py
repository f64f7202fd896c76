"""What ids, subjects, names and paths may contain, and how a text is shown that contains anything else."""

from __future__ import annotations

import re

# File systems take 255 bytes; ours add a mark and a suffix, and those of a file that is being written.
LONGEST_ID_BYTES = 200
# Names that the store and the work folder give to files of their own.
_TAKEN = re.compile(r"^(?:meta|keypoints)$|\.(?:label|keypoints)$", re.IGNORECASE)
# What moves a cursor, ends a line or turns the direction of writing; and half characters, as which Python shows the
# bytes of a name that is not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")


def unfit_id(id: str) -> str:
    """Why a text cannot be the id of a scan; "" where it can."""
    if reason := unfit_text(id):
        return reason
    if odd := re.search(r'[/\\:*?"<>|]', id):
        return f"holds {odd[0]}"
    if id.startswith(".") or id.endswith(".") or id != id.strip():
        return "begins or ends with a dot or a space"
    if len(id.encode()) > LONGEST_ID_BYTES:
        return f"has {len(id.encode())} bytes, more than {LONGEST_ID_BYTES}"
    return "is the name of a file of ours" if _TAKEN.search(id) else ""


def unfit_text(text: str) -> str:
    """Why a text cannot be a subject, the name of a structure or channel, or a path; "" where it can."""
    if not text.strip():
        return "is empty"
    if not is_utf8(text):
        return "is not UTF-8"
    return "holds a control character" if _UNPRINTABLE.search(text) else ""


def is_utf8(text: str) -> bool:
    """False for a text with bytes that are not UTF-8, as file names may have (half characters, in Python)."""
    return not _HALF.search(text)


def readable(text: str) -> str:
    """The text, with escapes in place of characters that cannot be shown."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
