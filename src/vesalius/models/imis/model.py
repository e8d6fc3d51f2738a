"""IMIS-Net of any size.

Source: Cheng et al., "Interactive Medical Image Segmentation: A Benchmark Dataset and Baseline", 2025, section 4, and
the code published with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from vesalius.core.errors import ModelError
from vesalius.models.base import Features, PromptBatch
from vesalius.models.imis.mask_decoder import ImisMaskDecoder
from vesalius.models.presets import Preset
from vesalius.models.runtime import SPATIAL
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.text import TextConfig, Tokenizer, has_tokenizer, remedy, sentence, text_encoder


class ImisConfig(SamConfig):
    """Sizes of an IMIS-Net: those of a SAM, and more.

    Attributes:
        text: Sizes of the text encoder.
        semantic_dim: Width of what tells what a mask shows.
    """

    prompt_dim: PositiveInt = 768
    text: TextConfig = TextConfig()
    semantic_dim: PositiveInt = 512


class Imis(Sam):
    """IMIS-Net: a SAM that takes words, and tells what its masks show.

    A word becomes one more prompt token, and is multiplied with the enlarged image and added to the logits of every
    mask.

    Attributes:
        tokenizer: What words need; None until a folder with its files is read (see `read_extras`).
    """

    architecture: ClassVar[str] = "imis"
    takes = SPATIAL | {"text"}
    config: ImisConfig
    mask_decoder: ImisMaskDecoder

    def __init__(self, config: ImisConfig, preset: Preset) -> None:
        super().__init__(config, preset)
        for module in self.image_encoder.blocks.modules():
            if isinstance(module, nn.LayerNorm):
                # timm leaves it at torch's default, unlike the published SAM.
                module.eps = 1e-5
        self.mask_decoder = ImisMaskDecoder(config, config.semantic_dim)
        self.text_model = text_encoder(config.text)
        self.text_out_dim = nn.Linear(config.text.width, config.prompt_dim)
        self.tokenizer: Tokenizer | None = None

    def embed_text(self, words: Sequence[str]) -> Tensor:
        """(N, prompt_dim) embeddings of N names of targets; see the base class.

        Raises:
            ModelError: No tokenizer was beside the weights.
            PromptError: A name is too long.
        """
        return self.embed_tokens(self._tokens(words))

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(N, prompt_dim) embeddings of sentences as (N, T) int64 tokens, each closed by the end token."""
        pooled = self.text_model(input_ids=tokens.to(self.text_out_dim.weight.device)).pooler_output
        out: Tensor = self.text_out_dim(pooled)
        return out

    def decode_semantic(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> Tensor:
        """What the masks that `decode` gives for the same arguments show.

        The published code normalises these vectors, multiplies them with a table of one vector per category, which is
        no part of the checkpoint, and takes the softmax: category recognition in Cheng et al., 2025, section 4.

        Returns:
            (N, M, semantic_dim), with M = 3 if ``multimask`` else 1.

        Raises:
            ValueError: The features are those of several images and ``prompts.rows`` does not say which is whose.
        """
        (embedding,) = features
        if prompts.rows is None and embedding.shape[0] != 1:
            raise ValueError(f"features of {embedding.shape[0]} images need prompts.rows")
        rows = (self._look(embedding, prompts[i : i + 1])[0] for i in range(len(prompts)))
        return torch.cat([self.mask_decoder.semantic(tokens, multimask) for tokens in rows])

    def decode_named(
        self, features: Features, prompts: PromptBatch, multimask: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masks, predicted IoU and what the masks show in one go: `decode` and `decode_semantic`."""
        tokens, image = self._look(features[0], prompts)
        logits, iou = self._drawn(tokens, image, prompts, multimask)
        return logits, iou, self.mask_decoder.semantic(tokens, multimask)

    def embed_names(self, words: Sequence[str]) -> Tensor:
        """(N, text width) embeddings of N names, which what a mask shows is compared with; see `embed_text`."""
        pooled: Tensor = self.text_model(input_ids=self._tokens(words)).pooler_output
        return pooled

    def read_extras(self, folder: Path) -> None:
        """Takes the tokenizer from a checkpoint's folder if it is there; see the base class."""
        if has_tokenizer(folder):
            self.tokenizer = Tokenizer(folder, self.config.text)

    def write_extras(self, folder: Path) -> None:
        """Writes the tokenizer, if there is one; see the base class."""
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    def _tokens(self, words: Sequence[str]) -> Tensor:
        if self.tokenizer is None:
            raise ModelError(
                f"no tokenizer lay beside the weights, so {', '.join(words)} cannot be read",
                remedy="keep the weights as a checkpoint folder (vesalius models convert FILE -o FOLDER) and "
                + remedy("FOLDER"),
            )
        return self.tokenizer([sentence(word) for word in words]).to(self.text_out_dim.weight.device)

    def _decode(self, embedding: Tensor, prompts: PromptBatch, multimask: bool) -> tuple[Tensor, Tensor]:
        return self._drawn(*self._look(embedding, prompts), prompts, multimask)

    def _drawn(self, tokens: Tensor, image: Tensor, prompts: PromptBatch, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU of what `_look` gives."""
        upscaled = self.mask_decoder.output_upscaling(image)
        logits, iou = self.mask_decoder.draw(tokens, upscaled, multimask)
        if prompts.text is not None:
            logits = logits + self.mask_decoder.similarity(prompts.text.to(image.dtype), upscaled)
        return logits, iou

    def _look(self, embedding: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """The tokens and the image after their look at each other; see `MaskDecoder.look`."""
        if prompts.rows is not None:
            # Not by brackets: on a CPU the gradient of those is added up in no certain order.
            embedding = embedding.index_select(0, prompts.rows)
        to = embedding.dtype
        sparse, present, dense = self.prompt_encoder(prompts)
        if prompts.text is not None:
            sparse, present = _with_text(sparse, present, prompts.text)
        positions = self.prompt_encoder.dense_positions().to(to)
        return self.mask_decoder.look(embedding, positions, sparse.to(to), present, dense.to(to))


def _with_text(sparse: Tensor, present: Tensor | None, text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Prompt tokens, and which of them each row has, with the words as one token more."""
    given = text.isfinite().all(1)
    if present is None and bool(given.all()):
        present_now = None
    else:
        before = given.new_ones(sparse.shape[:2]) if present is None else present
        present_now = torch.cat([before, given[:, None]], dim=1)
    return torch.cat([sparse, text.nan_to_num()[:, None].to(sparse.dtype)], dim=1), present_now
