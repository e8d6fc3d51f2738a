"""Adapters: small modules whose output is added to that of a block's MLP.

A block with ``mlp`` computes ``x + mlp(n)``; with an adapter attached it computes ``x + mlp(n) + adapter(n)``. The
adapter hangs on the MLP as a forward hook, so that no parameter of the block changes its name.

Source: Cheng et al., "SAM-Med2D", 2023, section 3.2B and figure 4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vesalius.models.sam.config import AdapterName
from vesalius.models.sam.layers import Linear, linear


class Adapter(nn.Module):
    """Base of all adapters: (B, H, W, dim) tokens to what is added, of the same shape."""

    hook: RemovableHandle | None = None

    def add_to(self, _mlp: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """The forward hook of the MLP: its output plus this adapter's."""
        out: Tensor = output + self(inputs[0])
        return out


class SamMed2dAdapter(Adapter):
    """SAM-Med2D's: a channel gate, then a convolution down and one up, around which the input is added.

    Args:
        dim: Width of a token; the gate's inner width is a quarter of it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False), nn.ReLU(), nn.Linear(dim // 4, dim, bias=False), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim); H and W are even."""
        gated = x * self.channel(x.mean(dim=(1, 2)))[:, None, None]
        out: Tensor = self.norm(x + self._convolve(gated))
        return out

    def _convolve(self, x: Tensor) -> Tensor:
        # The two convolutions as matrix products: equal results, several times faster on a CPU at these widths.
        _, height, width, dim = x.shape
        down, up = (weight.flatten(1) for weight in self.spatial.parameters())
        around = F.pad(x, (0, 0, 1, 1, 1, 1))
        patches = [around[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
        half = F.relu(linear(torch.stack(patches, dim=-1).flatten(3), down))
        spread = torch.unflatten(linear(half, up.T), -1, (dim, 4, 4))
        rows = _interleaved(spread.unbind(-2), 1)
        return F.relu(_interleaved(rows.unbind(-1), 2))


def _interleaved(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """One axis of a transposed convolution of size 4, stride 2 and padding 1.

    Input place u adds its four parts to the output places 2u - 1 to 2u + 2.
    """
    first, second, third, fourth = parts
    length = first.shape[axis]
    nothing = torch.zeros_like(first.narrow(axis, 0, 1))
    even = second + torch.cat([nothing, fourth.narrow(axis, 0, length - 1)], dim=axis)
    odd = third + torch.cat([first.narrow(axis, 1, length - 1), nothing], dim=axis)
    return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)


class LightAdapter(Adapter):
    """Ours: a channel gate, then a bottleneck with a depthwise convolution.

    It differs from SAM-Med2D's in that the channels are mixed at a quarter of the width and the places within each
    channel alone, and in that it gives zero until it is trained: attaching it changes nothing.

    Args:
        dim: Width of a token; the inner width of the gate and of the bottleneck is a quarter of it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = dim // 4
        self.channel = nn.Sequential(
            nn.Linear(dim, inner, bias=False), nn.ReLU(), nn.Linear(inner, dim, bias=False), nn.Sigmoid()
        )
        self.down = Linear(dim, inner)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.up = Linear(inner, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        gated = x * self.channel(x.mean(dim=(1, 2)))[:, None, None]
        inner = self.spatial(self.down(gated).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = self.up(F.gelu(inner))
        return out


ADAPTERS: dict[AdapterName, type[SamMed2dAdapter | LightAdapter]] = {
    "sam-med2d": SamMed2dAdapter,
    "light": LightAdapter,
}


def attach(block: nn.Module, adapter: Adapter) -> None:
    """Adds ``adapter`` to the output of ``block.mlp``; its parameters appear as ``Adapter.*`` of the block.

    Raises:
        ValueError: The block has an adapter already.
    """
    if hasattr(block, "Adapter"):
        raise ValueError("the block has an adapter already")
    block.Adapter = adapter
    adapter.hook = block.get_submodule("mlp").register_forward_hook(adapter.add_to)


def detach(block: nn.Module) -> None:
    """Takes the adapter away; the block computes what it would without it.

    Raises:
        ValueError: The block has no adapter.
    """
    adapter: Adapter | None = getattr(block, "Adapter", None)
    if adapter is None or adapter.hook is None:
        raise ValueError("the block has no adapter")
    adapter.hook.remove()
    del block.Adapter
