"""Evaluation beside the published test loop: one image, one mask, encoded again for every strategy.

    python benchmarks/evaluation.py [--images 4] [--objects 3] [--model vesalius-tiny] [--side 256] [--threads 1]

Both ways use the same network, run by torch in float32, and the same images and objects: discs and ellipses that are
made up. Strategies: S2 to S6 of COSMOS, the box and five clicks of SAM-Med2D, MedSAM's box. The loop measures Dice and
IoU, as the published ones do; the evaluation measures everything that it measures. The answers of both are compared.
Without ``--model`` it is SAM-Med2D with a ViT-B of random weights. What counts is the processor time of all threads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from vesalius.core.types import Prompt, Slice
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.evaluation.engine import Scene, scene_of, score_scene
from vesalius.evaluation.prompts import Key, draw_prompts, generator_of, key_of
from vesalius.evaluation.protocols import Strategy, correction, strategies_of
from vesalius.evaluation.subjects import ModelSubject
from vesalius.metrics.overlap import dice, iou
from vesalius.models.presets import PRESETS
from vesalius.models.sam.model import Sam, SamConfig
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.cache import EmbeddingCache
from vesalius.predict.load import load_model
from vesalius.predict.predictor import Predictor

SEED = 0
Scores = dict[tuple[Key, int], tuple[float, float]]


def made_up(number: int, objects: int, side: int) -> Scene:
    """An image with some bright ellipses in noise."""
    rng = np.random.default_rng(number)
    y, x = np.indices((side, side))
    masks: list[ObjectMask] = []
    grey = rng.normal(90, 20, (side, side))
    for instance in range(1, objects + 1):
        (cy, cx), (ry, rx) = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0.06, 0.2, 2) * side
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        grey[mask] += rng.uniform(40, 90)
        masks.append(ObjectMask(mask, "ellipse", instance))
    image = Slice(np.clip(grey, 0, 255).astype(np.uint8))
    name = f"made up/{number}"
    return scene_of(name, LabelledImage(image, "ct", "made up", name, Path(name), masks, name), None, SEED, None)


def strategies() -> list[Strategy]:
    found = strategies_of(["cosmos", "sam-med2d", "medsam"])
    return [strategy for strategy in found if strategy.first is not None]


def by_loop(predictor: Predictor, scene: Scene, prompts: dict[Key, Prompt]) -> Scores:
    """The published way: for every strategy and mask the image is encoded, and one prompt at a time is answered."""
    scores: Scores = {}
    for strategy in strategies():
        for name, entry in zip(scene.names, scene.labelled.masks, strict=True):
            predictor.cache = EmbeddingCache()
            embedding = predictor.encode(scene.labelled.image)
            prompt, rng = prompts[key_of(name, strategy)], generator_of(SEED, "corrections", name, strategy.name)
            for turn in range(1, strategy.rounds + 1):
                (found,) = predictor.predict(embedding, [prompt])
                scores[key_of(name, strategy), turn] = dice(found.mask, entry.mask), iou(found.mask, entry.mask)
                after = correction(prompt, found.mask, entry.mask, strategy.correct, rng)
                if after is None:
                    break
                prompt = Prompt(after.points, after.labels, after.box, logits=found.logits)
    return scores


def by_evaluation(predictor: Predictor, scene: Scene, prompts: dict[Key, Prompt]) -> Scores:
    predictor.cache = EmbeddingCache()
    rows = score_scene(ModelSubject(predictor), scene, strategies(), prompts, SEED, 2.0)
    return {
        ((row["object"], row["protocol"], row["strategy"], row["variant"], row["repeat"]), row["round"]): (
            row["dice"],
            row["iou"],
        )
        for row in rows
        if row["choice"] == "own"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--side", type=int, default=256, help="of the images, in pixels")
    parser.add_argument("--model", help="a model's name or folder; without it SAM-Med2D with random weights")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model:
        predictor = load_model(arguments.model, runtime="torch")
    else:
        torch.manual_seed(SEED)
        network = Sam(SamConfig(side=256, adapter="sam-med2d"), PRESETS["sam-med2d"])
        predictor = Predictor(TorchRuntime(network), "SAM-Med2D, random weights")
    ways = {"published loop": by_loop, "vesalius": by_evaluation}
    seconds = dict.fromkeys(ways, 0.0)
    answers, differing = 0, 0
    for number in range(-1, arguments.images):
        scene = made_up(max(number, 0), arguments.objects, arguments.side)
        prompts = draw_prompts(scene.labelled, scene.names, strategies(), SEED)
        scores = {}
        for name, way in ways.items():
            start = time.process_time()
            scores[name] = way(predictor, scene, prompts)
            # The first image warms up.
            seconds[name] += time.process_time() - start if number >= 0 else 0.0
        if number >= 0:
            loop, ours = scores.values()
            answers += len(loop)
            differing += sum(abs(loop[key][0] - ours[key][0]) > 1e-3 for key in loop)
    table = Table("network", "way", "seconds per image", "images/s", "ratio", box=box.MARKDOWN)
    for name, taken in seconds.items():
        each = taken / arguments.images
        ratio = seconds["published loop"] / taken
        table.add_row(predictor.name, name, f"{each:.2f}", f"{1 / each:.3f}", f"{ratio:.1f}")
    Console(width=120).print(table)
    print(f"{answers} answers of the loop; the Dice of {differing} differs by more than 0.001")


if __name__ == "__main__":
    main()
