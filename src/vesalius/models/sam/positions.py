"""Another input size for a SAM network: its positional parameters, interpolated."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from vesalius.models.sam.config import SamConfig


def interpolate_positions(state: Mapping[str, Tensor], config: SamConfig, side: int) -> dict[str, Tensor]:
    """The parameters of a SAM network for images of another size; all but the positions stay as they are.

    The absolute positions, and the relative ones of the blocks that attend to the whole image, are interpolated
    bilinearly with ``align_corners=False``, as the code published with SAM-Med2D does (Cheng et al., "SAM-Med2D",
    2023). Windows keep their size, and so their positions.

    Args:
        state: Parameters under the published names.
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
    out["image_encoder.pos_embed"] = _resized(absolute.permute(0, 3, 1, 2), grid, grid).permute(0, 2, 3, 1).contiguous()
    for index in config.global_blocks:
        for axis in "hw":
            name = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
            table = out[name]
            out[name] = _resized(table[None, None], 2 * grid - 1, table.shape[1])[0, 0]
    return out


def _resized(maps: Tensor, height: int, width: int) -> Tensor:
    # In float32: not every type can be interpolated on every device.
    return F.interpolate(maps.float(), (height, width), mode="bilinear", align_corners=False).to(maps.dtype)
