"""How long models take: to encode an image, and to answer each strategy's prompt about one object."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vesalius.evaluation.engine import Scene
from vesalius.evaluation.prompts import draw_prompts, key_of
from vesalius.evaluation.protocols import ANNOTATOR, GRID, Strategy
from vesalius.evaluation.subjects import Asked, Subject

# Larger grids take minutes per image, and say nothing more.
LARGEST_GRID = 32


def time_rows(
    subjects: Sequence[Subject], scenes: Iterable[Scene], strategies: Sequence[Strategy], seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of the table of times, measured one after the other; of each strategy the first answer alone.

    Strategies of one name are timed once, and everything mode once for each grid, whose side is the row's ``variant``;
    an annotator's prompts, and those with and without adapters, which another library may run than the rest, not at
    all. The first image warms up and is timed again as the last.

    Args:
        subjects: What is measured.
        scenes: Images, of which the first object counts.
        strategies: How they are prompted.
        seed: Of the prompts.
    """
    distinct: dict[tuple[str, int | None], Strategy] = {}
    for strategy in strategies:
        if strategy.protocol in (ANNOTATOR, "adapter-off"):
            continue
        if not strategy.repeat and (strategy.grid or 0) <= LARGEST_GRID:
            distinct.setdefault((strategy.name, strategy.grid), strategy)
    scenes = list(scenes)
    for subject in subjects:
        for turn, scene in enumerate([*scenes[:1], *scenes[1:], *scenes[:1]]):
            rows = list(_timed(subject, scene, list(distinct.values()), seed))
            if turn:
                yield from rows


def _timed(subject: Subject, scene: Scene, strategies: Sequence[Strategy], seed: int) -> Iterator[dict[str, Any]]:
    image = scene.names[0].rpartition("#")[0]
    prompts = draw_prompts(scene.labelled, scene.names, strategies, seed)
    subject.forget()
    start = time.perf_counter()
    opened = subject.open(scene.labelled, scene.names)
    _finish_on_gpu()
    row = {"model": subject.name, "image": image, "variant": "", "prompts": 1}
    yield row | {"stage": "encode", "seconds": time.perf_counter() - start}
    for strategy in strategies:
        prompt = None if strategy.grid else prompts[key_of(scene.names[0], strategy)]
        if subject.cannot(strategy, prompt) is not None:
            continue
        # Windows of the image that earlier strategies have looked at are encoded anew.
        subject.forget()
        start = time.perf_counter()
        if prompt is None:
            subject.everything(opened, strategy.grid or 0)
        elif not all(answer.masks for answer in subject.answer(opened, [Asked(strategy, 0, 1, prompt)])):
            continue
        _finish_on_gpu()
        timed = row | {"stage": strategy.name, "seconds": time.perf_counter() - start}
        if strategy.grid in (None, GRID):
            yield timed
        if strategy.grid is not None:
            yield timed | {"variant": str(strategy.grid)}


def _finish_on_gpu() -> None:
    """Waits for what a GPU has yet to do: torch gives it work and goes on."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
