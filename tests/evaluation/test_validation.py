"""What a network is measured by while it trains is what `vesalius evaluate` measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from tests.training.conftest import tiny

from vesalius.evaluation.results import read_table
from vesalius.evaluation.run import EvaluationPlan, evaluate_corpus
from vesalius.evaluation.validation import validation
from vesalius.models.checkpoint import save_checkpoint
from vesalius.training.run import open_images


def test_validation_has_the_objects_and_the_dice_of_evaluate(data: Path, tmp_path: Path) -> None:
    network = tiny()
    save_checkpoint(network, tmp_path / "tiny")
    plan = EvaluationPlan(
        corpus=data, models=(str(tmp_path / "tiny"),), protocols=("sam-med2d",), split="train", max_objects=2
    )
    out = evaluate_corpus(plan, tmp_path / "out")
    scores = read_table(out, "scores").to_pandas()
    objects = read_table(out, "objects").to_pandas()[["object", "dataset"]]
    box = pd.merge(scores[scores["strategy"] == "box"], objects, on="object")
    expected = box.groupby("dataset")["dice"].mean().mean()
    images = list(open_images(data, "train"))
    assert validation(images, max_objects=2)(network)["box"] == pytest.approx(expected, abs=1e-5)


def test_no_pseudo_mask_is_validated(data: Path) -> None:
    images = list(open_images(data, "train"))
    both = []
    for image in images:
        pseudo = [dataclasses.replace(entry, mask=~entry.mask, pseudo=True) for entry in image.masks]
        both.append(dataclasses.replace(image, masks=[*pseudo, *image.masks]))
    network = tiny()
    expected = validation(images, max_objects=3, strategies=["box"])(network)
    assert validation(both, max_objects=3, strategies=["box"])(network) == expected
