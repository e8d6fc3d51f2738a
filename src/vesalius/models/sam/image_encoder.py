"""SAM's image encoder: a plain vision transformer with windowed attention and relative positions.

Source: Kirillov et al., "Segment Anything", 2023, section 3 and appendix A; the backbone is that of Li et al.,
"Exploring Plain Vision Transformer Backbones for Object Detection", 2022; the decomposed relative positions are
those of Li et al., "MViTv2", 2022, section 4.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.layers import LayerNorm2d, Mlp


class Attention(nn.Module):
    """Self-attention of a token grid with relative positions, in windows or over the whole grid.

    Args:
        dim: Width of a token.
        heads: Number of heads.
        grid: Side of the token grid.
        window: Side of a window, or None for the whole grid.
    """

    def __init__(self, dim: int, heads: int, grid: int, window: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.window = window or grid
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * self.window - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * self.window - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        batch, height, width, dim = x.shape
        size = self.window
        rows, columns = -(-height // size), -(-width // size)
        qkv = self.qkv(x)
        if (rows * size, columns * size) != (height, width):
            # Windows at the right and bottom are filled up with zero tokens, which do take part in the attention;
            # their queries, keys and values are all the same and need no product per token.
            filled = self.qkv(x.new_zeros(dim)).expand(batch, rows * size, columns * size, -1).clone()
            filled[:, :height, :width] = qkv
            qkv = filled
        qkv = qkv.view(batch, rows, size, columns, size, 3, self.heads, dim // self.heads)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.heads, size, size, dim // self.heads)
        query, key, value = qkv.flatten(3, 4)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=self._relative(qkv[0]))
        out = out.view(batch, rows, columns, self.heads, size, size, -1).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(batch, rows * size, columns * size, dim)[:, :height, :width]
        projected: Tensor = self.proj(out)
        return projected

    def _relative(self, query: Tensor) -> Tensor:
        """(N, heads, size², size²) additive bias of (N, heads, size, size, d) queries."""
        at = torch.arange(self.window, device=query.device)
        distance = at[:, None] - at[None, :] + self.window - 1
        along_h = torch.einsum("nhyxd,ykd->nhyxk", query, self.rel_pos_h[distance])
        along_w = torch.einsum("nhyxd,xkd->nhyxk", query, self.rel_pos_w[distance])
        return (along_h[..., :, None] + along_w[..., None, :]).flatten(4, 5).flatten(2, 3)


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to its input."""

    def __init__(self, dim: int, heads: int, grid: int, window: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, grid, window)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """One token per patch."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, side, side) -> (B, grid, grid, dim)."""
        out: Tensor = self.proj(images).permute(0, 2, 3, 1)
        return out


class ImageEncoder(nn.Module):
    """Images to embeddings."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim, out = config.encoder_dim, config.prompt_dim
        self.patch_embed = PatchEmbed(config.patch, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.encoder_heads, config.grid, None if index in config.global_blocks else config.window)
            for index in range(config.encoder_depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, side, side) normalised images -> (B, prompt_dim, grid, grid) embeddings."""
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out
