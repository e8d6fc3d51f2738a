import json

import pytest

from vesalius.cli import main


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")


def run(*arguments):
    try:
        main(list(arguments))
    except SystemExit as stop:
        return stop.code
    return 0


def test_vocabulary_shows_a_target(capsys):
    assert run("vocabulary", "kidney_right") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "target: right kidney"
    assert {"group: abdomen", "organ: kidney", "laterality: right", "snomed: 64033007"} < set(out)


def test_vocabulary_takes_words_and_shows_modalities(capsys):
    assert run("vocabulary", "T1", "GD", "MRI") == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["modality: mr_t1ce", "kind of: mr_t1, mr"]
    assert run("vocabulary", "t1") == 0
    out = capsys.readouterr().out
    assert "target: vertebra T1\n" in out
    assert "modality: mr_t1\n" in out


def test_vocabulary_suggests_but_does_not_guess(capsys):
    assert run("vocabulary", "livver") == 2
    out, told = capsys.readouterr()
    assert out == ""
    assert "no 'livver'" in told
    assert "liver" in told.split("names like it:")[1]


def test_datasets_prints_a_table(capsys):
    assert run("datasets", "--paper", "sam-med2d") == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("9 data sets")
    assert "ToothFairy2023" in out


def test_datasets_shows_one(capsys):
    assert run("datasets", "amos22") == 0
    out = capsys.readouterr().out
    assert "also called: AMOS22, AMOS2022, AMOS-CT, AMOS-MR" in out
    assert "medsam (table 2): AMOS-MR, training and internal, mr, 40 scans, https://amos22" in out
    assert "sa-med2d-20m (table 2): AMOS22, training and internal, ct and mr, may be redistributed" in out


def test_datasets_as_json(capsys):
    assert run("datasets", "--modality", "oct", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == ["Intraretinal Cystoid Fluid", "OCT Images (DME)"]
    assert found[1]["uses"][0]["count"] == 610


@pytest.mark.parametrize("asked", [["no such set"], ["--modality", "smell"], ["WORD", "--modality", "mr"]])
def test_what_is_not_there_is_an_error(capsys, asked):
    assert run("datasets", *asked) == 2
    assert "there is no" in capsys.readouterr().err
