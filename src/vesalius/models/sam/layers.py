"""Layers that the encoders and the decoder share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
    """A linear layer, by whichever library is fast."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if x.ndim == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and not plain:
            # In float32 torch gives a convolution to oneDNN and a matrix product to MKL, which is half as fast on AMD.
            out = F.conv2d(x.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
            return out.permute(0, 2, 3, 1)
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in) times (out, in) plus (out,) -> (..., out); where gradients are kept, by oneDNN if that is there."""
    exact = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if _ONEDNN and exact and training and x.device.type == "cpu":
        out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return F.linear(x, weight, bias)


_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _Linear(torch.autograd.Function):
    """A linear layer of which all three products, one forward and two back, are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What does not train needs no input kept for its gradient.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        to_x = _product(gradient, weight.T) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            inputs = x.flatten(0, -2)
            # In the order in memory of the weight, which then takes it without a copy.
            to_weight = _product(rows.T, inputs.T) if weight.is_contiguous() else _product(inputs.T, rows.T).T
        return to_x, to_weight, rows.sum(0) if ctx.needs_input_grad[2] else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


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
