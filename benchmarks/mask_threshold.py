"""At which logit the masks of a network are best cut, by what it is asked with.

    python benchmarks/mask_threshold.py DATA --model NAME

Dice for several cuts of the same logits, from a tight box, from one that is 10 % too wide, and from one click, on
training cases: of each of the sets of pairs in DATA up to twelve images and four objects of each are drawn (seed 0), of
at least 0.153 % of the image; means over objects, then sets. Cuts are of the network's own logits: what its preset
takes off for a box alone (`box_cut`) is added again.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import groupby
from pathlib import Path

import numpy as np

import vesalius as vs
from loose_boxes import widened
from vesalius.corpus.objects import MIN_AREA
from vesalius.metrics.overlap import dice
from vesalius.prompts.sample import random_point, tight_box
from vesalius.training.run import open_images

CUTS = (-1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25)
IMAGES, OBJECTS = 12, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    model = vs.load_model(options.model)
    scores: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    rng = np.random.default_rng(0)
    for dataset, of_set in groupby(open_images(options.data, "train"), key=lambda image: image.dataset):
        images = list(of_set)
        for i in rng.permutation(len(images))[:IMAGES]:
            masks = [entry.mask for entry in images[i].masks if entry.mask.mean() >= MIN_AREA]
            masks = [masks[k] for k in rng.permutation(len(masks))[:OBJECTS]]
            if not masks:
                continue
            embedding = model.encode(images[i].image)
            for truth in masks:
                prompts = {
                    "box": vs.Prompt(box=tight_box(truth)),
                    "box, 10 % too wide": vs.Prompt(box=widened(truth, 0.1)),
                    "1 point": vs.Prompt(points=[random_point(truth, rng)], labels=[1]),
                }
                for name, prompt in prompts.items():
                    logits = model.predict(embedding, [prompt])[0].logits
                    off = model.preset.box_cut if prompt.parts == {"box"} else 0
                    full = logits.frame.inverse_logits(logits.values) + off
                    scores[name][dataset].append([dice(full > at, truth) for at in CUTS])
    print(f"| cut at | {' | '.join(f'{at:g}' for at in CUTS)} |")
    print(f"| --- {'| --- ' * len(CUTS)}|")
    for name, found in scores.items():
        means = np.mean([np.mean(rows, axis=0) for rows in found.values()], axis=0)
        print(f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} |")


if __name__ == "__main__":
    main()
