"""SAM's image encoder: a plain vision transformer with windowed attention and relative positions.

Source: Kirillov et al., "Segment Anything", 2023, section 3 and appendix A; the backbone is that of Li et al.,
"Exploring Plain Vision Transformer Backbones for Object Detection", 2022; the decomposed relative positions are
those of Li et al., "MViTv2", 2022, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.layers import LayerNorm2d, Linear, Mlp

# Pairs of tokens that a CPU attends to at a time, so that they stay in its cache.
BLOCK = 2**21


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
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * self.window - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * self.window - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        size, split = self.window, (3, self.heads, -1)
        query, key, value = self.qkv(x).unflatten(-1, split).unbind(3)
        # Windows at the right and bottom are filled up with zero tokens, whose keys and values are the biases and
        # whose queries nobody needs.
        _, key_fill, value_fill = self.qkv.bias.view(split)
        strips = []
        for y in _spans(x.shape[1], size):
            parts = []
            for x_ in _spans(x.shape[2], size):
                queries = _windows(query[:, y, x_], size)
                keys = _filled(_windows(key[:, y, x_], size), key_fill, size)
                values = _filled(_windows(value[:, y, x_], size), value_fill, size)
                parts.append(_joined(self._attend(queries, keys, values), query[:, y, x_].shape))
            strips.append(_cat(parts, 2))
        out = _cat(strips, 1)
        projected: Tensor = self.proj(out.flatten(3))
        return projected

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of (N, heads, h, w, d) queries, the first of their windows, to (N, heads, size, size, d) keys."""
        height, width = query.shape[2:4]
        at = torch.arange(self.window, device=query.device)
        distance = at[:, None] - at[None, :] + self.window - 1
        # Not by an index in brackets: on a CPU its gradient is added up in no certain order.
        rel_h, rel_w = F.embedding(distance[:height], self.rel_pos_h), F.embedding(distance[:width], self.rel_pos_w)
        along_h = torch.einsum("nhyxd,ykd->nhyxk", query, rel_h).flatten(0, 1)
        along_w = torch.einsum("nhyxd,xkd->nhyxk", query, rel_w).flatten(0, 1)
        queries, key, value = query.flatten(0, 1), key.flatten(2, 3).flatten(0, 1), value.flatten(2, 3).flatten(0, 1)
        on_cpu = query.device.type == "cpu"
        folded = on_cpu and query.dtype != torch.float32
        if folded:
            # In reduced precision products are cheap and sums are not: relative positions become part of the product.
            queries = torch.cat([queries * query.shape[-1] ** -0.5, along_h, along_w], dim=-1)
            key = torch.cat([key, self._one_hot(key).expand(key.shape[0], -1, -1)], dim=-1).transpose(1, 2)
        every = slice(None)
        groups, strips = _blocks(len(queries), height, width * value.shape[1]) if on_cpu else ([every], [every])
        out = []
        for group in groups:
            parts = []
            for y in strips:
                part = queries[group, y].flatten(1, 2)
                if folded:
                    seen = (part @ key[group]).softmax(-1) @ value[group]
                else:
                    bias = along_h[group, y, :, :, None] + along_w[group, y, :, None, :]
                    bias = bias.flatten(3).flatten(1, 2)
                    one = (part[None], key[None, group], value[None, group], bias[None])
                    seen = F.scaled_dot_product_attention(*one)[0]
                parts.append(seen)
            out.append(_cat(parts, 1))
        return _cat(out, 0).view(query.shape)

    def _one_hot(self, like: Tensor) -> Tensor:
        """(size², 2 size) of each key's row and column."""
        eye = torch.eye(self.window, dtype=like.dtype, device=like.device)
        shape = (self.window,) * 3
        return torch.cat([eye[:, None].expand(shape), eye[None].expand(shape)], dim=-1).flatten(0, 1)


def _blocks(count: int, height: int, pairs: int) -> tuple[list[slice], list[slice]]:
    """Groups of attentions, and strips of their queries' rows, that have ``BLOCK`` pairs or less if that is possible.

    Args:
        count: Attentions.
        height: Rows of queries of each.
        pairs: Pairs of queries and keys in one row.
    """
    together = max(1, BLOCK // (height * pairs))
    step = max(1, min(height, BLOCK // pairs))
    groups = [slice(start, start + together) for start in range(0, count, together)]
    return groups, [slice(y, y + step) for y in range(0, height, step)]


def _cat(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _spans(length: int, size: int) -> Iterator[slice]:
    """The part of an axis that whole windows cover, and the rest."""
    whole = length - length % size
    if whole:
        yield slice(0, whole)
    if whole < length:
        yield slice(whole, length)


def _windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, heads, d), with H and W multiples of ``size`` or less than it -> (B * windows, heads, h, w, d)."""
    _, height, width, heads, dim = x.shape
    h, w = min(height, size), min(width, size)
    x = x.reshape(-1, height // h, h, width // w, w, heads, dim)
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, heads, h, w, dim)


def _joined(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undoes `_windows`: (B * windows, heads, h, w, d) -> ``shape``, which is (B, H, W, heads, d)."""
    batch, height, width, _, _ = shape
    _, heads, h, w, dim = x.shape
    x = x.view(batch, height // h, width // w, heads, h, w, dim)
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(shape)


def _filled(x: Tensor, fill: Tensor, size: int) -> Tensor:
    """(N, heads, h, w, d) filled up to (N, heads, size, size, d) with the (heads, d) value of a padded token."""
    count, heads, height, width, dim = x.shape
    if (height, width) == (size, size):
        return x
    out = fill[:, None, None].expand(count, heads, size, size, dim).clone()
    out[:, :, :height, :width] = x
    return out


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
    """Images to embeddings.

    Attributes:
        checkpointing: Whether training keeps only each block's input and computes the rest twice, to save memory.
    """

    checkpointing: bool = False

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
        twice = self.checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if twice else block(x)
        out: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return out
