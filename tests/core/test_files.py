from pathlib import Path

import pytest

from vesalius.core.files import replacing


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_text("old")
    with replacing(path) as written:
        assert written.name.endswith(".nii.gz")
        written.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_all_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as written:
            written.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
