"""Dice per volume against the number of prompted slices: propagation beside what needs no model between the slices.

    python benchmarks/propagation.py DATA -o OUT [--model NAME] [--tuning]

DATA holds ``hippocampus`` (Medical Segmentation Decathlon, Task04: imagesTr, labelsTr) and ``sts`` (STS_xxx with
CT, MR_T1 and PET, image and mask). The object is all that is marked. K slices, evenly spread over those that it is on,
get its tight box; the hippocampus is cut along y (coronal, as it is drawn), the sarcoma along z. Ways to the rest:

- prompted alone: no other slice has an outline;
- interpolated: between the prompted slices, signed distances to the edge are averaged (Raya and Udupa 1990);
- propagated: `vesalius.propagate` with its default rules;
- propagated between: of that, only what does not lie beyond the outermost prompted slices;
- every slice: each slice of the object gets its own tight box, which is what propagation stands in for.

The volumes on which the default rules were chosen are left out, or with ``--tuning`` are the only ones. Scores go to
OUT/scores.csv as they are found; started again, it goes on. The table goes to OUT/table.md.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import vesalius as vs
from vesalius.core.types import AXES
from vesalius.evaluation.statistics import macro_average
from vesalius.metrics.overlap import dice
from vesalius.predict.load import load_model
from vesalius.predict.predictor import Predictor
from vesalius.predict.propagate import accept, propagate
from vesalius.prompts.sample import tight_box

COUNTS = (1, 2, 3, 5)
WAYS = ("prompted alone", "interpolated", "propagated", "propagated between")
ALL = "every slice"
FIELDS = ("set", "case", "volume", "way", "slices", "dice")
Mask = NDArray[np.bool_]


def volumes(data: Path, tuning: bool) -> Iterator[tuple[str, str, str, str, Path, Path]]:
    """Set, case, volume, axis, image and mask of each volume."""
    for mask in sorted((data / "sts").glob("*/*_mask.nii.gz")):
        if (mask.parent.name == "STS_008") == tuning:
            kind = mask.name.removesuffix("_mask.nii.gz")
            image = mask.with_name(f"{kind}_image.nii.gz")
            yield f"sarcoma {kind.replace('_', ' ')}", mask.parent.name, f"{mask.parent.name}_{kind}", "z", image, mask
    labels = sorted((data / "hippocampus" / "labelsTr").glob("*.nii.gz"))
    for label in labels[:10] if tuning else labels[10:]:
        name = label.name.removesuffix(".nii.gz")
        yield "hippocampus", name, name, "y", data / "hippocampus" / "imagesTr" / label.name, label


def spread(truth: Mask, count: int) -> list[int]:
    """``count`` slices of (N, H, W) truth, each in the middle of one of as many equal parts of the object."""
    inside = np.flatnonzero(truth.any((1, 2)))
    return sorted({int(inside[(2 * i + 1) * len(inside) // (2 * count)]) for i in range(count)})


def interpolated(masks: dict[int, Mask]) -> dict[int, Mask]:
    """The outlines, and those between them by averaged signed distances."""
    distances = {
        i: ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask) for i, mask in masks.items()
    }
    out = dict(masks)
    for low, high in pairwise(sorted(masks)):
        for i in range(low + 1, high):
            out[i] = (high - i) * distances[low] + (i - low) * distances[high] > 0
    return out


def score(model: Predictor, volume: vs.Volume, truth: Mask, axis: str) -> Iterator[tuple[str, int, float]]:
    """Way, number of prompted slices and Dice of one volume."""
    along = np.moveaxis(truth, 2 - AXES.index(axis), 0)

    def stack(masks: dict[int, Mask]) -> float:
        found = np.zeros_like(along)
        for index, mask in masks.items():
            found[index] = mask
        return dice(found, along)

    for count in COUNTS:
        prompts = {i: vs.Prompt(box=tight_box(along[i])) for i in spread(along, count)}
        keys = accept(model, volume, prompts, axis=axis)
        masks = {i: said.mask for i, said in keys.items() if isinstance(said, vs.Prediction)}
        yield WAYS[0], count, stack(masks)
        yield WAYS[1], count, stack(interpolated(masks))
        found = np.moveaxis(propagate(model, volume, keys, axis=axis).mask, 2 - AXES.index(axis), 0)
        yield WAYS[2], count, dice(found, along)
        yield WAYS[3], count, stack({i: found[i] for i in range(min(keys), max(keys) + 1)})
    inside = np.flatnonzero(along.any((1, 2))).tolist()
    prompts = {i: vs.Prompt(box=tight_box(along[i])) for i in inside}
    answers = accept(model, volume, prompts, axis=axis)
    yield ALL, len(inside), stack({i: said.mask for i, said in answers.items() if isinstance(said, vs.Prediction)})


def table(rows: list[dict[str, str]]) -> str:
    """Mean Dice per set, way and number of slices, with its interval by bootstrap over the cases."""
    lines = ["| set | volumes (cases) | way | " + " | ".join(f"{n}" for n in COUNTS) + " |", "|---" * 7 + "|"]
    # A name that others begin with stands for all of them.
    for name in ("hippocampus", "sarcoma", "sarcoma CT", "sarcoma MR T1", "sarcoma PET"):
        of_set = [row for row in rows if row["set"].startswith(name)]
        if not of_set:
            continue
        held = f"{len({row['volume'] for row in of_set})} ({len({row['case'] for row in of_set})})"
        for way in WAYS:
            cells = []
            for count in COUNTS:
                chosen = [row for row in of_set if row["way"] == way and row["slices"] == str(count)]
                cells.append(_mean(chosen))
            lines.append(f"| {name} | {held} | {way} | " + " | ".join(cells) + " |")
        ceiling = _mean([row for row in of_set if row["way"] == ALL])
        lines.append(f"| {name} | {held} | a box on every slice | {ceiling} | | | |")
    return "\n".join(lines) + "\n"


def _mean(rows: list[dict[str, str]]) -> str:
    values = [float(row["dice"]) for row in rows]
    found = macro_average(values, ["all"] * len(rows), [row["case"] for row in rows], np.random.default_rng(0))
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--tuning", action="store_true", help="the volumes on which the rules were chosen")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    scores = arguments.output / "scores.csv"
    rows = []
    if scores.exists():
        with scores.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    # A volume ends with the row of all its slices; one that was broken off is done again.
    done = {row["volume"] for row in rows if row["way"] == ALL}
    rows = [row for row in rows if row["volume"] in done]
    with scores.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        model = load_model(arguments.model)
        for name, case, label, axis, image, mask in volumes(arguments.data, arguments.tuning):
            if label in done:
                continue
            truth = vs.read_volume(mask).voxels > 0
            # A NIfTI file does not say that its values are Hounsfield units.
            volume = vs.read_volume(image, modality="ct" if name.endswith("CT") else None)
            for way, count, value in score(model, volume, truth, axis):
                values = (name, case, label, way, str(count), f"{value:.6f}")
                rows.append(dict(zip(FIELDS, values, strict=True)))
                writer.writerow(rows[-1])
            file.flush()
            print(label, flush=True)
    text = f"{model.name}, {model.digest[:12]}, run by {model.runs_by}\n\n{table(rows)}"
    (arguments.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
