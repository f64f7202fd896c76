"""What a page needs to show scans: NiiVue, packed, its licences, our script, and what the page may do then."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from lemis.formats.itksnap import rgb
from lemis.reporting.templating import POLICY
from lemis.reporting.viewer.scans import Shown, Viewer

VERSION = "0.69.0"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"  # of the file in the npm package, unpacked


class Library(NamedTuple):
    """NiiVue as it lies in the page."""

    version: str
    packed: Markup  # gzip, base64
    licences: str  # of it, and of all that is inside it


def parts(viewer: Viewer, colours: Mapping[str, str]) -> dict[str, Any]:
    """What ``templates/viewer/`` shows, and the page's ``policy``.

    Args:
        viewer: The scans.
        colours: ``#rrggbb`` of each structure.
    """
    packed = _file("vendor", "niivue", f"niivue-{VERSION}.umd.js.gz")
    script = _file("templates", "viewer", "viewer.js").decode("utf-8")
    return {
        "viewer_facts": {
            "structures": [{"name": name, "rgb": rgb(colours[name])} for name in viewer.structures],
            "scans": [_scan(shown) for shown in viewer.scans],
        },
        "viewer_library": Library(
            VERSION,
            Markup(base64.b64encode(packed).decode("ascii")),
            _file("vendor", "niivue", "LICENSES.txt").decode(),
        ),
        "viewer_script": Markup(script),
        "policy": _policy([gzip.decompress(packed), script.encode()]),
    }


def _scan(shown: Shown) -> dict[str, Any]:
    copy = shown.copy
    return {
        "id": shown.scan,
        "axis": shown.slice_axis,
        "shape": copy.shape,
        "affine": copy.affine,
        "voxels": np.linalg.inv(np.array(copy.affine)).tolist(),
        "place": shown.place,
        "places": dict(shown.structures),
        "said": f"Shown is a part: {copy.said}." if copy.said else "",
        "reference": copy.reference is not None,
    }


def _policy(scripts: Sequence[bytes]) -> str:
    """Run these scripts, and fetch nothing."""
    allowed = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode('ascii')}'" for text in scripts
    )
    return f"{POLICY}; script-src {allowed}; connect-src 'none'"


def _file(*names: str) -> bytes:
    return files("lemis.reporting").joinpath(*names).read_bytes()
