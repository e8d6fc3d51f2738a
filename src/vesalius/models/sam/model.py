"""SAM of any size, with adapters or without; parameters carry the published names.

Source: Kirillov et al., "Segment Anything", 2023; Cheng et al., "SAM-Med2D", 2023.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vesalius.core.errors import ModelError
from vesalius.models import adapters
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.models.presets import Preset
from vesalius.models.sam.config import AdapterName, SamConfig
from vesalius.models.sam.image_encoder import ImageEncoder
from vesalius.models.sam.mask_decoder import MaskDecoder
from vesalius.models.sam.prompt_encoder import PromptEncoder

# Image tokens that a CPU decodes at a time, over all prompts.
BLOCK = 2**13


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
            self._attach_adapters(config.adapter)

    def encode(self, images: Tensor) -> Features:
        """One (B, prompt_dim, grid, grid) tensor of (B, 3, side, side) normalised images."""
        return (self.image_encoder(images.to(self.image_encoder.pos_embed.dtype)),)

    def decode(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> tuple[Tensor, Tensor]:
        """Masks of the prompts; see the base class.

        Raises:
            ValueError: The features are those of several images and ``prompts.rows`` does not say which is whose.
        """
        (embedding,) = features
        if prompts.rows is None and embedding.shape[0] != 1:
            raise ValueError(f"features of {embedding.shape[0]} images need prompts.rows")
        if embedding.device.type != "cpu" or torch.compiler.is_exporting():
            return self._decode(embedding, prompts, multimask)
        step = self.prompts_at_once
        parts = [self._decode(embedding, prompts[i : i + step], multimask) for i in range(0, len(prompts), step)]
        return parts[0] if len(parts) == 1 else (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))

    @property
    def prompts_at_once(self) -> int:
        """Prompts that a CPU had best decode together: few enough to stay in its cache."""
        return max(1, BLOCK // self.config.grid**2)

    def _decode(self, embedding: Tensor, prompts: PromptBatch, multimask: bool) -> tuple[Tensor, Tensor]:
        if prompts.rows is not None:
            # Not by brackets: on a CPU the gradient of those is added up in no certain order.
            embedding = embedding.index_select(0, prompts.rows)
        sparse, present = self.prompt_encoder.tokens(prompts)
        return self.decode_tokens(embedding, sparse, present, prompts.masks, multimask)

    def decode_tokens(
        self, embedding: Tensor, sparse: Tensor, present: Tensor | None, masks: Tensor | None, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """The second half of `decode`: prompts are tokens already.

        Args:
            embedding: (N or 1, prompt_dim, grid, grid).
            sparse: (N, T, prompt_dim) and
            present: (N, T) bool of `PromptEncoder.tokens`.
            masks: As in `PromptBatch`.
            multimask: Whether three masks are wanted.
        """
        image_pe = self.prompt_encoder.dense_positions()
        dense = self.prompt_encoder.dense(masks)
        to = embedding.dtype
        out: tuple[Tensor, Tensor] = self.mask_decoder(
            embedding, image_pe.to(to), sparse.to(to), present, dense.to(to), multimask
        )
        return out

    def to_bfloat16(self) -> None:
        """Runs the image encoder and the mask decoder in bfloat16; see the base class."""
        # Not the prompt encoder: eight bits do not tell one pixel from the next.
        self.image_encoder.bfloat16()
        self.mask_decoder.bfloat16()

    def add_adapters(self, name: AdapterName) -> None:
        """Gives each encoder block a new adapter.

        Raises:
            ModelError: The network has adapters already.
            ConfigError: The adapter does not fit the network's sizes.
        """
        if self.config.adapter:
            raise ModelError(f"the network has {self.config.adapter} adapters already", remedy="drop them first")
        self.config = type(self.config).from_dict({**self.config.model_dump(), "adapter": name})
        self._attach_adapters(name)

    def drop_adapters(self) -> None:
        """Takes the adapters away: what remains is the network without them, unchanged.

        Raises:
            ModelError: The network has no adapters.
        """
        if not self.config.adapter:
            raise ModelError("the network has no adapters")
        for block in self.image_encoder.blocks:
            adapters.detach(block)
        self.config = self.config.model_copy(update={"adapter": None})

    def _attach_adapters(self, name: AdapterName) -> None:
        for block in self.image_encoder.blocks:
            adapter = adapters.ADAPTERS[name](self.config.encoder_dim)
            adapters.attach(block, adapter.to(self.image_encoder.pos_embed))
