"""Scan files of every format whose headers, voxels or packing were changed: what they claim is not what they hold."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from PIL import Image

from fuzz.harness import Case

WEIGHT = 2.0

SHAPE = (8, 7, 5)
_VOXELS = np.random.default_rng(5).integers(1, 300, SHAPE).astype(np.int16)
_LABELS = np.random.default_rng(6).integers(0, 3, SHAPE).astype(np.uint8)
_AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])
_NUMBERS = ("0", "-1", "1e300", "-1e300", "nan", "inf", "1e-30", "99999999999999999999", "abc", "", "%s%n", "\u00e9")
_EDGES = (0, 1, 2, 127, 128, 255, 32767, 65535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1)
_FLOATS = (0.0, -1.0, 1e38, -1e38, 1e-38, 1e20, float("nan"), float("inf"), 2.0)


class Changed(NamedTuple):
    """A file, what was changed, and what of it may therefore be another."""

    name: str  # of the file
    content: bytes
    change: str
    free: frozenset[str]  # of "grid", "voxels"


def cases(rng: random.Random) -> Iterator[Case]:
    """Each format in turn with a change drawn for it, as a scan or as a scan's label."""
    makers = (_nifti, _nifti, _packed, _mgh, _nrrd, _segments, _meta, _picture, _special)
    while True:
        for maker in rng.sample(makers, len(makers)):
            made = maker(rng)
            if isinstance(made, Case):
                yield made
                continue
            as_label = rng.random() < 0.3 or maker is _segments
            suffix = made.name.partition(".")[2]
            file = f"good_seg.{suffix}" if as_label else f"bad.{suffix}"
            yield Case(
                kind=suffix.split(".")[0] if suffix[:3] != "nii" else "nifti",
                name=made.change + " label" * as_label,
                build=partial(_build, file, made.content, as_label and not _is_picture(suffix)),
                argv=("check", "scans", "-o", "work"),
                nonsense=partial(_nonsense, file, made.free),
            )


# ---------------------------------------------------------------- what was accepted


def _nonsense(file: str, free: frozenset[str], folder: Path, _said: str) -> str | None:
    """What was read of a file although nothing that was changed allows it."""
    from lemis.formats import volume

    scans = json.loads((folder / "work" / "index.json").read_text(encoding="utf-8"))["scans"]
    for scan in scans:
        if not (all(size > 0 for size in scan["shape"]) and all(1e-7 < mm < 1e4 for mm in scan["spacing_mm"])):
            return f"a grid of {scan['shape']} voxels of {scan['spacing_mm']} mm"
        if any(abs(value) >= 1 << 31 for value in scan["label_values"]):
            return f"labels {scan['label_values']}"
    path = folder / "scans" / file
    found = volume.read(path)
    if found.array.nbytes > 4200 * sum(part.stat().st_size for part in path.parent.iterdir()):
        return f"{found.array.nbytes} bytes of voxels"
    kind = "picture" if _is_picture(path.suffix[1:]) else "volume"
    if "voxels" not in free and kind == "volume":
        stored = np.sort(found.array.astype(np.float64).ravel())
        wanted = [np.sort(one.astype(np.float64).ravel()) for one in (_VOXELS, _LABELS)]
        if not any(np.array_equal(stored, one) for one in wanted):
            return f"other voxels: {found.array.shape}, {stored[:1]} to {stored[-1:]}"
    if "grid" not in free and kind == "volume" and not np.allclose(sorted(found.spacing_mm), (1.5, 1.5, 8.0)):
        return f"another spacing: {found.spacing_mm}"
    return None


def _is_picture(suffix: str) -> bool:
    return suffix in ("png", "jpg", "tif", "bmp")


def _build(file: str, content: bytes, with_scan: bool, folder: Path) -> None:
    scans = folder / "scans"
    scans.mkdir()
    (scans / file).write_bytes(content)
    if with_scan or file.startswith("good_seg"):
        (scans / "good.nii.gz").write_bytes(_good())
    os.mkfifo(scans / "pipe")


@cache
def _good() -> bytes:
    return gzip.compress(_image(nibabel.Nifti1Image, _VOXELS[::-1] + 1), mtime=0)


@cache
def _bytes_of(kind: type, label: bool) -> bytes:
    return _image(kind, _LABELS if label else _VOXELS)


def _image(kind: type, array: np.ndarray) -> bytes:
    image = kind(np.ascontiguousarray(array), _AFFINE)
    if kind is not nibabel.MGHImage:
        image.set_qform(_AFFINE, code=1)
        image.set_sform(_AFFINE, code=1)
    return bytes(image.to_bytes())


# ---------------------------------------------------------------- NIfTI and FreeSurfer

# (field, place, form, what it may change) of NIfTI-1
_NIFTI_1 = (
    *(("dim", 40 + 2 * axis, "<h", "grid voxels") for axis in range(8)),
    ("datatype", 70, "<h", "voxels"),
    ("bitpix", 72, "<h", "voxels"),
    *(("pixdim", 76 + 4 * axis, "<f", "grid") for axis in range(8)),
    ("vox_offset", 108, "<f", "voxels"),
    ("scl_slope", 112, "<f", "voxels"),
    ("scl_inter", 116, "<f", "voxels"),
    ("xyzt_units", 123, "<B", "grid"),
    ("qform_code", 252, "<h", "grid"),
    ("sform_code", 254, "<h", "grid"),
    *((f"quatern@{place}", place, "<f", "grid") for place in range(256, 280, 4)),
    *((f"srow@{place}", place, "<f", "grid") for place in range(280, 328, 4)),
    ("magic", 344, "<I", "grid voxels"),
    ("sizeof_hdr", 0, "<i", "grid voxels"),
)
_NIFTI_2 = (
    *(("dim", 16 + 8 * axis, "<q", "grid voxels") for axis in range(8)),
    ("datatype", 12, "<h", "voxels"),
    *(("pixdim", 104 + 8 * axis, "<d", "grid") for axis in range(8)),
    ("vox_offset", 168, "<q", "voxels"),
    ("scl_slope", 176, "<d", "voxels"),
    *((f"srow@{place}", place, "<d", "grid") for place in range(400, 496, 8)),
    ("xyzt_units", 500, "<i", "grid"),
)


def _nifti(rng: random.Random) -> Changed:
    second = rng.random() < 0.25
    content = bytearray(_bytes_of(nibabel.Nifti2Image if second else nibabel.Nifti1Image, False))
    if rng.random() < 0.3:
        number = rng.randint(1, 60)
        for _ in range(number):
            content[rng.randrange(348)] = rng.randrange(256)
        return _stored(rng, "nii", bytes(content), f"random header bytes {number}", "grid voxels")
    name, place, form, free = rng.choice(_NIFTI_2 if second else _NIFTI_1)
    value = _drawn(rng, form)
    struct.pack_into(form, content, place, value)
    if name == "dim" and rng.random() < 0.3:  # the claim of all axes at once
        form, value = form, 1200
        for axis in range(1, 4):
            struct.pack_into(form, content, (16 if second else 40) + axis * struct.calcsize(form), value)
    return _stored(rng, "nii", bytes(content), f"NIfTI-{1 + second} {name}={value}", free)


def _packed(rng: random.Random) -> Changed:
    """Damage to the packing: what comes out is the scan, or nothing."""
    suffix = rng.choice(("nii.gz", "mgz"))
    raw = _bytes_of(nibabel.Nifti1Image if suffix == "nii.gz" else nibabel.MGHImage, False)
    content = bytearray(gzip.compress(raw, rng.choice((1, 9)), mtime=0))
    how = rng.choice(("bit", "bit", "bit", "cut", "tail", "no sum", "twice", "zeros"))
    if how == "bit":
        place = rng.randrange(8 * len(content))
        content[place // 8] ^= 1 << place % 8
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "tail":
        content += rng.randbytes(20)
    elif how == "no sum":
        content[-8:] = bytes(8)
    elif how == "twice":
        content += bytes(content)
    else:
        content += gzip.compress(bytes(200 << 20), mtime=0)
    return Changed(f"a.{suffix}", bytes(content), f"gzip {how}", frozenset())


def _mgh(rng: random.Random) -> Changed:
    content = bytearray(_bytes_of(nibabel.MGHImage, False))
    how = rng.random()
    if how < 0.3:
        number = rng.randint(1, 20)
        for _ in range(number):
            content[rng.randrange(90)] = rng.randrange(256)
        return _stored(rng, "mgh", bytes(content), f"random {number}", "grid voxels")
    form, places, free = rng.choice(((">i", range(0, 28, 4), "grid voxels"), (">f", range(30, 90, 4), "grid")))
    place, value = rng.choice(places), _drawn(rng, form)
    struct.pack_into(form, content, place, value)
    return _stored(rng, "mgh", bytes(content), f"@{place}={value}", free)


def _drawn(rng: random.Random, form: str) -> float | int:
    if form[-1] in "fd":
        return rng.choice(_FLOATS)
    size = 8 * struct.calcsize(form)
    value = rng.choice((*_EDGES, -1, -100, 1200, 60000)) % (1 << size)
    return value - (1 << size) if form[-1].islower() and value >= 1 << (size - 1) else value


def _stored(rng: random.Random, suffix: str, content: bytes, change: str, free: str) -> Changed:
    if rng.random() < 0.5:
        packed = {"nii": "nii.gz", "mgh": "mgz"}[suffix]
        return Changed(f"a.{packed}", gzip.compress(content, mtime=0), f"{change} gz", frozenset(free.split()))
    if rng.random() < 0.15:
        content = content[: rng.randrange(len(content))]
        return Changed(f"a.{suffix}", content, f"{change} cut to {len(content)}", frozenset(free.split()))
    return Changed(f"a.{suffix}", content, change, frozenset(free.split()))


# ---------------------------------------------------------------- NRRD and MetaImage

_NRRD = {
    "type": "int16",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "8 7 5",
    "space directions": "(-1.5,0,0) (0,-1.5,0) (0,0,8)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(0,0,0)",
}
_NRRD_VALUES = {
    "type": ("uint8", "block", "double", "float"),
    "dimension": ("0", "-1", "2", "4", "17", "2147483648"),
    "space": ("right-anterior-superior", "scanner-xyz", "nowhere"),
    "sizes": ("8 7", "8 7 5 1", "1200 1200 1200", "60000 60000 60000", "0 7 5", "-8 7 5", "7 8 5"),
    "space directions": ("none none none", "(0,0,0) (0,0,0) (0,0,0)", "(1e300,0,0) (0,1,0) (0,0,1)", "(nan,0,0)"),
    "kinds": ("vector domain domain", "domain domain list", "???"),
    "endian": ("big", "middle"),
    "encoding": ("gzip", "bzip2", "ascii", "hex", "zrl", "none"),
    "space origin": ("(1e300,0,0)", "(a,b,c)", "(0,0)"),
    "data file": ("pipe", "/dev/zero", "../x.raw", "%s%s%s", "bad.nrrd", "a%03d.raw 1 5 1", "LIST", "LIST 2"),
    "byte skip": ("-1", "-2", "100", "99999999999999999999"),
    "line skip": ("1", "-1", "1000000"),
    "spacings": ("nan nan nan", "1 1", "0 0 0"),
}


# What only says something of the scan, or of its packing.
_FREE_OF = {
    **dict.fromkeys(("Comment", "Foo", "ObjectType", "CompressedDataSize", "AnatomicalOrientation"), ""),
    **dict.fromkeys(("space", "space directions", "space origin", "spacings"), "grid"),
    **dict.fromkeys(("TransformMatrix", "Offset", "ElementSpacing"), "grid"),
}


def _nrrd(rng: random.Random) -> Changed:
    fields, change, key = _with_one_changed(rng, _NRRD, _NRRD_VALUES)
    head = "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in fields.items())
    return _text(rng, "nrrd", f"{head}\n".encode(), change, key)


def _segments(rng: random.Random) -> Changed:
    name = rng.choice(("liver", "[/red]", "[bold]", "", "\u0141", "a" * 5000, "../x", "<script>", "background", "'"))
    value = rng.choice(("1", "1", "2", "0", "-1", "1.5", "abc", "", "1e300", "99999999999", "%s"))
    other = rng.choice((None, ("spleen", "2"), (name, "2"), ("spleen", value)))
    pairs = [("Segment0_Name", name), ("Segment0_LabelValue", value)]
    pairs += [("Segment1_Name", other[0]), ("Segment1_LabelValue", other[1])] if other else []
    rng.shuffle(pairs)
    head = "NRRD0005\n" + "".join(f"{key}: {text}\n" for key, text in (_NRRD | {"type": "uint8"}).items())
    head += "".join(f"{key}:={text}\n" for key, text in pairs)
    content = f"{head}\n".encode() + _LABELS.tobytes(order="F")
    return Changed("a.nrrd", content, f"segments {name[:20]!r} {value!r} {other}", frozenset({"grid"}))


_META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
    "Offset": "0 0 0",
    "CenterOfRotation": "0 0 0",
    "AnatomicalOrientation": "RAI",
    "ElementSpacing": "1.5 1.5 8",
    "DimSize": "8 7 5",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
_META_VALUES = {
    "ObjectType": ("Tube", "x" * 600),
    "NDims": ("0", "-1", "1", "2", "4", "10", "100", "2147483647"),
    "BinaryData": ("False", "maybe"),
    "BinaryDataByteOrderMSB": ("True",),
    "CompressedData": ("True",),
    "CompressedDataSize": ("1", "-1", "99999999999"),
    "TransformMatrix": ("0 0 0 0 0 0 0 0 0", "1 0 0", "1e300 0 0 0 1 0 0 0 1", "1 2 3 4 5 6 7 8 9 10"),
    "Offset": ("1e300 0 0", "0 0"),
    "AnatomicalOrientation": ("???", "R" * 500),
    "ElementSpacing": ("1e300 1e300 1e300", "0 0 0", "-1 1 1", "1 1", "nan nan nan", "1 2 3 4"),
    "ElementNumberOfChannels": ("0", "-1", "2", "1000000"),
    "DimSize": ("8 7", "1200 1200 1200", "0 7 5", "-8 7 5", "7 8 5", "8 7 5 1"),
    "ElementType": ("MET_UCHAR", "MET_DOUBLE", "MET_OTHER", "MET_STRING"),
    "HeaderSize": ("-1", "100", "-2", "99999999"),
    "ElementDataFile": ("pipe", "/etc/passwd", "../x", "%s%s%s%s", "%d", "LIST", "LIST 2D", "bad.mha", "a%03d 1 5 1"),
    "Comment": ("x" * 5000, "\u00e9", "%s%n"),
    "Foo": ("x" * 5000,),
}


def _meta(rng: random.Random) -> Changed:
    fields, change, key = _with_one_changed(rng, _META, _META_VALUES)
    fields["ElementDataFile"] = fields.pop("ElementDataFile", "LOCAL")
    return _text(rng, "mha", "".join(f"{name} = {value}\n" for name, value in fields.items()).encode(), change, key)


def _with_one_changed(
    rng: random.Random, fields: dict[str, str], values: dict[str, tuple[str, ...]]
) -> tuple[dict[str, str], str, str]:
    key = rng.choice(list(values))
    if key in fields and rng.random() < 0.1:
        return {name: value for name, value in fields.items() if name != key}, f"without {key}", key
    value = rng.choice((*values[key], rng.choice(_NUMBERS)))
    return fields | {key: value}, f"{key}={value[:40]}", key


def _text(rng: random.Random, suffix: str, head: bytes, change: str, key: str) -> Changed:
    free = _FREE_OF.get(key, "grid voxels")
    voxels = _VOXELS.tobytes(order="F")
    packing = rng.random()
    if packing < 0.2:
        raw = {"nrrd": (b"encoding: raw", b"encoding: gzip"), "mha": (b"Data = False", b"Data = True")}[suffix]
        packed = bytearray(gzip.compress(voxels, mtime=0) if suffix == "nrrd" else zlib.compress(voxels))
        if rng.random() < 0.5:
            place = rng.randrange(len(packed))
            packed[place] ^= 1 << rng.randrange(8)
            change += f" packed, bit of byte {place}"
        content = head.replace(*raw) + bytes(packed)
    elif packing < 0.45:
        number, free = rng.randint(1, 5), "grid voxels"
        changed = bytearray(head)
        for _ in range(number):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        content, change = bytes(changed) + voxels, f"{change}, random {number}"
    elif packing < 0.55:
        content = (head + voxels)[: rng.randrange(len(head + voxels))]
        change += f" cut to {len(content)}"
    else:
        content = head + voxels
    return Changed(f"a.{suffix}", content, change, frozenset(free.split()))


# ---------------------------------------------------------------- pictures


def _picture(rng: random.Random) -> Changed:
    suffix = rng.choice(("png", "png", "tif", "jpg", "bmp"))
    mode = rng.choice(("L", "RGB", "P", "1", "RGBA", "I;16", "LA", "F"))
    allowed = {"jpg": ("L", "RGB"), "bmp": ("L", "RGB", "P", "1"), "png": ("L", "RGB", "P", "1", "RGBA", "I;16", "LA")}
    mode = mode if mode in allowed.get(suffix, (mode,)) else "L"
    content = bytearray(_saved(suffix, mode))
    how = rng.choice(("random", "random", "cut", "claims", "text bomb", "exif", "bytes"))
    free = frozenset({"grid", "voxels"})
    if how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "claims" and suffix in ("png", "bmp"):
        sides = rng.choice((8000, 20000, 60000, (1 << 31) - 1))
        place, form = (16, ">II") if suffix == "png" else (18, "<ii")
        struct.pack_into(form, content, place, sides, sides)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29])) if suffix == "png" else content[29:33]
        how = f"claims {sides}x{sides}"
    elif how == "text bomb" and suffix == "png":
        content[33:33] = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(rng.choice((1 << 20, 80 << 20)))))
    elif how == "exif" and suffix in ("png", "jpg"):
        content = bytearray(_saved(suffix, mode, rng.choice((2, 3, 6, 8, 9, 0, 65535))))
    elif how == "bytes":
        content = bytearray(rng.randbytes(rng.randrange(300)))
    else:
        number = rng.randint(1, 12)
        for _ in range(number):
            content[rng.randrange(min(len(content), rng.choice((60, 10**6))))] = rng.randrange(256)
        how = f"random {number}"
    return Changed(f"a.{suffix}", bytes(content), f"{suffix} {mode} {how}", free)


@cache
def _saved(suffix: str, mode: str, turn: int = 1) -> bytes:
    grey = np.random.default_rng(7).integers(0, 255, (20, 24)).astype(np.uint8)
    picture: Any = Image.fromarray(grey)
    picture = Image.fromarray(grey.astype(np.uint16) * 100) if mode == "I;16" else picture.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    stream = io.BytesIO()
    kind = {"png": "PNG", "tif": "TIFF", "jpg": "JPEG", "bmp": "BMP"}[suffix]
    picture.save(stream, kind, **({"exif": exif} if turn != 1 else {}))
    return stream.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# ---------------------------------------------------------------- files that are none


def _special(rng: random.Random) -> Case:
    suffix = rng.choice(("nii", "nii.gz", "mgz", "nrrd", "mha", "png", "nhdr", "mhd", "tif"))
    how, make = rng.choice(_SPECIAL)

    def build(folder: Path) -> None:
        (folder / "scans").mkdir()
        (folder / "scans" / "good.nii.gz").write_bytes(_good())
        make(folder / "scans" / f"bad.{suffix}")

    return Case("special", f"{suffix} {how}", build, ("check", f"scans/bad.{suffix}"))


_SPECIAL: tuple[tuple[str, Callable[[Path], Any]], ...] = (
    ("is a named pipe", os.mkfifo),
    ("is a folder", lambda path: path.mkdir()),
    ("is empty", lambda path: path.write_bytes(b"")),
    ("is a link to itself", lambda path: path.symlink_to(path.name)),
    ("is a link to nothing", lambda path: path.symlink_to("nothing")),
    ("is /dev/zero", lambda path: path.symlink_to("/dev/zero")),
    ("is text", lambda path: path.write_text("no scan\n" * 50)),
    ("is zeros", lambda path: path.write_bytes(bytes(5000))),
)
