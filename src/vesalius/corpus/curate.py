"""From a recipe to a corpus: plans blocks of entries, has them made into shards, and describes the whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import vesalius
from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.files import replacing
from vesalius.corpus.block import BlockResult, Job, curate_block, read_result
from vesalius.corpus.engines import run_here, run_on_ray
from vesalius.corpus.layouts import layout
from vesalius.corpus.profile import find_profile
from vesalius.corpus.recipe import Recipe
from vesalius.corpus.resplit import assign, test_cases_beyond
from vesalius.corpus.schema import DESCRIPTION, CorpusInfo, reject_schema
from vesalius.corpus.store import TABLES, Corpus

Engine = Literal["local", "ray"]
# A block, and so a shard, ends when its sources reach this many bytes or its entries this number.
BLOCK_BYTES, BLOCK_ENTRIES = 64 * 2**20, 4096

_STATE = ".curate"


def curate(
    recipe: Recipe,
    folder: str | Path,
    *,
    root: str | Path,
    workers: int = 1,
    engine: Engine = "local",
    address: str = "auto",
    progress: Callable[[int, int], object] | None = None,
) -> CorpusInfo:
    """Makes a corpus of raw data; run again after an interruption, it goes on where it was.

    The files of the corpus depend on the recipe, the data and the versions of the tools alone, not on the number of
    workers nor on interruptions.

    Args:
        recipe: What to curate, and how.
        folder: Of the corpus.
        root: Folder that the recipe's folders are relative to.
        workers: Processes on this machine.
        engine: ``"local"``, or ``"ray"`` for a cluster that sees the same files.
        address: Of the Ray cluster.
        progress: Is told how many of all entries are done.

    Returns:
        What ``corpus.json`` says.

    Raises:
        ConfigError: The recipe makes no sense.
        ReadError: A data set's own list of files is missing or damaged; a single damaged image is a reject.
        WriteError: The folder holds something else, or cannot be written.
    """
    folder, root = Path(folder), Path(root).resolve()
    told = progress or (lambda *_: None)
    jobs, unlabelled = list_jobs(recipe, root)
    blocks = list(split_blocks(jobs))
    made_by = {"vesalius": vesalius.__version__} | {
        name: version(name) for name in ("numpy", "opencv-python-headless", "pyarrow", "pycocotools")
    }
    plan = {"recipe": recipe.model_dump(mode="json"), "made_by": made_by, "entries": _digest(jobs, root)}
    if (folder / DESCRIPTION).exists():
        return _finished(folder, plan)
    try:
        _start(folder, plan)
        todo = [(number, block, root, folder) for number, block in enumerate(blocks) if not read_result(folder, number)]
        sizes = {number: len(block) for number, block in enumerate(blocks)}
        done = len(jobs) - sum(sizes[task[0]] for task in todo)
        told(done, len(jobs))
        results = run_here(_numbered, todo, workers) if engine == "local" else run_on_ray(_numbered, todo, address)
        for number in results:
            done += sizes[number]
            told(done, len(jobs))
        return _finish(recipe, folder, len(blocks), made_by, plan, unlabelled)
    except OSError as error:
        raise WriteError(
            f"the corpus cannot be written ({error.strerror or error})",
            path=folder,
            remedy="make room or choose another folder, and run the same command again: it goes on where it was",
        ) from error


def _numbered(number: int, jobs: Sequence[Job], root: Path, folder: Path) -> int:
    curate_block(number, jobs, root, folder)
    return number


def list_jobs(recipe: Recipe, root: Path) -> tuple[list[Job], int]:
    """The entries of all data sets, in order, each with its rules, and how many are left out for want of labels.

    Raises:
        ConfigError: Two data sets have one name, or a profile is unknown.
        ReadError: A data set has no entries, or its list of files is missing or damaged.
    """
    names = Counter(dataset.name for dataset in recipe.datasets)
    doubled = [name for name, count in names.items() if count > 1]
    if doubled:
        raise ConfigError(f"two data sets are named {doubled[0]}", remedy="give each its own name")
    jobs = []
    unlabelled = 0
    for dataset in recipe.datasets:
        profile = find_profile(dataset.profile or recipe.profile)
        placed = dataset.model_copy(update={"root": root / dataset.root})
        if not placed.root.is_dir():
            raise ReadError("there is no such folder", path=placed.root, remedy="correct the recipe, or give --root")
        entries = layout(dataset.layout).find(placed, placed.root)
        if not entries:
            raise ReadError(f"there is nothing in the layout {dataset.layout}", path=placed.root)
        if dataset.labelled_only:
            labelled = [entry for entry in entries if all(path.exists() for path in entry.labels)]
            unlabelled += len(entries) - len(labelled)
            entries = labelled
        # A layout that knows one split alone, such as labels for training and none for the test, does not divide.
        if len({entry.split for entry in entries}) == 1:
            entries = [replace(entry, split=None) for entry in entries]
        jobs += [Job(entry, placed, profile) for entry in entries]
    return jobs, unlabelled


def split_blocks(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Consecutive entries whose sources together are as large as a block should be."""
    block: list[Job] = []
    size = 0
    for job in jobs:
        block.append(job)
        size += _size(job.entry.image)
        if size >= BLOCK_BYTES or len(block) >= BLOCK_ENTRIES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(child.stat().st_size for child in path.iterdir())
    return path.stat().st_size if path.exists() else 0


def _digest(jobs: Sequence[Job], root: Path) -> str:
    """Of everything that decides the corpus but the contents of the files."""
    digest = hashlib.sha256()
    for job in jobs:
        about = {"entry": asdict(job.entry), "size": _size(job.entry.image), "profile": job.profile.model_dump()}
        digest.update(json.dumps(about, default=lambda path: _below(path, root), sort_keys=True).encode())
    return digest.hexdigest()


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _start(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / _STATE / "plan.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != plan:
            raise WriteError(
                "holds an unfinished corpus of another recipe, other data or other versions",
                path=folder,
                remedy="choose another folder, or delete this one",
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise WriteError("is there already and is not a corpus", path=folder, remedy="choose another folder")
    for name in (*TABLES, _STATE):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(plan, indent=2), encoding="utf-8")


def _finished(folder: Path, plan: dict[str, Any]) -> CorpusInfo:
    info = Corpus(folder).info
    if info.recipe is None or info.recipe.model_dump(mode="json") != plan["recipe"] or info.entries != plan["entries"]:
        raise WriteError("holds another corpus", path=folder, remedy="choose another folder, or delete this one")
    shutil.rmtree(folder / _STATE, ignore_errors=True)
    return info


def _finish(
    recipe: Recipe, folder: Path, blocks: int, made_by: dict[str, str], plan: dict[str, Any], unlabelled: int
) -> CorpusInfo:
    import pyarrow as pa
    import pyarrow.parquet as pq

    results: list[BlockResult] = []
    for number in range(blocks):
        result = read_result(folder, number)
        assert result is not None
        results.append(result)
    rejects = [reject.model_dump() for result in results for reject in result.rejects]
    with replacing(folder / "rejects.parquet") as part:
        pq.write_table(pa.Table.from_pylist(rejects, schema=reject_schema()), part)
    left_out: Counter[str] = Counter()
    if unlabelled:
        left_out["there is no label file"] = unlabelled
    unknown: Counter[str] = Counter()
    for result in results:
        left_out.update(result.left_out)
        unknown.update(result.unknown_targets)
    for dataset, cases in _limit_test(recipe, folder, blocks).items():
        left_out[f"more test images of {dataset} than the profile takes: no split"] = sum(cases.values())
    info = CorpusInfo(
        name=recipe.name,
        recipe=recipe,
        made_by=made_by,
        entries=plan["entries"],
        images=sum(result.images for result in results),
        masks=sum(result.masks for result in results),
        rejects=len(rejects),
        left_out=dict(sorted(left_out.items())),
        unknown_targets=dict(sorted(unknown.items())),
        shards=blocks,
    )
    with replacing(folder / DESCRIPTION) as part:
        part.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / _STATE)
    return info


def _limit_test(recipe: Recipe, folder: Path, blocks: int) -> dict[str, dict[str, int]]:
    """Takes test cases beyond the profiles' limits out of every split; data set -> case -> images.

    They do not go into training, which would then change with the size of the test set.
    """
    path = folder / _STATE / "beyond.json"
    if not path.is_file():
        # Decided once, since an interrupted assignment leaves other counts behind.
        decided = {}
        for dataset in recipe.datasets:
            most = find_profile(dataset.profile or recipe.profile).max_test
            if most is not None and (cases := test_cases_beyond(folder, blocks, dataset.name, most)):
                decided[dataset.name] = cases
        with replacing(path) as part:
            part.write_text(json.dumps(decided), encoding="utf-8")
    beyond: dict[str, dict[str, int]] = json.loads(path.read_text(encoding="utf-8"))
    assign(folder, blocks, {(dataset, case): None for dataset, cases in beyond.items() for case in cases})
    return beyond


def default_workers() -> int:
    """One process per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
