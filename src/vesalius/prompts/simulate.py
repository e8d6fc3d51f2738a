"""The next clicks of a simulated annotator, for a whole batch at once and on the batch's device."""

from __future__ import annotations

import torch
from torch import Tensor


def pick_pixels(region: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws pixels uniformly from one region per row.

    Args:
        region: (N, H, W) bool.
        uniforms: (N, K) numbers in [0, 1), one per pixel to draw.

    Returns:
        Points (N, K, 2) int64 (x, y) and whether there was anything to draw from, (N,) bool; the points of a row
        with an empty region are meaningless.
    """
    width = region.shape[2]
    flat = region.flatten(1)
    ranks = flat.cumsum(1, dtype=torch.int32)
    count = ranks[:, -1:]
    # The k-th pixel of the region is where the running count first reaches k.
    wanted = (uniforms.to(flat.device, torch.float64) * count).floor().to(torch.int32).clamp(max=count - 1) + 1
    index = torch.searchsorted(ranks, wanted.clamp_min(1)).clamp(max=flat.shape[1] - 1)
    return torch.stack([index % width, index // width], dim=2), count[:, 0] > 0


def sample_error_points(prediction: Tensor, truth: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws corrective clicks uniformly from where prediction and truth differ (SAM-Med2D, section 3.2).

    Args:
        prediction: (N, H, W) bool.
        truth: (N, H, W) bool.
        uniforms: (N, K) numbers in [0, 1), one per click.

    Returns:
        Points (N, K, 2) int64 (x, y), and labels (N, K) int64: 1 where the truth was missed, 0 where too much was
        marked, -1 (padding) for rows without error.
    """
    points, found = pick_pixels(prediction ^ truth, uniforms)
    hit = truth.flatten(1).gather(1, points[:, :, 1] * truth.shape[2] + points[:, :, 0])
    return points, torch.where(found[:, None], hit.long(), -1)
