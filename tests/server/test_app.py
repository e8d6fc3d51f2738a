from __future__ import annotations

import threading
import time

import nibabel
import numpy as np
import pytest

from made_dicom import made_film
from vesalius.io.outlines import mask_of_runs, runs_of_mask
from vesalius.server.documents import Document
from vesalius.server.messages import Everything
from vesalius.server.refusals import Refusal


def box(top, left, bottom, right, size=(48, 64)):
    mask = np.zeros(size, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def test_images_are_listed_in_the_order_of_people(tab):
    found = tab.client.get("/api/images").json()["images"]
    assert [one["name"] for one in found] == ["ct", "disc2.png", "disc10.png", "scan.nii.gz"]
    assert {one["state"] for one in found} == {"todo"}
    assert [one["kind"] for one in found] == ["series", "file", "file", "file"]


def test_an_image_says_how_its_slices_lie(tab):
    about = tab.get("scan").json()
    assert about["size"] == {"x": 20, "y": 24, "z": 12}
    assert about["axes"]["y"] == {
        "count": 24, "rows": "z", "columns": "x", "height": 12, "width": 20, "pixel_mm": pytest.approx([2.5, 0.7])
    }  # fmt: skip
    assert about["dtype"] == "int16"
    assert about["next"] is None
    assert about["previous"] == tab.id("disc10")
    assert "dicom-seg" not in about["formats"]
    assert "dicom-seg" in tab.get("ct").json()["formats"]
    assert "lung" in tab.get("ct").json()["windows"]
    assert list(tab.get("disc2").json()["axes"]) == ["z"]


def test_each_frame_of_a_film_is_annotated(tab, images, tmp_path):
    frames = np.random.default_rng(0).integers(0, 99, (3, 48, 64), dtype=np.uint8)
    made_film(tmp_path / "film.dcm", frames)
    content = {"file": ("film.dcm", (tmp_path / "film.dcm").read_bytes())}
    assert tab.client.put("/datastore/?image=film", files=content).status_code == 200
    names = [f"uploaded/film.dcm [{time}]" for time in range(3)]
    for frame, name in zip(frames, names, strict=True):
        assert tab.get(name).json()["formats"] == ["nifti", "nrrd", "png", "coco", "prompts"]
        assert tab.get(name, "/pixels").content == frame.tobytes()
        tab.act(name, "prompt", axis="z", index=0, add=[{"kind": "point", "x": 30, "y": 20}])
        assert tab.get(name, "/export", format="nifti").status_code == 200
    rows = {one["name"]: one["objects"] for one in tab.client.get("/api/images").json()["images"]}
    assert [rows[name] for name in names] == [1, 1, 1]


def test_pixels_are_those_of_the_file(tab, images):
    voxels = np.asarray(nibabel.load(images / "scan.nii.gz").dataobj)
    answer = tab.get("scan", "/pixels", axis="x", index=7)
    assert answer.headers["x-shape"] == "12,24"
    assert answer.headers["x-dtype"] == "int16"
    assert answer.headers["content-encoding"] == "gzip"  # the test's client is no loopback address
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<i2").reshape(12, 24), voxels[7].T)
    assert tab.get("disc10", "/pixels").headers["x-shape"] == "48,64,3"


def test_a_picture_is_windowed(tab):
    from io import BytesIO

    from PIL import Image

    answer = tab.get("scan", "/slice.png", axis="z", index=6, low=0, high=300)
    shown = np.asarray(Image.open(BytesIO(answer.content)))
    raw = np.frombuffer(tab.get("scan", "/pixels", index=6).content, "<i2").reshape(24, 20)
    np.testing.assert_array_equal(shown, np.clip(raw / 300 * 255 + 0.5, 0, 255).astype(np.uint8))
    assert tab.get("scan", "/slice.png", low=5, high=5).status_code == 400


def test_clicks_are_answered_corrected_and_taken_back(tab, predictor):
    first = tab.act("disc2", "prompt", axis="z", index=0, add=[{"kind": "point", "x": 30, "y": 20}], name="disc")
    made, (plane,) = first["object"], first["view"]["planes"]
    assert plane["prompts"] == [{"id": "p1.1", "kind": "point", "x": 30, "y": 20, "positive": True}]
    assert len(plane["candidates"]) == 3
    qualities = [one["quality"] for one in plane["candidates"]]
    assert qualities == sorted(qualities, reverse=True)
    assert first["document"]["objects"][0]["name"] == "disc"
    # The model's own answers, step by step.
    from vesalius.core.types import Prompt

    embedding = predictor.encode(tab.annotator.cut(tab.id("disc2"), "z", 0))
    alone = predictor.candidates(embedding, [Prompt(points=[(30, 20)])])[0]
    for one, expected in zip(plane["candidates"], alone, strict=True):
        np.testing.assert_array_equal(mask_of_runs(one["mask"], (48, 64)), expected.mask)
    tab.act("disc2", "choose", object=made, axis="z", index=0, candidate=1)
    second = tab.act(
        "disc2", "prompt", object=made, axis="z", index=0, add=[{"kind": "point", "x": 2, "y": 3, "positive": False}]
    )
    expected = predictor.predict(embedding, [Prompt(points=[(30, 20), (2, 3)], labels=[1, 0], logits=alone[1].logits)])[
        0
    ]
    (plane,) = second["view"]["planes"]
    np.testing.assert_array_equal(mask_of_runs(plane["candidates"][0]["mask"], (48, 64)), expected.mask)
    third = tab.act("disc2", "prompt", object=made, axis="z", index=0, remove=["p3.1"])
    (plane,) = third["view"]["planes"]
    assert [one["id"] for one in plane["prompts"]] == ["p1.1"]
    np.testing.assert_array_equal(mask_of_runs(plane["candidates"][0]["mask"], (48, 64)), alone[0].mask)
    fourth = tab.act("disc2", "prompt", object=made, axis="z", index=0, remove=["p1.1"])
    assert fourth["view"]["planes"][0]["mask"] is None
    assert fourth["view"]["planes"][0]["candidates"] == []
    # A click on the background alone says nothing about the object.
    fifth = tab.act(
        "disc2", "prompt", object=made, axis="z", index=0, add=[{"kind": "point", "x": 2, "y": 3, "positive": False}]
    )
    assert fifth["view"]["planes"][0]["mask"] is None


def test_a_new_box_takes_the_place_of_the_old(tab):
    made = tab.act("disc2", "prompt", axis="z", index=0, add=[{"kind": "box", "box": [5, 5, 30, 30]}])["object"]
    answer = tab.act("disc2", "prompt", object=made, axis="z", index=0, add=[{"kind": "box", "box": [20, 10, 40, 30]}])
    (said,) = answer["view"]["planes"][0]["prompts"]
    assert said["box"] == [20, 10, 40, 30]


def test_a_drawn_mask_is_corrected_by_a_click(tab, predictor):
    from vesalius.core.types import Prompt

    rough = box(10, 20, 30, 40)
    made = tab.draw("disc2", rough, "disc")
    np.testing.assert_array_equal(tab.masks("disc2")[made], rough)
    answer = tab.act("disc2", "prompt", object=made, axis="z", index=0, add=[{"kind": "point", "x": 30, "y": 20}])
    (plane,) = answer["view"]["planes"]
    assert [one["kind"] for one in plane["prompts"]] == ["mask", "point"]
    embedding = predictor.encode(tab.annotator.cut(tab.id("disc2"), "z", 0))
    expected = predictor.predict(embedding, [Prompt(points=[(30, 20)], mask=rough)])[0]
    np.testing.assert_array_equal(mask_of_runs(plane["candidates"][0]["mask"], (48, 64)), expected.mask)
    undone = tab.act("disc2", "prompt", object=made, axis="z", index=0, remove=[plane["prompts"][1]["id"]])
    np.testing.assert_array_equal(mask_of_runs(undone["view"]["planes"][0]["mask"], (48, 64)), rough)


def test_undo_and_redo_have_no_limit(tab):
    made = tab.draw("disc2", box(0, 0, 5, 5))
    masks = [box(0, 0, 5, 5)]
    for side in range(6, 30):
        masks.append(box(0, 0, side, side))
        tab.draw("disc2", masks[-1], object=made)
    for mask in masks[-2::-1]:
        answer = tab.act("disc2", "undo", view={"axis": "z", "index": 0})
        assert answer["view"]["all"]
        np.testing.assert_array_equal(mask_of_runs(answer["view"]["planes"][0]["mask"], (48, 64)), mask)
    tab.act("disc2", "undo")
    answer = tab.act("disc2", "undo")
    assert answer["document"]["objects"] == []
    assert not answer["document"]["can_undo"]
    assert tab.post("disc2", "/actions", {"kind": "undo"}).status_code == 409
    for _ in range(len(masks) + 1):
        tab.act("disc2", "redo")
    np.testing.assert_array_equal(tab.masks("disc2")[made], masks[-1])
    assert tab.post("disc2", "/actions", {"kind": "redo"}).status_code == 409
    tab.act("disc2", "undo")
    tab.act("disc2", "state", done=True)
    assert not tab.get("disc2", "/document").json()["can_redo"]


def test_slices_across_drawn_ones_show_where_they_cross(tab):
    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=3)
    tab.draw("scan", box(6, 5, 18, 15, (24, 20)), index=4, object=made)
    across = tab.masks("scan", "y", 10)[made]
    np.testing.assert_array_equal(across, box(3, 5, 5, 15, (12, 20)))
    # What is said last about a voxel holds.
    tab.draw("scan", box(4, 0, 9, 20, (12, 20)), axis="y", index=10, object=made)
    np.testing.assert_array_equal(tab.masks("scan", "z", 3)[made][10], np.zeros(20, bool))
    np.testing.assert_array_equal(tab.masks("scan", "z", 8)[made], box(10, 0, 11, 20, (24, 20)))
    tab.draw("scan", box(0, 0, 24, 20, (24, 20)), index=3, object=made)
    np.testing.assert_array_equal(tab.masks("scan", "y", 10)[made], box(3, 0, 9, 20, (12, 20)))
    tab.act("scan", "clear", object=made, axis="z", index=3)
    np.testing.assert_array_equal(tab.masks("scan", "y", 10)[made], box(4, 0, 9, 20, (12, 20)))


def test_objects_are_named_coloured_locked_and_deleted(tab):
    made = tab.draw("disc2", box(1, 1, 9, 9), "left kidney")
    tab.act("disc2", "update", object=made, name="kidney", colour="#102030", hidden=True, locked=True)
    (told,) = tab.get("disc2", "/document").json()["objects"]
    assert (told["name"], told["colour"], told["hidden"], told["locked"]) == ("kidney", "#102030", True, True)
    for body in (
        {"kind": "delete", "object": made},
        {"kind": "clear", "object": made, "axis": "z", "index": 0},
        {"kind": "prompt", "object": made, "axis": "z", "index": 0, "add": [{"kind": "point", "x": 3, "y": 3}]},
    ):
        answer = tab.post("disc2", "/actions", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    tab.act("disc2", "update", object=made, locked=False)
    tab.act("disc2", "delete", object=made)
    assert tab.get("disc2", "/document").json()["objects"] == []


def test_the_list_tells_how_far_images_are(tab):
    tab.draw("disc2", box(1, 1, 9, 9))
    tab.draw("disc10", box(1, 1, 9, 9))
    tab.act("disc10", "state", done=True)
    states = {one["name"]: one["state"] for one in tab.client.get("/api/images").json()["images"]}
    assert states == {"ct": "todo", "disc2.png": "begun", "disc10.png": "done", "scan.nii.gz": "todo"}


def test_the_list_is_made_without_reading_images(tab, images, predictor):
    from vesalius.server.workspace import Workspace

    tab.draw("scan", box(6, 5, 18, 15, (24, 20)), index=3)
    (images / "scan.nii.gz").write_bytes(b"damaged")
    (images / "disc2.png").write_bytes(b"damaged")
    tab.draw("ct", box(1, 1, 5, 5, (20, 24)))
    log = tab.annotator.workspace.item(tab.id("ct")).log
    log.write_text(log.read_text().replace('"n":1', '"n":7'))
    tab.annotator.workspace = Workspace([images])
    found = {one["name"]: one for one in tab.client.get("/api/images").json()["images"]}
    assert (found["scan.nii.gz"]["state"], found["scan.nii.gz"]["objects"]) == ("begun", 1)
    assert found["disc2.png"]["state"] == "todo"
    assert found["ct"]["state"] == "damaged"
    assert tab.get("disc2").json()["error"]["code"] == "read"
    assert tab.get("ct").json()["error"]["code"] == "read"


def test_too_much_at_a_time_is_refused(tab):
    with tab.annotator.heavy(), tab.annotator.heavy(), tab.annotator.heavy(), tab.annotator.heavy():
        answer = tab.post("disc2", "/everything", {"side": 2})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert tab.post("disc2", "/everything", {"side": 2}).status_code == 200


class Held:
    """Everything mode whose network waits at the second batch until it is told to go on."""

    def __init__(self, tab, monkeypatch):
        self.batches, self.there, self.go = 0, threading.Event(), threading.Event()
        runtime = tab.annotator.engine.waiting.runtime
        decode = runtime.decode

        def slow(*arguments):
            self.batches += 1
            if self.batches == 2:
                self.there.set()
                assert self.go.wait(10)
            return decode(*arguments)

        monkeypatch.setattr(runtime, "decode", slow)


def test_a_newer_request_for_everything_ends_the_older(tab, monkeypatch):
    held, answers = Held(tab, monkeypatch), []
    older = threading.Thread(target=lambda: answers.append(tab.post("disc2", "/everything", {"side": 40})))
    older.start()
    assert held.there.wait(10)
    stop = next(iter(tab.annotator._looking.values()))
    newer = threading.Thread(target=lambda: answers.append(tab.post("disc10", "/everything", {"side": 8})))
    newer.start()
    assert stop.wait(10)
    held.go.set()
    older.join(10)
    newer.join(10)
    found = sorted((answer.status_code, answer.json().get("error", {}).get("code")) for answer in answers)
    assert found == [(200, None), (409, "superseded")]
    assert held.batches < 10  # of 25
    assert tab.annotator._looking == {}


def test_everything_ends_when_its_client_or_its_session_has_gone(tab, monkeypatch):
    held, stop = Held(tab, monkeypatch), threading.Event()
    refused = []

    def ask():
        try:
            tab.annotator.everything(tab.id("disc2"), Everything(side=40), tab.session, stop)
        except Refusal as refusal:
            refused.append(refusal.status)

    for end, status in ((stop.set, 409), (lambda: tab.annotator.sessions.end(tab.session), 410)):
        held.batches = 0
        held.there.clear(), held.go.clear(), stop.clear()
        asking = threading.Thread(target=ask)
        asking.start()
        assert held.there.wait(10)
        end()
        held.go.set()
        asking.join(10)
        assert refused.pop() == status
        assert held.batches < 5


def test_everything_is_proposed_and_accepted(tab):
    answer = tab.post("disc2", "/everything", {"side": 4, "quality": 0, "stability": 0})
    proposals = answer.json()["proposals"]
    assert proposals
    taken = [{"mask": one["mask"], "quality": one["quality"], "name": "thing"} for one in proposals[:2]]
    made = tab.act("disc2", "accept", axis="z", index=0, proposals=taken)
    assert made["objects"] == [one["object"] for one in made["view"]["planes"]]
    assert [one["mask"] for one in made["view"]["planes"]] == [one["mask"] for one in taken]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "nothing"}, 400, "bad_request"),
        ({"kind": "create", "more": 1}, 400, "bad_request"),
        ({"kind": "delete", "object": "o9"}, 404, "no_object"),
        ({"kind": "prompt", "axis": "z", "index": 1, "add": [{"kind": "point", "x": 1, "y": 1}]}, 422, "geometry"),
        ({"kind": "prompt", "axis": "z", "index": 0, "add": [{"kind": "point", "x": 99, "y": 1}]}, 422, "prompt"),
        ({"kind": "prompt", "axis": "z", "index": 0, "add": [{"kind": "box", "box": [9, 9, 3, 3]}]}, 422, "prompt"),
        ({"kind": "prompt", "axis": "z", "index": 0, "add": [{"kind": "text", "text": "disc"}]}, 422, "prompt"),
        ({"kind": "prompt", "axis": "z", "index": 0, "remove": ["p7.1"]}, 409, "conflict"),
        ({"kind": "prompt", "axis": "z", "index": 0, "window": {"low": 5, "high": 5}}, 400, "bad_request"),
    ],
)
def test_what_makes_no_sense_changes_nothing(tab, body, status, code):
    answer = tab.post("disc2", "/actions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]
    assert tab.get("disc2", "/document").json()["revision"] == 0


def test_a_mask_of_another_size_is_refused(tab):
    made = tab.act("disc2", "create")["object"]
    for mask in (runs_of_mask(box(0, 0, 5, 5, (10, 10))), {"size": [48, 64], "counts": "not runs"}):
        answer = tab.post("disc2", "/actions", {"kind": "mask", "object": made, "axis": "z", "index": 0, "mask": mask})
        assert answer.status_code == 422
    assert tab.get("disc2", "/document").json()["revision"] == 1


def test_requests_need_a_session(tab):
    tab.session = "nobody"
    answer = tab.post("disc2", "/actions", {"kind": "create"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "session")
    url = f"/api/images/{tab.id('disc2')}/actions"
    assert tab.client.post(url, json={"kind": "create"}).status_code == 400


def test_another_tab_hears_of_changes(tab):
    tab.get("disc2", "/document")
    heard = []
    ask = threading.Thread(target=lambda: heard.append(tab.get("disc2", "/document", after=0, wait=20).json()))
    ask.start()
    tab.act("disc2", "create", name="new")
    ask.join(10)
    assert heard[0]["revision"] == 1
    assert tab.get("disc2", "/document", after=1, wait=0.01).status_code == 204


def test_names_are_completed(tab):
    def names(text):
        return [one["name"] for one in tab.client.get("/api/vocabulary", params={"q": text}).json()["targets"]]

    assert names("left kid")[0] == "left kidney"
    assert "kidney" in names("kid")[0]
    assert "inferior vena cava" in names("ivc")
    assert names("zzzz") == []
    assert len(names("")) == 12


def finished(tab, answer):
    for _ in range(500):
        job = tab.client.get(f"/api/jobs/{answer.json()['job']}").json()
        if job["state"] != "running":
            return job
        time.sleep(0.02)
    raise TimeoutError(job)


def asked_slices(tab, monkeypatch):
    """A list that takes up the slices which the model is asked about from now on."""
    asked = []
    predict = tab.annotator.engine.waiting.predict_slices
    monkeypatch.setattr(
        tab.annotator.engine.waiting,
        "predict_slices",
        lambda images, prompts: (asked.extend(images), predict(images, prompts))[1],
    )
    return asked


def test_a_correction_is_carried_to_the_next_corrected_slices_alone(tab, monkeypatch):
    mask = box(6, 5, 18, 15, (24, 20))
    made = tab.draw("scan", mask, "block", index=2)
    for index in (6, 10):
        tab.draw("scan", mask, index=index, object=made)
    asked = asked_slices(tab, monkeypatch)
    assert finished(tab, tab.post("scan", "/propagate", {"object": made}))["state"] == "done"
    assert {3, 4, 5, 7, 8, 9} <= {image.index for image in asked}
    tab.draw("scan", box(7, 6, 17, 14, (24, 20)), index=8, object=made)
    asked.clear()
    assert finished(tab, tab.post("scan", "/propagate", {"object": made}))["state"] == "done"
    assert {image.index for image in asked} == {7, 9}


def test_propagation_is_one_action(tab):
    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=4)
    answer = tab.post("scan", "/propagate", {"object": made, "first": 2, "last": 7})
    assert answer.status_code == 202
    job = finished(tab, answer)
    assert job["state"] == "done", job
    document = tab.get("scan", "/document").json()
    assert document["revision"] == job["revision"] == 3
    assert document["undo"] == "propagate"
    planes = {one["index"]: one["by"] for one in document["objects"][0]["planes"]}
    assert planes[4] == "drawn"
    assert set(planes) <= set(range(2, 8))
    tab.act("scan", "undo")
    assert [one["index"] for one in tab.get("scan", "/document").json()["objects"][0]["planes"]] == [4]
    assert tab.post("scan", "/propagate", {"object": made, "axis": "x"}).status_code == 422
    assert tab.client.get("/api/jobs/none").json()["error"]["code"] == "no_job"


def test_a_mask_that_was_drawn_on_an_older_one_is_refused(tab):
    mask = box(6, 5, 18, 15, (24, 20))
    made = tab.draw("scan", mask, "block", index=4)
    known = tab.get("scan", "/planes", index=4).json()["revision"]
    tab.draw("scan", ~mask, index=4, object=made)  # another tab
    body = {"kind": "mask", "object": made, "axis": "z", "index": 4, "mask": runs_of_mask(mask)}
    answer = tab.post("scan", "/actions", {**body, "revision": known})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    np.testing.assert_array_equal(tab.masks("scan", index=4)[made], ~mask)
    assert tab.post("scan", "/actions", {**body, "revision": known + 1}).status_code == 200
    assert "revision" not in tab.annotator.workspace.document(tab.id("scan")).path.read_text()


def test_a_slice_whose_prompts_were_taken_back_ends_nothing_and_an_emptied_one_does(tab):
    from vesalius.server.annotator import key_slices

    def keys():
        thing = tab.annotator.workspace.document(tab.id("scan")).state.objects[made]
        return {index: bool(mask.any()) for index, mask in key_slices(thing, "z", (12, 24, 20)).items()}

    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=4)
    click = {"kind": "point", "x": 1, "y": 1, "positive": True}
    answer = tab.act("scan", "prompt", object=made, axis="z", index=6, add=[click])
    (said,) = answer["view"]["planes"][0]["prompts"]
    assert set(keys()) == {4, 6}
    tab.act("scan", "prompt", object=made, axis="z", index=6, remove=[said["id"]])
    assert keys() == {4: True}
    tab.act("scan", "clear", object=made, axis="z", index=7)
    assert keys() == {4: True, 7: False}


def test_the_model_carries_in_the_window_that_is_shown(tab, monkeypatch):
    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=4)
    asked = asked_slices(tab, monkeypatch)
    # What was found in one window is no answer in another.
    for window in ({"low": -160.0, "high": 240.0}, {"low": 0.0, "high": 80.0}):
        asked.clear()
        job = finished(tab, tab.post("scan", "/propagate", {"object": made, "window": window}))
        assert job["state"] == "done", job
        assert {image.window for image in asked} == {(window["low"], window["high"])}


def test_rules_and_span_bound_what_is_carried(tab, monkeypatch):
    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=5)
    asked = asked_slices(tab, monkeypatch)
    anything = {"least_quality": 0, "least_overlap": 0, "least_grey": -1e6, "least_contrast": -1e6}
    anything |= {"most_change": 1e6, "least_area": 1}
    for rules, reached in ((anything, {3, 4, 6, 7, 8}), ({"least_quality": 1.0}, {4, 6})):
        asked.clear()
        wish = {"object": made, "first": 3, "last": 8, "rules": rules}
        job = finished(tab, tab.post("scan", "/propagate", wish))
        assert job["state"] == "done", job
        assert {image.index for image in asked} == reached
    for rules in ({"least_quality": 2}, {"most_change": 1}, {"least_area": 0}, {"margin": -1}, {"other": 1}):
        assert tab.post("scan", "/propagate", {"object": made, "rules": rules}).status_code == 400


def test_a_span_is_carried_as_it_is_in_the_whole_volume(predictor):
    from vesalius.core.types import Volume
    from vesalius.predict.propagate import propagate_slices
    from vesalius.server.annotator import keys_within

    voxels = np.random.default_rng(0).normal(0, 20, (30, 24, 20)).astype(np.float32)
    voxels[:, 6:18, 5:15] += 300
    volume = Volume(voxels, None, (-50, 350))
    mask = box(6, 5, 18, 15, (24, 20))
    keys = dict.fromkeys((4, 9, 15, 20, 24), mask)
    everywhere = {one.index: one.mask for one in propagate_slices(predictor, volume, keys)}
    for span in ((0, 2), (5, 8), (10, 17), (21, 22), (26, 29)):
        within = keys_within(keys, span, 30)
        found = {one.index: one.mask for one in propagate_slices(predictor, volume, within)}
        assert len(found) < len(everywhere)
        for index in range(span[0], span[1] + 1):
            np.testing.assert_array_equal(found.get(index), everywhere.get(index))


def test_what_was_corrected_meanwhile_is_not_carried(tab, monkeypatch):
    from vesalius.predict import propagate

    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=4)
    assemble = propagate.assemble

    def slow(*arguments):
        tab.draw("scan", box(2, 2, 9, 9, (24, 20)), index=4, object=made)  # another tab draws meanwhile
        return assemble(*arguments)

    monkeypatch.setattr(propagate, "assemble", slow)
    job = finished(tab, tab.post("scan", "/propagate", {"object": made}))
    assert (job["state"], job["error"]["code"]) == ("failed", "conflict")
    assert tab.get("scan", "/document").json()["undo"] == "mask"


def test_a_job_that_waits_can_be_cancelled(tab):
    made = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=4)
    began, go = threading.Event(), threading.Event()
    tab.annotator.engine.jobs.add("held", lambda: (began.set(), go.wait(10)))
    assert began.wait(10)
    answer = tab.post("scan", "/propagate", {"object": made})
    tab.client.delete(f"/api/jobs/{answer.json()['job']}")
    go.set()
    assert finished(tab, answer)["state"] == "cancelled"
    assert tab.get("scan", "/document").json()["undo"] == "mask"


def test_two_tabs_on_one_object_lose_no_click(tab):
    made = tab.draw("disc2", box(10, 20, 30, 40), "disc")
    sessions = [tab.annotator.sessions.create() for _ in range(2)]
    url, statuses = f"/api/images/{tab.id('disc2')}/actions", []

    def work(session, y):
        for x in range(8):
            point = {"kind": "point", "x": 20 + x, "y": y}
            body = {"kind": "prompt", "object": made, "axis": "z", "index": 0, "add": [point]}
            answer = tab.client.post(url, json=body, headers={"X-Vesalius-Session": session})
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=work, args=(session, 12 + i)) for i, session in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    (plane,) = tab.get("disc2", "/planes").json()["planes"]
    said = {(one["x"], one["y"]) for one in plane["prompts"] if one["kind"] == "point"}
    assert said == {(20 + x, 12 + y) for x in range(8) for y in range(2)}
    assert len({one["id"] for one in plane["prompts"]}) == 17


def test_many_at_work_at_once_leave_one_story(tab):
    """All kinds of requests on one image at a time; locks taken in the wrong order would end this by its time limit."""
    url = f"/api/images/{tab.id('scan')}"
    first = tab.draw("scan", box(6, 5, 18, 15, (24, 20)), "block", index=3)
    failed = []

    def work(seed):
        rng = np.random.default_rng(seed)
        headers = {"X-Vesalius-Session": tab.client.post("/api/sessions").json()["session"]}
        for _ in range(15):
            axis = str(rng.choice(["x", "y", "z"]))
            index = int(rng.integers(5))
            place = {"axis": axis, "index": index}
            point = {"kind": "point", "x": int(rng.integers(10)), "y": int(rng.integers(10))}
            bodies = [
                {"kind": "prompt", "object": first, **place, "add": [point]},
                {"kind": "prompt", **place, "add": [point]},
                {"kind": "clear", "object": first, **place},
                {"kind": "undo", "view": place},
                {"kind": "redo", "view": place},
                {"kind": "create"},
            ]
            answer = tab.client.post(f"{url}/actions", json=bodies[rng.integers(len(bodies))], headers=headers)
            others = [tab.client.get(f"{url}/planes", params=place), tab.client.get("/api/images")]
            failed.extend(one.text for one in (answer, *others) if one.status_code not in (200, 404, 409))

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []
    document = tab.annotator.workspace.document(tab.id("scan"))
    assert Document(document.path, None).state == document.state


def test_what_changes_while_the_model_is_asked_is_not_lost(tab, monkeypatch):
    made = tab.draw("disc2", box(10, 20, 30, 40), "disc")
    answer, asked = tab.annotator.engine.answer, []

    def slow(*arguments):
        if not asked:
            tab.draw("disc2", box(2, 2, 9, 9), object=made)  # another tab draws meanwhile
        asked.append(arguments[1])
        return answer(*arguments)

    monkeypatch.setattr(tab.annotator.engine, "answer", slow)
    point = {"kind": "point", "x": 5, "y": 5}
    tab.act("disc2", "prompt", object=made, axis="z", index=0, add=[point])
    drawn = [said[0]["mask"] for said in asked]
    assert drawn == [runs_of_mask(box(10, 20, 30, 40)), runs_of_mask(box(2, 2, 9, 9))]
