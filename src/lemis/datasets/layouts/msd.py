"""Medical Segmentation Decathlon: imagesTr/ID.EXT (channels inside), labelsTr/ID.EXT, imagesTs/, dataset.json."""

from __future__ import annotations

from lemis.datasets import doubts
from lemis.datasets.label_names import labelled
from lemis.datasets.layouts import images_tr
from lemis.datasets.listing import Case, Found, Tree, one_each, stem_of


def find(tree: Tree) -> Found | None:
    """imagesTr or imagesTs, every file a scan."""
    root = tree.root
    parts = images_tr.read(root)
    if parts is None:
        return None
    cases, left_out = labelled(root, one_each(parts.train), parts.labels)
    odd_json = tuple(doubts.not_as_declared(root, parts.declared, cases))
    cases += [Case(stem_of(file), (file,), None) for file in parts.test]
    left_out = parts.left_out + left_out
    return Found(cases, parts.declared.channel_names, parts.declared.labels, left_out, doubts=odd_json)
