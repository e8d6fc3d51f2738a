"""The record of a run."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import vesalius
from vesalius import __version__
from vesalius.training.monitor import revision, write_run


def git(folder: Path, *command: str) -> str:
    person = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    line = ["git", "-C", str(folder), *person, *command]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_is_recorded_with_what_made_it(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("peft")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(vesalius, "__file__", str(package / "__init__.py"))
    assert revision() is None  # as of an installed package
    git(tmp_path, "init", "--quiet")
    assert revision() is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    write_run(tmp_path, {"steps": 3, "step": 1})
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["version"], record["revision"], record["steps"]) == (__version__, head, 3)
    assert record["peft"] == version("peft")
    (package / "__init__.py").write_text("changed = True")
    assert revision() == head + "+"
