"""What an annotator said to the server is given to models again by `vesalius evaluate`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from vesalius.cli import main
from vesalius.core.errors import ConfigError, ReadError
from vesalius.core.types import Prompt
from vesalius.corpus.merge import merge
from vesalius.corpus.store import Corpus, decode_mask
from vesalius.evaluation.prompts import read_turns
from vesalius.evaluation.report import write_report
from vesalius.evaluation.results import read_table
from vesalius.evaluation.run import EvaluationPlan, evaluate_corpus
from vesalius.io.outlines import mask_of_runs, runs_of_mask
from vesalius.predict.load import load_model
from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.corpora import BACKGROUND, DRAWN, SILENT, turns_of_log
from vesalius.server.security import Rules
from vesalius.server.workspace import Workspace

# The slice along each axis of the scan, and (x, y) of a click on its block and of one beside it.
PLACES = {"z": (6, (9, 11), (2, 20)), "y": (12, (9, 6), (2, 10)), "x": (10, (11, 6), (2, 10))}


@pytest.fixture(scope="module")
def predictor():
    """In place of random weights a model whose outlines differ from click to click."""
    return load_model("vesalius-tiny")


class Annotating:
    """An object that is prompted on one slice, and the outlines that the annotator saw after each turn."""

    def __init__(self, tab, image, axis="z", index=0, name="block"):
        self.tab, self.image, self.place = tab, image, {"axis": axis, "index": index}
        self.object = tab.act(image, "create", name=name)["object"]
        self.seen = []

    def act(self, kind, **body):
        answer = self.tab.act(self.image, kind, **body, view=self.place)
        (plane,) = [one for one in answer["view"]["planes"] if one["object"] == self.object]
        self.plane = plane
        return None if plane["mask"] is None else mask_of_runs(plane["mask"], tuple(plane["mask"]["size"]))

    def say(self, *added, remove=(), **more):
        mask = self.act("prompt", object=self.object, **self.place, add=list(added), remove=list(remove), **more)
        self.seen.append(mask)

    def last(self):
        return self.plane["prompts"][-1]["id"]


def click(at, positive=True):
    return {"kind": "point", "x": at[0], "y": at[1], "positive": positive}


def exported(tab):
    headers = {"X-Vesalius-Session": tab.session}
    wish = {"format": "corpus", "states": ["begun", "done"]}
    answer = tab.client.post("/api/export", json=wish, headers=headers)
    assert answer.status_code == 200, answer.text
    return Path(answer.json()["folder"])


def replayed(folder, out, **changes):
    plan = {"corpus": folder, "models": ("vesalius-tiny",), "protocols": ("annotator",), "split": "all"}
    evaluate_corpus(EvaluationPlan(**(plan | changes)), out)
    about = {row["object"]: row for row in read_table(out, "objects").to_pylist()}
    rows = {}
    for row in read_table(out, "scores").to_pylist():
        key = about[row["object"]]
        mask = None if row["reason"] else decode_mask(row["rle"], key["height"], key["width"])
        place = row["object"].split("/", 1)[1].partition("#")[0]
        rows.setdefault((row["model"], place, key["target"]), []).append(row | {"mask": mask})
    return rows


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_the_model_that_was_asked_gives_the_masks_that_were_seen(tab, tmp_path, axis):
    index, inside, beside = PLACES[axis]
    first = Annotating(tab, "scan", axis, index)
    first.say(click(inside))
    first.say(click(beside, False))
    first.say(click((inside[0] + 2, inside[1])))
    deleted = first.plane["prompts"][1]["id"]
    first.say(remove=[deleted])
    first.say({"kind": "box", "box": [inside[0] - 6, inside[1] - 4, inside[0] + 1, inside[1] + 1]})
    first.seen.append(first.act("undo"))
    first.say(click((beside[0] + 1, beside[1]), False))
    other = Annotating(tab, "scan", axis, index, "liver")
    other.say({"kind": "box", "box": [1, 1, 9, 8]})
    assert any(not np.array_equal(first.seen[0], mask) for mask in first.seen[1:])
    rows = replayed(exported(tab), tmp_path / "out", models=("vesalius-tiny", "ellipse"))
    place = f"scan.nii.gz/{axis}_{index:04d}"
    found = rows["vesalius-tiny", place, "block"]
    assert [row["round"] for row in found] == [1, 2, 3, 4, 5, 6, 7]
    for row, seen in zip(found, first.seen, strict=True):
        np.testing.assert_array_equal(row["mask"], seen)
    assert found[-1]["dice"] == 1
    (only,) = rows["vesalius-tiny", place, "liver"]
    np.testing.assert_array_equal(only["mask"], other.seen[0])
    assert [row["reason"] for row in rows["ellipse", place, "block"]] == ["it takes a box alone"] * 7
    assert rows["ellipse", place, "liver"][0]["dice"] > 0


def test_the_rows_are_what_the_model_answers_to_these_prompts(tab, tmp_path, predictor):
    """Against prompts that are put together here, on the slice as it is read from the file."""
    index, inside, beside = PLACES["y"]
    said = Annotating(tab, "scan", "y", index)
    said.say(click(inside), click((inside[0] + 1, inside[1])))
    said.say(click(beside, False))
    said.say(remove=[said.last()])
    folder = exported(tab)
    embedding = predictor.encode(tab.annotator.workspace.volume(tab.id("scan")).slice("y", index))
    points = [inside, (inside[0] + 1, inside[1]), beside]
    (one,) = predictor.predict(embedding, [Prompt(points=points[:2])])
    (two,) = predictor.predict(embedding, [Prompt(points=points, labels=[1, 1, 0], logits=one.logits)])
    ((_, found),) = replayed(folder, tmp_path / "out").items()
    for row, expected in zip(found, (one, two, one), strict=True):
        np.testing.assert_array_equal(row["mask"], expected.mask)
        assert row["quality"] == pytest.approx(expected.quality)
    again = replayed(folder, tmp_path / "again", prompts=tmp_path / "out")
    assert [row["rle"] for row in next(iter(again.values()))] == [row["rle"] for row in found]


def test_a_word_is_replayed(tab, tmp_path):
    index, inside, beside = PLACES["z"]
    said = Annotating(tab, "scan", "z", index)
    # No block looks like it, so that a click changes what is found.
    said.say({"kind": "text", "text": "Myocardium"})
    said.say(click(beside, False))
    said.say({"kind": "text", "text": "heart"}, remove=[said.plane["prompts"][0]["id"]])
    alone = Annotating(tab, "scan", "z", index, "liver")
    alone.say(click(inside))
    assert not np.array_equal(said.seen[0], said.seen[1])
    rows = replayed(exported(tab), tmp_path / "out", models=("vesalius-tiny", "ellipse"))
    place = f"scan.nii.gz/z_{index:04d}"
    for row, seen in zip(rows["vesalius-tiny", place, "block"], said.seen, strict=True):
        assert row["reason"] is None
        np.testing.assert_array_equal(row["mask"], seen)
    assert not np.array_equal(said.seen[0], alone.seen[0])
    assert {row["reason"] for row in rows["ellipse", place, "block"]} == {"it takes a box alone"}


def test_slices_of_all_axes_are_replayed_and_what_was_not_said_is_told(tab, tmp_path):
    for axis, (index, inside, _) in PLACES.items():
        Annotating(tab, "scan", axis, index, f"by {axis}").say(click(inside))
    mask = np.zeros((24, 20), np.bool_)
    mask[3:9, 2:9] = True
    tab.draw("scan", mask, "drawn", index=2)
    proposal = {"mask": runs_of_mask(mask), "quality": 0.5, "name": "proposed"}
    tab.act("scan", "accept", axis="z", index=3, proposals=[proposal])
    rows = replayed(exported(tab), tmp_path / "out")
    assert len(rows) == 5
    for axis, (index, _, _) in PLACES.items():
        (row,) = rows["vesalius-tiny", f"scan.nii.gz/{axis}_{index:04d}", f"by {axis}"]
        assert row["dice"] == 1
    for index, name, reason in ((2, "drawn", DRAWN), (3, "proposed", SILENT)):
        (row,) = rows["vesalius-tiny", f"scan.nii.gz/z_{index:04d}", name]
        assert row["reason"] == reason
    assert not len(read_table(tmp_path / "out", "volumes"))


def test_what_a_brush_drew_is_an_empty_cell_with_its_reason(tab, tmp_path):
    index, inside, beside = PLACES["z"]
    said = Annotating(tab, "scan", "z", index)
    said.say(click(beside, False))
    said.say(click(inside))
    mask = said.seen[1].copy()
    mask[0:4, 0:4] = True
    said.act("mask", object=said.object, **said.place, mask=runs_of_mask(mask))
    said.say(click((1, 1), False))
    ((_, found),) = replayed(exported(tab), tmp_path / "out").items()
    assert [row["reason"] for row in found] == [BACKGROUND, None, DRAWN, DRAWN]
    np.testing.assert_array_equal(found[1]["mask"], said.seen[1])


def test_an_object_is_shown_in_the_window_in_which_it_was_prompted(tab, tmp_path):
    index, inside, _ = PLACES["z"]
    narrow = Annotating(tab, "scan", "z", index, "liver")
    narrow.say(click(inside), window={"low": 250, "high": 320})
    Annotating(tab, "scan", "z", index, "spleen").say(click(inside))
    folder = exported(tab)
    rows = replayed(folder, tmp_path / "out")
    assert {key[1:] for key in rows} == {
        ("scan.nii.gz/z_0006_250.0_320.0", "liver"),
        ("scan.nii.gz/z_0006", "spleen"),
    }
    assert all(row["dice"] == 1 for found in rows.values() for row in found)
    corpus = Corpus(folder)
    pixels = [corpus.read(row).image.pixels for row in range(2)]
    assert not np.array_equal(*pixels)


def test_pictures_and_colours_are_replayed(tab, tmp_path):
    for name in ("disc2", "disc10"):
        said = Annotating(tab, name)
        said.say(click((30, 20)), window={"low": 0, "high": 100} if name == "disc10" else None)
        said.say({"kind": "box", "box": [19, 9, 41, 31]})
    rows = replayed(exported(tab), tmp_path / "out")
    assert {place: found[-1]["dice"] for (_, place, _), found in rows.items()} == {
        "disc2.png/2d_none": 1,
        "disc10.png/2d_none": 1,
    }


def test_undone_and_repeated_prompts_are_turns_in_the_order_of_the_log(tab):
    index, inside, beside = PLACES["z"]
    said = Annotating(tab, "scan", "z", index)
    said.say(click(inside))
    said.say(click(beside, False))
    said.act("undo")
    said.act("redo")
    for _ in range(3):
        tab.act("scan", "undo")
    tab.act("scan", "redo")
    tab.act("scan", "redo")
    said.say(click((inside[0] + 1, inside[1])))
    turns, state = turns_of_log(tab.annotator.workspace.item(tab.id("scan")).log)
    ((_, found),) = turns.items()
    assert [len(prompts) for prompts in found] == [1, 2, 1, 2, 1, 2]
    assert state == tab.annotator.workspace.document(tab.id("scan")).state


def test_the_report_has_a_curve_of_the_prompts(tab, tmp_path):
    index, inside, beside = PLACES["z"]
    said = Annotating(tab, "scan", "z", index)
    said.say(click(inside))
    said.say(click(beside, False))
    Annotating(tab, "disc2").say(click((30, 20)))
    tab.draw("disc2", np.eye(48, 64) > 0, "line")
    replayed(exported(tab), tmp_path / "out", models=("vesalius-tiny", "ellipse"))
    text = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "Dice against the number of prompts of an annotator" in text
    with (tmp_path / "out" / "report_tables" / "annotator.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    numbers = [name for name in row if "note" not in name]
    assert numbers == ["model", "objects", "prompts", "after 1", "after 2", "in the end"]
    assert [row[name] for name in numbers[:3]] == ["vesalius-tiny", "2", "1.5"]
    assert row["objects note"]


def test_exports_of_two_folders_can_be_merged(tab, make_images, predictor, tmp_path):
    Annotating(tab, "disc2").say(click((30, 20)))
    one = exported(tab)
    annotator = Annotator(Workspace([make_images(tmp_path / "others")]), predictor)
    with TestClient(create_app(annotator, Rules()), base_url=tab.client.base_url) as client:
        other = type(tab)(client, annotator, annotator.sessions.create())
        Annotating(other, "disc2").say(click((30, 20)))
        two = exported(other)
    merge([Corpus(one), Corpus(two)], tmp_path / "both", "both")
    assert sorted(Corpus(tmp_path / "both").images["dataset"].to_pylist()) == ["images", "others"]
    with pytest.raises(ConfigError, match="named after the folder that was annotated"):
        merge([Corpus(one), Corpus(one)], tmp_path / "again", "again")


def test_a_corpus_without_an_annotator_has_nothing_to_replay(tab, tmp_path, capsys):
    Annotating(tab, "disc2").say(click((30, 20)))
    folder = exported(tab)
    assert list(read_turns(folder)) == ["images/disc2.png/2d_none#0"]
    (folder / "prompts.parquet").unlink()
    with pytest.raises(ReadError, match="has no prompts of an annotator"):
        replayed(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        main(["evaluate", "--corpus", str(folder), "--protocol", "annotator", "--split", "all", "-o", "x"])
    assert "vesalius annotate" in capsys.readouterr().err
