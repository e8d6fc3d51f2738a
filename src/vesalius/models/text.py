"""Words as prompts: CLIP's text encoder and its tokenizer, through transformers (an extra).

Needs ``pip install vesalius[text]``. Nothing is downloaded: the weights are the checkpoint's own, and the tokenizer's
files lie beside them.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (CLIP), section
2.4; the sentence is that of the code published with Cheng et al., "Interactive Medical Image Segmentation", 2025
(IMIS-Net).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from vesalius.core.config import Config
from vesalius.core.errors import ModelError, PromptError

TEMPLATE = "A segmentation area of a {target}."

# Either of these, as CLIP's repositories on the Hugging Face hub have them.
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
# All that may belong to a tokenizer.
TOKENIZER_NAMES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


class TextConfig(Config):
    """Sizes of a CLIP text encoder; the defaults are those that belong to CLIP ViT-B.

    Attributes:
        width: Width of a token.
        depth: Number of layers.
        heads: Attention heads.
        mlp: Hidden width of the MLPs.
        vocabulary: Number of tokens; the last two are the start and the end of a sentence.
        length: The longest sentence in tokens, start and end included.
    """

    width: PositiveInt = 512
    depth: PositiveInt = 12
    heads: PositiveInt = 8
    mlp: PositiveInt = 2048
    vocabulary: PositiveInt = 49408
    length: PositiveInt = 77


def text_encoder(config: TextConfig) -> nn.Module:
    """CLIP's text encoder with random weights; its ``pooler_output`` is the state at the end of the sentence.

    Raises:
        ModelError: The package transformers is not installed.
    """
    transformers = _transformers()
    sizes = transformers.CLIPTextConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        vocab_size=config.vocabulary,
        max_position_embeddings=config.length,
        bos_token_id=config.vocabulary - 2,
        eos_token_id=config.vocabulary - 1,
    )
    model: nn.Module = transformers.CLIPTextModel(sizes)
    # Before transformers 5 the encoder lay one level deeper.
    inner: nn.Module = getattr(model, "text_model", model)
    return inner


def sentence(target: str) -> str:
    """The sentence about a target that the network was trained on: ``Left_Kidney`` is a left kidney."""
    words = target.lower().replace("_", " ").replace("-", " ").split()
    return TEMPLATE.format(target=" ".join(words))


class Tokenizer:
    """Sentences to tokens.

    Args:
        folder: Where the tokenizer's files lie: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.
        config: Sizes of the text encoder that it must fit.

    Raises:
        ModelError: The files are missing, cannot be read or belong to another text encoder, or the package
            transformers is not installed.
    """

    def __init__(self, folder: Path, config: TextConfig) -> None:
        if not has_tokenizer(folder):
            raise ModelError("has no tokenizer", path=folder, remedy=remedy(folder))
        try:
            self._tokenizer: Any = _transformers().CLIPTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        # The tokenizers library raises the bare Exception for a file that it does not understand.
        except Exception as error:
            raise ModelError(f"the tokenizer cannot be read ({error})", path=folder, remedy=remedy(folder)) from error
        ends = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        if ends != (config.vocabulary - 2, config.vocabulary - 1):
            raise ModelError(
                f"the tokenizer marks start and end by {ends[0]} and {ends[1]}, "
                f"the network by {config.vocabulary - 2} and {config.vocabulary - 1}",
                path=folder,
                remedy=remedy(folder),
            )
        self._length = config.length

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """(N, T) int64 tokens of N sentences, filled up with the end, which the encoder does not look beyond.

        Raises:
            PromptError: A sentence is too long.
        """
        tokens: Tensor = self._tokenizer(list(sentences), padding=True, return_tensors="pt")["input_ids"]
        if tokens.shape[1] > self._length:
            raise PromptError(
                f"the text prompt makes {tokens.shape[1]} tokens, the network takes {self._length}",
                remedy="name the target in a few words",
            )
        return tokens

    def save(self, folder: Path) -> None:
        """Writes the tokenizer's files into a folder."""
        self._tokenizer.save_pretrained(str(folder))


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer's files lie in a folder."""
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in a folder that belong to a tokenizer."""
    return [folder / name for name in TOKENIZER_NAMES if (folder / name).is_file()]


def remedy(folder: Path | str) -> str:
    """How to get the tokenizer's files into a folder."""
    return f"get it once: hf download openai/clip-vit-base-patch32 tokenizer.json --local-dir {folder}"


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            "networks that take words need the package transformers", remedy="pip install vesalius[text]"
        ) from error
    return transformers
