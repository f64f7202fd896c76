"""What runs are called where nobody names them, by verbs and comparisons alike."""

from __future__ import annotations

from pathlib import Path

from lemis.training.pairing import SCRATCH, default_backbone
from lemis.training.run_settings import Finetuning, Pretraining
from lemis.work_files.run import PretrainedModel


def start(method: str, backbone: str, *beside: str | None) -> str:
    """How runs begin: ``pcl``; ``scratch-kaf_unet`` on a network that is not the method's; ``scratch-voxel_siamese``
    with an extra loss, ``pcl-bcp`` with unlabelled scans.

    Modules of the user's by their whole names: two labs may have a file of one name.
    """
    named = method if backbone == default_backbone(method) else f"{method}-{backbone}"
    return _with(named, *beside)


def of_pretraining(settings: Pretraining, *, fold: int | None, seed: int) -> str:
    """``pcl``, ``pcl-without-fold2``, ``pcl-seed1``: the first seed is not named."""
    without = "" if fold is None else f"-without-fold{fold}"
    return _with_seed(start(settings.method, settings.backbone) + without, seed)


def of_finetuning(
    settings: Finetuning, pretrained: Path | None, before: PretrainedModel | None, *, labelled: int,
    fold: int | None, seed: int, second: Path | None = None,
) -> str:  # fmt: skip
    """``pcl-m2-fold0``, ``pcl-cps-macl-m2-fold0``; the seed is named where the pre-training does not name it.

    Args:
        settings: Of the run.
        pretrained: The pre-training run; None from scratch.
        before: What that made.
        labelled: Subjects that give their labels (M).
        fold: Whose test subjects are held out.
        seed: Of the run.
        second: The pre-training run of a second network.
    """
    if pretrained is not None and before is not None:
        begun, named = pretrained.name, before.seed
    else:
        begun, named = _with_seed(start(SCRATCH, settings.backbone), seed), seed
    begun = _with(begun, settings.auxiliary, settings.semi, second.name if second else None)
    name = f"{begun}-m{labelled}-{'all' if fold is None else f'fold{fold}'}"
    return name if seed == named else f"{name}-seed{seed}"


def _with(name: str, *beside: str | None) -> str:
    return "-".join([name, *(one for one in beside if one is not None)])


def _with_seed(name: str, seed: int) -> str:
    return f"{name}-seed{seed}" if seed else name
