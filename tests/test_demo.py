from __future__ import annotations

import io
import json
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from rich.console import Console

from vesalius import demo, load_model
from vesalius.cli import main
from vesalius.core.errors import ReadError, VesaliusError
from vesalius.demo import CASES, find_image, read_case, run_demo
from vesalius.io.masks import read_mask


@pytest.fixture(scope="module")
def done(tmp_path_factory, model_folder):
    """The folder that ``vesalius demo`` wrote, its outcomes, and what it printed; the outlines mean nothing."""
    folder = tmp_path_factory.mktemp("demo") / "results"
    printed = io.StringIO()
    outcomes = run_demo(folder, load_model(model_folder), Console(file=printed, width=120))
    return folder, outcomes, printed.getvalue()


def test_there_are_enough_images_and_modalities():
    assert len(CASES) >= 8
    assert len({case.modality.split()[0] for case in CASES}) >= 5
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_image_is_installed_and_its_prompts_lie_on_it(case):
    image = read_case(case)
    for prompt in case.prompts:
        prompt.check(image.size)
    if case.view is not None:
        x0, y0, x1, y1 = case.view
        assert 0 <= x0 < x1 <= image.size[1]
        assert 0 <= y0 < y1 <= image.size[0]


def test_finding_an_image_does_not_import_its_package(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] in ("skimage", "nibabel", "pydicom")]:
        monkeypatch.delitem(sys.modules, name)
    for case in CASES:
        assert find_image(case).is_file()
    assert not {"skimage", "nibabel", "pydicom"} & set(sys.modules)


def test_every_case_leaves_a_mask_and_an_overlay(done):
    folder, outcomes, _ = done
    expected = {"contact_sheet.png", "demo.json"}
    for case in CASES:
        expected |= {f"{case.name}_mask{case.suffix}", f"{case.name}_overlay.png"}
    assert {path.name for path in folder.iterdir()} == expected
    for outcome in outcomes:
        with Image.open(folder / f"{outcome.case.name}_overlay.png") as picture:
            assert max(picture.size) >= max(768, *outcome.image.size)


def test_masks_carry_the_place_of_their_image(done):
    folder, outcomes, _ = done
    kinds = set()
    for outcome in outcomes:
        case, path = outcome.case, folder / f"{outcome.case.name}_mask{outcome.case.suffix}"
        union = np.any([prediction.mask for prediction in outcome.predictions], axis=0)
        source = find_image(case)
        kinds.add(case.suffix)
        if case.suffix in (".nii", ".nii.gz") and source.name.endswith(case.suffix):
            mask, image = nibabel.load(path), nibabel.load(source)
            assert mask.shape == image.shape[:3]
            np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)
            np.testing.assert_array_equal(np.asarray(mask.dataobj)[:, :, case.index].T > 0, union)
        elif case.suffix == ".dcm":
            mask, image = pydicom.dcmread(path), pydicom.dcmread(source)
            assert mask.Modality == "SEG"
            assert (mask.Rows, mask.Columns) == (image.Rows, image.Columns)
            assert mask.get("FrameOfReferenceUID") == image.get("FrameOfReferenceUID")
        elif len(outcome.predictions) == 1:
            np.testing.assert_array_equal(read_mask(path, like=outcome.image), union)
    assert {".png", ".nii.gz", ".dcm"} <= kinds


def test_the_record_says_what_was_done(done):
    folder, outcomes, _ = done
    records = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert [record["name"] for record in records] == [case.name for case in CASES]
    for record, outcome in zip(records, outcomes, strict=True):
        assert record["model"]["name"] == "random"
        assert record["credit"]
        assert (folder / record["mask"]).is_file()
        qualities = [found["predicted_iou"] for found in record["objects"]]
        assert qualities == [prediction.quality for prediction in outcome.predictions]


def test_the_table_names_every_case_and_its_times(done):
    _, outcomes, printed = done
    for outcome in outcomes:
        (line,) = (line for line in printed.splitlines() if line.strip().startswith(f"{outcome.case.title} "))
        assert f"{1000 * outcome.encode_seconds:.0f}" in line.split()
        assert all(seconds > 0 for seconds in (outcome.encode_seconds, outcome.first_seconds, outcome.next_seconds))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, tmp_path, model_folder):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(ReadError, match=r'scikit-image.*pip install "vesalius\[demo\]"'):
        run_demo(tmp_path / "out", load_model(model_folder), Console(file=io.StringIO()))
    assert not (tmp_path / "out").exists()


def test_a_package_without_its_images_is_named():
    with pytest.raises(ReadError, match="came without its image"):
        find_image(replace(CASES[0], file="data/absent.png"))


def test_a_case_that_cannot_be_written_leaves_nothing(tmp_path, model_folder):
    film = next(case for case in CASES if case.time and case.package == "pydicom")
    cases = [CASES[0], replace(film, suffix=".dcm")]
    with pytest.raises(VesaliusError, match=f"{film.name}_mask.dcm"):
        run_demo(tmp_path / "out", load_model(model_folder), Console(file=io.StringIO()), cases)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder(capsys, tmp_path, model_folder):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "-o", str(tmp_path / "out"), "--model", str(model_folder)])
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "out").read_text() == "mine"
