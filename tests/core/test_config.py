from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError


class Inner(Config):
    rate: float = 0.1


class Outer(Config):
    steps: int
    inner: Inner = Inner()


def _toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_toml(tmp_path: Path) -> None:
    config = Outer.from_toml(_toml(tmp_path, "steps = 3\n[inner]\nrate = 0.5\n"))
    assert config == Outer(steps=3, inner=Inner(rate=0.5))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("steps = 3\nstepz = 4\n", "stepz: Extra inputs"),
        ("steps = 3\n[inner]\nrat = 1\n", "inner.rat: Extra inputs"),
        ("steps = 'many'\n", "steps: Input should be a valid integer"),
        ("", "steps: Field required"),
        ("steps = \n", "is not valid TOML"),
    ],
)
def test_bad_values(tmp_path: Path, text: str, match: str) -> None:
    path = _toml(tmp_path, text)
    with pytest.raises(ConfigError, match=match) as caught:
        Outer.from_toml(path)
    assert caught.value.path == path
    assert str(caught.value).startswith(str(path))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Outer.from_toml(tmp_path / "no.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        Outer.from_toml(tmp_path / "a.toml")


def test_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer(steps=3).steps = 4
