"""The structures of public data sets: their names, and the values that the label maps hold for them."""

from __future__ import annotations

_ORGANS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "portal and splenic vein": 10,
    "pancreas": 11,
    "right adrenal gland": 12,
    "left adrenal gland": 13,
}
LABELS: dict[str, dict[str, int]] = {
    "acdc": {"background": 0, "RV": 1, "MYO": 2, "LV": 3},
    "chd": {"background": 0, "LV": 1, "RV": 2, "LA": 3, "RA": 4, "MYO": 5, "AO": 6, "PA": 7},
    "mmwhs": {"background": 0, "MYO": 205, "LA": 420, "LV": 500, "RA": 550, "RV": 600, "AO": 820, "PA": 850},
    "hvsmr": {"background": 0, "myocardium": 1, "blood pool": 2},
    "chaos": {"background": 0, "liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252},
    "chaos_ct": {"background": 0, "liver": 255},
    "synapse": {"background": 0, **_ORGANS},
    "brats": {"background": 0, "necrosis and non-enhancing core": 1, "oedema": 2, "enhancing tumour": 4},
    "kits": {"background": 0, "kidney": 1, "tumour": 2},
    "isic": {"background": 0, "lesion": 255},
    # The eight organs that are marked in both cohorts.
    "gibson": {
        "background": 0,
        "spleen": 1,
        "left kidney": 3,
        "gallbladder": 4,
        "esophagus": 5,
        "liver": 6,
        "stomach": 7,
        "pancreas": 11,
        "duodenum": 14,
    },
}
# Further values, which count as background.
IGNORED: dict[str, tuple[int, ...]] = {
    "gibson": (2, 8, 9, 10, 12, 13),  # right kidney, vessels and adrenal glands: marked in BTCV only
    "chd": tuple(range(8, 256)),  # of the notes on PCL's code: labels > 7 -> 0
    "mmwhs": (421,),  # a slip of the pen in a label of MR
}
