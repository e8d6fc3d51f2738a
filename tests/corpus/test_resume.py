"""Curations that are disturbed: killed, run twice at once, run again with other data, out of something."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import vesalius as vs
from made_discs import COUNT, RECIPE, files, recipe
from made_tasks import DEADLY, deadly_block
from vesalius.core.errors import ReadError
from vesalius.core.files import STAND_IN, locked
from vesalius.corpus import block as block_module
from vesalius.corpus import curate as curate_module
from vesalius.corpus import resplit
from vesalius.corpus.block import Job, jobs_path
from vesalius.corpus.curate import _sources, curate, list_jobs
from vesalius.corpus.merge import split
from vesalius.corpus.profile import Profile
from vesalius.corpus.scans import Entry
from vesalius.corpus.store import Corpus

kills = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate_module, "BLOCK_ENTRIES", 5)


def interrupted(done: int, _total: int) -> None:
    if done >= 10:
        raise KeyboardInterrupt


@kills
def test_workers_die_with_their_parent_and_the_next_run_goes_on_at_once(raw: Path, tmp_path: Path) -> None:
    curate(recipe(), tmp_path / "whole", root=raw)
    code = """
import sys
from made_tasks import slow_block
from vesalius.corpus import curate as module
from vesalius.corpus.recipe import Recipe
module.BLOCK_ENTRIES, module.curate_block = 5, slow_block
module.curate(Recipe.from_toml(sys.argv[1]), sys.argv[2], root=sys.argv[3], workers=2)
"""
    toml = tmp_path / "recipe.toml"
    toml.write_text(RECIPE)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", code, toml, tmp_path / "killed", raw], env=os.environ | {"PYTHONPATH": path}
    )
    images = tmp_path / "killed" / "images"
    while not (tmp_path / "alive").exists() or len(list(images.glob(f"{STAND_IN}*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = time.time()
    curate(recipe(), tmp_path / "killed", root=raw, workers=2)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    # Had they lived on, their blocks would have taken 1.5 s.
    time.sleep(max(0.0, killed + 2 - time.time()))
    assert all(float(line) < killed + 0.5 for line in (tmp_path / "alive").read_text().split())
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_two_commands_do_not_make_one_corpus(raw: Path, tmp_path: Path) -> None:
    refused = []

    def again(_done: int, _total: int) -> None:
        with pytest.raises(vs.VesaliusError, match="another process is at work") as error:
            curate(recipe(), tmp_path / "corpus", root=raw)
        refused.append(error)

    curate(recipe(), tmp_path / "corpus", root=raw, progress=again)
    assert len(refused) == 6
    assert Corpus(tmp_path / "corpus").info.images == COUNT


def test_what_killed_processes_leave_is_swept(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        curate(recipe(), tmp_path / "corpus", root=raw, progress=interrupted)
    (tmp_path / "corpus" / "images" / f"{STAND_IN}1-a-00000.parquet").touch()
    (tmp_path / "corpus" / f"{STAND_IN}1-a-rejects.parquet").touch()

    def look(done: int, _total: int) -> None:
        # Before the disk is needed; and at the end, what workers left that were killed meanwhile.
        assert done > 10 or not list((tmp_path / "corpus").rglob(f"{STAND_IN}*"))
        (tmp_path / "corpus" / "masks" / f"{STAND_IN}2-b-00000.parquet").touch()

    curate(recipe(), tmp_path / "corpus", root=raw, progress=look)
    curate(recipe(), tmp_path / "whole", root=raw)
    assert files(tmp_path / "corpus") == files(tmp_path / "whole")


@pytest.mark.parametrize("what", ["image", "labels", "time"])
def test_other_data_do_not_go_on_with_an_unfinished_corpus(raw: Path, tmp_path: Path, what: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        curate(recipe(), tmp_path / "corpus", root=raw, progress=interrupted)
    change(raw, what)
    with pytest.raises(vs.VesaliusError, match="unfinished corpus of another recipe, other data"):
        curate(recipe(), tmp_path / "corpus", root=raw)


@pytest.mark.parametrize("what", ["image", "labels", "time"])
def test_a_finished_corpus_of_other_sizes_is_another(raw: Path, tmp_path: Path, what: str) -> None:
    info = curate(recipe(), tmp_path / "corpus", root=raw)
    change(raw, what)
    if what == "time":
        # Copied elsewhere, data have other times.
        assert curate(recipe(), tmp_path / "corpus", root=raw) == info
    else:
        with pytest.raises(vs.VesaliusError, match="holds another corpus"):
            curate(recipe(), tmp_path / "corpus", root=raw)


def change(raw: Path, what: str) -> None:
    picture = sorted((raw / "discs").rglob("*.png"))[3]
    index = next((raw / "discs").rglob("*.json"))
    if what == "time":
        os.utime(picture, (1, 1))
        return
    with (picture if what == "image" else index).open("ab") as file:
        file.write(b"\n")


def test_every_file_of_an_entry_counts(tmp_path: Path) -> None:
    dataset = recipe(root=tmp_path).datasets[0]
    (tmp_path / "series").mkdir()

    def found(image: str, **extra: object) -> list[Path]:
        entry = Entry("a", "a", tmp_path / image, (tmp_path / "l.nii",), extra=extra)
        return list(_sources(Job(entry, dataset, Profile())))

    label = tmp_path / "l.nii"
    assert found("a.nii") == [tmp_path / "a.nii", label]
    assert found("a.nii", images=["a.nii", "b.nii"]) == [tmp_path / "a.nii", tmp_path / "b.nii", label]
    assert found("series", files=["1.dcm", "2.dcm"]) == [tmp_path / "series/1.dcm", tmp_path / "series/2.dcm", label]
    assert found("a.mhd") == [tmp_path / "a.mhd", tmp_path / "a.raw", tmp_path / "a.zraw", label]
    assert found("1.dcm", files=["1.dcm"]) == [tmp_path / "1.dcm", label]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many open files")],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_trouble_of_the_machine_stops_the_run_and_is_no_reject(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, wrapped: bool
) -> None:
    curate(recipe(), tmp_path / "whole", root=raw)
    rows, count = block_module.entry_rows, 0

    def troubled(*about):
        nonlocal count
        count += 1
        if count != 8:
            yield from rows(*about)
        elif wrapped:
            raise ReadError("cannot be read") from error
        else:
            raise error

    monkeypatch.setattr(block_module, "entry_rows", troubled)
    with pytest.raises(vs.VesaliusError, match=r"cannot be read for now.*run the same command again"):
        curate(recipe(), tmp_path / "corpus", root=raw)
    assert [path.name for path in (tmp_path / "corpus" / "images").iterdir()] == ["00000.parquet"]
    curate(recipe(), tmp_path / "corpus", root=raw)
    assert files(tmp_path / "corpus") == files(tmp_path / "whole")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), PermissionError(13, "no"), OSError("cut off")])
def test_trouble_of_a_file_is_a_reject(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_):
        raise error

    monkeypatch.setattr(block_module, "entry_rows", fail)
    assert curate(recipe(), tmp_path / "corpus", root=raw).rejects == COUNT


@pytest.mark.parametrize("moment", ["listing", "plan", "folders"])
def test_interrupted_before_the_first_block_it_can_be_run_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "listing":
            keep = curate_module._keep_jobs
            patch.setattr(curate_module, "_keep_jobs", lambda *about: interrupt() if about[1] == 2 else keep(*about))
        else:
            patch.setattr(curate_module, "_start" if moment == "plan" else "_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            curate(recipe(), tmp_path / "corpus", root=raw)
    assert jobs_path(tmp_path / "corpus", 1).is_file()
    (tmp_path / "corpus" / ".curate" / f"{STAND_IN}1-a-plan.json").touch()
    curate(recipe(), tmp_path / "corpus", root=raw)
    curate(recipe(), tmp_path / "whole", root=raw)
    assert files(tmp_path / "corpus") == files(tmp_path / "whole")


@pytest.mark.parametrize("name", ["images/00000.parquet", ".curate/00000.json", "mine/thesis.tex", "a.jobs"])
def test_a_folder_with_anything_else_is_not_taken(raw: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "corpus" / name).parent.mkdir(parents=True)
    (tmp_path / "corpus" / name).touch()
    with pytest.raises(vs.VesaliusError, match="is there already and is not a corpus"):
        curate(recipe(), tmp_path / "corpus", root=raw)
    assert files(tmp_path / "corpus").keys() == {name}


def test_entries_are_handed_over_block_by_block(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"

    def stop(*_):
        shutil.copytree(tmp_path / "corpus" / ".curate", kept)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(curate_module, "_run", stop)
        with pytest.raises(KeyboardInterrupt):
            curate(recipe(), tmp_path / "corpus", root=raw)
    blocks = [pickle.loads(path.read_bytes()) for path in sorted(kept.glob("*.jobs"))]
    assert [len(block) for block in blocks] == [5, 5, 5, 5, 4]
    assert [job for block in blocks for job in block] == list(list_jobs(recipe(), raw, Counter()))


def test_two_processes_do_not_split_a_corpus_at_once(raw: Path, tmp_path: Path) -> None:
    curate(recipe(), tmp_path / "corpus", root=raw)
    before = files(tmp_path / "corpus")
    with (
        locked(tmp_path / "corpus" / "corpus.json"),
        pytest.raises(vs.VesaliusError, match="another process is at work"),
    ):
        split(tmp_path / "corpus", (0.2, 0.3, 0.5))
    assert files(tmp_path / "corpus") == before
    split(tmp_path / "corpus", (0.2, 0.3, 0.5))


def test_an_interrupted_split_is_no_corpus_until_it_is_made_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("corpus", "whole"):
        curate(recipe(), tmp_path / name, root=raw)
    split(tmp_path / "whole", (0.2, 0.3, 0.5), seed=3)
    rewrite, count = resplit.rewrite_groups, 0

    def interrupt(*about) -> None:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        rewrite(*about)

    before = files(tmp_path / "corpus")
    with monkeypatch.context() as patch:
        patch.setattr(resplit, "rewrite_groups", interrupt)
        with pytest.raises(KeyboardInterrupt):
            split(tmp_path / "corpus", (0.2, 0.3, 0.5), seed=3)
    assert len(before.items() - files(tmp_path / "corpus").items()) == 5
    with pytest.raises(vs.VesaliusError, match=r"corpus split .*corpus --shares 0.2 0.3 0.5 --seed 3` again"):
        Corpus(tmp_path / "corpus")
    with pytest.raises(vs.VesaliusError, match="its split was interrupted"):
        curate(recipe(), tmp_path / "corpus", root=raw)
    split(tmp_path / "corpus", (0.2, 0.3, 0.5), seed=3)
    assert files(tmp_path / "corpus") == files(tmp_path / "whole")
    Corpus(tmp_path / "corpus")


@kills
def test_a_file_that_kills_its_reader_is_one_reject(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = curate(recipe(), tmp_path / "whole", root=raw)
    monkeypatch.setattr(curate_module, "curate_block", deadly_block)
    info = curate(recipe(), tmp_path / "corpus", root=raw, workers=2)
    (reject,) = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert Path(reject["file"]).stem == DEADLY
    assert reject["reason"] == "its reader ended without a message (SIGKILL)"
    assert (info.images, info.rejects, info.shards) == (whole.images - 1, 1, whole.shards)
    same = files(tmp_path / "corpus").items() & files(tmp_path / "whole").items()
    assert len(same) == 2 * (whole.shards - 1)
