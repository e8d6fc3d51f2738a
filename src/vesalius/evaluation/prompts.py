"""The first prompts of an evaluation: drawn once from the true masks, stored, and the same for every model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vesalius.core.errors import ReadError
from vesalius.core.types import Prompt
from vesalius.corpus.objects import LabelledImage
from vesalius.evaluation.protocols import Strategy

# What tells a prompt from all others.
Key = tuple[str, str, str, str, int]


def generator_of(seed: int, *name: object) -> np.random.Generator:
    """A generator that depends on the seed and the name alone."""
    digest = hashlib.sha256("\0".join(map(str, name)).encode()).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))


def key_of(name: str, strategy: Strategy) -> Key:
    """What tells the prompt of an object under a strategy from all others."""
    return name, strategy.protocol, strategy.name, strategy.variant, strategy.repeat


def draw_prompts(
    labelled: LabelledImage, names: Sequence[str], strategies: Iterable[Strategy], seed: int
) -> dict[Key, Prompt]:
    """The first prompts of the objects of an image; those that differ in their protocol alone are the same.

    Args:
        labelled: The image and its objects, none empty.
        names: Of the objects.
        strategies: Those that outline everything draw nothing.
        seed: Of all draws; each object has a generator of its own for every strategy, so that a prompt does not depend
            on what else is drawn.
    """
    drawn = {}
    for strategy in strategies:
        if strategy.first is None:
            continue
        for name, entry in zip(names, labelled.masks, strict=True):
            rng = generator_of(seed, "prompt", name, strategy.name, strategy.variant, strategy.repeat)
            drawn[key_of(name, strategy)] = strategy.first(entry, rng)
    return drawn


def to_row(key: Key, prompt: Prompt) -> dict[str, Any]:
    """A row of the table of prompts."""
    name, protocol, strategy, variant, repeat = key
    return {
        "object": name,
        "protocol": protocol,
        "strategy": strategy,
        "variant": variant,
        "repeat": repeat,
        "points": np.asarray(prompt.points, np.float64).ravel().tolist(),
        "labels": np.asarray(prompt.labels).tolist(),
        "box": None if prompt.box is None else list(prompt.box),
        "text": prompt.text,
    }


def from_row(row: Mapping[str, Any]) -> tuple[Key, Prompt]:
    """Undoes `to_row`."""
    key = row["object"], row["protocol"], row["strategy"], row["variant"], row["repeat"]
    return key, Prompt(np.reshape(row["points"], (-1, 2)), row["labels"], row["box"], text=row["text"])


def prompts_of(stored: Mapping[Key, Prompt], names: Sequence[str], strategies: Iterable[Strategy]) -> dict[Key, Prompt]:
    """The stored prompts of some objects.

    Raises:
        ReadError: There is none for one of them.
    """
    wanted = [key_of(name, strategy) for strategy in strategies if strategy.first for name in names]
    for key in wanted:
        if key not in stored:
            raise ReadError(
                f"the stored prompts have none for {key[0]} under {key[1]} {key[2]} {key[3]}".rstrip(),
                remedy="evaluate the same corpus, split, seed and protocols, or draw the prompts anew",
            )
    return {key: stored[key] for key in wanted}


def read_prompts(path: Path) -> dict[Key, Prompt]:
    """Prompts of an earlier evaluation.

    Args:
        path: Its folder or its ``prompts.parquet``.

    Raises:
        ReadError: It is not such a file.
    """
    from vesalius.evaluation.results import read_table

    folder = path if path.is_dir() else path.parent
    return dict(from_row(row) for row in read_table(folder, "prompts").to_pylist())
