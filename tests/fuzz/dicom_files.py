"""DICOM series whose tags, pixels and files are not what they should be."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

import dicoms
from fuzz.harness import Case

SLICES = 4
# Tags of numbers as text, and how many of them there are.
_NUMBERS = {
    "PixelSpacing": (0x00280030, 2),
    "ImagePositionPatient": (0x00200032, 3),
    "ImageOrientationPatient": (0x00200037, 6),
    "RescaleSlope": (0x00281053, 1),
    "RescaleIntercept": (0x00281052, 1),
    "SliceThickness": (0x00180050, 1),
    "ImagerPixelSpacing": (0x00181164, 2),
    "SeriesNumber": (0x00200011, 1),
    "NumberOfFrames": (0x00280008, 1),
}
_TEXTS = (
    "",
    "abc",
    "nan",
    "inf",
    "-inf",
    "0",
    "-1",
    "1e400",
    "1e20",
    "-1e300",
    "1e-320",
    "0x10",
    "1_0",
    "1,5",
    "\0",
    "é",
)
_TEXTS += ("9" * 300, "%s%n", "[/red]", "1\\\\2", "=1+2", " ")
# No length and no direction, whatever the other numbers are.
_NO_LENGTH = ("abc", "nan", "inf", "-inf", "0", "-1", "1e400", "1e20", "-1e300", "1e-320", "0x10", "1,5")
_WORDS = {
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "SamplesPerPixel": 0x00280002,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PlanarConfiguration": 0x00280006,
}
_NAMED = {
    "PhotometricInterpretation": (0x00280004, ("MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL_422", "", "x")),
    "Modality": (0x00080060, ("SEG", "SR", "RTSTRUCT", "OT", "", "\x1b[31m")),
    "SeriesInstanceUID": (0x0020000E, ("1.2.4", "", "../../x", "9" * 64)),
    "SeriesDescription": (0x0008103E, ("[/red]", "<script>", "", "Größe", "../x", "\x1b[31m")),
    "TransferSyntaxUID": (
        0x00020010,
        ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.70", "1.2", ""),
    ),
    "ImageType": (0x00080008, ("ORIGINAL\\PRIMARY\\LOCALIZER", "", "\\\\\\")),
}


def cases(rng: random.Random) -> Iterator[Case]:
    """Each kind in turn."""
    makers: tuple[Callable[[random.Random], Case], ...] = (
        _number,
        _word,
        _named,
        _bytes,
        _cut,
        _gone,
        _packed,
        _folder,
        _enhanced,
    )
    while True:
        for maker in makers:
            yield maker(rng)


def _number(rng: random.Random) -> Case:
    name, (tag, count) = rng.choice(list(_NUMBERS.items()))
    text = rng.choice(_TEXTS)
    parts = [text] + ["1"] * (count - 1 + rng.choice((0, 0, 0, 1)))
    which = rng.choice((range(SLICES), [rng.randrange(SLICES)]))
    wrong = name == "PixelSpacing" and text in _NO_LENGTH

    def nonsense(_folder: Path, _said: str) -> str | None:
        return f"a Pixel Spacing of {text!r} was taken for a length" if wrong else None

    value = "\\".join(parts).encode()
    name = f"{name}={value[:20]!r} in {len(which)}"
    return _case("number", name, lambda folder: _with_raw(folder, which, tag, value), nonsense)


def _word(rng: random.Random) -> Case:
    name, tag = rng.choice(list(_WORDS.items()))
    word = rng.choice((0, 1, 2, 3, 7, 12, 16, 31, 32, 64, 4096, 32768, 60000, 65535, rng.randrange(65536)))
    which = rng.choice((range(SLICES), [rng.randrange(SLICES)]))
    return _case(
        "word",
        f"{name}={word} in {len(which)}",
        lambda folder: _with_raw(folder, which, tag, word.to_bytes(2, "little")),
    )


def _named(rng: random.Random) -> Case:
    name, (tag, texts) = rng.choice(list(_NAMED.items()))
    text = rng.choice(texts)
    which = rng.choice((range(SLICES), [rng.randrange(SLICES)]))
    value = text.encode()
    return _case("name", f"{name}={text!r} in {len(which)}", lambda folder: _with_raw(folder, which, tag, value))


def _bytes(rng: random.Random) -> Case:
    seed = rng.randrange(10**6)
    header = rng.random() < 0.7

    def build(folder: Path) -> None:
        chance = random.Random(seed)
        files = _series(folder)
        for file in files if chance.random() < 0.5 else files[:1]:
            content = bytearray(file.read_bytes())
            last = 900 if header else len(content)
            for _ in range(chance.choice((1, 2, 8, 40))):
                content[chance.randrange(132 if header else 0, last)] = chance.randrange(256)
            file.write_bytes(content)

    return _case("bytes", f"random {'header ' * header}{seed}", build)


def _enhanced(rng: random.Random) -> Case:
    """A file of many frames, with some bytes of its tags and functional groups changed."""
    seed = rng.randrange(10**6)

    def build(folder: Path) -> None:
        chance = random.Random(seed)
        frames = np.random.default_rng(seed).integers(0, 2000, (SLICES, 8, 8)).astype(np.uint16)
        echoes = chance.random() < 0.3

        def each(number: int) -> dict[str, object]:
            place = number // 2 if echoes else number
            return {
                "ImagePositionPatient": [0, 0, 2 * place],
                "EffectiveEchoTime": float(number % 2),
                "RescaleSlope": 2,
            }

        file = dicoms.write_enhanced(folder / "IM1", frames, each=each)
        content = bytearray(file.read_bytes())
        for _ in range(chance.choice((1, 1, 2, 8, 40))):
            content[chance.randrange(132, len(content) - frames.nbytes)] = chance.randrange(256)
        file.write_bytes(content[: chance.choice((None, None, None, 1500, -40))])

    return _case("enhanced", f"random {seed}", build)


def _cut(rng: random.Random) -> Case:
    kept = rng.choice((0, 1, 127, 128, 132, 140, 200, 500, 900, -1, -2, -12, -1000, rng.randrange(2000)))
    every = rng.random() < 0.5

    def build(folder: Path) -> None:
        files = _series(folder)
        for file in files if every else files[1:2]:
            file.write_bytes(file.read_bytes()[:kept])

    return _case("cut", f"at {kept} in {'all' if every else 'one'}", build)


def _gone(rng: random.Random) -> Case:
    names = rng.sample(
        [*_NUMBERS, *_WORDS, "PixelData", "SeriesInstanceUID", "Modality", "SOPClassUID"], rng.choice((1, 1, 2, 5))
    )
    kept = rng.choice((0, 1))

    def build(folder: Path) -> None:
        for file in _series(folder)[kept:]:
            dataset = pydicom.dcmread(file)
            for name in names:
                if name in dataset:
                    del dataset[name]
            dataset.save_as(file, enforce_file_format="SOPClassUID" not in names)

    def nonsense(_folder: Path, said: str) -> str | None:
        made_up = "PixelSpacing" in names and "nothing is wrong" in said
        return "Pixel Spacing is not there, and nothing is said to be wrong" if made_up else None

    return _case("gone", f"{' '.join(names)} of {SLICES - kept}", build, nonsense)


def _packed(rng: random.Random) -> Case:
    syntax = rng.choice((JPEG2000Lossless, JPEGBaseline8Bit, RLELossless))
    seed = rng.randrange(10**6)
    what = rng.choice(("right", "rows", "bytes", "cut", "short", "size"))

    def build(folder: Path) -> None:
        chance = random.Random(seed)
        for number in range(2):
            dataset = _packed_slice(number, syntax, chance)
            if what in ("rows", "size"):
                dataset.Rows = chance.choice((1, 31, 60000))
            if what == "size":
                dataset.Columns = 60000
            dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
            content = bytearray((folder / f"{number}.dcm").read_bytes())
            pixels = content.rindex(b"\xe0\x7f\x10\x00") + 12  # what follows tag, type and length
            if what == "bytes":
                for _ in range(chance.choice((1, 4, 30))):
                    content[chance.randrange(pixels, len(content))] = chance.randrange(256)
            elif what == "cut":
                del content[chance.randrange(pixels, len(content)) :]
            elif what == "short":
                del content[chance.randrange(pixels, len(content)) : -8]  # the end of the sequence stays
            elif what == "size":
                content[pixels + 16 : pixels + 76] = bytes(chance.randrange(256) for _ in range(60))
            (folder / f"{number}.dcm").write_bytes(content)

    return _case("packed", f"{syntax.name[:12]} {what} {seed}", build)


def _folder(rng: random.Random) -> Case:
    what = rng.choice(("fifo", "empty", "text", "dicomdir", "deep", "alone", "doubled", "two series", "folder"))

    def build(folder: Path) -> None:
        files = _series(folder)
        if what == "fifo":
            os.mkfifo(folder / "9.dcm")
        elif what == "empty":
            (folder / "9.dcm").touch()
        elif what == "text":
            (folder / "9.dcm").write_text("text " * 99)
        elif what == "dicomdir":
            (folder / "DICOMDIR").write_bytes(files[0].read_bytes()[:500])
        elif what == "deep":
            # Sequences of undefined length, 3000 deep.
            start = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
            (folder / "9.dcm").write_bytes(bytes(128) + b"DICM" + start * 3000)
        elif what == "alone":
            for file in files[1:]:
                file.unlink()
        elif what == "doubled":
            (folder / "9.dcm").write_bytes(files[0].read_bytes())
        elif what == "two series":
            dicoms.with_raw(files[0], 0x0020000E, b"1.2.4")
        else:
            (folder / "9.dcm").mkdir()

    return _case("folder", what, build)


def _case(
    kind: str,
    name: str,
    build: Callable[[Path], None],
    nonsense: Callable[[Path, str], str | None] = lambda _folder, _said: None,
) -> Case:
    def build_below(folder: Path) -> None:
        (folder / "p1" / "series").mkdir(parents=True)
        build(folder / "p1" / "series")

    def any_nonsense(folder: Path, said: str) -> str | None:
        shown = next((line for line in said.splitlines() if line.startswith(("spacing", "intensity", "shape"))), "")
        return f"read as {shown}" if "nan" in shown or "inf " in shown else nonsense(folder, said)

    return Case(f"dicom {kind}", name, build_below, ("check", "."), any_nonsense)


def _series(folder: Path) -> list[Path]:
    random_pixels = np.random.default_rng(0).integers(0, 2000, (24, 20, SLICES)).astype(np.uint16)
    return dicoms.write(
        folder, random_pixels,
        RescaleSlope=1, RescaleIntercept=-1024, SliceThickness=2, ImagerPixelSpacing=None, NumberOfFrames=1,
        ImageType=["ORIGINAL", "PRIMARY"],
    )  # fmt: skip


def _with_raw(folder: Path, which: range | list[int], tag: int, value: bytes) -> None:
    files = _series(folder)
    for number in which:
        try:
            dicoms.with_raw(files[number], tag, value)
        except ValueError:  # not in the file yet
            dataset = pydicom.dcmread(files[number])
            dataset.add_new(tag, "LO", "x")
            dataset.save_as(files[number])
            dicoms.with_raw(files[number], tag, value)


def _packed_slice(number: int, syntax: pydicom.uid.UID, chance: random.Random) -> Dataset:
    bits = np.uint8 if syntax == JPEGBaseline8Bit else np.uint16
    pixels = np.random.default_rng(chance.randrange(10**6)).integers(0, 200, (64, 48)).astype(bits)
    dataset = dicoms.slice_of(pixels, number)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
        return dataset
    stream = io.BytesIO()
    Image.fromarray(pixels).save(
        stream, "JPEG" if bits == np.uint8 else "JPEG2000", **({} if bits == np.uint8 else {"no_jp2": True})
    )
    code = stream.getvalue()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([code + b"\0" * (len(code) % 2)])
    return dataset
