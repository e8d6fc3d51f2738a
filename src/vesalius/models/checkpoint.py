"""Our checkpoints.

A checkpoint is a folder with ``model.safetensors`` (the weights) and ``config.json`` (the kind of network, its sizes,
its preset, and the SHA-256 of the weights file); a model card ``README.md`` and a tokenizer may lie beside them.
Everything is loaded strictly: a network is filled completely and with nothing left over, or not at all.
"""

from __future__ import annotations

import hashlib
import json
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
from vesalius.core.files import file_digest, replacing
from vesalius.models.base import SegmentationModel
from vesalius.models.presets import Preset

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# Architecture -> module, its configuration, its network.
ARCHITECTURES = {
    "deeplab": ("vesalius.models.specialists", "DeepLabConfig", "DeepLab"),
    "imis": ("vesalius.models.imis.model", "ImisConfig", "Imis"),
    "sam": ("vesalius.models.sam.model", "SamConfig", "Sam"),
    "sam2": ("vesalius.models.baseline_sam2", "Sam2Config", "Sam2"),
    "tiny": ("vesalius.models.tiny", "TinyConfig", "Tiny"),
    "unet": ("vesalius.models.specialists", "UNetConfig", "UNet"),
}


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

    Args:
        model: The network.
        folder: The checkpoint's folder; made if it does not exist.
        half: Store floating-point weights in float16, but for tensors with a value that it cannot hold.

    Raises:
        ModelError: The network has other parameters than its configuration tells, as one with LoRA that is not merged.
        WriteError: The folder cannot be written.
    """
    state = {name: _stored(value, half) for name, value in model.state_dict().items()}
    config = check(model.architecture, model.config.model_dump(mode="json"), model.preset, state, Path(folder))
    write_checkpoint(folder, state, model.architecture, config, model.preset)
    try:
        model.write_extras(Path(folder))
    except OSError as error:
        raise WriteError(f"what belongs to the weights cannot be written ({error})", path=folder) from error


def write_checkpoint(
    folder: str | Path, state: dict[str, Tensor], architecture: str, config: dict[str, Any], preset: Preset
) -> CheckpointConfig:
    """Writes parameters as a checkpoint folder, in their own types and bit for bit.

    Both files are written in full before either takes its place, so an interruption leaves the old checkpoint; one
    that falls exactly between the two renames is caught by the digest when the folder is loaded.

    Args:
        folder: The checkpoint's folder; made if it does not exist.
        state: Contiguous tensors on the CPU, under the network's names.
        architecture: Key of ``ARCHITECTURES``.
        config: The network's sizes.
        preset: How it wants its input.

    Returns:
        What was written to ``config.json``.

    Raises:
        WriteError: The folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as weights, replacing(folder / CONFIG) as file:
            save_file(state, weights)
            content = CheckpointConfig(
                architecture=architecture, config=config, preset=preset, sha256=file_digest(weights)
            )
            file.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WriteError(f"the checkpoint cannot be written ({error})", path=folder) from error
    return content


def load_checkpoint(folder: str | Path) -> SegmentationModel:
    """Loads a checkpoint folder; its weights become float32.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ModelError: The folder is not a checkpoint, is damaged, or does not fit its own configuration.
    """
    content, state = read_checkpoint(folder)
    return fill(content.architecture, content.config, content.preset, state, Path(folder))


def read_checkpoint(folder: str | Path) -> tuple[CheckpointConfig, dict[str, Tensor]]:
    """The configuration and the parameters, in the types they are stored in, of a checkpoint folder.

    Raises:
        ModelError: The folder is not a checkpoint, or is damaged.
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
        return content, load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ModelError(f"cannot be read as safetensors ({error})", path=folder / WEIGHTS) from error


def fill(
    architecture: str, config: dict[str, Any], preset: Preset, state: Mapping[str, Tensor], path: Path
) -> SegmentationModel:
    """A network filled with parameters, completely and with nothing left over; they become float32.

    Args:
        architecture: Key of ``ARCHITECTURES``.
        config: The network's sizes.
        preset: How it wants its input.
        state: Its parameters.
        path: Where they come from, for errors; a folder may hold more that the network needs, such as a tokenizer.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ModelError: The configuration cannot be built, or the parameters do not fit it.
    """
    model = _build(architecture, config, preset, path)
    _check_fit(model, state, path)
    model.load_state_dict(dict(state))
    if path.is_dir():
        model.read_extras(path)
    return model.eval()


def check(
    architecture: str, config: dict[str, Any], preset: Preset, state: Mapping[str, Tensor], path: Path
) -> dict[str, Any]:
    """Raises what `fill` would raise, without the memory of a network; returns the configuration in full."""
    with torch.device("meta"):
        model = _build(architecture, config, preset, path)
    _check_fit(model, state, path)
    return model.config.model_dump(mode="json")


def weights_digest(model: SegmentationModel) -> str:
    """SHA-256, in hexadecimal, of a network's weights: names, shapes, types and values, wherever they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # As bytes: numpy knows no bfloat16.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_config(path: Path) -> CheckpointConfig:
    try:
        return CheckpointConfig.from_dict(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read as JSON ({error})", path=path) from error
    except ConfigError as error:
        raise ModelError(error.reason, path=path) from error


def _build(architecture: str, config: dict[str, Any], preset: Preset, path: Path) -> SegmentationModel:
    path = path / CONFIG if path.is_dir() else path
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
        raise ModelError(error.reason, path=path, remedy=error.remedy) from error


def _check_fit(model: SegmentationModel, state: Mapping[str, Tensor], path: Path) -> None:
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


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    if not half or not value.is_floating_point():
        return value
    stored = value.half()
    # What is beyond float16, such as the variance of a busy channel, would come back as infinity and silence it.
    return stored if torch.equal(stored.isfinite(), value.isfinite()) else value
