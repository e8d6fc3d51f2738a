"""The prompts of an evaluation: drawn once from the true masks, or said by an annotator; the same for all models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vesalius.core.errors import ReadError
from vesalius.core.types import Prompt
from vesalius.corpus.objects import LabelledImage
from vesalius.evaluation.protocols import ANNOTATOR, PROTOCOLS, Strategy

# What tells a prompt from all others.
Key = tuple[str, str, str, str, int]


@dataclass(frozen=True, eq=False)
class Turn:
    """What an annotator had said about an object when the model was asked.

    Attributes:
        steps: Each holds all that was said up to it and is asked with the low-resolution mask of the answer to the step
            before; empty where nothing can be asked.
        reason: Why nothing can be asked.
    """

    steps: tuple[Prompt, ...]
    reason: str | None = None


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
            rng = generator_of(seed, "prompt", name, *strategy.draw)
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
        "round": 1,
        "step": 1,
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


def turn_rows(name: str, turns: Sequence[Turn]) -> Iterator[dict[str, Any]]:
    """Rows of the table of prompts of what an annotator said about an object, turn by turn."""
    (strategy,) = PROTOCOLS[ANNOTATOR]
    key = key_of(name, strategy)
    for number, turn in enumerate(turns, 1):
        for step, prompt in enumerate(turn.steps, 1):
            yield to_row(key, prompt) | {"round": number, "step": step}
        if not turn.steps:
            names = ("object", "protocol", "strategy", "variant", "repeat")
            yield dict(zip(names, key, strict=True)) | {"round": number, "step": 1, "reason": turn.reason}


def read_turns(path: Path) -> dict[str, list[Turn]]:
    """What an annotator said about each object; undoes `turn_rows`.

    Args:
        path: Folder of a corpus that an annotator made, or of an earlier evaluation of it; or its ``prompts.parquet``.

    Raises:
        ReadError: It has no such prompts.
    """
    there = (path / "prompts.parquet").is_file() or path.is_file()
    rows = [row for row in _stored_rows(path) if row["protocol"] == ANNOTATOR] if there else []
    if not rows:
        raise ReadError(
            "has no prompts of an annotator",
            path=path,
            remedy="give a corpus that `vesalius annotate` exported, or an evaluation of one",
        )
    rows.sort(key=lambda row: (row["object"], row["round"], row["step"]))
    turns: dict[str, list[Turn]] = {}
    for (name, _), steps in groupby(rows, key=lambda row: (row["object"], row["round"])):
        said = list(steps)
        reason = said[0]["reason"]
        asked = tuple(from_row(row)[1] for row in said) if reason is None else ()
        turns.setdefault(name, []).append(Turn(asked, reason))
    return turns


def turns_of(stored: Mapping[str, list[Turn]], names: Sequence[str]) -> dict[str, list[Turn]]:
    """What an annotator said about some objects.

    Raises:
        ReadError: There is nothing about one of them.
    """
    for name in names:
        if name not in stored:
            raise ReadError(
                f"the annotator's prompts have none for {name}", remedy="evaluate the corpus that they were given on"
            )
    return {name: stored[name] for name in names}


def read_prompts(path: Path) -> dict[Key, Prompt]:
    """Prompts of an earlier evaluation that were drawn.

    Args:
        path: Its folder or its ``prompts.parquet``.

    Raises:
        ReadError: It is not such a file.
    """
    return dict(from_row(row) for row in _stored_rows(path) if row["protocol"] != ANNOTATOR)


def _stored_rows(path: Path) -> list[dict[str, Any]]:
    from vesalius.evaluation.results import read_table

    rows: list[dict[str, Any]] = read_table(path if path.is_dir() else path.parent, "prompts").to_pylist()
    return rows
