"""Parameter names of SAM in the transformers library, both ways.

Source: the ``SamModel`` of transformers, in whose layout ``facebook/sam-vit-base`` and others are published.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vesalius.core.errors import ModelError

# Parts of a name: the published one, and that of transformers. # stands for a number.
NAMES = [
    ("image_encoder.blocks.#", "vision_encoder.layers.#"),
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.", "vision_encoder."),
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
    ("output_hypernetworks_mlps.#.layers.0.", "output_hypernetworks_mlps.#.proj_in."),
    ("output_hypernetworks_mlps.#.layers.1.", "output_hypernetworks_mlps.#.layers.0."),
    ("output_hypernetworks_mlps.#.layers.2.", "output_hypernetworks_mlps.#.proj_out."),
    ("iou_prediction_head.layers.0.", "iou_prediction_head.proj_in."),
    ("iou_prediction_head.layers.1.", "iou_prediction_head.layers.0."),
    ("iou_prediction_head.layers.2.", "iou_prediction_head.proj_out."),
    (".norm#.", ".layer_norm#."),
    (".norm_final_attn.", ".layer_norm_final_attn."),
]
# Transformers keeps the positional matrix under two names; files may hold either or both.
MATRIX, TWIN = "prompt_encoder.shared_embedding.positional_embedding", "shared_image_embedding.positional_embedding"


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published SAM state dict under transformers' names; the positional matrix appears under both of its names."""
    out = {_rename(name, NAMES): value for name, value in state.items()}
    if MATRIX in out:
        out[TWIN] = out[MATRIX]
    return out


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A SAM state dict of transformers under the published names.

    Raises:
        ModelError: The two copies of the positional matrix differ.
    """
    state = dict(state)
    twin = state.pop(TWIN, None)
    if twin is not None and not torch.equal(state.setdefault(MATRIX, twin), twin):
        raise ModelError(f"{MATRIX} and {TWIN} differ, though they are one parameter")
    return {_rename(name, [(theirs, ours) for ours, theirs in NAMES]): value for name, value in state.items()}


def _rename(name: str, names: Iterable[tuple[str, str]]) -> str:
    """Replaces the parts of a name, each once and from left to right."""
    table = dict(names)
    # Where two parts begin at the same place, the longer one is meant.
    parts = sorted(table, key=len, reverse=True)
    pattern = "|".join(f"({re.escape(part).replace(re.escape('#'), '[0-9]+')})" for part in parts)

    def replaced(match: re.Match[str]) -> str:
        number = re.search("[0-9]+", match[0]) if "#" in parts[(match.lastindex or 1) - 1] else None
        new = table[parts[(match.lastindex or 1) - 1]]
        return new.replace("#", number[0]) if number else new

    return re.sub(pattern, replaced, name)
