"""Faults of geometry: what a header says of voxels, and a label or channel on a different grid than its image."""

from __future__ import annotations

import dataclasses

import numpy as np

from lemis.checking.faults import FileReport, bracketed
from lemis.formats.grids import corner_distance_mm, is_sheared
from lemis.formats.source import Source

# Headers hold rounded numbers; beyond a twentieth of a voxel a label no longer lies where it was drawn.
GRID_TOLERANCE_VOXELS = 0.05
# Of a voxel: from micro-CT to a scout.
PLAUSIBLE_MM = (1e-3, 100.0)
# More volumes than any protocol has contrasts: time points.
MOST_CHANNELS = 8


def header_faults(source: Source, report: FileReport) -> None:
    """What is wrong with, or had to be assumed of, the header of one image."""
    for note in source.notes:
        report.warning(*note)
    if source.format != "picture" and not all(PLAUSIBLE_MM[0] <= mm <= PLAUSIBLE_MM[1] for mm in source.spacing_mm):
        report.warning(
            "implausible spacing",
            f"voxels of {bracketed(source.spacing_mm)} mm; scans usually have {PLAUSIBLE_MM[0]:g} to "
            f"{PLAUSIBLE_MM[1]:g} mm",
            "fine if that is right (microscopy); otherwise correct the spacing in the header, in mm",
        )
    if source.codes == (0, 0):
        report.warning(
            "unknown orientation",
            "qform_code and sform_code are both 0: which side of the body is left, front or top is a guess",
            "fine if all scans have the same orientation; otherwise convert the originals again (dcm2niix)",
        )
    compare_forms(source, report)
    if is_sheared(source.affine):
        report.warning(
            "sheared grid",
            f"axes not at right angles (gantry tilt): affine {np.round(source.affine[:3, :3], 4).tolist()}",
            "kept as it is; distances in mm are approximate, resample the scan if they matter",
        )
    if source.channels > MOST_CHANNELS:
        report.warning(
            "time series",
            f"{source.channels} volumes in one file are taken as channels",
            "save the volumes that you need as files of their own",
        )
    if source.format == "picture" and source.dtype in ("P", "PA"):
        report.error(
            "palette picture",
            "its pixels are indices into a palette, not intensities",
            "save it as greyscale or RGB",
        )


def compare_forms(source: Source, report: FileReport) -> None:
    """What is wrong where a NIfTI header says twice how the voxels lie."""
    if source.codes is None or min(source.codes) == 0:
        return
    qform, sform = source.header.get_qform(), source.header.get_sform()
    off = corner_distance_mm(qform, sform, source.shape) * source.unit_mm
    # A qform cannot hold a shear, so a sheared sform always differs from it; that has its own warning.
    if off > GRID_TOLERANCE_VOXELS * min(source.spacing_mm) and not is_sheared(source.affine):
        spacings = [np.linalg.norm(form[:3, :3], axis=0) * source.unit_mm for form in (qform, sform)]
        report.warning(
            "qform and sform disagree",
            f"they place a corner of the scan {off:.3g} mm apart, with voxels of {bracketed(spacings[0])} and "
            f"{bracketed(spacings[1])} mm; we use the sform, as nibabel does, other programs may not",
            "make them equal (FSL: fslorient -copysform2qform), after checking which is right",
        )


def grid_faults(source: Source, image: Source, what: str, image_file: str, report: FileReport) -> None:
    """Compare a label or a further channel with the first image, in the order of the image."""
    source = dataclasses.replace(source, along=image.axes)  # on its own, its rounded header may fall to another axis
    shape, wanted = source.canonical_shape, image.canonical_shape
    several = what == "channel" and source.format == "dicom"
    pick = "; or take one series as the scan: give the folder as 'FOLDER#series=DESCRIPTION'" if several else ""
    if shape != wanted:
        report.error(
            f"{what} on a different grid",
            f"shape {shape}, but {image_file} has {wanted} (both in RAS+ order)",
            f"resample the {what} to the image (labels: nearest neighbour), or find the image that it belongs to{pick}",
        )
        return
    affine, wanted_affine = source.canonical_affine, image.canonical_affine
    off = corner_distance_mm(affine, wanted_affine, wanted)
    if off <= GRID_TOLERANCE_VOXELS * min(image.spacing_mm):
        return
    if source.axis_codes != image.axis_codes:
        report.error(
            f"{what} in a different orientation",
            f"axes {source.axis_codes}, but {image_file} has {image.axis_codes}; corners {off:.3g} mm apart",
            f"if the voxels match, copy the image's affine into the {what}; if not, reorient the {what}{pick}",
        )
        return
    spacing, wanted_spacing = np.round(source.spacing_mm, 4), np.round(image.spacing_mm, 4)
    report.error(
        f"{what} in a different place",
        f"spacing {bracketed(spacing)} and origin {bracketed(affine[:3, 3])} mm, but {image_file} has "
        f"{bracketed(wanted_spacing)} and {bracketed(wanted_affine[:3, 3])} mm; corners are {off:.3g} mm apart",
        f"if the voxels match, copy the image's affine into the {what}; if not, resample it to the image{pick}",
    )
