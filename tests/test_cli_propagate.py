"""``vesalius propagate``: from a NIfTI file to a label volume and a record."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

import vesalius as vs
from vesalius import __version__
from vesalius.cli import main, on_slices
from vesalius.core.errors import PromptError


def made_scan(folder, shrinks):
    """A slanted NIfTI of 10 slices along z, on all but the first a bright, shrinking disc; and its (x, y, z).

    Its radius is 9 pixels on slice 5, and less by ``shrinks`` pixels with each slice from there.
    """
    x, y, z = np.mgrid[:40, :32, :10]
    disc = ((x - 18) ** 2 + (y - 15) ** 2 < (9 - shrinks * np.abs(z - 5)) ** 2) & (z > 0)
    values = np.random.default_rng(0).normal(np.where(disc, 700, 200), 30).astype(np.int16)
    affine = np.diag([0.8, -0.7, 3.0, 1.0])
    affine[:3, 3] = (-10, 20, 5)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, turn @ affine), path)
    return path, disc


@pytest.fixture
def scan(tmp_path):
    return made_scan(tmp_path, 0.5)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = 0
        try:
            main(["propagate", *(str(argument) for argument in arguments)])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_label_volume_lies_where_the_input_does(run, scan, tmp_path):
    path, disc = scan
    out, told = tmp_path / "out.nii.gz", tmp_path / "out.json"
    code, printed, _ = run(path, "--slice", 5, "--box", "9,6,28,25", "-o", out, "--json", told)
    assert code == 0
    labels, image = nibabel.load(out), nibabel.load(path)
    assert labels.shape == image.shape
    np.testing.assert_allclose(labels.affine, image.affine, atol=1e-6)
    found = np.asarray(labels.dataobj)
    assert set(np.unique(found)) == {0, 1}
    assert 2 * (found * disc).sum() / (found.sum() + disc.sum()) > 0.9
    record = json.loads(told.read_text())
    assert record["vesalius"] == __version__
    assert len(record["model"]["digest"]) == 64
    assert record["rules"]["least_grey"] == 0.6
    assert record["voxels"] == found.sum()
    assert record["volume_mm3"] == pytest.approx(found.sum() * 0.8 * 0.7 * 3.0, rel=1e-5)
    assert [one["slice"] for one in record["slices"]] == list(range(10))
    assert {tuple(one["keys"]) for one in record["slices"]} == {(5,)}
    assert record["slices"][5]["prompt"]["box"] == [9, 6, 28, 25]
    assert f"slices 1 to 9: {found.sum()} voxels" in printed
    assert record["slices"][0]["stop"]["rule"] == "grey"
    assert "stopped at slice 0: grey" in printed


@pytest.mark.xfail(reason="the outline of slice 1, a disc of radius 5, takes in too much ground for the rule on grey")
def test_a_disc_that_shrinks_fast_is_carried_to_its_end(run, tmp_path):
    path, disc = made_scan(tmp_path, 1)
    out = tmp_path / "out.nii.gz"
    assert run(path, "--slice", 5, "--box", "9,6,28,25", "-o", out)[0] == 0
    found = np.asarray(nibabel.load(out).dataobj)
    assert found.any((0, 1)).tolist() == disc.any((0, 1)).tolist()


def test_a_prompt_at_which_nothing_was_found_is_told(run, scan, monkeypatch):
    path, _ = scan
    monkeypatch.setattr(
        "vesalius.predict.propagate_file.accept", lambda *given, axis: {5: vs.Prediction(np.zeros((32, 40), bool), 0.1)}
    )
    code, printed, _ = run(path, "--box", "5:9,6,28,25", "-o", path.with_name("out.nii.gz"))
    assert code == 0
    assert printed.splitlines()[:2] == [
        "empty",
        "slice 5: nothing was found at its prompt, so nothing is carried past it",
    ]


def test_nothing_is_carried_past_a_slice_that_the_object_is_not_on(run, scan):
    path, _ = scan
    code, printed, err = run(path, "--box", "5:9,6,28,25", "--absent", 7, "--absent", 3, "--json", "-")
    assert (code, err) == (0, "")
    record = json.loads(printed)
    assert record["absent"] == [3, 7]
    assert [one["slice"] for one in record["slices"]] == [3, 4, 5, 6, 7]
    assert [bool(one["area_px"]) for one in record["slices"]] == [False, True, True, True, False]


def test_several_slices_along_another_axis_and_a_rule(run, scan):
    path, _ = scan
    code, printed, _ = run(
        path, "--axis", "x", "--slice", 14, "--slice", 22, "--box", "7,2,23,9", "--box", "7,2,23,9", "--json", "-",
        "--most-change", 1.01,
    )  # fmt: skip
    assert code == 0
    record = json.loads(printed)
    assert record["axis"] == "x"
    assert [one["slice"] for one in record["slices"] if "prompt" in one] == [14, 22]
    assert {tuple(one["keys"]) for one in record["slices"] if 14 < one["slice"] < 22} == {(14, 22)}
    assert {one["stop"]["rule"] for one in record["slices"] if one["stop"]} <= {"grew", "shrank"}
    assert record["rules"]["most_change"] == 1.01


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--slice", "10", "--box", "1,1,9,9"], "slice 10 along z is outside 0 to 9"),
        (["--slice", "3", "--box", "1,1,9,99"], "reaches outside"),
        (["--slice", "3"], "slice 3 has no prompt"),
        ([], "no slice has a prompt"),
        (["--box", "1,1,9,9"], "names no slice"),
        (["--slice", "3", "--slice", "4", "--box", "1,1,9,9"], "names no slice"),
        (["--box", "3:1,1,9,9", "--box", "3:1,1,8,8"], "slice 3 has two boxes"),
        (["--box", "three:1,1,9,9"], "begins with no slice"),
        (["--point", "3:5,5,-"], "background points alone"),
        (["--box", "3:1,1,9,9", "--absent", "3"], "said not to be on it"),
        (["--box", "3:1,1,9,9", "--absent", "10"], "slice 10 along z is outside 0 to 9"),
        (["--absent", "3"], "no slice has a prompt"),
        (["--slice", "3", "--box", "1,1,9,9", "--axis", "t"], "no axis 't'"),
        (["--slice", "3", "--box", "1,1,9,9", "--most-change", "1"], "most_change"),
        (["--slice", "3", "--box", "1,1,9,9", "-o", "OUT/out.png"], "cannot hold a volume"),
        (["--slice", "3", "--box", "1,1,9,9", "-o", "OUT/absent/out.nii"], "folder does not exist"),
    ],
)
def test_bad_input_is_told_in_one_line_and_nothing_is_written(run, scan, tmp_path, arguments, reason):
    path, _ = scan
    given = [argument.replace("OUT", str(tmp_path)) for argument in arguments]
    code, out, err = run(path, *given, *([] if "-o" in given else ["-o", tmp_path / "out.nii.gz"]))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert reason in err
    assert [found.name for found in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_an_output_must_be_named(run, scan):
    code, _, err = run(scan[0], "--slice", 3, "--box", "1,1,9,9")
    assert (code, "no output is named" in err) == (2, True)


def test_prompts_find_their_slices():
    assert on_slices(["a", "b"], [4], "box") == [(4, "a"), (4, "b")]
    assert on_slices(["a", "7:c", "b"], [4, 5], "box") == [(4, "a"), (7, "c"), (5, "b")]
    assert on_slices(["7:c"], [4, 5], "box") == [(7, "c")]
    with pytest.raises(PromptError, match="3 slices for 2"):
        on_slices(["a", "b"], [4, 5, 6], "box")
