"""The layouts that are recognised, in the order in which they are tried: the first that finds a scan is the folder's.

To add one, write a file here with a function ``find``, which makes ``listing.Found`` of a folder or None where the
folder is of another layout, and give it a line in ``LAYOUTS``; docs/data.md describes each layout in one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lemis.datasets import index
from lemis.datasets.layouts import acdc, bids, chaos, csv_list, flat, gibson, msd, nnunet, public, scanner, subjects
from lemis.datasets.listing import Found, Tree


@dataclass(frozen=True)
class Layout:
    """One way in which data sets lie in their folder."""

    name: str  # as after --layout
    title: str
    find: Callable[[Tree], Found | None]
    asked: Callable[[Tree], Found | None] | None = None  # in place of ``find`` where the layout is named
    public: bool = False  # a data set as it unpacks: what else lies in its folder is not named
    axial: bool = False  # scans are axial however thin their slices: some are thinner than their pixels are wide


LAYOUTS = (
    Layout(
        "gibson",
        "abdominal CT with the multi-organ reference of Gibson et al.",
        gibson.find,  # its folder names are nobody else's, and a table (cropping.csv) may lie beside them
        public=True,
        axial=True,
    ),
    Layout("csv", "CSV list", csv_list.find),
    Layout("nnunet", "nnU-Net raw", nnunet.find),
    Layout("msd", "Medical Segmentation Decathlon", msd.find),
    Layout("acdc", "ACDC, all frames", acdc.find, public=True),
    Layout("acdc_ed_es", "ACDC, end-diastole and end-systole", partial(acdc.find, cine=False), public=True),
    Layout("chd", "ImageCHD", public.chd, public=True, axial=True),
    Layout("mmwhs", "MM-WHS, CT", partial(public.mmwhs, modality="ct"), public=True, axial=True),
    Layout("mmwhs_mr", "MM-WHS, MR", partial(public.mmwhs, modality="mr"), public=True, axial=True),
    Layout("hvsmr", "HVSMR 2016", public.hvsmr, public=True, axial=True),
    Layout("chaos", chaos.KINDS["chaos"].title, partial(chaos.find, kind="chaos"), public=True),
    Layout("chaos_t1", chaos.KINDS["chaos_t1"].title, partial(chaos.find, kind="chaos_t1"), public=True),
    Layout("chaos_ct", chaos.KINDS["chaos_ct"].title, partial(chaos.find, kind="chaos_ct"), public=True, axial=True),
    Layout("synapse", "Synapse abdominal CT (BTCV)", public.synapse, public=True, axial=True),
    Layout("brats", "BraTS 2018 to 2020", public.brats, public=True, axial=True),
    Layout("kits", "KiTS19", public.kits, public=True, axial=True),
    Layout("isic", "ISIC 2018, task 1", public.isic, public=True),
    Layout("isic_grey", "ISIC 2018, task 1, in grey", partial(public.isic, grey=True), public=True),
    Layout("bids", "BIDS", bids.find),
    Layout("dicom", "DICOM from a scanner or a disc", scanner.recognised, asked=scanner.find),
    Layout("subjects", "one folder per subject", subjects.find),
    Layout("flat", "flat folder", flat.find),
)
PUBLIC_TITLES = {layout.name: layout.title for layout in LAYOUTS if layout.public}
TITLES = {layout.name: layout.title for layout in LAYOUTS if not layout.public} | PUBLIC_TITLES
_AXIAL = {layout.name for layout in LAYOUTS if layout.axial}


def slice_axis(layout: str, spacing_mm: tuple[float, ...]) -> int:
    """Across which canonical axis the slices of a scan run, in a folder of that layout."""
    return 2 if layout in _AXIAL else index.slice_axis(spacing_mm)
