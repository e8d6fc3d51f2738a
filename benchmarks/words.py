"""Dice of a word alone: the bundled model is asked for a target by its name, and the truth is all that bears it.

    python benchmarks/words.py DATA -o OUT [--model NAME] [--seed 0]

DATA is a folder of sets of image and label pairs; its validation split is measured. `vesalius evaluate --protocol imis`
counts the answer to a word against each object by itself, which suits a network that finds one; vesalius-tiny learns
that a name means all of its objects. Objects under 0.153 % of the image are left out, as there.
OUT/words.csv has a row per image and target, OUT/words.md the means over images, for all over data sets.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from vesalius.core.types import Prompt
from vesalius.evaluation.rendering import cell_text
from vesalius.evaluation.statistics import macro_average
from vesalius.metrics.overlap import dice
from vesalius.predict.load import load_model
from vesalius.training.run import open_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = load_model(options.model)
    rows = []
    for image in open_images(options.data, "val"):
        if not image.masks:
            continue
        embedding = model.encode(image.image)
        for target in sorted({entry.target for entry in image.masks}):
            truth = np.logical_or.reduce([entry.mask for entry in image.masks if entry.target == target])
            (found,) = model.predict(embedding, [Prompt(text=target)])
            rows.append((image.dataset, image.case, image.path.name, target, dice(found.mask, truth)))
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "words.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("dataset", "case", "image", "target", "dice"), *rows])
    lines = [f"{model.name} {model.digest}", "", "| word | answers | Dice (%) |", "| --- | --- | --- |"]
    for target in ("", *sorted({row[3] for row in rows})):
        mine = [row for row in rows if target in ("", row[3])]
        # A target of several sets is one group: its mean is over images.
        sets = [row[0] if not target else "" for row in mine]
        cases = [f"{row[0]}/{row[1]}" for row in mine]
        mean = macro_average([100 * row[4] for row in mine], sets, cases, np.random.default_rng(options.seed))
        lines.append(f"| {target or 'all, over sets'} | {len(mine)} | {cell_text(mean)} |")
    (options.output / "words.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
