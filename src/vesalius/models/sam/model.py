"""SAM of any size, with SAM-Med2D's adapters or without; parameters carry the published names.

Source: Kirillov et al., "Segment Anything", 2023; Cheng et al., "SAM-Med2D", 2023.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vesalius.core.errors import ModelError
from vesalius.models import adapters
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.image_encoder import ImageEncoder
from vesalius.models.sam.mask_decoder import MaskDecoder
from vesalius.models.sam.prompt_encoder import PromptEncoder


class Sam(SegmentationModel):
    """The Segment Anything network.

    Args:
        config: Its sizes.
        preset: How it wants its input.

    Raises:
        ModelError: The preset's sizes are not the network's.
    """

    architecture: ClassVar[str] = "sam"
    config: SamConfig

    def __init__(self, config: SamConfig, preset: Preset) -> None:
        super().__init__()
        if (preset.side, preset.mask_side) != (config.side, config.mask_side):
            raise ModelError(
                f"the preset is for input {preset.side} and masks {preset.mask_side}, "
                f"the network for {config.side} and {config.mask_side}"
            )
        self.config = config
        self.preset = preset
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
        if config.adapter:
            self._attach_adapters()

    def encode(self, images: Tensor) -> Features:
        """One (B, prompt_dim, grid, grid) tensor of (B, 3, side, side) normalised images."""
        return (self.image_encoder(images),)

    def decode(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> tuple[Tensor, Tensor]:
        """Masks of the prompts; see the base class.

        Raises:
            ValueError: The features are those of several images and ``prompts.rows`` does not say which is whose.
        """
        (embedding,) = features
        if prompts.rows is not None:
            embedding = embedding[prompts.rows]
        elif embedding.shape[0] != 1:
            raise ValueError(f"features of {embedding.shape[0]} images need prompts.rows")
        image_pe = self.prompt_encoder.dense_positions()
        out: tuple[Tensor, Tensor] = self.mask_decoder(embedding, image_pe, *self.prompt_encoder(prompts), multimask)
        return out

    def add_adapters(self) -> None:
        """Gives each encoder block a new adapter of SAM-Med2D."""
        self.config = SamConfig(**{**self.config.model_dump(), "adapter": True})
        self._attach_adapters()

    def drop_adapters(self) -> None:
        """Takes the adapters away: what remains is the network without them, unchanged."""
        for block in self.image_encoder.blocks:
            adapters.detach(block)
        self.config = self.config.model_copy(update={"adapter": False})

    def _attach_adapters(self) -> None:
        for block in self.image_encoder.blocks:
            adapters.attach(block, adapters.Adapter(self.config.encoder_dim))
