"""Layers that the encoders and the decoder share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of (B, C, H, W) maps, eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        # Written out: on a CPU the fused kernel loses digits where a mean is large, as in the encoder's neck.
        centred = x - x.mean(dim=1, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-6)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class Linear(nn.Linear):
    """A linear layer for (B, H, W, dim) token grids."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in) -> (B, H, W, out)."""
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if x.ndim == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and not plain:
            # In float32 torch gives a convolution to oneDNN and a matrix product to MKL, which is half as fast on AMD.
            out = F.conv2d(x.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
            return out.permute(0, 2, 3, 1)
        return super().forward(x)


class Mlp(nn.Module):
    """Two linear layers with ``activation`` between them, on the last axis."""

    def __init__(self, dim: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = Linear(dim, hidden)
        self.lin2 = Linear(hidden, dim)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        out: Tensor = self.lin2(self.activation(self.lin1(x)))
        return out
