"""What the papers print: every figure of their tables that we could read, one file of data per table and data set.

A file is named after its table (``kaf-table1-acdc``) and has a row for each figure, as printed. Nothing is computed and
nothing is filled in: a heading that the text we read has lost says ``lost`` in its row's name, and what we restored or
doubt stands in ``lemis_note``. These figures stand beside ours, marked *published*, and are never mixed with them.
"""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple

from lemis.errors import UsageError
from lemis.plugins import nearest

# Where a table is from: the ``paper`` of an entry, and its full reference.
PAPERS = {
    "SAL": "H. Li, Y. Ouyang, X. Wan. Self-supervised Alignment Learning for Medical Image Segmentation. ISBI 2024, "
    "https://arxiv.org/abs/2406.15699",
    "KAF": "Z. Yang, M. Ren, K. Ding, G. Gerig, Y. Wang. Keypoint-Augmented Self-Supervised Learning for Medical Image "
    "Segmentation with Limited Annotation. NeurIPS 2023, https://arxiv.org/abs/2310.01680",
    "MACL": "S. Zeng et al. Multi-level Asymmetric Contrastive Learning for Volumetric Medical Image Segmentation "
    "Pre-training. IEEE Journal of Biomedical and Health Informatics 2025, https://arxiv.org/abs/2309.11876",
    "Voxel Siamese": "C. E. Lee, M. Chung, Y.-G. Shin. Voxel-level Siamese Representation Learning for Abdominal "
    "Multi-Organ Segmentation. 2021, https://arxiv.org/abs/2105.07672",
    "S3-Net": "S. Karimijafarbigloo, R. Azad, A. Kazerouni, Y. Velichko, U. Bagci, D. Merhof. Self-supervised Semantic "
    "Segmentation: Consistency over Transformation. ICCV Workshops 2023, https://arxiv.org/abs/2309.00143",
    "SGSCN": "E. Ahn, D. Feng, J. Kim. A Spatial Guided Self-supervised Clustering Network for Medical Image "
    "Segmentation. MICCAI 2021, https://arxiv.org/abs/2107.04934",
}

# Published tables that no plan of ``lemis compare`` repeats, by the beginning of their names, and why (docs/papers.md).
WITHOUT_PLAN = {
    "macl-table7": "a masked autoencoder on a vision transformer; the mae of Lemis works on the networks of Lemis",
    "macl-table8": "cost on one A100; every comparison prints its own",
    "macl-table11": "3-D pre-training of other authors (VoCo, nnSSL); which weights, and how fine-tuned, is not known",
    "sgscn-sysu": "ultrasound images that are not public, known from a third-party summary",
}


class Entry(NamedTuple):
    """One printed figure."""

    paper: str  # a key of ``PAPERS``
    table: str  # "Table 1"
    data: str  # acdc, chd, ...
    group: str  # heading above the row as printed ("Random", "SSL"); empty where there is none
    row: str  # as printed; where the row is a set of switches, these in words
    method: str  # file of ``methods/`` or ``single/``, or ``scratch``; empty where it is none of ours
    backbone: str  # file of ``backbones/``; empty where it is none of ours
    auxiliary: str  # file of ``auxiliary/``, where there is one
    labelled: str  # as printed: "2", "10 %"; empty where it is not about a number of labels
    subjects: int | None  # how many labelled subjects that is; None where it is not known
    fold: int | None  # as printed, from 1; None is the mean over folds, or the only split
    structure: str  # an organ, "object" (of a single image), or "mean" over structures; empty for costs
    metric: str  # dice, jaccard, hd95, asd (prediction to reference only), assd, hm, xor; of costs: parameters, ...
    unit: str  # share, percent, mm, px, ...
    value: float
    std: float | None  # over folds
    lemis_note: str  # what is restored, INFERRED or a misprint
    printed: str  # value and std in their printed digits: "0.840(.03)"


def tables() -> list[str]:
    """Names of the published tables, sorted."""
    return sorted(
        file.name.removesuffix(".csv") for file in resources.files(__name__).iterdir() if file.name.endswith(".csv")
    )


def load(name: str) -> tuple[Entry, ...]:
    """The figures of one table, in printed order.

    Raises:
        UsageError: There is no such table; names the nearest one.
    """
    known = tables()
    if name not in known:
        raise UsageError(
            f"published table {name!r}", allowed=", ".join(known), next=nearest(name, known) or "lemis compare --list"
        )
    text = resources.files(__name__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return tuple(_entry(row) for row in csv.DictReader(text.splitlines()))


def _entry(row: dict[str, str]) -> Entry:
    std = row["std"]
    texts = {key: row[key] for key in Entry._fields[:9]} | {
        key: row[key] for key in ("structure", "metric", "unit", "lemis_note")
    }
    return Entry(
        **texts,
        subjects=int(row["subjects"]) if row["subjects"] else None,
        fold=int(row["fold"]) if row["fold"] else None,
        value=float(row["value"]),
        std=float(std) if std else None,
        printed=f"{row['value']}({std.removeprefix('0')})" if std else row["value"],
    )
