"""IMIS-Net's mask decoder: SAM's, with words added to the masks and a name for each mask.

Source: Cheng et al., "Interactive Medical Image Segmentation: A Benchmark Dataset and Baseline", 2025, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.mask_decoder import MASKS, Head, MaskDecoder, in_order, products


class ImisMaskDecoder(MaskDecoder):
    """Image embedding, prompts and words to masks, their predicted IoU and what they show.

    Args:
        config: The network's sizes.
        semantic_dim: Width of what tells what a mask shows.
    """

    def __init__(self, config: SamConfig, semantic_dim: int) -> None:
        super().__init__(config)
        dim = config.prompt_dim
        self.semantic_tokens = nn.Embedding(1 + MASKS, dim)
        self.text_output = nn.Linear(dim, dim // 8)
        self.semantic_prediction_head = Head(dim, config.iou_hidden, semantic_dim)

    def outputs(self) -> Tensor:
        """(T', dim) tokens that the network answers by: SAM's, then one per mask for what it shows."""
        return torch.cat([super().outputs(), self.semantic_tokens.weight])

    def similarity(self, text: Tensor, upscaled: Tensor) -> Tensor:
        """(N, 1, h, w) products of (N, dim) words and the enlarged image, see `Upscaling`; 0 for words of NaN."""
        given = text.isfinite().all(1)
        kernels = self.text_output(text.nan_to_num()) * given[:, None]
        return in_order(products(kernels[:, None], upscaled))

    def semantic(self, tokens: Tensor, multimask: bool) -> Tensor:
        """(N, M, semantic_dim) of the tokens that `look` gives."""
        first = 2 + MASKS
        own = tokens[:, first + 1 : first + 1 + MASKS] if multimask else tokens[:, first : first + 1]
        out: Tensor = self.semantic_prediction_head(own)
        return out
