"""Checkpoints: our own folders, and the published ``.pth`` files.

A checkpoint is a folder with ``model.safetensors`` (the weights) and ``config.json`` (the kind of network, its sizes,
its preset, and the SHA-256 of the weights file); a model card ``README.md`` may lie beside them. Everything is loaded
strictly: a network is filled completely and with nothing left over, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ModelError, WriteError
from vesalius.core.files import replacing
from vesalius.models.base import SegmentationModel
from vesalius.models.presets import PRESETS, Preset

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Architecture -> module, its configuration, its network.
ARCHITECTURES = {
    "sam": ("vesalius.models.sam.model", "SamConfig", "Sam"),
    "tiny": ("vesalius.models.tiny", "TinyConfig", "Tiny"),
}

_log = logging.getLogger(__name__)


class CheckpointConfig(Config):
    """The content of ``config.json``.

    Attributes:
        version: Of the checkpoint format.
        architecture: Key of ``ARCHITECTURES``.
        config: The network's sizes.
        preset: How it wants its input.
        sha256: Of the weights file, in hexadecimal.
    """

    version: Literal[1] = 1
    architecture: str
    config: dict[str, Any]
    preset: Preset
    sha256: str


def save_checkpoint(model: SegmentationModel, folder: str | Path, half: bool = False) -> None:
    """Saves a network as a checkpoint folder; a checkpoint that is there already is replaced.

    Both files are written in full before either takes its place, so an interruption leaves the old checkpoint; one
    that falls exactly between the two renames is caught by the digest when the folder is loaded.

    Args:
        model: The network.
        folder: The checkpoint's folder; made if it does not exist.
        half: Store floating-point weights in float16.

    Raises:
        WriteError: The folder cannot be written.
    """
    folder = Path(folder)
    state = {name: _stored(value, half) for name, value in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as weights, replacing(folder / CONFIG) as config:
            save_file(state, weights)
            content = CheckpointConfig(
                architecture=model.architecture,
                config=model.config.model_dump(mode="json"),
                preset=model.preset,
                sha256=file_digest(weights),
            )
            config.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WriteError(f"the checkpoint cannot be written ({error})", path=folder) from error


def load_checkpoint(folder: str | Path) -> SegmentationModel:
    """Loads a checkpoint folder; its weights become float32.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ModelError: The folder is not a checkpoint, is damaged, or does not fit its own configuration.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"is not a checkpoint: it has no {name}", path=folder)
    content = _read_config(folder / CONFIG)
    digest = file_digest(folder / WEIGHTS)
    if digest != content.sha256:
        raise ModelError(
            f"has SHA-256 {digest}, but {CONFIG} says {content.sha256}",
            path=folder / WEIGHTS,
            remedy="the weights are damaged or belong to another configuration: get the folder again",
        )
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ModelError(f"cannot be read as safetensors ({error})", path=folder / WEIGHTS) from error
    model = _build(content.architecture, content.config, content.preset, folder / CONFIG)
    _load_strictly(model, state, folder / WEIGHTS)
    return model.eval()


def weights_digest(model: SegmentationModel) -> str:
    """SHA-256, in hexadecimal, of a network's weights: names, shapes, types and values, wherever they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # As bytes: numpy knows no bfloat16.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal, as ``sha256sum`` prints it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_torch_file(path: str | Path) -> object:
    """Reads a foreign PyTorch file: tensors and plain containers; nothing in it is ever executed.

    Raises:
        ModelError: The file is missing, damaged, or holds anything else.
    """
    try:
        with warnings.catch_warnings():  # of odd pickle protocols, which the error below tells well enough
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", path=path) from error
    except Exception as error:  # arbitrary bytes make the reader fail in arbitrary ways
        raise ModelError(
            "is damaged, truncated, or holds more than tensors, which could be code; nothing in it was run",
            path=path,
            remedy="get the file again from its authors, as a plain state dict",
        ) from error


def load_foreign(path: str | Path, preset: str | None = None) -> SegmentationModel:
    """Loads a published ``.pth`` of SAM, MedSAM, FT-SAM or SAM-Med2D.

    SAM-Med2D's files are known by their layout. Those of SAM, MedSAM and FT-SAM look the same inside, although MedSAM
    wants its input otherwise: their file names tell them apart, ``sam_vit*`` and ``medsam*``, or else ``preset``.

    Args:
        path: The file.
        preset: Key of ``PRESETS``, where the file alone does not tell.

    Returns:
        The network on the CPU, in evaluation mode. What a file holds besides its network is named in the log.

    Raises:
        ModelError: The file cannot be read, has another layout, or does not fit.
    """
    path = Path(path)
    content = read_torch_file(path)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        dropped = ", ".join(str(key) for key in content if key != "model")
        content = content["model"]
        if dropped:
            _log.warning("%s: not loaded: %s", path, dropped)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError("is not a state dict of tensors", path=path, remedy=_LAYOUTS)
    state: dict[str, Tensor] = {str(name): value for name, value in content.items()}
    config = _sam_config({name: tuple(value.shape) for name, value in state.items()}, path)
    name = preset or _preset_name(path, bool(config["adapter"]))
    if name not in PRESETS:
        raise ModelError(f"there is no preset {name!r}", path=path, remedy=f"give one of {', '.join(PRESETS)}")
    side = int(config["side"])
    sized = PRESETS[name].model_copy(update={"side": side, "mask_side": 4 * (side // int(config["patch"]))})
    model = _build("sam", config, sized, path)
    _load_strictly(model, state, path)
    return model.eval()


_LAYOUTS = "give a .pth of SAM, MedSAM, FT-SAM or SAM-Med2D"


def _preset_name(path: Path, adapter: bool) -> str:
    name = path.name.lower()
    if adapter:
        return "sam-med2d"
    if name.startswith("medsam"):
        return "medsam"
    if name.startswith("sam_vit"):
        return "sam"
    raise ModelError(
        "SAM's and MedSAM's files look the same inside, and the name does not tell which this is",
        path=path,
        remedy="let the file name begin with sam_vit (SAM, FT-SAM) or medsam (MedSAM)",
    )


def _sam_config(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """The sizes of the SAM network that has these parameters."""
    try:
        _, grid, _, dim = shapes["image_encoder.pos_embed"]
        patch = shapes["image_encoder.patch_embed.proj.weight"][2]
        depth = _count(shapes, "image_encoder.blocks.{}.norm1.weight")
        positions = [shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
        spans = [(rows + 1) // 2 for rows, _ in positions]
        windows = sorted({span for span in spans if span != grid})
        if len(windows) > 1:
            raise ValueError("several window sizes")
        return {
            "side": grid * patch,
            "patch": patch,
            "encoder_dim": dim,
            "encoder_depth": depth,
            "encoder_heads": dim // positions[0][1],
            "global_blocks": [i for i, span in enumerate(spans) if span == grid],
            "window": windows[0] if windows else grid,
            "prompt_dim": shapes["prompt_encoder.no_mask_embed.weight"][1],
            "mask_channels": shapes["prompt_encoder.mask_downscaling.3.weight"][0],
            "decoder_depth": _count(shapes, "mask_decoder.transformer.layers.{}.norm1.weight"),
            "decoder_mlp": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
            "iou_hidden": shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
            "adapter": any(".Adapter." in name for name in shapes),
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelError("does not have the layout of a SAM network", path=path, remedy=_LAYOUTS) from error


def _count(shapes: Mapping[str, object], pattern: str) -> int:
    index = 0
    while pattern.format(index) in shapes:
        index += 1
    return index


def _read_config(path: Path) -> CheckpointConfig:
    try:
        return CheckpointConfig.from_dict(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read as JSON ({error})", path=path) from error
    except ConfigError as error:
        raise ModelError(error.reason, path=path) from error


def _build(architecture: str, config: dict[str, Any], preset: Preset, path: Path) -> SegmentationModel:
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"its architecture {architecture!r} is unknown",
            path=path,
            remedy=f"this version knows {', '.join(sorted(ARCHITECTURES))}",
        )
    module, config_name, model_name = ARCHITECTURES[architecture]
    config_class: type[Config] = getattr(import_module(module), config_name)
    model_class: Callable[[Config, Preset], SegmentationModel] = getattr(import_module(module), model_name)
    try:
        return model_class(config_class.from_dict(config), preset)
    except (ConfigError, ModelError) as error:
        raise ModelError(error.reason, path=path) from error


def _load_strictly(model: SegmentationModel, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape or type": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in own.items()
            if name in state
            and (state[name].shape != value.shape or state[name].is_floating_point() != value.is_floating_point())
        ],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in faults.items()
        if names
    ]
    if told:
        raise ModelError(f"does not fit the network: {'; '.join(told)}", path=path)
    model.load_state_dict(dict(state))


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() else value
