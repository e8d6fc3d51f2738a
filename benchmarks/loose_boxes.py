"""Dice from boxes that are too wide, on real objects and on plain discs.

    python benchmarks/loose_boxes.py DATA --model vesalius-tiny --model FOLDER

DATA holds sets of pairs. Of each, up to four images of its training cases and one object of each are drawn (seed 3), of
at least 0.153 % of the image. A box that is 10 % too wide has each edge further out by a tenth of the object's side.
The discs are eight: radii of 20, 40, 60 and 90 of 256 pixels, brighter or darker than their ground, with noise. Means
over objects, then sets.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vesalius as vs
from vesalius.corpus.objects import MIN_AREA
from vesalius.metrics.overlap import dice
from vesalius.prompts.sample import tight_box
from vesalius.training.run import open_images

WIDER = (0.0, 0.05, 0.1, 0.125, 0.15, 0.25)
IMAGES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", required=True)
    options = parser.parse_args()
    print(f"| objects | model | {' | '.join(f'{wider:.1%}' for wider in WIDER)} |")
    print(f"| --- | --- {'| --- ' * len(WIDER)}|")
    models = {name: vs.load_model(name) for name in options.model}
    for kind, found in (("real", list(real(options.data))), ("discs", list(discs()))):
        for name, model in models.items():
            scores = defaultdict(list)
            for dataset, image, truth in found:
                prompts = [vs.Prompt(box=widened(truth, wider)) for wider in WIDER]
                answers = model.predict(model.encode(image), prompts)
                scores[dataset].append([dice(answer.mask, truth) for answer in answers])
            means = np.mean([np.mean(rows, axis=0) for rows in scores.values()], axis=0)
            print(f"| {kind}, {len(found)} | {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


def real(data: Path) -> Iterator[tuple[str, vs.Slice, NDArray[np.bool_]]]:
    """Data set, image and (H, W) mask of the objects that are drawn."""
    rng = np.random.default_rng(3)
    for _, of_set in groupby(open_images(data, "train"), key=lambda image: image.dataset):
        images = list(of_set)
        for i in rng.permutation(len(images))[:IMAGES]:
            masks = [entry.mask for entry in images[i].masks if entry.mask.mean() >= MIN_AREA]
            if masks:
                yield images[i].dataset, images[i].image, masks[rng.integers(len(masks))]


def discs() -> Iterator[tuple[str, vs.Slice, NDArray[np.bool_]]]:
    """As `real`, of discs that are made."""
    y, x = np.mgrid[:256, :256]
    for radius in (20, 40, 60, 90):
        truth = (x - 128) ** 2 + (y - 120) ** 2 < radius**2
        for contrast in (100, -60):
            grey = np.random.default_rng(1).normal(110 + contrast * truth, 8)
            yield "discs", vs.Slice(np.clip(grey, 0, 255).astype(np.uint8)), truth


def widened(mask: NDArray[np.bool_], wider: float) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), half-open: the box around an (H, W) mask, each edge further out by a share of its side."""
    height, width = mask.shape
    x0, y0, x1, y1 = tight_box(mask)
    dx, dy = round(wider * (x1 - x0)), round(wider * (y1 - y0))
    return max(0, x0 - dx), max(0, y0 - dy), min(width, x1 + dx), min(height, y1 + dy)


if __name__ == "__main__":
    main()
