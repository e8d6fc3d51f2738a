"""IMIS-Net's published layout, and its positions for another size of the input.

Source: the code published with Cheng et al., "Interactive Medical Image Segmentation: A Benchmark Dataset and
Baseline", 2025, whose image encoder is that of the timm library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vesalius.models.sam.config import SamConfig

TIMM = "image_encoder.sam_encoder."
# The network has a wider neck of its own; timm's is in the file and not in use.
UNUSED = TIMM + "neck."


def is_published(names: Mapping[str, object]) -> bool:
    """Whether these are the parameters of an IMIS-Net under their published names."""
    return TIMM + "pos_embed" in names


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters under our names; what `unused` names is left out.

    Raises:
        ValueError: Two published names are one of ours.
    """
    renamed = [(our_name(name), value) for name, value in state.items() if not _is_unused(name)]
    out = dict(renamed)
    if len(out) != len(renamed):
        raise ValueError("two parameters have the same name")
    return out


def unused(names: Mapping[str, object]) -> list[str]:
    """Those of the published parameters that the network has no use for."""
    return [name for name in names if _is_unused(name)]


def _is_unused(name: str) -> bool:
    # Old versions of transformers saved the numbers of the positions too.
    return name.startswith(UNUSED) or name.endswith(".embeddings.position_ids")


def our_name(name: str) -> str:
    """Our name of a published parameter."""
    if name.startswith(TIMM):
        rest = name.removeprefix(TIMM).replace(".mlp.fc1.", ".mlp.lin1.").replace(".mlp.fc2.", ".mlp.lin2.")
        return "image_encoder." + rest
    # Before version 5, transformers put one level more before the names of a text encoder.
    return name.replace("text_model.text_model.", "text_model.")


def imis_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The sizes that an IMIS-Net has beyond a SAM's, for `vesalius.models.imis.model.ImisConfig`.

    The number of the text encoder's heads leaves no trace in the parameters; CLIP's are 64 wide.

    Args:
        shapes: Of the parameters under our names.

    Raises:
        KeyError: They are not those of an IMIS-Net.
    """
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    depth = 0
    while f"text_model.encoder.layers.{depth}.mlp.fc1.weight" in shapes:
        depth += 1
    text = {
        "width": width,
        "depth": depth,
        "heads": max(1, width // 64),
        "mlp": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "vocabulary": vocabulary,
        "length": shapes["text_model.embeddings.position_embedding.weight"][0],
    }
    return {"text": text, "semantic_dim": shapes["mask_decoder.semantic_prediction_head.layers.2.weight"][0]}


def resample_positions(state: Mapping[str, Tensor], config: SamConfig, side: int) -> dict[str, Tensor]:
    """The parameters of an IMIS-Net for images of another size; all but the positions stay as they are.

    The published code keeps positions for 1024 pixels and, as timm does, resamples them whenever the input has another
    size: the absolute ones bicubically with antialiasing, the relative ones of the blocks that attend to the whole
    image linearly. The network computes the same when that is done once.

    Args:
        state: Parameters under our names.
        config: The network's sizes.
        side: The new side of the input in pixels, a multiple of ``config.patch``.

    Raises:
        ValueError: The side is not a positive multiple of the patch.
    """
    if side <= 0 or side % config.patch:
        raise ValueError(f"{side} is not a positive multiple of the patch, {config.patch}")
    out = dict(state)
    if side == config.side:
        return out
    grid = side // config.patch
    absolute = out["image_encoder.pos_embed"]
    maps = F.interpolate(absolute.float().permute(0, 3, 1, 2), (grid, grid), mode="bicubic", antialias=True)
    out["image_encoder.pos_embed"] = maps.permute(0, 2, 3, 1).contiguous().to(absolute.dtype)
    for index in config.global_blocks:
        for axis in "hw":
            name = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
            table = out[name]
            rows = F.interpolate(table.float().T[None], 2 * grid - 1, mode="linear")[0].T
            out[name] = rows.contiguous().to(table.dtype)
    return out
