"""The sizes of a SAM network."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from vesalius.core.config import Config

AdapterName = Literal["sam-med2d", "light"]


class SamConfig(Config):
    """Sizes of a SAM network; the defaults are those of ViT-B at 1024.

    Attributes:
        side: Side of the square input in pixels.
        patch: Side of a patch, that is of one token, in pixels.
        encoder_dim: Width of the image encoder.
        encoder_depth: Its number of blocks.
        encoder_heads: Its attention heads.
        global_blocks: Indices of the blocks that attend to the whole image; the others attend within windows.
        window: Side of a window in tokens.
        prompt_dim: Width of the image embedding, the prompt encoder and the mask decoder.
        mask_channels: Inner channels of the mask prompt's encoder.
        decoder_depth: Number of two-way blocks of the mask decoder.
        decoder_heads: Attention heads of the mask decoder.
        decoder_mlp: Hidden width of the mask decoder's MLPs.
        iou_hidden: Hidden width of the head that predicts the IoU.
        adapter: The adapter that each encoder block has (see `vesalius.models.adapters`), or None.
    """

    side: PositiveInt = 1024
    patch: PositiveInt = 16
    encoder_dim: PositiveInt = 768
    encoder_depth: PositiveInt = 12
    encoder_heads: PositiveInt = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: PositiveInt = 14
    prompt_dim: PositiveInt = 256
    mask_channels: PositiveInt = 16
    decoder_depth: PositiveInt = 2
    decoder_heads: PositiveInt = 8
    decoder_mlp: PositiveInt = 2048
    iou_hidden: PositiveInt = 256
    adapter: AdapterName | None = None

    @property
    def grid(self) -> int:
        """Side of the token grid."""
        return self.side // self.patch

    @property
    def mask_side(self) -> int:
        """Side of the low-resolution masks that go in and come out."""
        return 4 * self.grid

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.side % self.patch:
            raise ValueError("side is not a multiple of patch")
        if self.encoder_dim % self.encoder_heads:
            raise ValueError("encoder_dim is not a multiple of encoder_heads")
        if self.prompt_dim % 8 or self.prompt_dim % (2 * self.decoder_heads):
            raise ValueError("prompt_dim is not a multiple of 8 and of twice decoder_heads")
        if self.mask_channels % 4:
            raise ValueError("mask_channels is not a multiple of 4")
        if not all(0 <= index < self.encoder_depth for index in self.global_blocks):
            raise ValueError("global_blocks names a block that does not exist")
        if self.adapter and self.encoder_dim % 4:
            raise ValueError("adapters need an encoder_dim that is a multiple of 4")
        if self.adapter == "sam-med2d" and self.grid % 2:
            raise ValueError("SAM-Med2D's adapter needs an even number of tokens per side")
        return self
