"""What the grid of a network's masks allows: Dice of true masks drawn on it and enlarged again, against themselves.

    python benchmarks/mask_grid.py DATA

DATA holds sets of pairs. Of each, up to 12 images of its validation cases and four objects of each are drawn (seed 2),
of at least 0.153 % of the image. Each is drawn in the frame in which vesalius-tiny answers its tight box, as the share
of every cell that it covers, and read again at a half. Means over objects, then sets.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vesalius.corpus.objects import MIN_AREA
from vesalius.metrics.overlap import dice
from vesalius.models.tiny import PRESET
from vesalius.predict.predictor import focus_frame, whole_frame
from vesalius.prompts.sample import tight_box
from vesalius.training.run import open_images

GRIDS = (64, 128, 256, 512)
IMAGES, OBJECTS = 12, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of sets of pairs, or a corpus")
    options = parser.parse_args()
    images = sorted(open_images(options.data, "val"), key=lambda image: image.dataset)
    rng = np.random.default_rng(2)
    found: dict[str, NDArray[np.float64]] = {}
    for name, members in groupby(images, key=lambda image: image.dataset):
        rows = []
        of_set = list(members)
        for image in (of_set[i] for i in rng.permutation(len(of_set))[:IMAGES]):
            masks = [entry.mask for entry in image.masks if entry.mask.mean() >= MIN_AREA]
            rows += [[kept(masks[i], side) for side in GRIDS] for i in rng.permutation(len(masks))[:OBJECTS]]
        if rows:
            found[name] = np.mean(rows, axis=0)
    print(f"| set | {' | '.join(f'{side} x {side}' for side in GRIDS)} |\n| --- {'| --- ' * len(GRIDS)}|")
    for name, row in [("all", np.mean(list(found.values()), axis=0)), *sorted(found.items(), key=lambda f: f[1][1])]:
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |")


def kept(mask: NDArray[np.bool_], side: int) -> float:
    """Dice of an (H, W) mask with itself after it was drawn on a grid in its frame."""
    assert PRESET.focus is not None
    frame = focus_frame(np.array(tight_box(mask)), whole_frame(mask.shape, PRESET), PRESET.focus)
    x0, y0, x1, y1 = frame.window
    truth = mask[y0:y1, x0:x1]
    finer = min(truth.shape) < side
    drawn = cv2.resize(
        truth.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR if finer else cv2.INTER_AREA
    )
    again = cv2.resize(drawn, truth.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return dice(again, truth)


if __name__ == "__main__":
    main()
