from pathlib import Path

import pytest

import vesalius as vs
from vesalius.core.files import STAND_IN, file_digest, locked, remove_stand_ins, replacing


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


def test_two_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with replacing(path) as one:
        with replacing(path) as other:
            one.write_text("one")
            other.write_text("other")
        assert path.read_text() == "other"
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (f"{STAND_IN}7-ab-mask.png", "mask.png", ".mask.png"):
        (tmp_path / name).touch()
    remove_stand_ins(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mask.png", "mask.png"]
    remove_stand_ins(tmp_path / "absent")


def test_one_alone_holds_a_lock(tmp_path: Path) -> None:
    for _ in range(2):
        refused = pytest.raises(vs.VesaliusError, match="another process is at work")
        with locked(tmp_path / "lock"), refused, locked(tmp_path / "lock"):
            pass


def test_the_digest_of_a_file_is_the_one_that_is_published_for_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1; RFC 1321, appendix A.5.
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "abc", "md5") == "900150983cd24fb0d6963f7d28e17f72"
