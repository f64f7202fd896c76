"""nnU-Net raw: imagesTr/ID_0000.EXT (one file per channel), labelsTr/ID.EXT, imagesTs/, dataset.json."""

from __future__ import annotations

from lemis.datasets import channel_files, doubts
from lemis.datasets.label_names import labelled, names_in
from lemis.datasets.layouts import images_tr
from lemis.datasets.listing import Case, Found, LeftOut, Tree, shown, stem_of


def find(tree: Tree) -> Found | None:
    """imagesTr or imagesTs with files that are numbered by channel."""
    root = tree.root
    parts = images_tr.read(root)
    if parts is None:
        return None
    images = parts.train + parts.test
    labels = {name for file in parts.labels for name in names_in(stem_of(file))}
    channels = channel_files.numbers(images, labels, len(parts.declared.channel_names))
    if not channels:
        return None
    cases, left_out = labelled(root, channel_files.by_scan(parts.train, channels), parts.labels, numbered=True)
    odd_json = tuple(doubts.not_as_declared(root, parts.declared, cases))
    cases += [Case(name, files, None) for name, files in channel_files.by_scan(parts.test, channels).items()]
    odd = [file for file in images if not channel_files.CHANNEL.match(stem_of(file))]
    left_out += tuple(LeftOut(shown(root, file), "has no channel number (_0000) at its end") for file in odd)
    left_out = parts.left_out + left_out
    return Found(cases, parts.declared.channel_names, parts.declared.labels, left_out, doubts=odd_json)
