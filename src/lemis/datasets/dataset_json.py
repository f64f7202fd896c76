"""What a ``dataset.json`` says of the scans beside it: nnU-Net's and the Medical Segmentation Decathlon's.

    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}    nnU-Net
    {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}                                Decathlon

``numTraining`` and the files that ``training`` or ``dataset`` lists are compared with what is there. Whatever else the
file says is of no concern. A key that is missing, null or empty says nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lemis import files
from lemis.errors import UsageError
from lemis.formats.names import unfit_text

SHOULD_HOLD = (
    '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}, '
    'or as in the Decathlon {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}'
)
# No format that a label map is written in holds more.
_LEAST, _MOST = -(2**31), 2**31 - 1
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class Declared(BaseModel):
    """What the file says; empty where it says nothing."""

    model_config = ConfigDict(frozen=True)

    channel_names: tuple[str, ...] = ()
    labels: dict[str, int] = {}  # name -> value, background 0 included
    file_ending: str = ""
    scans: int = 0  # how many it says there are to train on
    images: tuple[str, ...] = ()  # files of scans that it lists, relative to its folder

    @field_validator("channel_names", mode="before")
    @classmethod
    def _channels_by_number(cls, value: Any) -> tuple[str, ...]:
        return _channel_names(value)

    @field_validator("labels", mode="before")
    @classmethod
    def _values_by_name(cls, value: Any) -> dict[str, int]:
        return _labels(value)

    @field_validator("file_ending", mode="before")
    @classmethod
    def _with_its_dot(cls, value: Any) -> str:
        return _file_ending(value)


def read(file: Path) -> Declared:
    """Read a ``dataset.json``; one that is not there says nothing.

    Raises:
        UsageError: It is no JSON object, or says what cannot be used. It shows the value as it stands there and
            what to write instead.
    """
    if not file.exists():
        return Declared()
    facts = files.read_json(file, next=f"correct {file.name}, or remove it")
    if not isinstance(facts, dict):
        raise UsageError(f"{file} holds {_shown(facts)}", allowed=SHOULD_HOLD, next=f"write one such object to {file}")
    facts = {key: value for key, value in facts.items() if value not in (None, {}, "")}
    facts |= {"scans": _count(facts.get("numTraining")), "images": _listed(facts.get("training"), facts.get("dataset"))}
    if "channel_names" not in facts and "modality" in facts:  # as nnU-Net called it before, and the Decathlon calls it
        facts["channel_names"] = facts["modality"]
    try:
        return Declared.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        unfit, key = first["ctx"]["error"], first["loc"][0]
        raise UsageError(
            f'{file}: "{key}" {unfit.words}', allowed=SHOULD_HOLD, next=f"in {file.name}, {unfit.instead}"
        ) from None


class _Unfit(ValueError):
    """A value that cannot be used: why, and what to do instead."""

    def __init__(self, words: str, instead: str) -> None:
        super().__init__(words)
        self.words, self.instead = words, instead


def _channel_names(value: Any) -> tuple[str, ...]:
    given = f"is {_shown(value)}"
    if isinstance(value, str | list):
        names = [value] if isinstance(value, str) else value
        named = bool(names) and all(isinstance(name, str) for name in names)
        right = _shown({str(number): name for number, name in enumerate(names)} if named else {"0": "CT"})
        raise _Unfit(f"{given}, not one name for each number", f'write "channel_names": {right}')
    if not isinstance(value, dict):
        raise _Unfit(given, 'write "channel_names": {"0": "CT"}, or remove it')
    if not any(_WHOLE.fullmatch(key) for key in value) and all(type(number) is int for number in value.values()):
        turned = {str(number): name for name, number in sorted(value.items(), key=lambda item: item[1])}
        raise _Unfit(f"{given}, one number for each name", f'turn it round: "channel_names": {_shown(turned)}')
    wanted = [str(number) for number in range(len(value))]
    if set(value) != set(wanted):
        raise _Unfit(f"{given}, numbered {', '.join(value)}", f"number the channels {', '.join(wanted)}")
    for key in wanted:
        name = value[key]
        reason = unfit_text(name) if isinstance(name, str) else "is no text"
        if reason:
            raise _Unfit(f'calls "{key}" {_shown(name)}, which {reason}', "give every channel a name in quotes")
    return tuple(value[key] for key in wanted)


def _labels(value: Any) -> dict[str, int]:
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        right = {name: number for number, name in enumerate(value)}
        raise _Unfit(f"is {_shown(value)}, names without values", f'give each its value: "labels": {_shown(right)}')
    if not isinstance(value, dict):
        raise _Unfit(f"is {_shown(value)}", 'write "labels": {"background": 0, ...}, or remove it')
    pairs = [_label(key, one) for key, one in value.items()]
    for which, what in enumerate(("name", "value")):
        (most, count), *_ = Counter(pair[which] for pair in pairs).most_common(1)
        if count > 1:
            raise _Unfit(f"gives the {what} {_shown(most)} {count} times", f"give every structure a {what} of its own")
    names = dict(pairs)
    if names.get("background", 0) != 0:
        raise _Unfit(f'declares the label "background": {names["background"]}', 'give "background" the value 0')
    return names if 0 in names.values() else {"background": 0, **names}


def _label(key: str, value: Any) -> tuple[str, int]:
    """Name and value of nnU-Net's ``"liver": 1`` or the Decathlon's ``"1": "liver"``."""
    given = f"declares the label {_shown(key)}: {_shown(value)}"
    if isinstance(value, list) or key == "ignore":
        raise _Unfit(
            f"{given}; regions (lists) and an ignore label are not supported",
            "declare the single structures, or remove `labels` to take the values that occur",
        )
    if isinstance(value, str) and _WHOLE.fullmatch(key):
        name, number = value, int(key)
    elif isinstance(value, str) and _WHOLE.fullmatch(value):
        raise _Unfit(f"{given}, in quotes", f"give the number without quotes: {_shown(key)}: {int(value)}")
    elif type(value) is int:
        name, number = key, value
    else:
        raise _Unfit(f"{given}, which is no whole number", f"give the value in the label maps: {_shown(key)}: 1")
    if not _LEAST <= number <= _MOST:
        raise _Unfit(f"{given}, which no label map can hold", f"give a value from {_LEAST} to {_MOST}")
    if reason := unfit_text(name):
        raise _Unfit(f"{given}: the name {reason}", "give every structure a name that can be shown")
    return name, number


def _count(value: Any) -> int:
    """``numTraining``, which no training depends on; 0 where it is no number."""
    return value if type(value) is int and 0 < value <= _MOST else 0


def _listed(training: Any, dataset: Any) -> tuple[str, ...]:
    """Files of images in the Decathlon's ``training`` and nnU-Net's ``dataset``; what is no path says nothing."""
    rows = [*(training if isinstance(training, list) else []), *(dataset.values() if isinstance(dataset, dict) else [])]
    images = [row.get("image", row.get("images")) for row in rows if isinstance(row, dict)]
    files = [file for some in images for file in (some if isinstance(some, list) else [some])]
    return tuple(file for file in files if isinstance(file, str) and file and not unfit_text(file))


def _file_ending(value: Any) -> str:
    if not isinstance(value, str) or unfit_text(value):
        raise _Unfit(f"is {_shown(value)}", 'write "file_ending": ".nii.gz", or what the files end in, or remove it')
    return value if value.startswith(".") else f".{value}"


def _shown(value: Any) -> str:
    """A value as JSON, so that a text has its quotes."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]}..."
