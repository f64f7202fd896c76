"""``lemis export``: the network of a run as files that need no Lemis, with what they expect and a card."""

from __future__ import annotations

from pathlib import Path

from lemis import files
from lemis.exchange import card, dicom_seg, monai_bundle, nnunet_files, onnx_file, requests, torch_files
from lemis.exchange.expected import expected
from lemis.plugins import NO_TRUST, Trust
from lemis.prediction.loaded import load
from lemis.runs.run import messages
from lemis.work_files.exported import write_expects


def export(
    run: Path, *, output: Path, to: str = "torch", licence: str | None = None, codes: Path | None = None,
    trust: Trust = NO_TRUST,
) -> Path:  # fmt: skip
    """Write the network of a run with its weights, or label maps, for other programs.

    Beside weights lie ``expects.json``, which says what an image must be like, and ``README.md``, a card with data,
    method, citations and results. Both count subjects and name none.

    Args:
        run: A finished run, WORK/runs/NAME: a pre-training or a fine-tuning; with dicom-seg a folder of label maps.
        output: Folder to write.
        to: Where it goes. ``torch``: weights as safetensors, and the network as one Python file that needs PyTorch
            alone. ``onnx``: one file for ONNX Runtime, for any batch and size. ``monai``: of a fine-tuned run, a bundle
            that segments NIfTI files with MONAI alone. ``nnunet``: a checkpoint for ``nnUNetv2_train
            -pretrained_weights`` with its plan, of plainconv_unet or residual_encoder_unet. ``nnssl``: one that nnU-Net
            takes as from nnssl, of the same networks in 3D. ``dicom-seg``: the label maps of a folder that
            `lemis predict` wrote, as DICOM SEG objects; ``dicom-labelmap``: in the newer kind of 2024.
        licence: Of the weights, for the card, such as CC-BY-4.0; by default the card says that none is stated.
        codes: CSV of names and the codes that they stand for in DICOM SEG objects, where Lemis knows none.
        trust: Import modules that the run names, even if they are not part of Lemis.

    Returns:
        The folder.

    Raises:
        UsageError: The run is not finished or was imported, its network cannot be written so, the other program has no
            such network, label maps are not of DICOM series, or ``output`` holds something else.
    """
    objects = requests.segmentations(to, licence, codes)
    if objects is not None:
        files.require_writable(output)
        dicom_seg.say(dicom_seg.write_all(run, output, objects))
        return output
    requests.refuse_export(run, output, to)
    files.require_writable(output)
    loaded = load(run, device="cpu", trust=trust)
    model, network = loaded.model, loaded.network
    requests.refuse_imported(run, model)
    requests.refuse_network(run, model, to)
    expects = expected(model, network)
    segmenting = requests.finetuned(run, model) if to == "monai" else None
    with files.filling(output) as folder:
        place = folder / (card.CARD if segmenting is None else monai_bundle.CARD)
        if segmenting is not None:
            use = monai_bundle.write(folder, run, segmenting, network, expects, licence)
        elif to == "onnx":
            use = onnx_file.write(folder, run, model, network)
        elif to in ("nnunet", "nnssl"):
            use = nnunet_files.write(folder, run, model, network, network.state_dict(), to=to)
        else:
            use = torch_files.write(folder, run, model, network, network.state_dict())
        write_expects(folder, expects)
        files.write(place, card.written(run, model, expects, licence=licence, use=use))
    messages().print(f"exported {run.name} to {output}: {', '.join(sorted(file.name for file in output.iterdir()))}")
    return output
