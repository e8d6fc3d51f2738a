"""Scores of a model on images in memory, and tables of them that are taken up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vesalius.core.errors import ReadError
from vesalius.core.types import Prompt, Slice
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.evaluation.prompts import generator_of
from vesalius.evaluation.scores import Score, collect, read_scores, score_model, with_drawn_objects


def whole_box(image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
    """The box; of clicks, what lies right of the first."""
    left = np.asarray(prompt.points)[0, 0] if prompt.box is None else 0
    x0, y0, x1, y1 = (int(v) for v in prompt.box or (left, 0, image.size[1], image.size[0]))
    mask = np.zeros(image.size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def squares(count: int = 4) -> LabelledImage:
    masks = []
    for number in range(count):
        mask = np.zeros((50, 20 * count), np.bool_)
        mask[10:30, 20 * number + 3 : 20 * number + 13] = True
        masks.append(ObjectMask(mask, "square", number + 1))
    pixels = np.where(np.any([m.mask for m in masks], axis=0), 200, 40).astype(np.uint8)
    return LabelledImage(Slice(pixels), "ct", "squares", "case7", Path("case7_1.png"), masks)


def same(a: Sequence[Score], b: Sequence[Score]) -> bool:
    """Whether both hold the same rows; NaN equals NaN."""
    return [repr(score) for score in a] == [repr(score) for score in b]


def test_rows_of_an_image(make_model: Any) -> None:
    scores = score_model(squares(), make_model(whole_box))
    assert [score.strategy for score in scores] == [
        name for name in ("box", "1 point", "3 points", "5 points") for _ in range(4)
    ]
    box = [score for score in scores if score.strategy == "box"]
    assert [(s.dice, s.iou, s.instance, s.quality) for s in box] == [(1, 1, number, 0.25) for number in (1, 2, 3, 4)]
    assert all(0 < score.dice < 0.5 for score in scores if score.strategy == "1 point")
    first = scores[0]
    assert (first.model, first.dataset, first.modality, first.image, first.case) == (
        "fake",
        "squares",
        "ct",
        "case7_1",
        "case7",
    )
    assert (first.target, first.area) == ("square", pytest.approx(200 / 4000))


def test_all_objects_of_an_image_are_one_batch(make_model: Any) -> None:
    model = make_model(whole_box)
    score_model(squares(), model)
    assert len(model.encoded) == 1
    assert [len(prompts) for prompts in model.calls] == [4] * 6


def test_an_image_without_objects_has_no_rows(make_model: Any) -> None:
    model = make_model(whole_box)
    assert score_model(dataclasses.replace(squares(), masks=[]), model) == []
    assert not model.encoded


def test_of_many_objects_some_are_drawn() -> None:
    image = squares(12)
    drawn = []
    for seed in range(6):
        numbers = [entry.instance for entry in with_drawn_objects(image, seed, 3).masks]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 3
        drawn.append(tuple(numbers))
    assert len(set(drawn)) > 3
    assert with_drawn_objects(image, 0, 12) is with_drawn_objects(image) is image


def test_clicks_on_an_object_do_not_depend_on_which_others_are_there(make_model: Any) -> None:
    image = squares()
    all_scores = score_model(image, make_model(whole_box), 5)
    alone = score_model(dataclasses.replace(image, masks=image.masks[2:3]), make_model(whole_box), 5)
    assert same([score for score in all_scores if score.instance == 3], alone)


def test_generators_depend_on_seed_and_name_alone() -> None:
    draws = [
        int(generator_of(seed, *name).integers(2**60))
        for seed, name in [(0, ("a", "bc", 1)), (1, ("a", "bc", 1)), (0, ("ab", "c", 1)), (0, ("a", "bc", 2))]
    ]
    assert len(set(draws)) == 4
    assert draws[0] == generator_of(0, "a", "bc", 1).integers(2**60)


@pytest.mark.parametrize("cut", [0, 1, 150])
def test_a_stopped_table_is_taken_up(tmp_path: Path, make_model: Any, cut: int) -> None:
    images = [dataclasses.replace(squares(), path=Path(f"image{number}.png")) for number in range(8)]

    def table(name: str, model: Any) -> list[Score]:
        return collect(tmp_path / name, images, len(images), lambda image: score_model(image, model))

    whole = table("whole.csv", make_model(whole_box))
    assert same(read_scores(tmp_path / "whole.csv"), whole)

    def stopped(image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
        if len(model.encoded) == 6:
            raise KeyboardInterrupt
        return whole_box(image, prompt)

    model = make_model(stopped)
    with pytest.raises(KeyboardInterrupt):
        table("part.csv", model)
    part = tmp_path / "part.csv"
    text = part.read_bytes()
    part.write_bytes(text[: len(text) - cut])
    rest = make_model(whole_box)
    assert same(table("part.csv", rest), whole)
    # Five images were done; the last of them is not trusted, whether the file was cut or not.
    assert len(rest.encoded) == 4
    assert part.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_file_that_is_no_table_of_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with pytest.raises(ReadError, match="scores"):
        read_scores(path)
    path.write_text("dataset,dice\na,0.5\n", encoding="utf-8")
    with pytest.raises(ReadError, match="not a table of scores"):
        read_scores(path)
