from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from vesalius.evaluation import tables
from vesalius.evaluation.rendering import Absent, Gain, Marked, Noted
from vesalius.evaluation.statistics import Estimate, signed_rank

DEFAULT: dict[str, Any] = {
    "model": "a",
    "protocol": "sam-med2d",
    "strategy": "box",
    "variant": "",
    "repeat": 0,
    "round": 1,
    "choice": "own",
    "dice": 0.5,
    "iou": 0.4,
    "hd": 3.0,
    "hd95": 2.0,
    "assd": 1.0,
    "nsd": 0.6,
    "boundary_iou": 0.3,
    "hce": np.nan,
    "quality": 0.5,
    "reason": None,
    "dataset": "one",
    "modality": "ct",
    "case": "1",
    "origin": None,
    "target": "liver",
    "area": 100,
    "size": "1 to 5 %",
    "unit": "px",
}


def made(*rows: dict[str, Any]) -> pd.DataFrame:
    """Rows as `tables.read_rows` gives them; the object is the place of the row but where it is named."""
    frame = pd.DataFrame([{**DEFAULT, "object": f"image#{place}", **row} for place, row in enumerate(rows)])
    models = list(dict.fromkeys(frame["model"]))
    return frame.assign(model=pd.Categorical(frame["model"], models), image="image")


def one(frame: pd.DataFrame) -> Any:
    assert frame.shape == (1, 1)
    return frame.iat[0, 0]


def test_a_mean_is_over_objects_then_data_sets() -> None:
    rows = made({"dice": 0.2}, {"dice": 0.4, "case": "2"}, {"dice": 0.9, "dataset": "two"}, {"dice": np.nan})
    found = one(tables.pivot(rows, ["model"], ["strategy"], tables.estimate()))
    assert found.mean == pytest.approx(100 * (0.3 + 0.9) / 2)
    # The two cases of the first set are drawn: 0.2, 0.3 or 0.4; the second set has one.
    assert (found.low, found.high) == pytest.approx((55, 65))
    assert one(tables.pivot(rows, ["model"], ["strategy"], tables.mean())) == pytest.approx(60)
    assert one(tables.pivot(rows, ["model"], ["strategy"], tables.mean("hd"))) == pytest.approx(3)
    median = one(tables.pivot(rows, ["model"], ["strategy"], tables.median()))
    assert (median.first, median.median, median.third) == pytest.approx((30, 40, 65))


def test_what_a_model_cannot_do_is_absent_and_no_zero() -> None:
    rows = made(
        {"dice": 0.2},
        {"model": "b", "reason": "takes words alone", "dice": np.nan},
        {"dice": 0.4, "strategy": "text"},
        {"reason": "refused", "dice": np.nan, "strategy": "text"},
    )
    frame = tables.pivot(rows, ["model"], ["strategy"], tables.mean())
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["b", "box"] == Absent("takes words alone")
    assert frame.loc["b", "text"] is None
    # A row without an answer among others is left out, and told.
    assert frame.loc["a", "text"] == Noted(pytest.approx(40), "1 of 2 objects; the others: refused")


def test_what_some_objects_have_no_answer_to_is_noted_in_every_table() -> None:
    def rows(**way: Any) -> pd.DataFrame:
        """Five objects, of which model b knows the first two."""
        return made(
            *({**way, "object": str(n), "case": str(n), "dice": 0.2 * n, "nsd": 0.5} for n in range(5)),
            *({**way, "object": str(n), "case": str(n), "dice": 0.9, "model": "b"} for n in range(2)),
            *({**way, "object": str(n), "model": "b", "dice": np.nan, "reason": f"not {min(n, 3)}"} for n in (2, 3, 4)),
        )

    told = "2 of 5 objects; the others: not 2; not 3"
    box, click = rows(), rows(strategy="points")
    later = rows(strategy="points", round=5)
    both = pd.concat([click, later])
    cosmos = rows(protocol="cosmos", strategy="S5")
    jittered = pd.concat([rows(protocol="jitter", strategy="S5", variant=name) for name in ("0", "0-10")])
    headline = {"box": tables.SAM_MED2D["box"]}
    cells = {
        "overall": tables.overall(box, pd.DataFrame({"model": [], "stage": []})).loc["b", "box"],
        "detail": tables.detail(box)["objects"].iloc[1],
        "medians": tables.detailed_quartiles(box)["objects"].iloc[1],
        "generalisation": tables.generalisation(box).loc["weighted average", ("box", "b")],
        "adapters": tables.adapters_off(rows(protocol="adapter-off", variant="on")).loc["b"].iloc[0],
        "strategies": tables.by_strategy(cosmos, "dice", "own").loc["liver, ct", ("b", "S5")],
        "jitter": tables.jitter(jittered).loc[("mean", "0-10"), ("b", "S5")],
        "robustness": tables.robustness(jittered).loc[("b", "S5"), "0-10"],
        "grid": tables.grid(
            rows(protocol="grid", strategy="S1", variant="8"), pd.DataFrame({"stage": [], "variant": []})
        ).loc[("b", "liver, ct", "one"), "8²"],
        "validation": tables.validation(box, {})[0].loc[("liver", "ct"), ("Dice (%)", "b")],
        "breakdown": tables.breakdown(box, "modality", headline).loc["ct", ("box", "b")],
        "corrections": tables.corrections(rows(protocol="imis")).loc[("box", "b"), "first"],
    }
    assert {name: cell.note for name, cell in cells.items() if isinstance(cell, Noted)} == dict.fromkeys(cells, told)
    assert tables.detail(box)["Dice (%)"].iloc[1].mean == pytest.approx(90)
    gained = tables.increments(both).loc["ct", "b"]
    assert isinstance(gained.cell, Gain)
    assert gained.note == told


def test_overall_and_frames_per_second() -> None:
    points = [{"strategy": "points", "round": number, "dice": number / 10} for number in range(1, 6)]
    times = pd.DataFrame(
        {
            "model": ["a"] * 4,
            "stage": ["encode", "encode", "box", "S2"],
            "prompts": [0, 0, 4, 1],
            "seconds": [0.1, 0.3, 0.2, 9.0],
        }
    )
    frame = tables.overall(made({}, *points), times)
    assert list(frame.columns) == ["box", "1 pt", "3 pts", "5 pts", "FPS"]
    assert [cell.mean for cell in frame.iloc[0, :4]] == pytest.approx([50, 10, 30, 50])
    assert frame.iloc[0, 4] == pytest.approx(1 / (0.2 + 0.05))
    assert tables.overall(made({}), times[:0])["FPS"].tolist() == [Absent("no answer to a box was timed")]


def test_over_the_objects_of_all_data_sets() -> None:
    rows = made(
        *({"dice": dice} for dice in (0.1, 0.2, 0.6)),
        {"dice": 0.9, "dataset": "two"},
        {"model": "b", "reason": "takes words alone", "dice": np.nan},
    )
    frame = tables.over_objects(rows, {"box": tables.SAM_MED2D["box"]})
    assert list(frame.columns) == [("box", "mean"), ("box", "median")]
    mean, median = frame.loc["a"]
    assert mean.mean == pytest.approx(45)
    # The sets' cases are two, though both are named 1: three objects of 30 on average, or one of 90, or both.
    assert (mean.low, mean.high) == pytest.approx((30, 90))
    assert (median.first, median.median, median.third) == pytest.approx((17.5, 40, 67.5))
    assert frame.loc["b"].tolist() == [Absent("takes words alone")] * 2


def test_headlines_are_of_the_first_protocol_there_is() -> None:
    rows = made({"protocol": "imis"}, {"protocol": "cosmos", "strategy": "S5"}, {"protocol": "jitter"})
    assert {name: way["protocol"] for name, way in tables.headlines(rows).items()} == {"box": "cosmos"}
    assert tables.headlines(made({"protocol": "cosmos", "strategy": "S5", "choice": "matched"})) == {}


def test_increments() -> None:
    points = [
        {"strategy": "points", "round": number, "dice": dice, "modality": modality, "object": modality}
        for modality, dices in {"ct": (0.2, 0.6), "mr": (0.8, 0.75)}.items()
        for number, dice in zip((1, 5), dices, strict=True)
    ]
    rows = made(*points, {"strategy": "points", "model": "b", "reason": "no clicks", "dice": np.nan})
    frame = tables.increments(rows)
    assert (frame.loc["ct", "a"].value, frame.loc["ct", "a"].gain) == pytest.approx((20, 40))
    assert (frame.loc["mr", "a"].value, frame.loc["mr", "a"].gain) == pytest.approx((80, -5))
    assert frame.loc["ct", "b"] == Absent("no clicks")
    assert frame.loc["mr", "b"] is None
    assert isinstance(frame.loc["mr", "a"], Gain)


def test_more_points_that_a_model_was_not_given_have_no_gain() -> None:
    def way(number: int, name: str, dice: float, **more: Any) -> dict[str, Any]:
        return {"strategy": "points", "round": number, "object": name, "dice": dice, **more}

    silent = {"model": "b", "reason": "no second answer"}
    rows = made(
        way(1, "x", 0.2), way(1, "y", 0.8), way(5, "x", 0.5), way(5, "y", 0.9),
        way(1, "x", 0.7, model="b"), way(1, "y", 0.9, model="b"),
        way(5, "x", np.nan, **silent), way(5, "y", np.nan, **silent),
    )  # fmt: skip
    found = tables.increments(rows)
    assert (found.loc["ct", "a"].value, found.loc["ct", "a"].gain) == pytest.approx((50, 20))
    alone = found.loc["ct", "b"]
    assert isinstance(alone, Noted)
    assert alone.note == "no gain: no second answer"
    assert (alone.cell.value, alone.cell.gain) == pytest.approx((80, np.nan), nan_ok=True)


def test_generalisation_weighs_by_objects_and_stars_what_has_no_adapters() -> None:
    rows = made(
        {"dice": 0.2, "origin": "external"},
        {"dice": 0.4, "origin": "external"},
        {"dice": 0.9, "origin": "external", "dataset": "two"},
        {"dice": 1.0, "origin": "internal", "dataset": "three"},
        {"dice": 0.7, "origin": "external", "protocol": "adapter-off", "variant": "off"},
        {"dice": 0.1, "origin": "external", "protocol": "adapter-off", "variant": "on"},
        {"model": "b", "origin": "external", "dice": 0.3},
        {"model": "b", "origin": "external", "protocol": "adapter-off", "variant": "off", "reason": "has none"},
    )
    frame = tables.generalisation(rows)
    assert list(frame.index) == ["one", "two", "weighted average"]
    assert frame["box", "a"].tolist() == pytest.approx([30, 90, 50])
    assert list(frame.columns) == [("box", "a"), ("box", "a*"), ("box", "b")]
    assert frame["box", "a*"].tolist() == [pytest.approx(70), None, pytest.approx(70)]


def test_comparisons() -> None:
    rows = made(
        *({"object": str(number), "dice": number / 20} for number in range(8)),
        *({"object": str(number), "dice": (number + 1) / 20, "model": "b"} for number in range(7)),
        {"model": "c", "dice": np.nan, "reason": "no box"},
    )
    frame = tables.comparisons(rows, {"box": tables.SAM_MED2D["box"]})
    assert list(frame.index) == [("box", "a", "b")]
    assert frame.iloc[0].tolist() == [7, pytest.approx(5), 1, "0.016"]  # 2 / 2**7
    apart = made({"object": "x"}, {"object": "y", "model": "b"})
    none = Absent("there is no object that both have an answer to")
    assert tables.comparisons(apart, {"box": tables.SAM_MED2D["box"]}).iloc[0].tolist() == [0, none, none, none]


def test_jitter_is_what_an_object_loses_against_itself() -> None:
    def way(variant: str, dice: float, number: int, repeat: int = 0) -> dict[str, Any]:
        named = {"protocol": "jitter", "strategy": "S5", "variant": variant, "repeat": repeat}
        return {**named, "dice": dice, "object": str(number), "case": str(number)}

    rows = made(
        way("0", 0.9, 1), way("0", 0.8, 2),
        way("0-10", 0.8, 1), way("0-10", 0.8, 2), way("0-10", 0.7, 1, 1), way("0-10", 0.6, 2, 1),
        way("10-20", 0.4, 1), way("10-20", np.nan, 2),
    )  # fmt: skip
    frame = tables.jitter(rows)["a", "S5"]
    assert frame["random 1", "0-10"] == pytest.approx((10 + 0) / 2)
    assert frame["random 2", "0-10"] == pytest.approx((20 + 20) / 2)
    assert frame["random 1", "10-20"] == pytest.approx(50)
    assert ("random 2", "10-20") not in frame.index
    assert frame["mean", "0-10"].mean == pytest.approx(12.5)
    assert (frame["mean", "0-10"].low, frame["mean", "0-10"].high) == pytest.approx((10, 15))
    lost = tables.robustness(rows).loc[("a", "S5")]
    assert [cell.mean for cell in lost] == pytest.approx([50, 100])


def test_correlations_are_those_of_each_strategy() -> None:
    generator = np.random.default_rng(0)
    rows = made(
        *(
            {
                "protocol": "cosmos",
                "strategy": "S5",
                "dice": float(order),
                "fourier_order": 3 - order + 0.01 * generator.random(),
                "aspect": float(generator.random()),
                "intensity_difference": float(generator.random()),
                "area": int(generator.integers(1000)),
            }
            for order in generator.random(30)
        )
    )
    found = tables.correlations(rows).iloc[0]
    assert found["Fourier order"].value == pytest.approx(-1, abs=0.01)
    assert found["Fourier order"].p < 1e-9
    assert abs(found["size"].value) < 1
    assert np.isnan(found["modality"].value)  # there is but one


def test_grid_with_its_times() -> None:
    rows = made(
        *(
            {"protocol": "grid", "strategy": "S1", "choice": "matched", "variant": str(side), "dice": side / 1000}
            for side in (128, 8, 16)
        )
    )
    times = pd.DataFrame({"model": ["a", "a"], "stage": ["S1", "S1"], "variant": ["8", ""], "seconds": [0.5, 9.0]})
    frame = tables.grid(rows, times)
    assert list(frame.columns) == ["8²", "16²", "128²"]
    assert [cell.mean for cell in frame.loc[("a", "liver, ct", "one")]] == pytest.approx([0.8, 1.6, 12.8])
    untimed = Absent("times were taken of up to 8² points alone")
    assert frame.loc[("a", "seconds per image", "")].tolist() == [0.5, untimed, untimed]


def test_validation_marks_what_is_better() -> None:
    dices = {
        "first": np.linspace(0.1, 0.3, 12),
        "unet": np.linspace(0.2, 0.4, 12),
        "best": np.linspace(0.5, 0.7, 12),
        "worst": np.linspace(0.0, 0.1, 12),
    }
    rows = made(
        *(
            {"model": model, "object": str(number), "dice": float(value), "nsd": 0.5}
            for model, values in dices.items()
            for number, value in enumerate(values)
        )
    )
    references = {"*": "first", "†": "unet"}
    frame, compared = tables.validation(rows, references)
    assert compared == references
    (cells,) = frame.to_numpy()
    assert all(isinstance(cell, Marked) for cell in cells)
    assert [cell.marks for cell in cells] == ["", "*", "*†", "", "", "", "", ""]
    assert cells[2].quartiles.median == pytest.approx(60)
    # Twelve tests, of which those of equal NSD have p = 1: 0.05 is reached by 2 / 2**12 times twelve, not by 2 / 2**6.
    few = rows[rows["object"].isin([str(number) for number in range(6)])]
    assert signed_rank(dices["first"][:6], dices["best"][:6]).p < 0.05
    assert {cell.marks for cell in tables.validation(few, references)[0].to_numpy()[0]} == {""}


def test_models_of_other_targets_are_not_compared() -> None:
    silent = {"dice": np.nan, "nsd": np.nan, "reason": "not known"}
    rows = made(
        *({"model": "a", "object": str(n)} | (silent if n % 2 else {}) for n in range(12)),
        *({"model": "b", "object": str(n)} | ({} if n % 2 else silent) for n in range(12)),
    )
    assert tables.validation(rows, {"*": "a"})[1] == {}
    rows["target"] = ["liver", "spleen"] * 12
    assert tables.validation(rows, {"*": "a"})[1] == {}


def test_clicks() -> None:
    curves = {"x": (0.5, 0.81, 0.92), "y": (0.3, 0.4)}
    rows = made(
        *(
            {"object": name, "protocol": "interactive", "strategy": "clicks", "round": number, "iou": iou}
            for name, ious in curves.items()
            for number, iou in enumerate(ious, 1)
        ),
        {"model": "b", "protocol": "interactive", "strategy": "clicks", "reason": "no clicks", "iou": np.nan},
    )
    frame = tables.interactive(rows, "iou")
    assert set(frame.loc["b"]) == {Absent("no clicks")}
    found = frame.loc["a"]
    # y stops after two clicks, and keeps 0.4.
    assert (found["NoC@80"], found["NoC@85"], found["NoC@90"]) == pytest.approx(((2 + 3) / 2, 3, 3))
    assert (found["failures@80"], found["failures@90"], found["objects"]) == (1, 1, 2)
    assert found["area under curve"] == pytest.approx(100 * ((0.25 + 0.81 + 0.46) / 2 + (0.15 + 0.4 + 0.2) / 2) / 2)
    assert (found["after 1"], found["after 3"]) == pytest.approx((40, 66))


def test_clicks_without_an_answer_are_no_failures() -> None:
    def way(name: str, number: int, iou: float | None, model: str = "a") -> dict[str, Any]:
        shared = {"object": name, "protocol": "interactive", "strategy": "clicks", "round": number, "model": model}
        return shared | ({"iou": np.nan, "reason": "no such file"} if iou is None else {"iou": iou})

    rows = made(
        way("x", 1, 0.7), way("x", 2, None), way("x", 3, None),
        way("y", 1, 0.5), way("y", 2, 0.7), way("y", 3, 0.9),
        way("x", 1, 0.6, "b"), way("x", 2, None, "b"), way("x", 3, None, "b"),
    )  # fmt: skip
    frame = tables.interactive(rows, "iou")
    one, two = frame.loc["a"], frame.loc["b"]
    assert one["objects"] == Noted(1, "1 of 2 objects; the others: no such file")
    assert (one["NoC@80"], one["failures@80"], one["area under curve"]) == pytest.approx((3, 0, 70))
    assert one["after 1"] == pytest.approx(60)
    assert one["after 3"] == Noted(pytest.approx(90), "1 of 2 objects; the others: no such file")
    assert two["after 1"] == pytest.approx(60)
    assert {two[name] for name in ("objects", "NoC@80", "failures@90", "area under curve", "after 3")} == {
        Absent("no such file")
    }


def test_an_annotators_prompt_without_an_answer_has_no_score() -> None:
    def way(name: str, number: int, dice: float | None) -> dict[str, Any]:
        shared = {"object": name, "protocol": "annotator", "strategy": "prompts", "round": number}
        return shared | ({"dice": np.nan, "reason": "no words"} if dice is None else {"dice": dice})

    rows = made(way("x", 1, None), way("x", 2, 0.5), way("y", 1, 0.9), way("z", 1, 0.6), way("z", 2, None))
    assert tables.click_curves(rows, "dice")["a"] == pytest.approx(
        np.array([[np.nan, 0.5], [0.9, 0.9], [0.6, np.nan]]), nan_ok=True
    )
    found = tables.annotator(rows).loc["a"]
    assert (found["objects"], found["prompts"]) == (3, pytest.approx(5 / 3))
    assert found["in the end"] == Noted(pytest.approx(70), "2 of 3 objects; the others: no words")


def test_breakdown_counts_objects_and_cases() -> None:
    rows = made(
        {"modality": "ct", "dice": 0.2},
        {"modality": "ct", "dice": 0.4},
        {"modality": "ct", "dice": 0.9, "case": "2"},
        {"modality": "mr", "dice": 0.8},
        {"modality": "mr", "dice": 0.8, "strategy": "points"},
    )
    frame = tables.breakdown(rows, "modality", {"box": tables.SAM_MED2D["box"]})
    assert frame["all", "objects"].tolist() == [3, 1]
    assert frame["all", "cases"].tolist() == [2, 1]
    assert frame.loc["ct", ("box", "a")].mean == pytest.approx(50)
    assert frame.loc["mr", ("box", "a")] == Estimate(
        80.0, pytest.approx(np.nan, nan_ok=True), pytest.approx(np.nan, nan_ok=True)
    )


def test_distances_of_two_units_are_kept_apart() -> None:
    named = {"protocol": "cosmos", "strategy": "S5"}
    rows = made({**named, "hd": 2.0, "unit": "mm"}, {**named, "hd": 8.0}, {**named, "hd": 4.0})
    frame = tables.by_strategy(rows, "hd", "own")
    assert frame["a", "S5"].to_dict() == {("liver, ct", "mm"): 2, ("liver, ct", "px"): 6}
    assert tables.by_strategy(rows, "dice", "own").shape == (1, 1)
    rows = pd.concat([rows, made({**named, "model": "b", "reason": "no", "dice": np.nan}).assign(choice="own")])
    rows["model"] = pd.Categorical(rows["model"], ["a", "b"])
    assert tables.by_strategy(rows.assign(choice=["matched"] * 3 + ["own"]), "dice", "matched").iat[0, 1] == Absent(
        "no"
    )
    detail = tables.detail(rows).iloc[0]
    assert (detail["HD (mm)"], detail["HD (px)"]) == (2, 6)


def test_detail_counts_what_was_missed_and_what_is_undefined() -> None:
    rows = made(
        {"dice": 0.0, "quality": 0.9, "iou": 0.0},
        {"dice": np.nan, "quality": 0.2, "iou": np.nan},
        {"dice": 0.5, "quality": 0.5, "iou": 0.4},
        {"round": 2, "strategy": "points"},
        {"round": 3, "strategy": "points"},
        {"round": 1, "strategy": "points"},
    )
    frame = tables.detail(rows)
    assert frame.index.get_level_values("round").tolist() == [1, 1, 3]
    box = frame.iloc[0]
    assert (box["objects"], box["missed"], box["undefined"]) == (3, 1, 1)
    assert box["Dice (%)"].mean == pytest.approx(25)
    medians = tables.detailed_quartiles(rows).iloc[0]
    assert (medians["Dice (%)"].first, medians["Dice (%)"].median) == pytest.approx((12.5, 25))
    assert (medians["HD (px)"].median, medians["objects"]) == (3, 3)
    assert box["error of predicted IoU"] == pytest.approx((90 + 10) / 2)
    assert "HCE" not in frame.columns


def test_inference_times() -> None:
    times = pd.DataFrame(
        [
            ("a", "encode", "", 0, 0.2),
            ("a", "encode", "", 0, 0.4),
            ("a", "S5", "", 4, 0.2),
            ("a", "S5", "", 1, 0.3),
            ("a", "S1", "", 1024, 3.0),
            ("a", "S1", "8", 64, 1.0),
        ],
        columns=["model", "stage", "variant", "prompts", "seconds"],
    )
    times = pd.concat([times, times[:1].assign(model="b")])
    rows = made(
        {"strategy": "S5"},
        {"model": "b", "strategy": "S5", "protocol": "adapter-off", "reason": "has no adapters"},
        {"model": "b", "strategy": "S5", "reason": "takes no box"},
    )
    frame = tables.inference_times(times, rows)
    assert list(frame.columns) == ["embedding", "S1", "S5"]
    assert frame.loc["a"].tolist() == pytest.approx([0.3, 3.0, 0.1])
    assert frame.loc["b"].tolist() == [0.2, Absent("not timed"), Absent("takes no box")]


def test_volumes_say_why_they_have_no_distances() -> None:
    way = {"protocol": "cosmos", "strategy": "S5", "target": "liver", "axis": "z"}
    lacking = dict.fromkeys(("hd", "hd95", "assd", "nsd"), np.nan)
    rows = pd.concat(
        [
            made({**way, "volume": "one"}, {**way, "volume": "two", "iou": 0.6, "case": "2", **lacking}),
            made({**way, "volume": "one", "protocol": "grid", **lacking}),
            made({**way, "volume": "one", "model": "b"}),
            made(
                {**way, "volume": "two", "model": "b", "reason": "no words", "dice": np.nan, "iou": np.nan, **lacking}
            ),
        ]
    ).drop(columns=["object"])
    spacing = {"row_spacing": 1.0, "column_spacing": 1.0, "slice_spacing": 2.0}
    objects = pd.DataFrame([{"volume": "one", **spacing}, {"volume": "two", **spacing, "slice_spacing": np.nan}])
    whole, partial = (tables.volumes(rows, objects).loc[protocol].iloc[0] for protocol in ("cosmos", "grid"))
    assert (whole["volumes"], whole["median Dice (%)"].median, whole["IoU (%)"].mean) == pytest.approx((2, 50, 50))
    assert whole["HD"].cell.mean == 3
    distances = ("HD", "HD95", "ASSD", "NSD (%)")
    told = "1 of 2 structures; the others: distances and NSD are of volumes whose spacing is known along all axes"
    assert {whole[name].note for name in distances} == {told}
    other = tables.volumes(rows, objects).loc["cosmos"].iloc[1]
    assert {cell.note for cell in other} == {"1 of 2 structures; the others: no words"}
    told = "distances and NSD are of volumes of which all slices were measured"
    assert {partial[name] for name in distances} == {Absent(told)}


@pytest.mark.parametrize(
    ("modality", "kind"),
    [("ct", "CT"), ("cta", "CT"), ("mr_flair", "MR"), ("mammography", "grey"), ("colonoscopy", "RGB"), ("?", "other")],
)
def test_kinds_of_pictures(modality: str, kind: str) -> None:
    assert tables.kind_of(modality) == kind


def test_a_bound_of_sizes_belongs_to_the_class_above() -> None:
    shares = pd.Series([0.0099, 0.01, 0.05, 0.2, 1.0])
    assert tables.size_of(shares).tolist() == ["< 1 %", "1 to 5 %", "5 to 20 %", "> 20 %", "> 20 %"]
