"""Networks that are trained for one collection of images, to compare promptable ones with: U-Net and DeepLabV3+.

Each comes in two forms. One takes the box as a fourth channel of the image and outlines what is in it. The other takes
no prompt: it has one output for each target that it was trained on, and a prompt is the name of one.

Sources: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, as MONAI writes it
(an extra: ``pip install vesalius[specialists]``); DeepLabV3+ as in `vesalius.models.deeplab`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vesalius.core.config import Config
from vesalius.core.errors import ModelError, PromptError
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.models.deeplab import DeepLabV3Plus
from vesalius.models.presets import Preset
from vesalius.models.words import rows_of

PRESET = Preset(side=256, fit="stretch", box="half_open", mask_side=256, multimask=False)


class SpecialistConfig(Config):
    """What a specialist takes.

    Attributes:
        words: Names of the targets that it tells apart, as the vocabulary has them; without any, it takes a box.
    """

    words: tuple[str, ...] = ()


class UNetConfig(SpecialistConfig):
    """A U-Net.

    Attributes:
        widths: Channels at strides 1, 2, 4, 8 and 16, and before the output.
    """

    widths: tuple[int, int, int, int, int, int] = (32, 32, 64, 128, 256, 32)


class DeepLabConfig(SpecialistConfig):
    """A DeepLabV3+; see `vesalius.models.deeplab.DeepLabV3Plus`.

    Attributes:
        widths: Channels of the encoder's four stages.
        depths: Residual blocks of each.
        pyramid: Channels of each atrous branch and of the decoder.
    """

    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    pyramid: int = 128


class Specialist(SegmentationModel):
    """A network from channels to logits of the same size, with a box or with names.

    With names it has one output more than names, which learns the objects that have none; nobody can ask for it. An
    output learns from the images that show its target, as it is asked later: none learns that its target is absent.
    """

    config: SpecialistConfig

    def __init__(self, config: SpecialistConfig, preset: Preset) -> None:
        super().__init__()
        self.config, self.preset = config, preset
        self.takes = frozenset({"text"} if config.words else {"box"})
        self.vocabulary = config.words
        words = len(config.words)
        self.network = self._network(3 if words else 4, words + 1 if words else 1)

    def _network(self, inputs: int, outputs: int) -> nn.Module:
        raise NotImplementedError

    def encode(self, images: Tensor) -> Features:
        """All outputs for (B, 3, side, side) normalised images; or the images, to which `decode` adds boxes."""
        # Norms of single images are slow where channels come last.
        images = images.contiguous()
        return (self.network(images) if self.config.words else images,)

    def embed_text(self, words: Sequence[str]) -> Tensor:
        """(N, 1) numbers of the outputs of N names of targets; synonyms have the same one.

        Raises:
            PromptError: One is none of the targets that it was trained on.
            ModelError: It takes boxes.
        """
        if not self.config.words:
            return super().embed_text(words)
        device = next(self.parameters()).device
        return torch.tensor(rows_of(words, self.config.words), device=device, dtype=torch.float32)[:, None]

    def decode(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """One mask of the input's size for each prompt, whatever ``multimask`` says.

        The predicted IoU is what the probabilities themselves expect; it is not learnt.

        Raises:
            PromptError: The prompts have no box and it takes boxes.
        """
        # In training all go together, for the statistics of batches.
        step = len(prompts) if self.training else self.prompts_at_once
        answers = [self._answer(features[0], prompts[start : start + step]) for start in range(0, len(prompts), step)]
        logits = torch.cat(answers)
        return logits, expected_iou(logits.detach().float())

    def _answer(self, known: Tensor, prompts: PromptBatch) -> Tensor:
        """(N, 1, side, side) logits of prompts, from what `encode` gives."""
        rows = prompts.labels.new_zeros(len(prompts)) if prompts.rows is None else prompts.rows
        if self.config.words:
            text = prompts.points.new_full((len(prompts), 1), torch.nan) if prompts.text is None else prompts.text
            output = text[:, 0].nan_to_num(len(self.config.words)).long()
            return known.flatten(0, 1).index_select(0, rows * known.shape[1] + output)[:, None]
        if prompts.boxes is None:
            raise PromptError(f"this {self.architecture} network takes boxes alone", remedy="prompt with a box")
        seen = torch.cat([known.index_select(0, rows), box_channel(prompts.boxes, known.shape[2])], dim=1)
        logits: Tensor = self.network(seen)
        return logits

    @property
    def prompts_at_once(self) -> int:
        """Prompts that are decoded together in use: each is a run of the whole network."""
        return 8


class UNet(Specialist):
    """A U-Net; see the module's docstring.

    Raises:
        ModelError: MONAI is not installed.
    """

    architecture: ClassVar[str] = "unet"
    config: UNetConfig

    def __init__(self, config: UNetConfig | None = None, preset: Preset = PRESET) -> None:
        super().__init__(config or UNetConfig(), preset)

    def _network(self, inputs: int, outputs: int) -> nn.Module:
        try:
            from monai.networks.nets import BasicUNet
        except ImportError as error:
            raise ModelError("the U-Net is MONAI's", remedy='pip install "vesalius[specialists]"') from error
        network: nn.Module = BasicUNet(2, inputs, outputs, self.config.widths)
        return network


class DeepLab(Specialist):
    """A DeepLabV3+; see the module's docstring."""

    architecture: ClassVar[str] = "deeplab"
    config: DeepLabConfig

    def __init__(self, config: DeepLabConfig | None = None, preset: Preset = PRESET) -> None:
        super().__init__(config or DeepLabConfig(), preset)

    def _network(self, inputs: int, outputs: int) -> nn.Module:
        return DeepLabV3Plus(inputs, outputs, self.config.widths, self.config.depths, self.config.pyramid)


def box_channel(boxes: Tensor, side: int) -> Tensor:
    """(N, 1, side, side) share of each pixel that lies in a box, of (N, 4) half-open boxes in pixels."""
    edges = torch.arange(side, device=boxes.device, dtype=boxes.dtype)
    x, y = (
        (torch.minimum(edges + 1, boxes[:, far, None]) - torch.maximum(edges, boxes[:, near, None])).clamp(0, 1)
        for near, far in ((0, 2), (1, 3))
    )
    return (y[:, :, None] * x[:, None, :])[:, None]


def expected_iou(logits: Tensor) -> Tensor:
    """(N, M) IoU of the masks of (N, M, h, w) logits with a truth as probable as they say; 0 for an empty mask."""
    probability = logits.sigmoid()
    inside = (logits > 0).to(logits.dtype)
    both = (probability * inside).sum((2, 3))
    union = inside.sum((2, 3)) + probability.sum((2, 3)) - both
    return both / union.clamp_min(torch.finfo(logits.dtype).tiny)
