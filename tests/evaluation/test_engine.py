"""Scores of images by scripted models, the tables of an evaluation, and runs that are interrupted."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from made_corpus import write as write_corpus
from vesalius.cli import main
from vesalius.core.errors import ConfigError, ModelError, ReadError, WriteError
from vesalius.core.files import locked
from vesalius.core.types import Prediction, Prompt, Slice
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.schema import image_schema
from vesalius.corpus.store import decode_mask
from vesalius.evaluation import run as run_module
from vesalius.evaluation.engine import Row, Scene, object_rows, scene_of, score_scene
from vesalius.evaluation.images import Stack, digest_of, list_places, read_places
from vesalius.evaluation.prompts import draw_prompts, from_row, to_row
from vesalius.evaluation.protocols import PROTOCOLS, strategies_of
from vesalius.evaluation.results import TABLES, read_table, schema, write_table
from vesalius.evaluation.run import EvaluationPlan, evaluate_corpus, read_run, score_block
from vesalius.evaluation.subjects import (
    BaselineSubject,
    MaskFolder,
    ModelSubject,
    OutsideSubject,
    Subject,
    load_subject,
)
from vesalius.evaluation.tables import interactive
from vesalius.evaluation.times import time_rows
from vesalius.evaluation.volumes import volume_rows
from vesalius.predict.load import BUNDLED

SEED, TOLERANCE = 3, 2.0


class Grower:
    """Answers a box with the box; clicks with what is left of the farthest right one of them."""

    name, digest, takes = "grower", "0f", ("box", "points")

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def encode(self, image: Slice) -> Slice:
        return image

    def predict(self, embedding: Slice, prompts: Sequence[Prompt]) -> list[Prediction]:
        self.asked += prompts
        return [Prediction(self.mask(embedding, prompt), 0.5) for prompt in prompts]

    def mask(self, image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
        mask = np.zeros(image.size, np.bool_)
        if prompt.box is not None:
            x0, y0, x1, y1 = map(int, prompt.box)
            mask[y0:y1, x0:x1] = True
        else:
            points = np.asarray(prompt.points)[np.asarray(prompt.labels) == 1].astype(int)
            mask[:, : points[:, 0].max() + 1] = True
        return mask


def scene(count: int = 2, **changes: Any) -> Scene:
    """Squares of 20 x 10 pixels side by side."""
    masks = []
    for number in range(count):
        mask = np.zeros((50, 20 * count), np.bool_)
        mask[10:30, 20 * number + 3 : 20 * number + 13] = True
        masks.append(ObjectMask(mask, ("liver", "left kidney")[number % 2], number + 1))
    pixels = np.where(np.any([m.mask for m in masks], axis=0), 200, 40).astype(np.uint8)
    image = LabelledImage(Slice(pixels), "ct", "squares", "case7", Path("a.png"), masks, "squares/a/2d_none")
    return scene_of(image.name, dataclasses.replace(image, **changes), None, SEED, None)


def scores(subject: Subject, of: Scene, *protocols: str) -> list[Row]:
    strategies = strategies_of(protocols)
    prompts = draw_prompts(of.labelled, of.names, strategies, SEED)
    return list(score_scene(subject, of, strategies, prompts, SEED, TOLERANCE))


def outside(model: Any) -> OutsideSubject:
    return OutsideSubject(model, "test:Model")


def test_a_box_is_scored_with_every_metric() -> None:
    rows = scores(outside(Grower()), scene(), "medsam", "sam-med2d")
    box = [row for row in rows if (row["protocol"], row["strategy"]) == ("sam-med2d", "box")]
    assert [(row["object"], row["round"], row["choice"]) for row in box] == [
        ("squares/a/2d_none#0", 1, "own"),
        ("squares/a/2d_none#1", 1, "own"),
    ]
    for row in box:
        assert (row["dice"], row["iou"], row["boundary_iou"], row["nsd"]) == (1, 1, 1, 1)
        assert (row["hd"], row["hd95"], row["assd"], row["quality"]) == (0, 0, 0, 0.5)
        assert decode_mask(row["rle"], 50, 40).sum() == 200
    # In an image of 50 x 40, 20 of 1024 pixels are one pixel high and less than one wide.
    (first, _) = (row for row in rows if row["protocol"] == "medsam")
    assert 0.8 < first["dice"] <= 1


def test_distances_are_in_mm_where_the_spacing_is_known() -> None:
    class Wide(Grower):
        def mask(self, image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
            if prompt.box is None:
                return super().mask(image, prompt)
            x0, y0, x1, y1 = map(int, prompt.box)
            return super().mask(image, Prompt(box=(x0, y0, x1 + 2, y1)))

    plain, spaced = scene(), scene()
    spaced = dataclasses.replace(
        spaced,
        labelled=dataclasses.replace(
            spaced.labelled, image=dataclasses.replace(spaced.labelled.image, spacing=(1.0, 3.0))
        ),
    )
    by_pixels = scores(outside(Wide()), plain, "sam-med2d")[0]
    by_mm = scores(outside(Wide()), spaced, "sam-med2d")[0]
    assert (by_pixels["hd"], by_mm["hd"]) == (2, 6)
    assert (by_pixels["nsd"], by_mm["nsd"] < 1) == (1, True)


def test_clicks_go_on_until_nothing_is_wrong() -> None:
    model = Grower()
    rows = scores(outside(model), scene(1), "interactive")
    assert [row["round"] for row in rows] == list(range(1, 21))
    first = model.asked[0]
    assert 14 <= np.asarray(first.points)[0, 1] <= 25
    assert [len(np.asarray(prompt.points)) for prompt in model.asked] == list(range(1, 21))
    assert not any("reason" in row for row in rows)

    class Right(Grower):
        def mask(self, image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
            return image.pixels > 100

    model = Right()
    rows = scores(outside(model), scene(1), "interactive")
    assert len(model.asked) == 1
    assert [row["dice"] for row in rows] == [1] * 20


def test_clicks_needed_are_those_that_a_scripted_model_took() -> None:
    class Steps(Grower):
        """Of 20 rows so many after each click: an IoU of 0.5, 0.8, 0.85, 0.85, 0.95, and so on."""

        rows = (10, 16, 17, 17, 19)

        def mask(self, image: Slice, prompt: Prompt) -> NDArray[np.bool_]:
            mask = np.zeros(image.size, np.bool_)
            mask[10 : 10 + self.rows[min(len(np.asarray(prompt.points)), 5) - 1], 3:13] = True
            return mask

    rows = pd.DataFrame(scores(outside(Steps()), scene(1), "interactive")).assign(reason=None)
    found = interactive(rows, "iou").loc["grower"]
    assert [found[f"NoC@{target}"] for target in (80, 85, 90)] == [2, 3, 5]
    assert [found[f"after {number}"] for number in (1, 3, 5, 20)] == pytest.approx([50, 85, 95, 95])
    never = interactive(rows, "iou", [0.96]).loc["grower"]
    assert (never["NoC@96"], never["failures@96"]) == (20, 1)


def test_who_takes_no_clicks_has_no_corrected_answer_even_where_nothing_is_wrong() -> None:
    model = Grower()
    model.takes = ("box",)
    first, *later = (row for row in scores(outside(model), scene(1), "imis") if row["strategy"] == "box")
    assert first["dice"] == 1
    assert [(row["round"], row["reason"], "dice" in row) for row in later] == [
        (number, "it takes no points", False) for number in range(2, 7)
    ]


def test_corrections_are_the_same_for_every_model_that_errs_alike_and_of_the_seed() -> None:
    runs = []
    for seed in (0, 0, 1):
        model = Grower()
        of, strategies = scene(), strategies_of(["sam-med2d"])
        prompts = draw_prompts(of.labelled, of.names, strategies, seed)
        list(score_scene(outside(model), of, strategies, prompts, seed, TOLERANCE))
        runs.append([np.asarray(prompt.points).tolist() for prompt in model.asked])
    assert runs[0] == runs[1] != runs[2]


def test_equal_prompts_of_several_protocols_are_asked_once() -> None:
    model = Grower()
    rows = scores(outside(model), scene(), "cosmos", "sam-med2d", "imis")
    boxes = [p.box for p in model.asked if p.box is not None and not len(np.asarray(p.points))]
    assert len(boxes) == len(set(boxes)) == 2
    shared = [row["dice"] for row in rows if row["strategy"] in ("S5", "box") and row["round"] == 1]
    assert shared == [1] * (2 * 2 + 2 + 2)


def test_large_images_are_answered_a_few_prompts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Grower):
        def predict(self, embedding: Slice, prompts: Sequence[Prompt]) -> list[Prediction]:
            calls.append(len(prompts))
            return super().predict(embedding, prompts)

    calls: list[int] = []
    whole = scores(outside(Counting()), scene(5), "medsam")
    monkeypatch.setattr("vesalius.evaluation.subjects._PIXELS", 2 * 50 * 100)
    assert scores(outside(Counting()), scene(5), "medsam") == whole
    assert calls == [5, 2, 2, 1]


def test_what_cannot_be_asked_is_an_empty_cell_with_a_reason() -> None:
    rows = scores(outside(Grower()), scene(1), "imis", "cosmos", "adapter-off")
    text = [row for row in rows if row["strategy"] == "text"]
    assert [row["round"] for row in text] == [1, 2, 3, 4, 5, 6]
    assert {row["reason"] for row in text} == {"it takes no words"}
    assert not any("dice" in row for row in text)
    (everything,) = (row for row in rows if row["strategy"] == "S1")
    assert everything["reason"] == "it has no everything mode"
    assert {row["reason"] for row in rows if row["protocol"] == "adapter-off"} == {"it has no adapters to compare with"}


def test_baselines_take_boxes_alone_and_no_corrections() -> None:
    rows = scores(BaselineSubject("ellipse"), scene(1), "imis", "cosmos")
    answered = {(row["protocol"], row["strategy"], row["round"]) for row in rows if "dice" in row}
    assert answered == {("imis", "box", 1), ("cosmos", "S5", 1)}
    assert {row["reason"] for row in rows if "dice" not in row} == {"it takes a box alone"}


@pytest.fixture(scope="module")
def tiny() -> ModelSubject:
    subject = load_subject("vesalius-tiny", "torch")
    assert isinstance(subject, ModelSubject)
    return subject


def test_a_model_is_matched_with_the_truth_and_chooses_itself(tiny: ModelSubject) -> None:
    rows = scores(tiny, scene(), "cosmos")
    for name in ("S2", "S3", "S4", "S5", "S6"):
        by = {(row["object"], row["choice"]): row for row in rows if row["strategy"] == name}
        assert len(by) == 4
        for named in scene().names:
            assert by[named, "matched"]["dice"] >= by[named, "own"]["dice"]
            assert by[named, "own"]["quality"] >= by[named, "matched"]["quality"]
    assert {row["choice"] for row in rows if row["strategy"] == "S1"} == {"matched"}
    assert all(("hce" in row) == (row["strategy"] == "S5") for row in rows)


def test_a_model_without_adapters_has_none_to_leave_out(tiny: ModelSubject) -> None:
    rows = scores(tiny, scene(1), "adapter-off")
    assert len(rows) == 4
    assert {row["reason"] for row in rows} == {"it has no adapters to compare with"}


def test_an_export_is_run_as_it_is() -> None:
    subject = load_subject(str(BUNDLED / "vesalius-tiny" / "onnx-fp32"))
    rows = scores(subject, scene(1), "adapter-off")
    assert {row["reason"] for row in rows} == {"it has no adapters to compare with"}


def test_adapters_are_compared_by_one_library(make_model: Any) -> None:
    def model(runs_by: str, digest: str, width: int) -> Any:
        made = make_model(lambda image, _: np.arange(image.size[1]) < np.full((image.size[0], 1), width), digest=digest)
        made.runs_by = runs_by
        return made

    export = model("onnx fp32", "full", 1)
    by_torch = {True: model("torch fp32", "full", 5), False: model("torch fp32", "bare", 9)}
    subject = ModelSubject(export, lambda adapters: by_torch[adapters])
    rows = scores(subject, scene(1), "adapter-off", "sam-med2d")
    areas = {(row["protocol"], row["variant"]): decode_mask(row["rle"], 50, 20).sum() // 50 for row in rows}
    assert areas == {("adapter-off", "on"): 5, ("adapter-off", "off"): 9, ("sam-med2d", ""): 1}
    # A model that torch runs anyway is not loaded twice.
    alone = ModelSubject(by_torch[True], lambda adapters: {False: by_torch[False]}[adapters])
    rows = scores(alone, scene(1), "adapter-off")
    assert [decode_mask(row["rle"], 50, 20).sum() // 50 for row in rows] == [5, 5, 9, 9]


def test_adapters_are_compared_by_the_clicks_of_all_other_protocols() -> None:
    strategies = strategies_of(["sam-med2d", "imis", "adapter-off"])
    of = scene(8)
    prompts = draw_prompts(of.labelled, of.names, strategies, SEED)
    clicks = {
        (protocol, variant): [
            np.asarray(prompts[name, protocol, click, variant, 0].points).tolist() for name in of.names
        ]
        for protocol, click, variant in (
            ("sam-med2d", "points", ""),
            ("adapter-off", "points", "on"),
            ("adapter-off", "points", "off"),
            ("imis", "point", ""),
        )
    }
    assert clicks["sam-med2d", ""] == clicks["adapter-off", "on"] == clicks["adapter-off", "off"]
    assert clicks["sam-med2d", ""] != clicks["imis", ""]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda masks: masks[:-1], "grower gives 1 answers to 2 prompts"),
        (lambda masks: [mask.astype(np.uint8) for mask in masks], r"grower gives a mask of uint8 \(50, 40\)"),
        (
            lambda masks: [mask.T for mask in masks],
            r"grower gives a mask of bool \(40, 50\) for an image of \(50, 40\)",
        ),
    ],
)
def test_a_class_that_answers_wrongly_is_named(wrong: Any, said: str) -> None:
    class Wrong(Grower):
        def predict(self, embedding: Slice, prompts: Sequence[Prompt]) -> list[Prediction]:
            masks = [found.mask for found in super().predict(embedding, prompts)]
            return [Prediction(mask, 0.5) for mask in wrong(masks)]

    with pytest.raises(ModelError, match=said):
        scores(outside(Wrong()), scene(), "medsam")


def test_times_of_strategies_do_not_depend_on_those_before(tiny: ModelSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = tiny.predictor.runtime.encode
    monkeypatch.setattr(tiny.predictor.runtime, "encode", lambda *given: (encoded.append(1), encode(*given))[1])
    # A small object, which is looked at in a window of its own: the same for S5 and S6.
    mask = np.zeros((400, 400), np.bool_)
    mask[100:130, 100:130] = True
    image = LabelledImage(
        Slice(mask.astype(np.uint8)), "ct", "x", "c", Path("x"), [ObjectMask(mask, "liver", 1)], "x/a"
    )
    strategies = [one for one in PROTOCOLS["cosmos"] if one.name in ("S5", "S6")]
    rows = list(time_rows([tiny], [scene_of("x/a", image, None, SEED, None)], strategies, SEED))
    assert [row["stage"] for row in rows] == ["encode", "S5", "S6"]
    assert len(encoded) == 2 * 3


def test_everything_mode_is_timed_for_the_protocols_that_ask_for_it(
    tiny: ModelSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "everything", lambda opened, grid: [])
    for protocols, variants in (
        (["cosmos", "grid"], {"": 1, "8": 1, "16": 1, "32": 1}),
        (["grid", "cosmos"], {"": 1, "8": 1, "16": 1, "32": 1}),
        (["cosmos"], {"": 1, "32": 1}),
    ):
        rows = time_rows([tiny], [scene(1)], strategies_of(protocols), SEED)
        found = Counter(row["variant"] for row in rows if row["stage"] == "S1")
        assert found == variants
    moved = list(time_rows([tiny], [scene(1)], strategies_of(["jitter"]), SEED))
    assert [(row["stage"], row["variant"]) for row in moved] == [
        (s, "") for s in ("encode", "S2", "S3", "S4", "S5", "S6")
    ]


def test_a_word_that_a_model_does_not_know_is_an_empty_cell() -> None:
    class Reader(Grower):
        takes = ("text",)

        def predict(self, embedding: Slice, prompts: Sequence[Prompt]) -> list[Prediction]:
            from vesalius.core.errors import PromptError

            if any(prompt.text != "liver" for prompt in prompts):
                raise PromptError("the model was not trained on that")
            return [Prediction(np.ones(embedding.size, np.bool_), 0.1) for _ in prompts]

    rows = [row for row in scores(outside(Reader()), scene(), "imis") if row["strategy"] == "text"]
    liver = [row for row in rows if row["object"].endswith("#0")]
    kidney = [row for row in rows if row["object"].endswith("#1")]
    assert "dice" in liver[0]
    # It takes no clicks, so that nothing can be corrected.
    assert {row.get("reason") for row in liver[1:]} == {"it takes no points"}
    assert {row["reason"] for row in kidney} == {"the model was not trained on that"}
    assert len(kidney) == 6


def test_a_folder_of_masks_is_scored_where_it_has_some(tmp_path: Path) -> None:
    of = scene()
    folder = tmp_path / "theirs"
    (folder / "sam-med2d" / "points-3").mkdir(parents=True)
    (folder / "sam-med2d" / "box").mkdir()
    mask = of.labelled.masks[1].mask.astype(np.uint8) * 255
    Image.fromarray(mask).save(folder / "sam-med2d" / "box" / "squares--a--2d_none#1.png")
    rows = scores(MaskFolder("theirs", folder), of, "sam-med2d", "medsam")
    (found,) = (row for row in rows if "dice" in row)
    assert (found["strategy"], found["object"], found["dice"]) == ("box", "squares/a/2d_none#1", 1)
    assert math.isnan(found["quality"])
    reasons = {row["reason"] for row in rows if "reason" in row}
    assert reasons == {"the folder has no mask of the object", "the folder has no masks of the protocol medsam"}
    assert isinstance(load_subject(f"theirs={folder}"), MaskFolder)
    with pytest.raises(ModelError, match="there is no model"):
        load_subject(f"theirs={tmp_path / 'absent'}")
    named = load_subject(f"mine={BUNDLED / 'vesalius-tiny'}")
    assert (named.name, isinstance(named, ModelSubject)) == ("mine", True)


def test_a_class_of_somebody_else_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_model.py").write_text("class Bad:\n    name = 'bad'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"their_model:Bad has no digest, takes, encode, predict"):
        load_subject("their_model:Bad")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_subject("their_model:Worse")


def test_objects_are_described() -> None:
    of = scene()
    stack = Stack("squares/a", "z", 4, 2.5)
    rows = object_rows(dataclasses.replace(of, stack=stack), "squares/a/2d_none", ["others"])
    row = rows[0]
    assert set(row) == set(schema("objects").names)
    assert (row["object"], row["target"], row["organ"] is not None) == ("squares/a/2d_none#0", "liver", True)
    assert (row["x0"], row["y0"], row["x1"], row["y1"], row["area"]) == (3, 10, 13, 30, 200)
    assert (row["aspect"], row["intensity_difference"], row["share"]) == (0.5, 160, 0.1)
    assert (row["volume"], row["index"], row["slice_spacing"], row["origin"]) == ("squares/a", 4, 2.5, "external")
    assert object_rows(of, "squares/a/2d_none", [])[0]["origin"] is None


def test_pseudo_and_empty_masks_are_not_measured() -> None:
    masks = scene(4).labelled.masks
    masks[0] = dataclasses.replace(masks[0], pseudo=True)
    masks[2] = dataclasses.replace(masks[2], mask=np.zeros_like(masks[2].mask))
    assert [name[-2:] for name in scene(4, masks=masks).names] == ["#1", "#3"]
    drawn = scene_of("x", scene(8).labelled, None, SEED, 3)
    assert (len(drawn.names), len(drawn.left_out)) == (3, 5)
    assert set(drawn.left_out) <= {"liver", "left kidney"}
    assert drawn.names == scene_of("x", scene(8).labelled, None, SEED, 3).names


def test_prompts_survive_their_table(tmp_path: Path) -> None:
    of = scene()
    drawn = draw_prompts(of.labelled, of.names, strategies_of(list(PROTOCOLS)), SEED)
    write_table(tmp_path, "prompts", [to_row(key, prompt) for key, prompt in drawn.items()])
    read = dict(from_row(row) for row in read_table(tmp_path, "prompts").to_pylist())
    assert read.keys() == drawn.keys()
    for key, prompt in drawn.items():
        assert np.array_equal(read[key].points, prompt.points)
        assert np.array_equal(read[key].labels, prompt.labels)
        assert (read[key].box, read[key].text) == (prompt.box, prompt.text)


def test_volumes_are_put_together_from_slices() -> None:
    masks = [np.zeros((10, 10), np.bool_) for _ in range(3)]
    masks[0][2:5, 2:5] = masks[1][2:5, 2:5] = masks[2][2:5, 2:6] = True
    objects, rows = [], []
    for index, mask in enumerate(masks):
        image = LabelledImage(
            Slice(np.zeros((10, 10), np.uint8), spacing=(1.0, 1.0)),
            "ct",
            "set",
            "c",
            Path("x"),
            [ObjectMask(mask, "liver", 1)],
            f"set/x/z_{index:04d}",
        )
        of = scene_of(image.name, image, Stack("set/x", "z", index, 4.0), SEED, None)
        objects += object_rows(of, image.name, [])
        rows += scores(outside(Grower()), of, "sam-med2d", "imis")
    tables = pa.Table.from_pylist(objects, schema("objects")), pa.Table.from_pylist(rows, schema("scores")).to_batches()
    volumes = [row for row in volume_rows(*tables, 2.0) if row["strategy"] == "box" and row["round"] == 1]
    assert len(volumes) == 2
    assert {row["dice"] for row in volumes} == {1}
    assert {(row["slices"], row["volume"], row["case"], row["hd"]) for row in volumes} == {(3, "set/x", "c", 0)}
    # One click on each slice: what is left of it, whole columns.
    clicks = next(row for row in volume_rows(*tables, 2.0) if row["strategy"] == "point")
    assert 0 < clicks["dice"] < 1
    assert clicks["hd"] >= 4
    words = [row for row in volume_rows(*tables, 2.0) if row["strategy"] == "text"]
    assert {(row["reason"], row["dataset"], row.get("dice")) for row in words} == {("it takes no words", "set", None)}
    # Between slices that are not neighbours, distances mean nothing.
    parts = {"imis": {("set/x", "z")}, "sam-med2d": {("set/y", "z"), ("set/x", "x")}}
    thinned = [row for row in volume_rows(*tables, 2.0, parts) if row["strategy"] == "box" and row["round"] == 1]
    assert [(row["protocol"], row["dice"]) for row in thinned] == [("imis", 1), ("sam-med2d", 1)]
    assert [math.isnan(row["hd"]) for row in thinned] == [True, False]
    # Nor where an object of the same target was not drawn on one of the slices.
    for target, lacks in (("spleen", False), ("liver", True)):
        objects[1]["left_out"] = [target]
        drawn = pa.Table.from_pylist(objects, schema("objects"))
        found = [row for row in volume_rows(drawn, tables[1], 2.0) if row["strategy"] == "box" and row["round"] == 1]
        assert [math.isnan(row["hd"]) for row in found] == [lacks, lacks]
    # Without an answer on one of its slices there is no volume, whichever mask is chosen on the others.
    for row in rows:
        if row["object"].endswith("z_0001#0") and (row["strategy"], row["round"]) == ("box", 1):
            row["reason"] = "none"
    for choice in ("own", "matched"):
        given = [row | {"choice": row["choice"] if row.get("reason") else choice} for row in rows]
        lacking = pa.Table.from_pylist(given, schema("scores")).to_batches()
        found = {(row["strategy"], row["round"]): row.get("reason") for row in volume_rows(tables[0], lacking, 2.0)}
        assert [found[key] for key in (("box", 1), ("box", 2), ("point", 1))] == ["none", None, None]


def plan(data: Path, **changes: Any) -> EvaluationPlan:
    known = {"corpus": data, "models": ("ellipse", "GrabCut"), "protocols": ("sam-med2d",), "split": "train"}
    return EvaluationPlan(**(known | changes))


def everything(folder: Path) -> dict[str, str]:
    """All tables but the times; NaN equals NaN."""
    return {table: repr(read_table(folder, table).to_pylist()) for table in TABLES if table != "times"}


def test_an_evaluation_writes_its_tables(data: Path, tmp_path: Path) -> None:
    out = evaluate_corpus(plan(data), tmp_path / "out")
    run = read_run(out)
    tables = {table: read_table(out, table) for table in TABLES}
    objects = tables["objects"].to_pylist()
    assert run["rows"]["objects"] == len(objects) == len({row["object"] for row in objects})
    assert {row["dataset"] for row in objects} == {"first", "second"}
    assert len(tables["scores"]) == len(objects) * 2 * 6
    assert len(tables["prompts"]) == len(objects) * 2
    assert set(tables["times"]["model"].to_pylist()) == {"ellipse", "GrabCut"}
    assert {"encode", "box"} == set(tables["times"]["stage"].to_pylist())
    assert run["models"][0]["name"] == "ellipse"
    assert run["counts"] == {"images": 24, "objects_left_out": 0}
    assert not (out / ".parts").exists()
    before = (out / "scores.parquet").stat().st_mtime_ns
    assert evaluate_corpus(plan(data), out) == out
    assert (out / "scores.parquet").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="another evaluation"):
        evaluate_corpus(plan(data, seed=1), out)
    # Killed between its last two steps, or while it wrote.
    for left in (out / ".parts" / "00000.json", out / ".part-1-ab-scores.parquet"):
        left.parent.mkdir(exist_ok=True)
        left.touch()
    evaluate_corpus(plan(data), out)
    assert not list(out.glob(".part*"))


def test_an_evaluation_in_a_folder_at_work_leaves_its_description(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".lock"), pytest.raises(WriteError, match="another process"):
        evaluate_corpus(plan(data), tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_masks_that_were_drawn_anew_are_another_evaluation(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs" / "sam-med2d" / "box"
    folder.mkdir(parents=True)
    given = plan(data, models=(f"theirs={tmp_path / 'theirs'}",), max_images=1, max_objects=1)
    out = evaluate_corpus(given, tmp_path / "out")
    named = read_table(out, "objects")["object"][0].as_py()
    Image.fromarray(np.ones((40, 60), np.uint8)).save(folder / f"{named.replace('/', '--')}.png")
    with pytest.raises(ConfigError, match="another evaluation"):
        evaluate_corpus(given, out)
    again = evaluate_corpus(given, tmp_path / "again")
    assert read_table(again, "scores")["reason"].null_count == 1


def test_an_interrupted_evaluation_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = everything(evaluate_corpus(plan(data), tmp_path / "whole"))
    done: list[int] = []

    def failing(number: int, *rest: Any) -> int:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(number)
        return score_block(number, *rest)

    monkeypatch.setattr(run_module, "score_block", failing)
    with pytest.raises(KeyboardInterrupt):
        evaluate_corpus(plan(data), tmp_path / "out")
    assert not read_run(tmp_path / "out").get("finished")
    with pytest.raises(ReadError, match="finished evaluation"):
        read_table(tmp_path / "out", "scores")

    def counted(number: int, *rest: Any) -> int:
        done.append(number)
        return score_block(number, *rest)

    monkeypatch.setattr(run_module, "score_block", counted)
    later: list[float] = []
    finish = run_module._finish
    monkeypatch.setattr(run_module, "_finish", lambda *given: (later.append(given[-1]), finish(*given))[1])
    spent = json.loads((tmp_path / "out" / ".parts" / "seconds.json").read_text())
    assert spent > 0
    (tmp_path / "out" / ".parts" / "seconds.json").write_text(json.dumps(spent + 1000))
    assert everything(evaluate_corpus(plan(data), tmp_path / "out")) == whole
    assert done == [0, 1]
    assert later[0] > spent + 1000
    assert read_run(tmp_path / "out")["seconds"] == round(later[0], 1)


def test_stored_prompts_are_given_again(data: Path, tmp_path: Path) -> None:
    first = evaluate_corpus(plan(data), tmp_path / "first")
    again = evaluate_corpus(plan(data, models=("ellipse",), prompts=first), tmp_path / "again")
    assert read_run(first)["prompts_digest"] == read_run(again)["prompts_digest"]
    other = evaluate_corpus(plan(data, seed=9), tmp_path / "other")
    assert read_run(other)["prompts_digest"] != read_run(first)["prompts_digest"]
    # Prompts that were stored before an annotator's could be.
    old = tmp_path / "old"
    old.mkdir()
    table = read_table(first, "prompts").drop_columns(["round", "step", "reason"])
    pq.write_table(table, old / "prompts.parquet")
    given = evaluate_corpus(plan(data, models=("ellipse",), prompts=old), tmp_path / "given")
    assert read_run(first)["prompts_digest"] == read_run(given)["prompts_digest"]
    with pytest.raises(ConfigError, match=r"from seed 0, and corrections would be drawn from seed 4.*give the seed 0"):
        evaluate_corpus(plan(data, seed=4, prompts=first), tmp_path / "another")
    assert not (tmp_path / "another").exists()
    with pytest.raises(ReadError, match="stored prompts have none"):
        evaluate_corpus(plan(data, protocols=("medsam",), prompts=first), tmp_path / "lacking")


@pytest.mark.slow
def test_processes_give_the_same_tables(data: Path, tmp_path: Path) -> None:
    one = evaluate_corpus(plan(data), tmp_path / "one")
    two = evaluate_corpus(plan(data), tmp_path / "two", workers=2)
    assert everything(one) == everything(two)


def test_protocols_may_have_fewer_images(data: Path, tmp_path: Path) -> None:
    given = plan(data, protocols=("sam-med2d", "medsam"), limits={"medsam": 1}, max_images=3)
    table = read_table(evaluate_corpus(given, tmp_path / "out"), "scores").to_pylist()
    images = {p: {row["object"].partition("#")[0] for row in table if row["protocol"] == p} for p in given.protocols}
    assert len(images["sam-med2d"]) == 3
    assert len(images["medsam"]) == 1


def test_objects_and_images_that_are_not_measured_are_counted(data: Path, tmp_path: Path) -> None:
    for path in (data / "first" / "labels").glob("p1_*"):
        Image.fromarray(np.zeros((40, 60), np.uint8)).save(path)
    run = read_run(evaluate_corpus(plan(data, max_objects=1), tmp_path / "out"))
    assert run["counts"] == {"images": 24, "images_without_objects": 2, "objects_left_out": 22 * 2}
    assert run["rows"]["objects"] == 22


def test_all_objects_are_measured_if_asked(data: Path, tmp_path: Path) -> None:
    run = read_run(evaluate_corpus(plan(data, max_objects=0, models=("ellipse",)), tmp_path / "out"))
    assert run["counts"]["objects_left_out"] == 0


def test_a_corpus_is_measured_in_its_test_split(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [[0, 1, 2, 3, 5, 6], [7, 10, 11]])
    places = list_places(tmp_path / "corpus", "test")
    assert [place.row for place in places] == [4, 7]
    for place, labelled, stack in read_places(places):
        assert labelled.name == corpus.read(place.row).name
        assert stack is None
    with pytest.raises(ReadError, match="split 'val'; use test or train or all"):
        list_places(tmp_path / "corpus", "val")
    with pytest.raises(ConfigError, match=r"no data set 'sets'.*such as set$"):
        evaluate_corpus(plan(tmp_path / "corpus", split="test", internal=("set", "sets")), tmp_path / "out")
    assert digest_of(tmp_path / "corpus", places) == digest_of(tmp_path / "corpus", list(places))
    before = digest_of(tmp_path / "corpus", places)
    assert before != digest_of(tmp_path / "corpus", places[:1])
    out = evaluate_corpus(plan(tmp_path / "corpus", split="test", models=("ellipse",)), tmp_path / "out")
    assert {row["image"] for row in read_table(out, "objects").to_pylist()} == {"set/5/2d_none", "set/10/2d_none"}
    # Masks that were changed in their place, as many as before.
    for path in (tmp_path / "corpus" / "masks").glob("*.parquet"):
        table = pq.read_table(path)
        path.unlink()
        pq.write_table(
            table.set_column(table.schema.get_field_index("target"), "target", [["spleen"] * len(table)]), path
        )
    assert digest_of(tmp_path / "corpus", places) != before


def test_distances_of_volumes_need_all_slices(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", [[3, 6, 9, 15]])
    (path,) = (tmp_path / "corpus" / "images").glob("*.parquet")
    table = pq.read_table(path).to_pylist()
    stack = [row | {"name": "scan", "axis": "z", "index": i, "slice_spacing": 2.0} for i, row in enumerate(table)]
    pq.write_table(pa.Table.from_pylist(stack, image_schema()), path, row_group_size=4)
    for split, changes, known in (
        ("all", {}, True),
        ("train", {}, False),
        ("all", {"max_images": 3}, False),
        ("all", {"limits": {"sam-med2d": 3}}, False),
        ("all", {"units": "px"}, False),
    ):
        given = plan(tmp_path / "corpus", split=split, models=("ellipse",), **changes)
        out = evaluate_corpus(given, tmp_path / f"{split}{len(list(tmp_path.iterdir()))}")
        boxes = [row for row in read_table(out, "volumes").to_pylist() if row["strategy"] == "box"]
        assert {row["volume"] for row in boxes} == {"set/scan"}
        assert {math.isfinite(row["hd95"]) for row in boxes} == {known}
        assert all(row["dice"] > 0 for row in boxes)
    spacings = {row["row_spacing"] for row in read_table(out, "objects").to_pylist()}
    assert spacings == {None}
    # An ellipse errs by pixels, which are 0.5 x 0.25 mm here.
    pixels, mm = (read_table(tmp_path / name, "scores").to_pylist() for name in (out.name, "all1"))
    assert all(a["hd"] > b["hd"] for a, b in zip(pixels, mm, strict=True) if a["hd"])


def run_command(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_a_plan_and_options_make_an_evaluation(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.toml"
    # A limit of a protocol that is not measured now is none.
    limits = "limits = { cosmos = 1 }"
    path.write_text(
        f'corpus = "{data}"\nmodels = ["ellipse"]\nsplit = "train"\nmax_images = 2\n{limits}\n', encoding="utf-8"
    )
    assert run_command(path, "--seed", 5, "--protocol", "medsam", "-o", tmp_path / "out") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "run.json").read_text())["plan"]
    assert (about["seed"], about["models"], about["protocols"]) == (5, ["ellipse"], ["medsam"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "some"], "split"),
        (["--seed", "-1"], "seed"),
        (["--protocol", "best"], "there is no protocol 'best'"),
        (["--split", "val", "--model", "no-such-model"], "there is no model 'no-such-model'"),
        (["--model", "ellipse", "--model", "ellipse"], "no model is given, or one comes twice"),
        (["--protocol", "imis", "--protocol", "imis"], "no protocol is given, or one comes twice"),
        (["--split", "val", "--prompts", "absent"], "is not a table of a finished evaluation"),
        (["--split", "val", "--internal", "frist"], "no data set 'frist', which is given as internal; give one of its"),
        (["--split", "val", "--internal", "frist"], "such as first"),
        (["--corpus", "absent"], "there is no such folder"),
        (["--split", "test"], "no labelled image is in the split 'test'; use train or val or all"),
    ],
)
def test_a_bad_argument_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    out = tmp_path / "out"
    assert run_command("--corpus", data, "-o", out, *options) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_there_must_be_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("-o", tmp_path / "out") == 2
    assert "there is no corpus; give --corpus FOLDER" in capsys.readouterr().err
