from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from vesalius.core.errors import ReadError
from vesalius.evaluation.evaluate import EvaluationConfig, Score, evaluate
from vesalius.evaluation.scores_report import report, size_of, write_report

RUN: dict[str, Any] = {
    "version": "9.9",
    "opencv": "5.5",
    "seed": 4,
    "split": "val",
    "max_objects": 10,
    "min_area": 0.0015,
    "model": {"name": "ours", "digest": "abcd", "runs_by": "torch fp32"},
    "cases": {"a": ["1", "2"], "b": ["1"], "unlucky": []},
    "objects": 4,
    "objects_left_out": 17,
}


def score(dataset: str, case: str, instance: int, model: str, strategy: str, dice: float, **more: Any) -> Score:
    values = {"modality": "ct" if dataset == "a" else "mr", "target": "x", "area": 0.03, "quality": 0.5, **more}
    return Score(
        dataset=dataset,
        image=f"{case}_0",
        case=case,
        instance=instance,
        model=model,
        strategy=strategy,
        dice=dice,
        iou=dice / (2 - dice),
        **values,
    )


def example() -> list[Score]:
    """Set a: case 1 with two objects, case 2 with one; set b: one object."""
    objects = [("a", "1", 1, {}), ("a", "1", 2, {"target": "y"}), ("a", "2", 1, {}), ("b", "1", 1, {"area": 0.3})]
    dices = {
        ("ellipse", "box"): [0.8, 0.6, 0.7, 0.9],
        ("GrabCut", "box"): [0.0, 0.0, 0.9, 0.5],
        ("ours", "box"): [0.9, 0.5, 0.9, 0.6],
        ("ours", "1 point"): [0.3, 0.2, 0.4, 0.5],
        ("ours", "3 points"): [0.5, 0.4, 0.6, 0.7],
        ("ours", "5 points"): [0.7, 0.6, 0.8, 0.9],
    }
    return [
        score(*name, *column, dice, **more)
        for column, values in dices.items()
        for (*name, more), dice in zip(objects, values, strict=True)
    ]


def tables(text: str) -> dict[str, list[list[str]]]:
    """Section title -> rows of its table, heads first."""
    found: dict[str, list[list[str]]] = {}
    for section in text.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found[section.splitlines()[0]] = rows[:1] + rows[2:]
    return found


def numbers(cells: list[str]) -> list[str]:
    """Cells without their intervals."""
    return [cell.split(" ")[0] for cell in cells]


def test_overall_means_and_empty_cells() -> None:
    heads, *rows = tables(report(example(), RUN))["All data sets"]
    assert heads == ["model", "box", "1 point", "3 points", "5 points"]
    assert [numbers(row) for row in rows] == [
        ["ellipse", "0.800", "–", "–", "–"],  # ((0.8 + 0.6 + 0.7) / 3 + 0.9) / 2
        ["GrabCut", "0.400", "–", "–", "–"],
        ["ours", "0.683", "0.400", "0.600", "0.800"],
    ]
    # Of set a, cases 1 (0.7, 0.7) and 2 (0.9) are drawn: (0.6, 0.6 or 0.9 with 0.6 from b) bound the mean.
    assert rows[2][1] == "0.683 [0.650, 0.750]"


def test_detail_counts_misses_and_measures_predicted_quality() -> None:
    rows = {tuple(row[:2]): row[2:] for row in tables(report(example(), RUN))["Each prompt in detail"][1:]}
    assert rows["GrabCut", "box"][2] == "2 (50.0%)"
    assert rows["ours", "box"][2] == "0 (0.0%)"
    # |0.5 - IoU|: 0.9 -> 0.318, 0.5 -> 0.167, 0.9 -> 0.318, mean 0.268; 0.6 -> 0.071.
    assert rows["ours", "box"][3] == "0.170"
    assert numbers(rows["ours", "1 point"])[1] == "0.256"  # ((0.176 + 0.111 + 0.25) / 3 + 0.333) / 2


def test_groups() -> None:
    found = tables(report(example(), RUN))
    assert [numbers(row) for row in found["By modality"][1:]] == [
        ["ct", "3", "2", "0.700", "0.300", "0.767", "0.300", "0.500", "0.700"],
        ["mr", "1", "1", "0.900", "0.500", "0.600", "0.500", "0.700", "0.900"],
    ]
    assert [row[0] for row in found["By data set"][1:]] == ["a", "b"]
    assert [row[:3] for row in found["By size of the object"][1:]] == [["1 to 5 %", "3", "2"], ["> 20 %", "1", "1"]]
    assert found["By modality"][0][3:5] == ["ellipse, box", "GrabCut, box"]


def test_where_the_model_loses() -> None:
    text = report(example(), RUN)
    heads, *rows = tables(text)["Where ours is worse than a baseline"]
    assert heads == ["by", "group", "objects", "cases", "ours", "the baseline", "which is", "difference"]
    assert "worse than ellipse on 2 of 4 objects (50.0%)" in text
    assert "worse than GrabCut on 0 of 4 objects (0.0%)" in text
    lost = {(row[0], row[1]): row for row in rows}
    # Set b has one target, so its target is not listed again; of set a, target y alone is lost.
    assert set(lost) == {("modality", "mr"), ("size", "> 20 %"), ("data set", "b"), ("target", "y (a)")}
    assert lost["data set", "b"][4:] == ["0.600", "0.900", "ellipse", "-0.300"]
    assert lost["target", "y (a)"][2:] == ["1", "1", "0.500", "0.600", "ellipse", "-0.100"]
    assert rows[-1] == lost["target", "y (a)"]


def test_a_model_that_never_loses_is_said_to() -> None:
    scores = [dataclasses.replace(s, dice=1.0) if s.model == "ours" else s for s in example()]
    text = report(scores, RUN)
    assert "no modality, size, data set or target on which it is worse" in text
    assert tables(text)["Where ours is worse than a baseline"] == []


def test_what_was_measured_is_stated() -> None:
    text = report(example(), RUN)
    assert "4 objects in 3 images of 3 cases from 2 data sets" in text
    assert "Split: val" in text
    assert "Seed 4. Vesalius 9.9, OpenCV 5.5. Model ours, weights abcd, run by torch fp32." in text
    assert "17 objects were left out" in text
    assert "falls into the split: unlucky." in text
    assert "0 undefined scores" in text
    *most, last = example()
    assert "1 undefined scores" in report([*most, dataclasses.replace(last, dice=float("nan"))], RUN)


def test_baselines_alone() -> None:
    text = report([s for s in example() if s.model != "ours"], {**RUN, "model": None})
    assert text.startswith("# Evaluation\n")
    assert not any(title.startswith("Where") for title in tables(text))


@pytest.mark.parametrize(
    ("area", "name"), [(0.0099, "< 1 %"), (0.01, "1 to 5 %"), (0.05, "5 to 20 %"), (0.2, "> 20 %"), (1.0, "> 20 %")]
)
def test_sizes(area: float, name: str) -> None:
    assert size_of(score("a", "1", 1, "ours", "box", 1, area=area)) == name


def test_report_of_a_folder(data: Path, tmp_path: Path, make_model: Any) -> None:
    out = tmp_path / "out"
    with pytest.raises(ReadError, match=r"scores\.csv"):
        write_report(out)
    scores = evaluate(EvaluationConfig(data=data), make_model(lambda image, prompt: image.rgb()[:, :, 0] > 120), out)
    assert write_report(out) == out / "report.md"
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text == report(scores, json.loads((out / "run.json").read_text()))
    # Both sets have all three bright objects as answer to every prompt.
    assert len({row[1] for row in tables(text)["All data sets"][1:]}) == 3
