from __future__ import annotations

from pathlib import Path

import pytest

from vesalius.core import errors


def test_sentence() -> None:
    error = errors.ReadError("is empty", path="a/b.png", remedy="copy it again")
    assert str(error) == "a/b.png: is empty; copy it again"
    assert (error.path, error.reason, error.remedy) == (Path("a/b.png"), "is empty", "copy it again")
    assert str(errors.PromptError("the prompt is empty")) == "the prompt is empty"


@pytest.mark.parametrize(
    "name", ["ReadError", "GeometryError", "PromptError", "ModelError", "ConfigError", "WriteError"]
)
def test_one_base(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.VesaliusError)
    assert name in (errors.__doc__ or "")
