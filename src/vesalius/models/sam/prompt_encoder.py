"""SAM's prompt encoder: points and boxes to tokens, masks to a map.

Source: Kirillov et al., "Segment Anything", 2023, section 3 and appendix A; the random Fourier features are those of
Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions", 2020, section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vesalius.models.base import PromptBatch
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.layers import LayerNorm2d


class PositionalEncoding(nn.Module):
    """Fourier features of positions at fixed random frequencies."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, dim // 2))

    def forward(self, positions: Tensor) -> Tensor:
        """(..., 2) positions (x, y), 0 to 1 from edge to edge of the image -> (..., dim)."""
        angles = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Prompts to sparse and dense embeddings."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim, channels = config.prompt_dim, config.mask_channels
        self.side = config.side
        self.grid = config.grid
        self.pe_layer = PositionalEncoding(dim)
        # Background point, object point, upper left corner, lower right corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, channels // 4, 2, stride=2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.Conv2d(channels // 4, channels, 2, stride=2),
            LayerNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def dense_positions(self) -> Tensor:
        """(grid², dim) encoding of the token centres, row by row."""
        centres = (torch.arange(self.grid).to(self.no_mask_embed.weight) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        out: Tensor = self.pe_layer(torch.stack([x, y], dim=-1).flatten(0, 1))
        return out

    def forward(self, prompts: PromptBatch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Embeds N prompts: `tokens`, then `dense`."""
        return (*self.tokens(prompts), self.dense(prompts.masks))

    def tokens(self, prompts: PromptBatch) -> tuple[Tensor, Tensor | None]:
        """Points and boxes of N prompts.

        Returns:
            Embeddings (N, T, dim), and (N, T) bool, which of them each row has, or None if all have all.
        """
        kinds = torch.cat([self.not_a_point_embed.weight, *self.point_embeddings.parameters()])
        points, labels = prompts.points.to(kinds.dtype), prompts.labels
        rows = labels.shape[0]
        has_points = (labels >= 0).any(1)
        if prompts.boxes is None:
            has_box = torch.zeros_like(has_points)
            corners = points.new_zeros(rows, 2, 2)
        else:
            has_box = prompts.boxes.isfinite().all(1)
            corners = prompts.boxes.to(points.dtype).view(rows, 2, 2)
        # The published networks always see one padding point where points come without a box. Other gaps are only
        # those of rows that share a batch; nothing attends to them.
        present = torch.stack([has_points & ~has_box, has_box, has_box], dim=1)
        present = torch.cat([labels >= 0, present], dim=1)
        points = torch.cat([points, points.new_zeros(rows, 1, 2), corners], dim=1)
        labels = torch.cat([labels, labels.new_tensor([-1, 2, 3]).expand(rows, 3)], dim=1)
        positions = self.pe_layer((points.nan_to_num() + 0.5) / self.side)
        sparse = kinds[labels + 1] + positions * (labels >= 0)[..., None]
        if torch.compiler.is_exporting():
            return sparse, present
        used = present.any(0)
        sparse, present = sparse[:, used], present[:, used]
        return sparse, None if bool(present.all()) else present

    def dense(self, masks: Tensor | None) -> Tensor:
        """(N, dim, grid, grid) of mask prompts as in `PromptBatch`, or (1, dim, 1, 1) if there are none."""
        no_mask = self.no_mask_embed.weight[:, :, None, None]
        if masks is None:
            return no_mask
        has_mask = masks.isfinite().flatten(1).all(1)
        drawn = self.mask_downscaling(masks.to(no_mask.dtype).nan_to_num())
        return torch.where(has_mask[:, None, None, None], drawn, no_mask)
