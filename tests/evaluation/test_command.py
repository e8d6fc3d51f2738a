from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vesalius.cli import main


@pytest.fixture
def fake_model(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(lambda image, prompt: np.ones(image.size, np.bool_))
    monkeypatch.setattr("vesalius.predict.load.load_model", lambda name, runtime: model)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_evaluate_writes_rows_and_report(
    fake_model: None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--split", "train", "--seed", "7", "--max-objects-per-image", "1"]
    assert run("--data", data / "first", "--model", "x", "-o", out, *options) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.md")
    about = json.loads((out / "run.json").read_text())
    assert (about["split"], about["seed"], about["max_objects"], about["objects"]) == ("train", 7, 1, 12)
    assert len((out / "scores.csv").read_text().splitlines()) == 1 + 12 * 7
    assert "| fake |" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--split", "test", "split"),
        ("--seed", "-1", "seed"),
        ("--max-objects-per-image", "0", "max_objects"),
        ("--data", "absent", "no set"),
    ],
)
def test_a_bad_argument_writes_nothing(
    fake_model: None,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    said: str,
) -> None:
    out = tmp_path / "out"
    assert run("--data", data, "-o", out, option, value) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_an_unknown_model_writes_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--data", data, "-o", tmp_path / "out", "--model", "no-such-model") == 2
    assert "no-such-model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
