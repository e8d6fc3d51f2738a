"""SAM's image encoder as graph compilers like it: the same weights and results, in few operations on plain matrices.

Tokens are the rows of one (tokens, dim) matrix. Windows are gathered by constant indices, relative positions are
constant tables that become part of the product of queries and keys, and the adapter's convolutions are products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vesalius.models.adapters import SamMed2dAdapter
from vesalius.models.sam.image_encoder import Attention, Block, ImageEncoder


class GraphEncoder(nn.Module):
    """The image encoder for one image at a time.

    Args:
        encoder: Whose weights are used.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        grid = encoder.pos_embed.shape[1]
        self.blocks = nn.ModuleList(_Block(block, grid) for block in encoder.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """(1, 3, side, side) normalised image -> (1, prompt_dim, grid, grid) embedding."""
        grid, dim = self.encoder.pos_embed.shape[2:]
        x = self.encoder.patch_embed(images) + self.encoder.pos_embed
        x = x.reshape(grid * grid, dim)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.encoder.neck(x.view(1, grid, grid, dim).permute(0, 3, 1, 2))
        return out


class _Block(nn.Module):
    def __init__(self, block: Block, grid: int) -> None:
        super().__init__()
        self.block = block
        self.grid = grid
        self.attention = _Attention(block.attn, grid)
        adapter = getattr(block, "Adapter", None)
        self.adapter = _Adapter(adapter, grid) if isinstance(adapter, SamMed2dAdapter) else adapter

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        x = x + self.attention(block.norm1(x))
        normed = block.norm2(x)
        mlp = block.mlp
        # Not by calling the MLP, on which the adapter hangs as a hook.
        out: Tensor = x + mlp.lin2(mlp.activation(mlp.lin1(normed)))
        if isinstance(self.adapter, _Adapter):
            out = out + self.adapter(normed)
        elif self.adapter is not None:
            out = out + self.adapter(normed.view(1, self.grid, self.grid, -1)).view(x.shape)
        return out


class _Attention(nn.Module):
    order: Tensor
    inverse: Tensor
    along_h: Tensor
    along_w: Tensor

    def __init__(self, attention: Attention, grid: int) -> None:
        super().__init__()
        heads, size = attention.heads, attention.window
        dim = attention.proj.in_features
        scale = (dim // heads) ** -0.5
        self.heads, self.size = heads, size
        self.proj = attention.proj
        # Three products instead of one that has to be cut; the scale of the queries becomes part of theirs.
        parts = zip(attention.qkv.weight.split(dim), attention.qkv.bias.split(dim), (scale, 1.0, 1.0), strict=True)
        self.query, self.key, self.value = (_linear(weight * by, bias * by) for weight, bias, by in parts)
        at = torch.arange(size)
        distance = at[:, None] - at[None, :] + size - 1
        for name, table in (("along_h", attention.rel_pos_h), ("along_w", attention.rel_pos_w)):
            self.register_buffer(name, (table.detach()[distance] / scale).transpose(1, 2).contiguous())
        # Windows of one shape together: the whole ones, the cut ones at the right and at the bottom, the corner.
        spans = [(y, h, x, w) for y, h in _windows(grid, size) for x, w in _windows(grid, size)]
        self.groups: list[tuple[int, int, int]] = []
        places = torch.arange(grid * grid).view(grid, grid)
        order = []
        for shape in dict.fromkeys((h, w) for _, h, _, w in spans):
            same = [places[y : y + h, x : x + w].flatten() for y, h, x, w in spans if (h, w) == shape]
            order += same
            self.groups.append((len(same), *shape))
        self.windowed = grid != size
        self.register_buffer("order", torch.cat(order))
        self.register_buffer("inverse", torch.cat(order).argsort())
        for name, (_, h, w) in zip("abcd", self.groups, strict=False):
            real, padded = _one_hot(size, h, w)
            self.register_buffer(f"seen_{name}", real[:, None].expand(-1, heads, -1).contiguous())
            fill = [bias.detach().view(1, heads, -1).expand(len(padded), -1, -1) for bias in (self.key.bias, self.value.bias)]
            fill[0] = torch.cat([fill[0], padded[:, None].expand(-1, heads, -1)], dim=-1)
            self.register_buffer(f"key_{name}", fill[0].contiguous())
            self.register_buffer(f"value_{name}", fill[1].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, dim) -> (tokens, dim)."""
        if self.windowed:
            x = x[self.order]
        query, key, value = self.query(x), self.key(x), self.value(x)
        start, out = 0, []
        for name, (count, h, w) in zip("abcd", self.groups, strict=False):
            stop = start + count * h * w
            rows = (part[start:stop].view(count, h * w, self.heads, -1) for part in (query, key, value))
            out.append(self._attend(*rows, name, h, w).flatten(0, 1).flatten(1))
            start = stop
        seen = out[0] if len(out) == 1 else torch.cat(out)
        if self.windowed:
            seen = seen[self.inverse]
        projected: Tensor = self.proj(seen)
        return projected

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, name: str, h: int, w: int) -> Tensor:
        """Attention in windows of h x w tokens; all of (windows, tokens, heads, d)."""
        count, tokens, heads, d = query.shape
        along_h = query.reshape(count, h, w * heads, d) @ self.along_h[:h]
        turned = query.reshape(count, h, w, heads, d).transpose(1, 2).reshape(count, w, h * heads, d)
        along_w = (turned @ self.along_w[:w]).view(count, w, h, heads, -1).transpose(1, 2)
        sums = (count, tokens, heads, self.size)
        query = torch.cat([query, along_h.reshape(sums), along_w.reshape(sums)], dim=-1)
        seen = getattr(self, f"seen_{name}")
        key = torch.cat([key, seen.expand(count, -1, -1, -1)], dim=-1)
        if tokens < self.size**2:
            key = torch.cat([key, getattr(self, f"key_{name}").expand(count, -1, -1, -1)], dim=1)
            value = torch.cat([value, getattr(self, f"value_{name}").expand(count, -1, -1, -1)], dim=1)
        weights = (query.transpose(1, 2) @ key.permute(0, 2, 3, 1)).softmax(-1)
        return (weights @ value.transpose(1, 2)).transpose(1, 2)


class _Adapter(nn.Module):
    """SAM-Med2D's adapter: convolutions as products of gathered rows."""

    def __init__(self, adapter: SamMed2dAdapter, grid: int) -> None:
        super().__init__()
        self.adapter = adapter
        down, up = (weight.detach() for weight in adapter.spatial.parameters())
        half = grid // 2
        self.down = _linear(down.permute(0, 2, 3, 1).flatten(1))
        # Output pixel 2u + r draws on input pixels u - 1 + r and u + r, by rows 3 - r and 1 - r of the kernel.
        self.up = nn.ModuleList(
            _linear(up[:, :, [3 - r, 1 - r]][:, :, :, [3 - s, 1 - s]].permute(1, 2, 3, 0).flatten(1))
            for r in (0, 1)
            for s in (0, 1)
        )
        steps = torch.arange(half)
        self.register_buffer("patches", _patches(grid, 2 * steps - 1, 2 * steps - 1, 3))
        for r in (0, 1):
            for s in (0, 1):
                self.register_buffer(f"patches_{r}{s}", _patches(half, steps - 1 + r, steps - 1 + s, 2))
        quarter = half * half
        y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        parity = 2 * (y % 2) + x % 2
        self.register_buffer("joined", (parity * quarter + y // 2 * half + x // 2).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, dim) -> (tokens, dim)."""
        gated = x * self.adapter.channel(x.mean(dim=0, keepdim=True))
        half = F.relu(self.down(_rows(gated, self.patches)))
        parts = [up(_rows(half, getattr(self, f"patches_{i // 2}{i % 2}"))) for i, up in enumerate(self.up)]
        out: Tensor = self.adapter.norm(x + F.relu(torch.cat(parts)[self.joined]))
        return out


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """Rows ``at`` (n, k) of ``x`` (m, dim) side by side: (n, k dim); row m is zero."""
    return F.pad(x, (0, 0, 0, 1))[at.flatten()].view(len(at), -1)


def _patches(side: int, rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """(len(rows) len(columns), size²) places of a map's pixels in patches that begin there; side² is outside."""
    y, x = rows[:, None] + torch.arange(size), columns[:, None] + torch.arange(size)
    y, x = y[:, None, :, None], x[None, :, None, :]
    inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
    return torch.where(inside, y * side + x, side * side).flatten(2).flatten(0, 1)


def _windows(length: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(size, length - start)) for start in range(0, length, size)]


def _one_hot(size: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """(tokens, 2 size) row and column of a window's h x w tokens, and those of the rest of the window."""
    eye = torch.eye(size)
    shape = (size,) * 3
    both = torch.cat([eye[:, None].expand(shape), eye[None].expand(shape)], dim=-1)
    real = torch.zeros(size, size, dtype=torch.bool)
    real[:h, :w] = True
    return both[real], both[~real]


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    out = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    out.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        out.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
    return out
