"""A tokenizer of letters, in CLIP's kind of files, and networks that fit it."""

import json

from golden import fill
from vesalius.models.imis.model import Imis, ImisConfig
from vesalius.models.presets import Preset
from vesalius.models.text import TextConfig

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789."
TEXT = TextConfig(width=16, depth=2, heads=2, mlp=32, vocabulary=2 * len(LETTERS) + 2)

# Windows of 3 on a grid of 4 leave padded tokens, as 14 on 16 does.
CONFIG = ImisConfig(
    side=64,
    encoder_dim=32,
    encoder_depth=3,
    encoder_heads=2,
    global_blocks=(1,),
    window=3,
    prompt_dim=32,
    mask_channels=8,
    decoder_mlp=48,
    iou_hidden=24,
    text=TEXT,
    semantic_dim=8,
)
PRESET = Preset(side=64, mask_side=16, fit="stretch")


def write_tokenizer(folder):
    """Writes ``vocab.json`` and ``merges.txt``, by which every letter is a token of its own."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def imis(config=CONFIG, preset=PRESET):
    """An IMIS-Net filled from its parameters' names."""
    model = Imis(config, preset).eval()
    model.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in model.state_dict().items()}))
    return model
