"""From a network's weights as they are published, whatever their layout, to a network or a checkpoint of ours."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vesalius.core.errors import ConfigError, ModelError, WriteError
from vesalius.core.files import file_digest, replacing
from vesalius.models.base import SegmentationModel
from vesalius.models.baseline_sam2 import is_sam2, load_sam2
from vesalius.models.card import CARD, model_card
from vesalius.models.checkpoint import (
    CONFIG,
    WEIGHTS,
    check,
    fill,
    read_checkpoint,
    write_checkpoint,
)
from vesalius.models.layouts import Weights, recognise, without_adapters
from vesalius.models.presets import PRESETS, Preset
from vesalius.models.registry import by_digest
from vesalius.models.text import tokenizer_files
from vesalius.models.torch_file import read_torch_file

# Names under which networks are published whose weights do not tell how they want their input: the files, and the
# folders of transformers on the Hugging Face hub. Others are not guessed from, since derived files begin alike.
PUBLISHED = {
    "sam_vit_b_01ec64": "sam",
    "sam_vit_l_0b3195": "sam",
    "sam_vit_h_4b8939": "sam",
    "medsam_vit_b": "medsam",
    "sam-vit-base": "sam",
    "sam-vit-large": "sam",
    "sam-vit-huge": "sam",
    "medsam-vit-base": "medsam",
}

_log = logging.getLogger(__name__)


def read_weights(path: str | Path) -> Weights:
    """Reads a network's parameters in any layout that we know.

    Args:
        path: A PyTorch or safetensors file; a folder of transformers (``config.json`` with model type ``sam``); or a
            checkpoint of ours.

    Raises:
        ModelError: The path cannot be read, or has another layout.
    """
    path = Path(path)
    if path.is_dir():
        if "architecture" in (config := _read_json(path / CONFIG)):
            content, state = read_checkpoint(path)
            return Weights("Vesalius", content.architecture, content.config, state, content.preset)
        return _read_transformers(path, config)
    if path.suffix == ".safetensors":
        return recognise(_read_safetensors(path), path)
    return recognise(read_torch_file(path), path)


def load_network(path: str | Path, preset: str | None = None, adapters: bool = True) -> SegmentationModel:
    """Loads a network from any file or folder that `read_weights` takes.

    Args:
        path: The file or folder; or transformers' folder of a SAM 2, which tells its own preset.
        preset: Key of ``PRESETS``: how the network wants its input, where the weights do not tell (see
            `choose_preset`).
        adapters: Whether SAM-Med2D's adapters are kept, if there are any.

    Returns:
        The network on the CPU, in evaluation mode, in float32. What is dropped is named in the log.

    Raises:
        ModelError: The path cannot be read, has another layout, or does not fit.
    """
    path = Path(path)
    if is_sam2(path):
        if preset is not None:
            raise ModelError("is a SAM 2, which tells its own preset", path=path, remedy="leave the preset out")
        return load_sam2(path)
    weights = read_weights(path)
    if weights.dropped:
        _log.warning("%s: not loaded: %s", path, ", ".join(weights.dropped))
    if not adapters:
        weights = without_adapters(weights)
    chosen = choose_preset(weights, preset, path)
    return fill(weights.architecture, weights.config, chosen, weights.state, path)


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        folder: The checkpoint.
        layout: What the source was found as.
        dropped: What of it is not in the checkpoint.
        sha256: Digest of the source file, in hexadecimal; None for a folder.
        known_as: Its name in the registry, if its digest is there.
    """

    folder: Path
    layout: str
    dropped: tuple[str, ...]
    sha256: str | None
    known_as: str | None


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    preset: str | None = None,
    side: int | None = None,
    adapters: bool = True,
    name: str | None = None,
) -> Conversion:
    """Writes a network's weights as a checkpoint of ours with a model card, in their own types and bit for bit.

    Args:
        source: Any file or folder that `read_weights` takes.
        folder: The checkpoint; it must not hold one yet.
        preset: Key of ``PRESETS``, where the weights do not tell (see `choose_preset`).
        side: Interpolate the positions to this side of the input in pixels.
        adapters: Whether SAM-Med2D's adapters are kept, if there are any.
        name: The registry's name of the source, where it is known without a digest.

    Raises:
        ModelError: The source cannot be read, has another layout, does not fit, or cannot be interpolated.
        WriteError: The folder holds a checkpoint already, or cannot be written.
    """
    from vesalius.models.registry import entry

    source, folder = Path(source), Path(folder)
    if (folder / CONFIG).exists() or (folder / WEIGHTS).exists():
        raise WriteError("holds a checkpoint already", path=folder, remedy="remove it or name another folder")
    weights = read_weights(source)
    sha256 = file_digest(source) if source.is_file() else None
    if name is None and sha256 is not None and (found := by_digest(sha256)) is not None:
        name = found[0]
    known = None if name is None else entry(name)
    if known is not None and preset is None and weights.preset is None:
        preset = known.preset
    if not adapters:
        weights = without_adapters(weights)
    chosen = choose_preset(weights, preset, source)
    positions = ""
    if side is not None:
        positions = f"interpolated from {weights.config.get('side')} to {side} pixels"
        weights = resized(weights, side, source)
        chosen = _of_side(chosen, side)
    config = check(weights.architecture, weights.config, chosen, weights.state, source)
    state = {key: _alone(value) for key, value in weights.state.items()}
    content = write_checkpoint(folder, state, weights.architecture, config, chosen)
    try:
        for file in tokenizer_files(source):
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise WriteError(f"the tokenizer cannot be written ({error})", path=folder) from error
    facts = {
        "converted from": f"`{source.name}`, {weights.layout}",
        "SHA-256 of that": f"`{sha256}`" if sha256 else "",
        "source": f"{known.title}, {known.page}" if known else "not in the registry by its digest",
        "paper": known.paper if known else "",
        "licence": (known.licence or "the source page states none") if known else "unknown",
        "left out": ", ".join(weights.dropped),
        "positions": positions,
    }
    facts = {key: value for key, value in facts.items() if value}
    title = known.title if known else folder.resolve().name
    try:
        with replacing(folder / CARD) as card:
            card.write_text(model_card(title, content, facts, known.licence if known else None), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"the model card cannot be written ({error})", path=folder) from error
    return Conversion(folder, weights.layout, weights.dropped, sha256, name)


def resized(weights: Weights, side: int, path: Path) -> Weights:
    """The same network for images of another side, its positions interpolated.

    Raises:
        ModelError: It is no SAM or IMIS-Net, or the side does not fit it.
    """
    from vesalius.models.imis.layout import resample_positions
    from vesalius.models.imis.model import ImisConfig
    from vesalius.models.sam.config import SamConfig
    from vesalius.models.sam.positions import interpolate_positions

    ways = {"sam": (SamConfig, interpolate_positions), "imis": (ImisConfig, resample_positions)}
    if weights.architecture not in ways:
        raise ModelError(f"a network of kind {weights.architecture!r} has no positions to interpolate", path=path)
    kind, interpolated = ways[weights.architecture]
    try:
        before = kind.from_dict(weights.config)
        state = interpolated(weights.state, before, side)
        after = kind.from_dict({**weights.config, "side": side})
    except (ValueError, ConfigError) as error:
        raise ModelError(f"side {side} does not fit the network ({error})", path=path) from error
    return replace(weights, state=state, config=after.model_dump(mode="json"))


def choose_preset(weights: Weights, name: str | None, path: Path) -> Preset:
    """How the network wants its input, in its own size.

    SAM-Med2D is known by its adapters. The weights of SAM, MedSAM and FT-SAM look the same inside, although they want
    their input otherwise: ``name`` tells them apart, or else the name of the file or folder, if it is one of
    ``PUBLISHED``.

    Raises:
        ModelError: There is no such preset, it is not that of these weights, or nothing tells which it is.
    """
    if name is not None and name not in PRESETS:
        raise ModelError(f"there is no preset {name!r}", path=path, remedy=f"give one of {', '.join(PRESETS)}")
    if name is not None and weights.architecture == "sam2":
        raise ModelError("is a SAM 2, which tells its own preset", path=path, remedy="leave the preset out")
    published = PUBLISHED.get(path.name if path.is_dir() else path.stem)
    side = weights.config.get("side")
    if name == "ft-sam" and weights.preset is None and side == PRESETS["sam-med2d"].side:
        raise ModelError(
            f"is for {side} pixels, so it is the FT-SAM of SAM-Med2D, which takes its input as SAM-Med2D does",
            path=path,
            remedy="give the preset sam-med2d",
        )
    if name is not None:
        preset = PRESETS[name]
    elif weights.preset is not None:
        preset = weights.preset
    elif published is not None:
        preset = PRESETS[published]
    else:
        raise ModelError(
            "the weights of SAM, MedSAM and FT-SAM look the same inside, and the name does not tell which these are",
            path=path,
            remedy=f"convert it first: vesalius models convert {path} --preset NAME -o FOLDER (in Python, preset=NAME "
            f"will do), where NAME is one of {', '.join(PRESETS)}",
        )
    return preset if side is None else _of_side(preset, int(side))


def _of_side(preset: Preset, side: int) -> Preset:
    """The preset for a network of another size."""
    if side == preset.side:
        return preset
    return preset.model_copy(update={"side": side, "mask_side": side * preset.mask_side // preset.side})


def _read_transformers(folder: Path, config: dict[str, Any]) -> Weights:
    if is_sam2(folder):
        raise ModelError(
            "is a SAM 2 of transformers", path=folder, remedy="use the folder as it is, for --model or --init"
        )
    if config.get("model_type") != "sam":
        raise ModelError(
            f"its {CONFIG} is that of a {config.get('model_type', 'model without a type')!r}, not of a SAM",
            path=folder,
            remedy="give a checkpoint of ours, or a folder of transformers' SamModel",
        )
    for name in (WEIGHTS, "pytorch_model.bin"):
        if (folder / name).is_file():
            weights = read_weights(folder / name)
            heads = config.get("mask_decoder_config", {}).get("num_attention_heads", 8)
            return replace(weights, config={**weights.config, "decoder_heads": heads})
    raise ModelError(f"has neither {WEIGHTS} nor pytorch_model.bin", path=folder)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"is not a checkpoint: it has no {path.name}", path=path.parent)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read as JSON ({error})", path=path) from error
    return content if isinstance(content, dict) else {}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot be read as safetensors ({error})", path=path) from error


def _alone(value: Tensor) -> Tensor:
    """The tensor, contiguous and with nothing else in its memory, as safetensors wants it."""
    value = value.detach()
    if value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes:
        return value
    return value.clone(memory_format=torch.contiguous_format)
