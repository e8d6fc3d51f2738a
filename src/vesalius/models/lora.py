"""LoRA: low-rank updates of linear layers, by the PEFT library (an extra).

Sources: Hu et al., "LoRA", 2022; Zhang and Liu, "Customized Segment Anything Model for Medical Image Segmentation",
2023 (SAMed), which tunes SAM's image encoder so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import PositiveFloat, PositiveInt
from torch import nn

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ModelError

ENCODER = ("image_encoder.blocks.*.attn.qkv", "image_encoder.blocks.*.attn.proj")
DECODER = ("mask_decoder.transformer.*attn*.?_proj", "mask_decoder.transformer.*attn*.out_proj")


class Lora(Config):
    """Low-rank updates.

    Queries, keys and values are one layer here, ``qkv``, so its update has one projection down for the three and
    changes the keys too; SAMed gives queries and values one update each and leaves the keys.

    Attributes:
        rank: Inner width of an update.
        alpha: An update counts ``alpha / rank`` times.
        targets: Patterns of the names of linear layers, with ``*`` and ``?``; those of ``DECODER`` are the attention
            layers of the mask decoder.
    """

    rank: PositiveInt = 4
    alpha: PositiveFloat = 4.0
    targets: tuple[str, ...] = ENCODER


def attach_lora(model: nn.Module, lora: Lora) -> None:
    """Gives the targets low-rank updates, which are zero until they are trained; everything else is frozen.

    The updates appear as ``<layer>.lora_A.default.weight`` and ``<layer>.lora_B.default.weight``, and the layer's own
    parameters as ``<layer>.base_layer.*``, until `merge_lora`.

    Raises:
        ModelError: PEFT is not installed, or the network has low-rank updates already.
        ConfigError: A pattern matches no layer, or one that is not linear.
    """
    if has_lora(model):
        raise ModelError("the network has low-rank updates already", remedy="merge them first")
    modules = dict(model.named_modules())
    names: set[str] = set()
    for pattern in lora.targets:
        found = {name for name in modules if fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(f"the LoRA target {pattern!r} matches no layer of the network")
        if wrong := sorted(name for name in found if not isinstance(modules[name], nn.Linear)):
            raise ConfigError(f"the LoRA target {pattern!r} matches {wrong[0]}, which is not a linear layer")
        names |= found
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ModelError("LoRA needs the PEFT library", remedy="pip install peft") from error
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

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())


def has_lora(model: nn.Module) -> bool:
    """Whether the network has low-rank updates that are not merged."""
    return any(".lora_A." in name for name, _ in model.named_parameters())
