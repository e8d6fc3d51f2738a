"""Ways to tune a network: what is attached to it, and which of its parameters train.

Sources: Ma et al., "Segment Anything in Medical Images", 2024 (MedSAM: encoder and mask decoder); Cheng et al.,
"SAM-Med2D", 2023 (adapters, prompt encoder and mask decoder); Huang et al., "Segment Anything Model for Medical
Images?", 2024 (FT-SAM: mask decoder); Zhang and Liu, "Customized Segment Anything Model for Medical Image
Segmentation", 2023 (SAMed: low-rank updates and mask decoder).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from torch import nn

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError
from vesalius.models.base import SegmentationModel
from vesalius.models.baseline_sam2 import Sam2
from vesalius.models.lora import Lora, attach_lora
from vesalius.models.sam.config import AdapterName
from vesalius.models.sam.model import Sam


class Tuning(Config):
    """A way to tune a network.

    Attributes:
        train: Patterns of the names of the parameters that train, with ``*`` and ``?``; all others are frozen. Those
            of adapters are ``*.Adapter.*``, those of low-rank updates ``*.lora_*``.
        adapter: Adapter to attach, or None. A network that has this one already keeps it as it is.
        lora: Low-rank updates to attach, or None.
    """

    train: tuple[str, ...]
    adapter: AdapterName | None = None
    lora: Lora | None = None


TUNINGS = {
    "decoder": Tuning(train=("mask_decoder.*",)),
    "medsam": Tuning(train=("image_encoder.*", "mask_decoder.*")),
    "sam-med2d": Tuning(adapter="sam-med2d", train=("*.Adapter.*", "prompt_encoder.*", "mask_decoder.*")),
    "light": Tuning(adapter="light", train=("*.Adapter.*", "prompt_encoder.*", "mask_decoder.*")),
    "lora": Tuning(lora=Lora(), train=("*.lora_*", "prompt_encoder.*", "mask_decoder.*")),
    "full": Tuning(train=("*",)),
}


class Count(NamedTuple):
    """Numbers of parameters of one part of a network.

    Attributes:
        trained: Those that train.
        total: All of them.
    """

    trained: int
    total: int


def find_tuning(name: str | Path) -> Tuning:
    """A way to tune: one of ``TUNINGS`` by its name, or that of a TOML file.

    Raises:
        ConfigError: There is no such name or file, or the file does not hold a `Tuning`.
    """
    if str(name) in TUNINGS:
        return TUNINGS[str(name)]
    if not Path(name).exists():
        raise ConfigError(
            "there is no such way to tune", path=name, remedy=f"give a TOML file or one of: {', '.join(TUNINGS)}"
        )
    return Tuning.from_toml(name)


def apply_tuning(model: SegmentationModel, tuning: Tuning) -> dict[str, Count]:
    """Attaches what the tuning names, and decides which parameters train.

    New adapters and low-rank updates are drawn from torch's own generator.

    Args:
        model: The network, changed in place.
        tuning: The way to tune it.

    Returns:
        The `counts` of its parameters.

    Raises:
        ConfigError: A pattern matches nothing, or the adapter does not fit the network's sizes.
        ModelError: The network has another adapter or low-rank updates already, or PEFT is not installed.
    """
    if tuning.adapter:
        if not isinstance(model, Sam):
            raise ConfigError(f"adapters are for SAM networks, and this is of architecture {model.architecture!r}")
        if tuning.adapter != model.config.adapter:
            model.add_adapters(tuning.adapter)
    if tuning.lora:
        attach_lora(model, tuning.lora)
    parameters = dict(model.named_parameters())
    for pattern in tuning.train:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ConfigError(
                f"{pattern!r} matches no parameter of the network",
                remedy=f"its parameters have names such as {next(iter(parameters))}",
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in tuning.train))
    return counts(model)


def counts(model: nn.Module) -> dict[str, Count]:
    """Numbers of parameters by part of a network: ``adapters``, ``lora``, and the first part of other names."""
    table: dict[str, Count] = {}
    # A SAM 2 is transformers' own network, within ours.
    inner = model.network if isinstance(model, Sam2) else model
    for name, parameter in inner.named_parameters():
        part, number = _part(name), parameter.numel()
        before = table.get(part, Count(0, 0))
        table[part] = Count(before.trained + parameter.requires_grad * number, before.total + number)
    return table


def _part(name: str) -> str:
    if ".Adapter." in name:
        return "adapters"
    return "lora" if ".lora_" in name else name.split(".")[0]
