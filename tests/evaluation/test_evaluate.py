from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.types import Prompt, Slice
from vesalius.corpus.layouts.pairs import find_sets, read_pairs
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.evaluation.evaluate import (
    EvaluationConfig,
    Score,
    evaluate,
    generator_of,
    read_scores,
    score_image,
)


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


def same(a: list[Score], b: list[Score]) -> bool:
    """Whether both hold the same rows; NaN equals NaN."""
    return [repr(score) for score in a] == [repr(score) for score in b]


def test_rows_of_an_image(make_model: Any) -> None:
    scores = score_image(squares(), make_model(whole_box))
    columns = [(score.model, score.strategy) for score in scores]
    assert list(dict.fromkeys(columns)) == [
        ("ellipse", "box"),
        ("GrabCut", "box"),
        ("random walker", "box"),
        ("fake", "box"),
        ("fake", "1 point"),
        ("fake", "3 points"),
        ("fake", "5 points"),
    ]
    assert len(scores) == 7 * 4
    by_column = {column: [s for s, c in zip(scores, columns, strict=True) if c == column] for column in columns}
    assert [s.dice for s in by_column["fake", "box"]] == [1, 1, 1, 1]
    assert [s.iou for s in by_column["fake", "box"]] == [1, 1, 1, 1]
    assert [s.instance for s in by_column["fake", "5 points"]] == [1, 2, 3, 4]
    for score in by_column["ellipse", "box"]:
        assert score.dice == pytest.approx(2 * score.iou / (1 + score.iou))
        assert score.iou == pytest.approx(np.pi / 4, abs=0.02)
        assert np.isnan(score.quality)
    assert all(0 < score.dice < 0.5 for score in by_column["fake", "1 point"])
    assert {score.quality for score in scores if score.model == "fake"} == {0.25}
    first = scores[0]
    assert (first.dataset, first.modality, first.image, first.case) == ("squares", "ct", "case7_1", "case7")
    assert (first.target, first.area) == ("square", pytest.approx(200 / 4000))


def test_all_objects_of_an_image_are_one_batch(make_model: Any) -> None:
    model = make_model(whole_box)
    score_image(squares(), model)
    assert len(model.encoded) == 1
    assert [len(prompts) for prompts in model.calls] == [4] * 6


def test_an_image_without_objects_has_no_rows(make_model: Any) -> None:
    model = make_model(whole_box)
    assert score_image(dataclasses.replace(squares(), masks=[]), model) == []
    assert not model.encoded


def test_of_many_objects_some_are_drawn(make_model: Any) -> None:
    image = squares(12)
    drawn = []
    for seed in range(6):
        numbers = [s.instance for s in score_image(image, None, seed, 3) if s.model == "ellipse"]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 3
        with_model = [s.instance for s in score_image(image, make_model(whole_box), seed, 3) if s.model == "fake"]
        assert with_model[:3] == numbers
        drawn.append(tuple(numbers))
    assert len(set(drawn)) > 3
    assert len(score_image(image, None, 0, 12)) == len(score_image(image, None, 0)) == 3 * 12


def test_clicks_on_an_object_do_not_depend_on_which_others_are_there(make_model: Any) -> None:
    image = squares()
    all_scores = score_image(image, make_model(whole_box), 5)
    alone = score_image(dataclasses.replace(image, masks=image.masks[2:3]), make_model(whole_box), 5)
    assert same([score for score in all_scores if score.instance == 3], alone)


def test_generators_depend_on_seed_and_name_alone() -> None:
    draws = [
        int(generator_of(seed, *name).integers(2**60))
        for seed, name in [(0, ("a", "bc", 1)), (1, ("a", "bc", 1)), (0, ("ab", "c", 1)), (0, ("a", "bc", 2))]
    ]
    assert len(set(draws)) == 4
    assert draws[0] == generator_of(0, "a", "bc", 1).integers(2**60)


def test_a_folder_is_scored_and_written(data: Path, tmp_path: Path, make_model: Any) -> None:
    out = tmp_path / "out"
    model = make_model(whole_box)
    scores = evaluate(EvaluationConfig(data=data, seed=3), model, out)
    # Of the cases p0 to p7, p0 and p7 fall into the validation split; images of both sets have the same names.
    assert {(s.dataset, s.image) for s in scores} == {
        (name, f"{case}_{number}") for name in ("first", "second") for case in ("p0", "p7") for number in (0, 1)
    }
    assert len(scores) == 8 * 3 * 7
    assert len(model.encoded) == 8
    assert same(read_scores(out / "scores.csv"), scores)
    expected = [s for image in read_pairs(data / "second") for s in score_image(image, make_model(whole_box), 3)]
    assert same([s for s in scores if s.dataset == "second"], [s for s in expected if s.case in ("p0", "p7")])
    run = json.loads((out / "run.json").read_text())
    assert run["cases"] == {"first": ["p0", "p7"], "second": ["p0", "p7"]}
    assert run["model"] == {"name": "fake", "digest": "0123", "runs_by": "hand"}
    assert (run["seed"], run["split"], run["objects"], run["objects_left_out"]) == (3, "val", 24, 0)
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "scores.csv"]


def test_the_training_split_is_the_rest(data: Path, tmp_path: Path) -> None:
    scores = evaluate(EvaluationConfig(data=data / "first", split="train", max_objects=1), None, tmp_path / "out")
    assert {s.case for s in scores} == {f"p{number}" for number in range(1, 7)}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["objects"], run["objects_left_out"], run["model"]) == (12, 24, None)


def test_a_finished_run_is_not_done_again(data: Path, tmp_path: Path, make_model: Any) -> None:
    config = EvaluationConfig(data=data)
    scores = evaluate(config, make_model(whole_box), tmp_path / "out")
    again = make_model(whole_box)
    assert same(evaluate(config, again, tmp_path / "out"), scores)
    assert not again.encoded


@pytest.mark.parametrize("cut", [0, 1, 150])
def test_a_stopped_run_is_taken_up(data: Path, tmp_path: Path, make_model: Any, cut: int) -> None:
    config = EvaluationConfig(data=data)
    whole = evaluate(config, make_model(whole_box), tmp_path / "whole")

    def stopped(image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
        if len(model.encoded) == 6:
            raise KeyboardInterrupt
        return whole_box(image, prompt)

    model = make_model(stopped)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, model, out)
    assert not (out / "scores.csv").exists()
    part = out / "scores.csv.part"
    text = part.read_bytes()
    part.write_bytes(text[: len(text) - cut])
    rest = make_model(whole_box)
    assert same(evaluate(config, rest, out), whole)
    # Five images were done; the last of them is not trusted, whether the file was cut or not.
    assert len(rest.encoded) == 4
    assert (out / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()
    assert (out / "run.json").read_bytes() == (tmp_path / "whole" / "run.json").read_bytes()


def test_a_folder_with_another_run_is_left_alone(data: Path, tmp_path: Path, make_model: Any) -> None:
    out = tmp_path / "out"
    evaluate(EvaluationConfig(data=data), make_model(whole_box), out)
    before = (out / "scores.csv").read_bytes()
    for config, model in [
        (EvaluationConfig(data=data, seed=1), make_model(whole_box)),
        (EvaluationConfig(data=data), make_model(whole_box, digest="4567")),
        (EvaluationConfig(data=data / "first"), make_model(whole_box)),
    ]:
        with pytest.raises(ConfigError, match="another evaluation"):
            evaluate(config, model, out)
    assert (out / "scores.csv").read_bytes() == before


def test_what_cannot_be_evaluated_writes_nothing(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no set"):
        evaluate(EvaluationConfig(data=tmp_path / "absent"), None, tmp_path / "out")
    with pytest.raises(WriteError, match="out"):
        evaluate(EvaluationConfig(data=data), None, tmp_path / "absent" / "out")
    for path in [*(data / "first" / "images").glob("p0*"), *(data / "first" / "images").glob("p7*")]:
        path.unlink()
    about = json.loads((data / "first" / "set.json").read_text())
    (data / "first" / "set.json").write_text(json.dumps({**about, "cases": 6}))
    with pytest.raises(ReadError, match="val split"):
        evaluate(EvaluationConfig(data=data / "first"), None, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_find_sets(data: Path) -> None:
    assert find_sets(data) == [data / "first", data / "second"]
    assert find_sets(data / "first") == [data / "first"]


def test_a_file_that_is_no_table_of_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with pytest.raises(ReadError, match="scores"):
        read_scores(path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["dataset", "dice"], ["a", "0.5"]])
    with pytest.raises(ReadError, match="not a table of scores"):
        read_scores(path)
