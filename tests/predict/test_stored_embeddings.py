"""Embeddings that are kept on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vesalius.core.errors import WriteError
from vesalius.core.types import Prompt
from vesalius.predict.load import load_model
from vesalius.predict.stored_embeddings import StoredEmbeddings


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_embeddings_on_disk_spare_the_encoder(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (300, 500), dtype=np.uint8)
    # The second is answered in a window of its own.
    prompts = [Prompt(box=(10, 10, 400, 290)), Prompt(box=(30, 40, 70, 90))]
    model = load_model(runtime=runtime)
    model.cache = StoredEmbeddings(tmp_path, model.digest, model.runs_by)
    first = model.predict(model.encode(image), prompts)
    assert len(list(tmp_path.iterdir())) == 2
    model.cache = StoredEmbeddings(tmp_path, model.digest, model.runs_by)

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(model.runtime, "encode", never)
    again = model.predict(model.encode(image), prompts)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.mask, b.mask)
        assert a.quality == b.quality
    for other in (StoredEmbeddings(tmp_path, "other", model.runs_by), StoredEmbeddings(tmp_path, model.digest, "x")):
        model.cache = other
        with pytest.raises(AssertionError, match="encoded again"):
            model.encode(image)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_embedding_is_made_anew(share: float, tmp_path: Path) -> None:
    image = np.zeros((64, 64), np.uint8)
    model = load_model(runtime="onnx")
    model.cache = StoredEmbeddings(tmp_path, model.digest, model.runs_by)
    model.encode(image)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    model.cache = StoredEmbeddings(tmp_path, model.digest, model.runs_by)
    model.encode(image)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot be made"):
        StoredEmbeddings(tmp_path / "file" / "below", "0", "x")
