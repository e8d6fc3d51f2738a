"""The requests that MONAI Label's public client makes (monailabel.client), form by form."""

from __future__ import annotations

import gzip
import json
from email.parser import BytesParser

import nibabel
import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient

from made_dicom import made_series
from made_tiff import sly_tiff
from vesalius.core.types import Prompt
from vesalius.predict.load import load_model
from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.security import Rules
from vesalius.server.workspace import Workspace

LIMIT = "----------lImIt_of_THE_fIle_eW_$"


def form(fields, files=()):
    """A multipart body as that client writes it: names of files are whole paths."""
    body = b""
    for name, value in fields.items():
        body += f'--{LIMIT}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, path in files:
        head = f'Content-Disposition: form-data; name="{name}"; filename="{path}"'
        body += (
            f"--{LIMIT}\r\n{head}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
            + path.read_bytes()
            + b"\r\n"
        )
    body += f"--{LIMIT}--\r\n".encode()
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary={LIMIT}"}}


def parts(answer):
    """Fields and files of a multipart answer."""
    whole = BytesParser().parsebytes(
        b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
    )
    found = [
        (part.get_param("name", header="content-disposition"), part.get_filename(), part.get_payload(decode=True))
        for part in whole.get_payload()
    ]
    return {name: value for name, file, value in found if file is None}, {
        file: value for _, file, value in found if file
    }


@pytest.fixture
def model(tab):
    return tab.annotator.engine.name


def test_info(tab, model):
    info = tab.client.get("/info/").json()
    assert info["models"][model]["type"] == "deepgrow"
    assert info["models"][model]["dimension"] == 2
    assert {"name", "description", "version", "labels", "trainers", "strategies", "datastore"} <= info.keys()
    assert info["datastore"]["total"] == 4


def test_clicks_are_answered_in_a_multipart_form(tab, model, predictor, tmp_path):
    params = {"foreground": [[9, 11, 6]], "background": [[1, 2, 6]], "label": "block", "client_id": None}
    url = f"/infer/{model}?image={tab.id('scan')}"
    answer = tab.client.post(url, **form({"params": json.dumps(params)}))
    assert answer.status_code == 200
    fields, files = parts(answer)
    told = json.loads(fields["params"])
    assert told["label_names"] == {"block": 1}
    ((name, content),) = files.items()
    (tmp_path / name).write_bytes(content)
    import SimpleITK as sitk

    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
    embedding = predictor.encode(tab.annotator.cut(tab.id("scan"), "z", 6))
    expected = predictor.predict(embedding, [Prompt(points=[(9, 11), (1, 2)], labels=[1, 0])])[0].mask
    np.testing.assert_array_equal(labels[6] == 1, expected)
    assert not labels[:6].any()
    assert not labels[7:].any()


def test_viewers_ask_for_other_forms(tab, model, predictor):
    url = f"/infer/{model}?image=scan"
    params = {"foreground": "[[9, 11, 6]]", "result_extension": ".nii.gz"}
    image = tab.client.post(f"{url}&output=image", data={"params": json.dumps(params)})
    labels = np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(image.content)).dataobj)
    assert labels.shape == (20, 24, 12)
    told = tab.client.post(f"{url}&output=json", data={"params": json.dumps({"roi": [5, 14, 6, 17, 6, 6]})}).json()
    assert told["slice"] == 6
    embedding = predictor.encode(tab.annotator.cut(tab.id("scan"), "z", 6))
    (expected,) = predictor.predict(embedding, [Prompt(box=(5, 6, 15, 18))])
    assert told["quality"] == pytest.approx(expected.quality, abs=1e-6)


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 422),
        ({"foreground": [[1, 2, 3], [1, 2, 4]]}, 422),
        ({"foreground": [[1, 2]]}, 422),
        ({"foreground": [["a", 2, 3]]}, 422),
        ({"foreground": [[100, 2, 3]]}, 422),
        ({"foreground": [[1, 2, 30]]}, 422),
        ({"roi": [1]}, 422),
        ({"roi": [1, 5, 1, 5, 1e999, 1e999]}, 422),
        ({"foreground": [[10**400, 2, 3]]}, 422),
        ({"foreground": [[1, 2, 3]], "slice": "middle"}, 422),
        ({"foreground": [[1, 2, 3]], "slice": 1e999}, 422),
        ({"foreground": [[1, 2, 3]], "result_extension": ".exe"}, 400),
        ([], 400),
    ],
)
def test_prompts_that_make_no_sense_are_refused(tab, model, params, status):
    answer = tab.client.post(f"/infer/{model}?image=scan", data={"params": json.dumps(params)})
    assert answer.status_code == status, answer.text


def test_what_is_not_there_is_not_found(tab, model):
    data = {"params": "{}"}
    assert tab.client.post("/infer/other?image=scan", data=data).status_code == 404
    assert tab.client.post(f"/infer/{model}?image=other", data=data).status_code == 404
    assert tab.client.post(f"/infer/{model}", data=data).status_code == 400
    assert tab.client.get("/session/none").status_code == 404
    assert tab.client.get("/datastore/image?image=../../etc/passwd").status_code == 404


@pytest.fixture(scope="module")
def worded(make_images, tmp_path_factory):
    """The bundled model, which takes words."""
    folder = make_images(tmp_path_factory.mktemp("worded") / "images")
    annotator = Annotator(Workspace([folder]), load_model())
    with TestClient(create_app(annotator, Rules()), base_url="http://127.0.0.1:8000") as client:

        def ask(**params):
            url = f"/infer/{annotator.engine.name}?image=scan&output=json"
            return client.post(url, data={"params": json.dumps(params)})

        yield client, ask


@pytest.mark.parametrize("label", ["spleen of Mrs X", "Segment_1", "tumour 3", " "])
def test_a_name_that_the_model_does_not_know_is_only_a_name_beside_clicks(worded, label):
    _, ask = worded
    click, box = {"foreground": [[9, 11, 6]]}, {"roi": [5, 14, 6, 17, 6, 6]}
    for where in (click, box, {**click, "background": [[1, 2, 6]]}):
        answer = ask(**where, label=label)
        assert answer.status_code == 200, answer.text
        assert answer.json()["label_names"] == {label: 1}
        assert answer.json()["quality"] == ask(**where).json()["quality"]
    alone = ask(label=label, slice=6)
    assert (alone.status_code, alone.json()["error"]["code"]) == (422, "prompt")


def test_a_name_that_the_model_knows_is_a_prompt(worded):
    client, ask = worded
    info = client.get("/info/").json()
    (model,) = info["models"].values()
    assert 20 < len(info["labels"]) < 200  # its own, not all of the vocabulary
    assert model["labels"] == info["labels"]
    for label in (info["labels"][0], "liver"):
        assert ask(label=label, slice=6).status_code == 200
    click = {"foreground": [[9, 11, 6]]}
    assert ask(**click, label="liver").json()["quality"] != ask(**click).json()["quality"]


def test_a_series_is_named_by_its_uid_and_answered_without_compression(tab, model, tmp_path):
    uid = made_series(tab.annotator.workspace.uploads.parent / "mixed", 3)
    tab.client.post("/api/images/refresh")
    params = {"foreground": [[9, 11, 1]], "result_extension": ".nrrd", "result_compress": False}
    answer = tab.client.post(f"/infer/{model}?image={uid}&output=image", data={"params": json.dumps(params)})
    assert answer.status_code == 200
    head, voxels = answer.content.split(b"\n\n", 1)
    assert b"encoding: raw" in head
    assert len(voxels) == 24 * 20 * 3
    params["result_compress"] = True
    answer = tab.client.post(f"/infer/{model}?image={uid}&output=image", data={"params": json.dumps(params)})
    assert b"encoding: gzip" in answer.content


def test_an_image_is_sent_for_a_while(tab, model, images):
    with (images / "scan.nii.gz").open("rb") as file:
        made = tab.client.put("/session/", files=[("files", ("scan.nii.gz", file))], data={"client_id": "1"}).json()
    session = made["session_id"]
    assert tab.client.get(f"/session/{session}").json()["image"] == "scan.nii.gz"
    params = {"foreground": [[9, 11, 6]]}
    sent = tab.client.post(
        f"/infer/{model}?image=&session_id={session}&output=json", **form({"params": json.dumps(params)})
    )
    kept = tab.client.post(f"/infer/{model}?image=scan&output=json", **form({"params": json.dumps(params)}))
    assert sent.json() == kept.json()
    assert tab.client.delete(f"/session/{session}").status_code == 200
    assert tab.client.get(f"/session/{session}").status_code == 404
    file = tab.client.post(
        f"/infer/{model}?output=json", **form({"params": json.dumps(params)}, [("file", images / "scan.nii.gz")])
    )
    assert file.json() == kept.json()


def test_labels_are_saved_where_the_page_shows_them(tab, images, tmp_path):
    voxels = np.zeros((20, 24, 12), np.uint8)
    voxels[5:15, 6:18, 3:9], voxels[1:3, 1:3, 0] = 1, 2
    path = tmp_path / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, nibabel.load(images / "scan.nii.gz").affine), path)
    params = json.dumps({"label_info": [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}], "client_id": None})
    number = tab.id("scan")
    url = f"/datastore/label?image={number}&tag=final"
    assert tab.client.put(url, **form({"params": params}, [("label", path)])).json()["image"] == number
    document = tab.get("scan", "/document").json()
    assert [one["name"] for one in document["objects"]] == ["liver", "spleen"]
    assert document["state"] == "done"
    answer = tab.client.get(f"/datastore/label?label={number}&tag=final")
    back = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    np.testing.assert_array_equal(np.asarray(back.dataobj), voxels)
    assert tab.client.get(f"/datastore/label/info?label={number}").json()["params"]["label_names"] == {
        "liver": 1,
        "spleen": 2,
    }
    assert tab.client.get("/datastore/?output=all").json()["objects"][number]["labels"]
    assert tab.client.get("/datastore/?output=train").json() == [{"image": number, "label": number}]
    assert tab.client.get("/datastore/").json()["completed"] == 1
    tab.act("scan", "undo")
    assert tab.get("scan", "/document").json()["objects"] == []
    nibabel.save(nibabel.Nifti1Image(voxels[:-1], np.eye(4)), path)
    assert tab.client.put(url, **form({"params": params}, [("label", path)])).status_code == 422


def test_images_are_added_and_fetched(tab, images, tmp_path):
    path = images / "disc2.png"
    added = tab.client.put("/datastore/?image=../../new", **form({"params": "{}"}, [("file", path)])).json()["image"]
    assert tab.client.get(f"/datastore/image?image={added}").content == path.read_bytes()
    assert (
        sorted((images / "uploaded").iterdir()) == [images / "uploaded" / "______new.png"]
        or len(list((images / "uploaded").iterdir())) == 1
    )
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG nothing")
    assert tab.client.put("/datastore/?image=b", **form({}, [("file", broken)])).status_code == 422
    program = tmp_path / "program.pkl"
    program.write_bytes(b"1")
    assert tab.client.put("/datastore/?image=c", **form({}, [("file", program)])).status_code == 415
    assert len(list((images / "uploaded").iterdir())) == 1
    series = tab.client.get(f"/datastore/image?image={tab.id('ct')}")
    assert nibabel.Nifti1Image.from_bytes(gzip.decompress(series.content)).shape == (24, 20, 4)


def test_the_next_image_is_one_that_is_not_done(tab):
    for name in ("ct", "disc2", "scan"):
        tab.act(name, "state", done=True)
    for strategy in ("first", "random"):
        chosen = tab.client.post(f"/activelearning/{strategy}", json={"client_id": None}).json()
        assert chosen["id"] == tab.id("disc10")
    tab.act("disc10", "state", done=True)
    assert tab.client.post("/activelearning/first", json={}).json() == {}
    assert tab.client.post("/activelearning/other", json={}).status_code == 404


def test_params_that_are_nested_too_deep_are_refused(tab, model):
    answer = tab.client.post(f"/infer/{model}?image=scan", data={"params": "[" * 200_000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_an_image_is_not_taken_for_a_label_map(tab, images):
    scan = nibabel.load(images / "scan.nii.gz")
    numbers = np.arange(20 * 24 * 12).reshape(20, 24, 12).astype(np.int32)
    nibabel.save(nibabel.Nifti1Image(numbers, scan.affine), images.parent / "wrong.nii.gz")
    files = {"label": ("a.nii.gz", (images.parent / "wrong.nii.gz").read_bytes())}
    answer = tab.client.put(f"/datastore/label?image={tab.id('scan')}", files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "geometry")
    assert tab.get("scan", "/document").json()["revision"] == 0


def test_names_that_are_half_a_character_are_taken(tab, images):
    scan = nibabel.load(images / "scan.nii.gz")
    labels = np.zeros((20, 24, 12), np.uint8)
    labels[4:9, 4:9, 4] = 1
    nibabel.save(nibabel.Nifti1Image(labels, scan.affine), images.parent / "labels.nii.gz")
    files = {"label": ("a.nii.gz", (images.parent / "labels.nii.gz").read_bytes())}
    data = {"params": '{"label_names": {"liver \\ud800": 1}}'}
    assert tab.client.put(f"/datastore/label?image={tab.id('scan')}", files=files, data=data).status_code == 200
    (thing,) = tab.get("scan", "/document").json()["objects"]
    assert thing["name"] == "liver ?"


def test_files_of_one_series_are_added_one_by_one(tab, tmp_path):
    made_series(tmp_path / "new", 3)
    added = set()
    for path in sorted((tmp_path / "new").iterdir()):
        files = {"file": (path.name, path.read_bytes())}
        answer = tab.client.put("/datastore/", params={"image": path.stem}, files=files)
        assert answer.status_code == 200, answer.text
        added.add(answer.json()["image"])
    assert answer.json()["image"] in tab.annotator.workspace.items
    assert len(tab.annotator.workspace.item(answer.json()["image"]).files) == 3


def test_an_upload_that_is_refused_leaves_nothing(tab, images, monkeypatch, tmp_path):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = [("files", ("a.png", (images / "disc2.png").read_bytes())), ("files", ("b.exe", b"x"))]
    assert tab.client.put("/session/", files=files).status_code == 415
    assert [path for path in tmp_path.rglob("*.png") if not path.is_relative_to(images)] == []


def test_an_upload_that_names_another_file_is_refused(tab, model, tmp_path):
    np.arange(64, dtype=np.uint8).tofile(tmp_path / "secret.raw")
    data = tmp_path / "secret.raw"
    head = "type: uchar\ndimension: 2\nsizes: 8 8\nencoding: raw"
    sly = {
        "a.nrrd": f"NRRD0004\n{head}\ndatafile: {data}\n\n",
        "b.nrrd": f"NRRD0004\n{head}\n# {'x' * 2**20}\ndata file: {data}\n\n",
        "c.mha": f"NDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementDataFile = {data}\n",
        "d.mha": f"Comment = ElementDataFile = LOCAL\nNDims = 2\nDimSize = 8 8\nElementDataFile = {data}\n",
        "e.mha": "NDims = 2\nDimSize = 8 8\nElementDataFile = LIST\na\n",
    }
    for name, content in sly.items():
        for answer in (
            tab.client.put("/session/", files={"files": (name, content)}),
            tab.client.put("/datastore/", params={"image": "sly"}, files={"file": (name, content)}),
            tab.client.post(f"/infer/{model}", files={"file": (name, content)}),
        ):
            assert answer.status_code in (415, 422), (name, answer.text)
    assert len(tab.client.get("/api/images").json()["images"]) == 4


def test_a_tiff_that_names_another_file_shows_nothing_of_it(tab, model, images, tmp_path):
    secret = np.random.default_rng(0).integers(0, 255, (12, 16), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "secret.tif", secret, metadata=None)
    for named in (str(tmp_path / "secret.tif"), "../../secret.tif", "../../../secret.tif"):
        sly_tiff(tmp_path / "sly.tif", named)
        content = ("sly.tif", (tmp_path / "sly.tif").read_bytes())
        put = tab.client.put("/datastore/", params={"image": "sly"}, files={"file": content})
        assert (put.status_code, put.json()["error"]["code"]) == (422, "read")
        infer = tab.client.post(f"/infer/{model}", files={"file": content}, data={"params": "{}"})
        assert infer.status_code == 422
    (images / "sly.tif").write_bytes(content[1])
    tab.client.post("/api/images/refresh")
    assert tab.get("sly", "/pixels", index=1).status_code == 422


def test_a_file_that_became_a_link_is_not_sent(tab, tmp_path):
    image = tab.id("disc2")
    assert tab.client.get(f"/datastore/image?image={image}").status_code == 200
    path = tab.annotator.workspace.item(image).path
    (tmp_path / "secret.png").write_bytes(b"secret")
    path.unlink()
    path.symlink_to(tmp_path / "secret.png")
    answer = tab.client.get(f"/datastore/image?image={image}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "read")
