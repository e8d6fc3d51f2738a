"""Dice, IoU, HD, HD95, ASSD and NSD together, beside MONAI's functions and DeepMind's surface-distance.

    python benchmarks/metrics.py [--pairs 20] [--turns 5] [--tolerance 2]

Masks of 512 x 512 pixels hold one made-up object each, of six sizes, as many pairs of every size; the prediction is the
truth with its outline moved. All three take turns at the pairs of a size, on one thread, whose processor time counts.
MONAI's NSD is the one by lengths (``use_subvoxels``), which is ours and surface-distance's; surface-distance has no
IoU, so it follows there from Dice.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import cv2
import monai.metrics
import numpy as np
import surface_distance
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from vesalius.metrics.overlap import dice, iou
from vesalius.metrics.surface import surface_scores

SIDE = 512
DIAMETERS = (16, 32, 64, 128, 256, 384)
SPACING = (1.0, 1.0)

Mask = NDArray[np.bool_]
Scores = tuple[float, ...]


def made_up_pair(rng: np.random.Generator, diameter: int) -> tuple[Mask, Mask]:
    """A prediction and a truth: an outline of eight harmonics, moved by a fiftieth to a twelfth of its diameter."""
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    orders = np.arange(1, 9)
    waves = np.concatenate([np.cos(np.outer(orders, angles)), np.sin(np.outer(orders, angles))])
    strengths = np.tile(1 / orders, 2)
    outline = rng.normal(0, 0.12, 16) * strengths
    moved = outline + rng.normal(0, rng.uniform(0.02, 0.08), 16) * strengths
    centre = SIDE / 2 + rng.uniform(-1, 1, 2) * (SIDE - diameter) / 3
    masks = []
    for shape in (moved, outline):
        radius = diameter / 2 * np.clip(1 + shape @ waves, 0.3, 1.5)
        points = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        masks.append(cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), [points.round().astype(np.int32)], 1) > 0)
    return masks[0], masks[1]


def by_vesalius(prediction: Mask, truth: Mask, tolerance: float) -> Scores:
    scores = surface_scores(prediction, truth, SPACING, tolerance)
    return dice(prediction, truth), iou(prediction, truth), scores.hd, scores.hd95, scores.assd, scores.nsd


def by_monai(prediction: Mask, truth: Mask, tolerance: float) -> Scores:
    a, b = (torch.from_numpy(mask)[None, None] for mask in (prediction, truth))
    return tuple(
        float(value)
        for value in (
            monai.metrics.compute_dice(a, b),
            monai.metrics.compute_iou(a, b),
            monai.metrics.compute_hausdorff_distance(a, b, include_background=True),
            monai.metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95),
            monai.metrics.compute_average_surface_distance(a, b, include_background=True, symmetric=True),
            monai.metrics.compute_surface_dice(
                a, b, [tolerance], include_background=True, spacing=SPACING, use_subvoxels=True
            ),
        )
    )


def by_surface_distance(prediction: Mask, truth: Mask, tolerance: float) -> Scores:
    overlap = float(surface_distance.compute_dice_coefficient(truth, prediction))
    distances = surface_distance.compute_surface_distances(truth, prediction, SPACING)
    return (
        overlap,
        overlap / (2 - overlap),
        surface_distance.compute_robust_hausdorff(distances, 100),
        surface_distance.compute_robust_hausdorff(distances, 95),
        float(np.mean(surface_distance.compute_average_surface_distance(distances))),
        surface_distance.compute_surface_dice_at_tolerance(distances, tolerance),
    )


PACKAGES: dict[str, Callable[[Mask, Mask, float], Scores]] = {
    "vesalius": by_vesalius,
    "MONAI": by_monai,
    "surface-distance": by_surface_distance,
}


def seconds_per_pair(pairs: list[tuple[Mask, Mask]], turns: int, tolerance: float) -> dict[str, float]:
    """Processor time of the one thread: the median of the turns; one turn more comes before, not counted."""
    times: dict[str, list[float]] = {name: [] for name in PACKAGES}
    for _ in range(turns + 1):
        for name, package in PACKAGES.items():
            start = time.thread_time()
            for prediction, truth in pairs:
                package(prediction, truth, tolerance)
            times[name].append((time.thread_time() - start) / len(pairs))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="pairs of each size")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=2.0, help="of NSD, in pixels")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    # surface-distance calls scipy by names that scipy deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    rng = np.random.default_rng(0)
    columns = ("diameter", "Dice", *(f"{name}, pairs/s" for name in PACKAGES), "to MONAI", "to surface-distance")
    table = Table(*columns, box=box.MARKDOWN)

    def add_row(name: str, overlap: float, each: dict[str, float]) -> None:
        own, *peers = each.values()
        speeds = (f"{1 / taken:,.0f}" for taken in each.values())
        table.add_row(name, f"{overlap:.2f}", *speeds, *(f"{peer / own:.1f}" for peer in peers))

    measured, overlaps = [], []
    for diameter in DIAMETERS:
        pairs = [made_up_pair(rng, diameter) for _ in range(arguments.pairs)]
        measured.append(seconds_per_pair(pairs, arguments.turns, arguments.tolerance))
        overlaps.append(statistics.mean(dice(*pair) for pair in pairs))
        add_row(str(diameter), overlaps[-1], measured[-1])
    together = {name: statistics.mean(each[name] for each in measured) for name in PACKAGES}
    add_row("all", statistics.mean(overlaps), together)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
