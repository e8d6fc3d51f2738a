"""The layouts in which networks are published, known by their keys.

Sources: the checkpoints and training scripts of Kirillov et al., "Segment Anything", 2023; Ma et al., "Segment Anything
in Medical Images", 2024 (MedSAM); Cheng et al., "SAM-Med2D", 2023; Cheng et al., "Interactive Medical Image
Segmentation", 2025 (IMIS-Net); and the ``SamModel`` of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vesalius.core.errors import ModelError
from vesalius.models.imis import layout as imis
from vesalius.models.presets import PRESETS, Preset
from vesalius.models.sam.transformers_names import from_transformers

# Where training scripts put the network, beside its optimizer and so on.
WRAPPERS = ("model", "model_state_dict", "state_dict")
# What they put before every name: torch's wrappers, and the attribute that holds the network.
PREFIXES = ("module.", "_orig_mod.", "model.", "sam_model.", "sam.")

_KNOWN = "known are SAM (Meta's or transformers'), MedSAM, FT-SAM, SAM-Med2D and IMIS-Net"


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's parameters under our names, and what they are.

    Attributes:
        layout: What they were found as, in words.
        architecture: Key of `vesalius.models.checkpoint.ARCHITECTURES`.
        config: The network's sizes.
        state: Its parameters.
        preset: How it wants its input, if the layout tells.
        dropped: What was there besides.
    """

    layout: str
    architecture: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    preset: Preset | None = None
    dropped: tuple[str, ...] = ()


def recognise(content: object, path: Path) -> Weights:
    """Finds out which network's parameters these are.

    Args:
        content: What a file holds: a state dict, or a training script's dict around one.
        path: The file, for errors.

    Raises:
        ModelError: The layout is unknown.
    """
    state, wrapper, dropped = _unwrapped(content, path)
    prefix, state = _without_prefix(state)
    told = f" under {wrapper!r}" if wrapper else ""
    told += f", every name after {prefix!r}" if prefix else ""
    try:
        if any(name.startswith("vision_encoder.") for name in state):
            weights = _sam("SAM of transformers", from_transformers(state))
        elif imis.is_published(state):
            weights = _imis(state)
        else:
            weights = _sam("SAM", state)
    except ModelError as error:
        raise ModelError(error.reason, path=path) from error
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelError("does not have the layout of a network that we know", path=path, remedy=_KNOWN) from error
    return replace(weights, layout=weights.layout + told, dropped=(*weights.dropped, *dropped))


def _sam(layout: str, state: dict[str, Tensor]) -> Weights:
    config = sam_config({name: tuple(value.shape) for name, value in state.items()})
    if config["adapter"]:
        return Weights("SAM-Med2D", "sam", config, state, PRESETS["sam-med2d"])
    return Weights(layout, "sam", config, state)


def _imis(published: dict[str, Tensor]) -> Weights:
    state = imis.from_published(published)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    config = {**sam_config(shapes), **imis.imis_sizes(shapes)}
    left = imis.unused(published)
    neck = [name for name in left if name.startswith(imis.UNUSED)]
    dropped = [f"the encoder's own neck, which is not in use ({len(neck)} parameters)"] if neck else []
    dropped += [name for name in left if name not in neck]
    return Weights("IMIS-Net", "imis", config, state, PRESETS["imis-net"], tuple(dropped))


def _unwrapped(content: object, path: Path) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """The state dict, the key that it lay under if any, and the other keys."""
    if _is_state(content):
        return content, "", ()  # type: ignore[return-value]
    if isinstance(content, dict):
        found = [key for key in WRAPPERS if _is_state(content.get(key))]
        if len(found) == 1:
            return content[found[0]], found[0], tuple(str(key) for key in content if key != found[0])
    raise ModelError("is not a state dict of tensors", path=path, remedy=_KNOWN)


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _without_prefix(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    removed = ""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        removed += prefix
    return removed, state


def sam_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes of the SAM network that has these parameters, for `vesalius.models.sam.config.SamConfig`.

    The number of the decoder's heads leaves no trace in the parameters; all published networks have eight.

    Raises:
        KeyError, ValueError, IndexError, ZeroDivisionError: They are not those of a SAM network.
    """
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
        "adapter": "sam-med2d" if any(".Adapter." in name for name in shapes) else None,
    }


def _count(shapes: Mapping[str, object], pattern: str) -> int:
    index = 0
    while pattern.format(index) in shapes:
        index += 1
    return index


def without_adapters(weights: Weights) -> Weights:
    """The same network without SAM-Med2D's adapters; one that has none stays as it is."""
    names = [name for name in weights.state if ".Adapter." in name]
    if not names:
        return weights
    return replace(
        weights,
        config={**weights.config, "adapter": None},
        state={name: value for name, value in weights.state.items() if name not in names},
        dropped=(*weights.dropped, f"the adapters ({len(names)} parameters)"),
    )
