"""Names of weights in MONAI's networks and in ours: of ``swin_unetr``, which is MONAI's SwinUNETR cut in two."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

NETWORK = "swin_unetr"  # the backbone whose weights have these names in MONAI

# Name here -> name in MONAI's SwinUNETR, of modules.
_MODULES = {
    "transformer.": "swinViT.",
    "decoder.0.deeper.": "encoder10.",
    "decoder.0.up.": "decoder5.",
    "decoder.1.skip.": "encoder4.",
    "decoder.1.up.": "decoder4.",
    "decoder.2.skip.": "encoder3.",
    "decoder.2.up.": "decoder3.",
    "decoder.3.skip.": "encoder2.",
    "decoder.3.up.": "decoder2.",
    "decoder.4.skip.": "encoder1.",
    "decoder.4.up.": "decoder1.",
    "head.": "out.",
}

# Patterns of names in MONAI -> ours, as ``--mapping`` takes them; names of ours stay. The weights of MONAI's
# pre-training on 5050 CT scans (model_swinvit.pt) are those of the transformer alone, with the linear layers of its
# blocks under older names.
RULES = {
    r"^((?!swinViT|transformer)\w+[.])?(?=(patch_embed|layers[1-4]c?)[.])": r"\1transformer.",
    r"[.]mlp[.]fc([12])[.]": r".mlp.linear\1.",
    **{rf"(^|[.]){re.escape(theirs)}": rf"\1{ours}" for ours, theirs in _MODULES.items()},
}


def to_monai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of ``swin_unetr`` as that of ``monai.networks.nets.SwinUNETR``.

    Raises:
        StopIteration: A name of neither.
    """
    renamed = {}
    for name, tensor in weights.items():
        ours = next(module for module in _MODULES if name.startswith(module))
        renamed[_MODULES[ours] + name.removeprefix(ours)] = tensor
    return renamed
