"""LoRA: low-rank updates of linear layers, by the PEFT library (an extra).

Sources: Hu et al., "LoRA", 2022; Zhang and Liu, "Customized Segment Anything Model for Medical Image Segmentation",
2023 (SAMed), which tunes SAM's image encoder so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import cast

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ModelError

ENCODER = ("image_encoder.blocks.*.attn.qkv.q", "image_encoder.blocks.*.attn.qkv.v")
DECODER = ("mask_decoder.transformer.*attn*.?_proj", "mask_decoder.transformer.*attn*.out_proj")


class Lora(Config):
    """Low-rank updates.

    As in SAMed, the queries and the values of the encoder's attention have an update each, and the keys none.

    Attributes:
        rank: Inner width of an update.
        alpha: An update counts ``alpha / rank`` times.
        targets: Patterns of the names of linear layers, with ``*`` and ``?``. The encoder computes queries, keys and
            values by one layer, ``qkv``; ``qkv.q``, ``qkv.k`` and ``qkv.v`` are its thirds, each with an update of its
            own. Patterns of ``DECODER`` are the attention layers of the mask decoder.
    """

    rank: PositiveInt = 4
    alpha: PositiveFloat = 4.0
    targets: tuple[str, ...] = ENCODER


class _Thirds(nn.Module):
    """The joint layer of queries, keys and values, as three."""

    def __init__(self, joint: nn.Linear) -> None:
        super().__init__()
        parts = zip(joint.weight.chunk(3), joint.bias.chunk(3), strict=True)
        self.q, self.k, self.v = (_linear(joint, weight, bias) for weight, bias in parts)

    @property
    def bias(self) -> Tensor:
        """(3 dim,) biases of the three."""
        return torch.cat([part.bias for part in (self.q, self.k, self.v)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., 3 dim)."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    def joint(self) -> nn.Linear:
        """The joint layer again."""
        return _linear(self.q, torch.cat([part.weight for part in (self.q, self.k, self.v)]), self.bias)


def _linear(like: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer of the same kind with other weights, and as many outputs as they have rows."""
    # On the meta device no first weights are drawn, which would move torch's generator in the midst of a run.
    new = type(like)(weight.shape[1], len(weight), device="meta")
    trains = like.weight.requires_grad
    new.weight = nn.Parameter(weight.detach().clone(), trains)
    new.bias = nn.Parameter(bias.detach().clone(), trains)
    return new.train(like.training)


def attach_lora(model: nn.Module, lora: Lora) -> None:
    """Gives the targets low-rank updates, which are zero until they are trained; everything else is frozen.

    The updates appear as ``<layer>.lora_A.default.weight`` and ``<layer>.lora_B.default.weight``, and the layer's own
    parameters as ``<layer>.base_layer.*``, until `merge_lora`; a ``qkv`` is three layers until then, if one of its
    thirds has an update.

    Raises:
        ModelError: PEFT is not installed, or the network has low-rank updates already.
        ConfigError: A pattern matches no layer, or one that is not linear, or a layer is matched both as a whole and in
            part.
    """
    if has_lora(model):
        raise ModelError("the network has low-rank updates already", remedy="merge them first")
    modules: dict[str, nn.Module] = dict(model.named_modules())
    joint = {f"{name}.{third}": name for name in modules if name.endswith(".qkv") for third in "qkv"}
    modules |= {third: modules[name] for third, name in joint.items()}
    names: set[str] = set()
    for pattern in lora.targets:
        # A pattern that matches a joint layer does not mean its thirds.
        found = {name for name in modules if fnmatchcase(name, pattern)}
        found = {name for name in found if joint.get(name) not in found}
        if not found:
            raise ConfigError(f"the LoRA target {pattern!r} matches no layer of the network")
        if wrong := sorted(name for name in found if not isinstance(modules[name], nn.Linear)):
            raise ConfigError(f"the LoRA target {pattern!r} matches {wrong[0]}, which is not a linear layer")
        names |= found
    split = {joint[name] for name in names if name in joint}
    if twice := sorted(split & names):
        raise ConfigError(f"the LoRA targets name both {twice[0]} and a part of it", remedy="name one of them")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ModelError("LoRA needs the PEFT library", remedy='pip install "vesalius[tuning]"') from error
    for name in split:
        model.set_submodule(name, _Thirds(cast(nn.Linear, modules[name])))
    model.requires_grad_(False)
    # PEFT takes a network's ``config`` for one of transformers', so it is not shown the network but its parts.
    for part, module in model.named_children():
        inside = [name.removeprefix(f"{part}.") for name in sorted(names) if name.startswith(f"{part}.")]
        if inside:
            inject_adapter_in_model(
                LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=inside),  # type: ignore[arg-type]
                module,
            )
            del module.peft_config


def merge_lora(model: nn.Module) -> None:
    """Adds the low-rank updates to the weights: what remains is a plain network, under its own names.

    Raises:
        ModelError: The network has no low-rank updates.
    """
    if not has_lora(model):
        raise ModelError("the network has no low-rank updates")
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
    for name, layer in list(model.named_modules()):
        if isinstance(layer, _Thirds):
            model.set_submodule(name, layer.joint())


def has_lora(model: nn.Module) -> bool:
    """Whether the network has low-rank updates that are not merged."""
    return any(".lora_A." in name for name, _ in model.named_parameters())
