from __future__ import annotations

import errno
import json
import pickle
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pycocotools.coco import COCO

from vesalius import __version__
from vesalius.cli import main, parse_box, parse_point
from vesalius.core.errors import PromptError
from vesalius.models.checkpoint import save_checkpoint
from words import imis, write_tokenizer

DICOM = Path(find_spec("pydicom").submodule_search_locations[0]) / "data" / "test_files"
NIFTI = Path(find_spec("nibabel").submodule_search_locations[0]) / "tests" / "data"


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def picture(tmp_path):
    """A 60 x 40 grey picture of a bright disc around (30, 20)."""
    y, x = np.mgrid[:40, :60]
    pixels = np.where((x - 30) ** 2 + (y - 20) ** 2 < 100, 200, 50).astype(np.uint8)
    path = tmp_path / "disc.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run(capsys, model_folder):
    """Runs a command with a small random network; returns (exit code, standard output, standard error)."""

    def run(*arguments, model=model_folder):
        code = 0
        try:
            main([str(argument) for argument in (*arguments, *(["--model", model] if model else []))])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(run, tmp_path):
    """Runs a command that must fail: code 2, one line on standard error, no file made or changed."""

    def refused(*arguments, **options):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        code, out, err = run(*arguments, **options)
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert code == 2
        assert out == ""
        assert err.startswith("vesalius: ")
        assert err.count("\n") == 1
        assert after == before
        return err

    return refused


def test_version_and_help(run):
    assert run("--version", model=None) == (0, f"vesalius {__version__}\n", "")
    code, out, _ = run("--help", model=None)
    assert code == 0
    assert "segment" in out
    assert "demo" in out


def test_help_does_not_wait_for_heavy_imports():
    script = (
        "import sys\n"
        "from vesalius.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'SimpleITK', 'pydicom', 'nibabel', 'scipy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "", "1;2;3;4"])
def test_what_is_no_box(text):
    with pytest.raises(PromptError, match="is not four numbers"):
        parse_box(text)


def test_boxes_and_points_are_parsed():
    assert parse_box("1,2.5, 3,4") == (1, 2.5, 3, 4)
    assert parse_point("1,2") == (1, 2, 1)
    assert parse_point("1,2,+") == (1, 2, 1)
    assert parse_point("-1.5, 2, -") == (-1.5, 2, 0)


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,2,+,-", "x,y", "", "1,2,0"])
def test_what_is_no_point(text):
    with pytest.raises(PromptError, match="is not two numbers"):
        parse_point(text)


def test_a_picture_gives_a_visible_mask_an_overlay_and_a_record(run, picture, tmp_path):
    out, overlay, record = tmp_path / "mask.png", tmp_path / "overlay.png", tmp_path / "record.json"
    code, said, err = run(
        "segment", picture, "--box", "18,8,43,33", "--point", "30,20", "--point", "2,2,-",
        "-o", out, "--overlay", overlay, "--json", record,
    )  # fmt: skip
    assert (code, err) == (0, "")
    mask = _pixels(out)
    assert mask.shape == (40, 60)
    assert set(np.unique(mask)) == {0, 255}
    assert _pixels(overlay).shape[2] == 3
    told = json.loads(record.read_text())
    (found,) = told["objects"]
    assert found["prompt"] == {"box": [18, 8, 43, 33], "points": [[30, 20], [2, 2]], "labels": [1, 0]}
    rows, columns = np.nonzero(mask)
    assert found["area_px"] == len(rows)
    assert found["area_mm2"] is None
    assert found["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert 0 <= found["predicted_iou"] <= 1
    assert told["vesalius"] == __version__
    assert told["model"]["name"] == "random"
    assert len(told["model"]["digest"]) == 64
    assert told["input"] == str(picture)
    assert (told["width"], told["height"]) == (60, 40)
    assert told["mask"] == str(out)
    assert said == f"object 1: predicted IoU {found['predicted_iou']:.2f}, {len(rows)} px\nrandom, run by torch fp32\n"


def test_a_dash_prints_the_record_alone(run, picture):
    code, out, _ = run("segment", picture, "--box", "18,8,43,33", "--json", "-")
    assert code == 0
    assert len(json.loads(out)["objects"]) == 1


def test_several_boxes_give_numbered_objects(run, picture, tmp_path):
    out = tmp_path / "mask.png"
    code, said, _ = run("segment", picture, "--box", "0,0,20,20", "--box", "30,10,58,38", "-o", out)
    assert code == 0
    assert said.count("object") == 2
    numbers = _pixels(out)
    assert set(np.unique(numbers)) == {0, 1, 2}
    assert (np.argwhere(numbers == 1) < 25).all()
    assert (np.argwhere(numbers == 2)[:, 1] > 25).all()


def test_a_slice_of_a_volume_keeps_its_geometry(run, tmp_path):
    out, record = tmp_path / "mask.nii.gz", tmp_path / "record.json"
    source = NIFTI / "example4d.nii.gz"
    code, _, err = run(
        "segment", source, "--slice", 18, "--time", 1, "--box", "31,4,97,90", "-o", out, "--json", record
    )
    assert (code, err) == (0, "")
    mask, image = nibabel.load(out), nibabel.load(source)
    assert mask.shape == image.shape[:3]
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)
    values = np.asarray(mask.dataobj)
    assert values[:, :, 18].any()
    assert not values[:, :, :18].any()
    assert not values[:, :, 19:].any()
    told = json.loads(record.read_text())
    assert (told["slice"], told["axis"], told["time"]) == (18, "z", 1)
    found = told["objects"][0]
    assert found["area_mm2"] == pytest.approx(found["area_px"] * 2.0 * 2.0)


def test_a_window_is_kept_in_the_record(run):
    code, out, _ = run("segment", DICOM / "CT_small.dcm", "--window", "bone", "--box", "41,6,79,49", "--json", "-")
    assert code == 0
    assert json.loads(out)["window"] == {"low": -500, "high": 1300}
    code, out, _ = run("segment", DICOM / "CT_small.dcm", "--window", "40/80", "--box", "41,6,79,49", "--json", "-")
    assert code == 0
    assert json.loads(out)["window"] == {"low": 0, "high": 80}


def test_a_rough_mask_is_a_prompt(run, picture, tmp_path):
    rough = np.zeros((40, 60), np.uint8)
    rough[10:30, 20:40] = 255
    Image.fromarray(rough).save(tmp_path / "rough.png")
    code, out, _ = run("segment", picture, "--mask", tmp_path / "rough.png", "--json", "-")
    assert code == 0
    assert json.loads(out)["objects"][0]["prompt"]["mask"] == str(tmp_path / "rough.png")


def test_a_name_is_a_prompt(run, picture, tmp_path):
    save_checkpoint(imis(), tmp_path / "imis")
    write_tokenizer(tmp_path / "imis")
    arguments = ("segment", picture, "--text", "Left_Kidney", "--json", "-")
    code, out, err = run(*arguments, "-o", tmp_path / "out.png", model=tmp_path / "imis")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)["objects"]
    assert found["prompt"] == {"box": None, "points": [], "labels": [], "text": "Left_Kidney"}
    assert int((_pixels(tmp_path / "out.png") > 0).sum()) == found["area_px"]

    other = json.loads(run(*arguments[:-3], "spleen", "--json", "-", model=tmp_path / "imis")[1])["objects"][0]
    assert other["predicted_iou"] != found["predicted_iou"]
    boxed = json.loads(run(*arguments, "--box", "18,8,43,33", model=tmp_path / "imis")[1])["objects"][0]
    assert boxed["prompt"]["box"] == [18, 8, 43, 33]
    assert boxed["predicted_iou"] != found["predicted_iou"]


EVERYTHING = ("--side", 6, "--min-quality", 0, "--min-stability", 0, "--max-overlap", 0.5)


def test_everything_gives_numbered_outlines_a_picture_and_a_coco_file(run, picture, tmp_path):
    out, overlay, record = tmp_path / "numbers.png", tmp_path / "overlay.png", tmp_path / "found.json"
    code, said, err = run("everything", picture, *EVERYTHING, "-o", out, "--overlay", overlay, "--json", record)
    assert (code, err) == (0, "")
    told = json.loads(record.read_text())
    found = told["annotations"]
    assert said.splitlines()[0] == f"{len(found)} outline{'s' if len(found) > 1 else ''}"
    assert told["vesalius"] == __version__
    assert len(told["model"]["digest"]) == 64
    assert told["settings"]["side"] == 6
    assert told["settings"]["offset"] == 1.0
    assert told["mask"] == str(out)
    numbers = _pixels(out)
    assert numbers.shape == (40, 60)
    assert set(np.unique(numbers)) <= set(range(len(found) + 1))
    assert _pixels(overlay).shape[2] == 3

    opened = COCO(record)
    assert opened.loadImgs(1)[0]["file_name"] == "disc.png"
    for annotation in opened.loadAnns(opened.getAnnIds(imgIds=1)):
        mask = opened.annToMask(annotation) > 0
        assert mask.shape == (40, 60)
        assert mask.sum() == annotation["area"]
        # Others lie only on a larger one.
        assert (numbers[mask] > 0).all()
    smallest = min(found, key=lambda annotation: annotation["area"])
    assert (numbers == smallest["id"]).sum() == smallest["area"]


def test_everything_of_a_slice_keeps_its_geometry(run, tmp_path):
    out = tmp_path / "numbers.nii.gz"
    chosen = ("--slice", 18, "--time", 1, "--crop-layers", 1, "--min-area", 20)
    code, printed, err = run("everything", NIFTI / "example4d.nii.gz", *chosen, *EVERYTHING, "-o", out, "--json", "-")
    assert (code, err) == (0, "")
    told = json.loads(printed)
    assert (told["slice"], told["time"], told["settings"]["crop_layers"]) == (18, 1, 1)
    values = np.asarray(nibabel.load(out).dataobj)
    assert values[:, :, 18].any()
    assert not np.delete(values, 18, axis=2).any()


def test_everything_may_be_nothing(run, picture, tmp_path):
    code, said, _ = run("everything", picture, "--side", 2, "--min-quality", 1, "-o", tmp_path / "numbers.png")
    assert code == 0
    assert said.startswith("0 outlines\n")
    assert not _pixels(tmp_path / "numbers.png").any()


def test_existing_outputs_are_replaced(run, picture, tmp_path):
    out = tmp_path / "mask.png"
    out.write_text("old")
    assert run("segment", picture, "--box", "18,8,43,33", "-o", out)[0] == 0
    assert _pixels(out).shape == (40, 60)


# What is refused


def test_a_name_for_a_model_without_words(refused, picture, tmp_path):
    err = refused("segment", picture, "--text", "liver", "-o", tmp_path / "out.png")
    assert "no text head, so it does not understand 'liver'" in err


def test_a_name_without_a_tokenizer(refused, picture, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("imis")
    save_checkpoint(imis(), folder)
    err = refused("segment", picture, "--text", "liver", "-o", tmp_path / "out.png", model=folder)
    assert "no tokenizer lay beside the weights" in err
    assert "hf download" in err


def test_a_missing_file(refused, tmp_path):
    err = refused("segment", tmp_path / "no.png", "--box", "1,1,5,5", "-o", tmp_path / "out.png")
    assert str(tmp_path / "no.png") in err


def _png(width, height):
    """The bytes of a PNG that claims a size and holds no such pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def _truncated(path):
    whole = (NIFTI / "anatomical.nii").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _volume(values):
    def write(path):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)

    return write


UNDECODABLE = "1.2.840.10008.1.2.4.100"  # MPEG2


def _undecodable(path):
    dataset = pydicom.dcmread(DICOM / "JPEG2000.dcm")
    dataset.file_meta.TransferSyntaxUID = UNDECODABLE
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("cut.nii", _truncated, "cut short"),
        ("text.png", lambda path: path.write_text("no picture"), "is not a PNG image"),
        ("text.xyz", lambda path: path.write_text("no picture at all"), "is not an image of a known kind"),
        ("nothing.png", lambda path: path.write_bytes(b""), "empty"),
        ("nan.nii.gz", _volume(np.full((8, 8, 1), np.nan, np.float32)), "NaN"),
        ("constant.nii.gz", _volume(np.full((8, 8, 1), 7, np.float32)), "constant"),
        ("flat.png", lambda path: Image.new("L", (8, 8), 3).save(path), "constant"),
        ("zero.png", lambda path: path.write_bytes(_png(0, 8)), "zero.png"),
        ("bomb.png", lambda path: path.write_bytes(_png(60000, 60000)), "bomb"),
        ("mpeg.dcm", _undecodable, "cannot be decoded"),
    ],
)
def test_a_bad_image(refused, tmp_path, name, write, reason):
    write(tmp_path / name)
    err = refused("segment", tmp_path / name, "--box", "1,1,5,5", "-o", tmp_path / "out.png")
    assert name in err
    assert reason in err


def test_a_constant_slice(refused, tmp_path):
    values = np.zeros((8, 8, 2), np.float32)
    values[:, :, 1] = np.arange(64).reshape(8, 8)
    _volume(values)(tmp_path / "a.nii.gz")
    err = refused("segment", tmp_path / "a.nii.gz", "--slice", 0, "--box", "1,1,5,5", "-o", tmp_path / "out.png")
    assert "slice 0 along z is constant" in err


def _series(folder, heights, uids):
    folder.mkdir()
    for i, (height, uid) in enumerate(zip(heights, uids, strict=True)):
        dataset = pydicom.dcmread(DICOM / "CT_small.dcm")
        dataset.ImagePositionPatient[2] = height
        dataset.SeriesInstanceUID = uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i}"
        dataset.save_as(folder / f"{i}.dcm")


@pytest.mark.parametrize(
    ("heights", "uids", "reason"),
    [([0, 5, 15, 20], ["1.2"] * 4, "missing"), ([0, 5, 10], ["1.2", "1.2", "1.3"], "2 DICOM series")],
)
def test_a_bad_series(refused, tmp_path, heights, uids, reason):
    _series(tmp_path / "series", heights, uids)
    err = refused("segment", tmp_path / "series", "--slice", 0, "--box", "1,1,5,5", "-o", tmp_path / "out.nii.gz")
    assert reason in err


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (["--box", "10,10,90,30"], "reaches outside"),
        (["--box", "-1,10,20,30"], "reaches outside"),
        (["--box", "30,10,20,30"], "inverted"),
        (["--box", "30,10,20"], "not four numbers"),
        (["--box", "nan,1,20,30"], "finite"),
        (["--point", "60,20"], "lies outside"),
        (["--point", "-1,-5"], "lies outside"),
        (["--point", "1,5,-"], "background points alone"),
        (["--box", "1,1,9,9", "--box", "20,20,30,30", "--point", "15,15"], "none of the 2 boxes"),
        ([], "prompt is empty"),
    ],
)
def test_a_bad_prompt(refused, picture, tmp_path, prompt, reason):
    assert reason in refused("segment", picture, *prompt, "-o", tmp_path / "out.png")


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.full((40, 61), 255, np.uint8), "61 x 40"),
        (np.zeros((40, 60), np.uint8), "empty"),
        (np.arange(2400, dtype=np.uint16).reshape(40, 60), "different values"),
    ],
)
def test_a_bad_mask(refused, picture, tmp_path, mask, reason):
    if not mask.any() or mask.all():
        mask = mask.copy()
        mask[0, 0] = 0
    Image.fromarray(mask).save(tmp_path / "rough.png")
    err = refused("segment", picture, "--mask", tmp_path / "rough.png", "-o", tmp_path / "out.png")
    assert reason in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "a slice index from 0 to 23"),
        (["--slice", "24"], "slice 24 along z is outside 0 to 23"),
        (["--slice", "3", "--axis", "t"], "no axis 't'"),
        (["--slice", "3", "--window", "liver"], "no window 'liver'"),
        (["--slice", "3", "--window", "40/0"], "no positive width"),
    ],
)
def test_a_bad_choice(refused, tmp_path, options, reason):
    path = NIFTI / "example4d.nii.gz"
    err = refused("segment", path, "--time", 0, "--box", "1,1,5,5", *options, "-o", tmp_path / "out.nii.gz")
    assert reason in err


def test_a_time_point_must_be_chosen(refused, tmp_path):
    path = NIFTI / "example4d.nii.gz"
    err = refused("segment", path, "--slice", 0, "--box", "1,1,5,5", "-o", tmp_path / "out.nii.gz")
    assert "time point" in err


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (["-o", "absent/out.png"], "folder does not exist"),
        (["-o", "out.png", "--json", "absent/out.json"], "folder does not exist"),
        (["-o", "out.jpg"], "no mask can be written"),
        (["-o", "out"], "no mask can be written"),
        (["-o", "out.png", "--overlay", "overlay.jpg"], "PNG"),
        (["-o", "disc.png"], "is the input itself"),
        (["-o", "out.png", "--overlay", "out.png"], "two outputs"),
        (["-o", "out.dcm", "--overlay", "overlay.png", "--json", "out.json"], "DICOM segmentation"),
        ([], "no output is named"),
    ],
)
def test_a_bad_output(refused, picture, monkeypatch, outputs, reason):
    monkeypatch.chdir(picture.parent)
    err = refused("segment", "disc.png", "--box", "18,8,43,33", *outputs)
    assert reason in err
    assert ".vesalius-" not in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "no output is named"),
        (["-o", "out.json"], "no mask can be written"),
        (["-o", "out.png", "--side", "0"], "side"),
        (["-o", "out.png", "--min-quality", "1.5"], "min_quality"),
        (["-o", "out.png", "--json", "disc.png"], "is the input itself"),
        (["-o", "out.png", "--slice", "3"], "slice 3 along z is outside"),
    ],
)
def test_everything_that_makes_no_sense(refused, picture, monkeypatch, options, reason):
    monkeypatch.chdir(picture.parent)
    assert reason in refused("everything", "disc.png", *options)


def test_everything_in_a_constant_picture(refused, tmp_path):
    Image.new("L", (8, 8), 3).save(tmp_path / "flat.png")
    assert "constant" in refused("everything", tmp_path / "flat.png", "--overlay", tmp_path / "overlay.png")


def test_outputs_are_checked_before_the_model_is_loaded(refused, picture, tmp_path):
    err = refused("segment", picture, "--box", "1,1,9,9", "-o", tmp_path / "out.jpg", model="no-such-model")
    assert "out.jpg" in err


def test_an_unknown_model(refused, picture, tmp_path):
    err = refused("segment", picture, "--box", "1,1,9,9", "-o", tmp_path / "out.png", model="no-such-model")
    assert "no-such-model" in err


class _Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_that_would_run_code(refused, picture, tmp_path):
    marker, path = tmp_path / "was_run", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"weight": _Malicious(marker)}, protocol=2))
    err = refused("segment", picture, "--box", "1,1,9,9", "-o", tmp_path / "out.png", model=path)
    assert "evil.pth" in err
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the same bytes do run code where nobody minds
    assert marker.exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "vesalius: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y.png"), "vesalius: /x/y.png: Permission denied\n"),
        (OSError("the device\nis gone"), "vesalius: the device is gone\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(refused, monkeypatch, error, told):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr("vesalius.predict.load.load_model", broken)
    assert refused("demo", "-o", "x", model=None) == told


def test_an_error_nobody_foresaw_is_not_hidden(run, picture, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("vesalius.predict.overlay.draw_overlay", broken)
    with pytest.raises(ZeroDivisionError):
        run(
            "segment", picture, "--box", "18,8,43,33", "-o", tmp_path / "out.png", "--overlay", tmp_path / "overlay.png"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["disc.png"]
