"""From a recipe to a corpus: plans blocks of entries, has them made into shards, and describes the whole."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import vesalius
from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.files import STAND_IN, locked, remove_stand_ins, replacing
from vesalius.corpus.block import DATA_OF, OF_THE_FILE, Job, curate_block, jobs_path, read_result, state_path
from vesalius.corpus.engines import Task, run_here, run_on_ray
from vesalius.corpus.entries import labels_without_image, list_entries
from vesalius.corpus.layouts import label_files
from vesalius.corpus.profile import find_profile
from vesalius.corpus.recipe import Recipe
from vesalius.corpus.resplit import LimitedTest, divide_test, resplit
from vesalius.corpus.scans import below
from vesalius.corpus.schema import DESCRIPTION, CorpusInfo, reject_schema
from vesalius.corpus.sorting import SortedRows
from vesalius.corpus.store import TABLES, Corpus

Engine = Literal["local", "ray"]
# A block, and so a shard, ends when its sources reach some bytes or its entries this number. The first blocks are
# small, so that little data are shared among workers too; every so many blocks they double, until they are large.
BLOCK_BYTES, LARGEST_BLOCK, GROWTH, BLOCK_ENTRIES = 4 * 2**20, 64 * 2**20, 8, 4096

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
        workers: Processes on this machine. With 1, all is done in this one, which an image that kills its reader
            ends; with more, such an image is a reject.
        engine: ``"local"``, or ``"ray"`` for a cluster that sees the same files.
        address: Of the Ray cluster.
        progress: Is told how many of all entries are done.

    Returns:
        What ``corpus.json`` says.

    Raises:
        ConfigError: The recipe makes no sense.
        ReadError: A data set's own list of files is missing or damaged, or the machine is out of memory or files, or
            its disk fails; a single damaged image is a reject.
        WriteError: The folder holds something else, another process is at work in it, or it cannot be written.
    """
    folder, root = Path(folder), Path(root).resolve()
    told = progress or (lambda *_: None)
    _check(recipe, root)
    made_by = {"vesalius": vesalius.__version__} | {
        name: version(name) for name in ("numpy", "opencv-python-headless", "pyarrow", "pycocotools")
    }
    state = folder / _STATE
    try:
        if (folder / DESCRIPTION).exists():
            return _finished(folder, recipe, list_blocks(recipe, root, lambda *_: None))
        if folder.exists() and not (state / "plan.json").is_file() and not _is_ours(folder):
            raise WriteError("is there already and is not a corpus", path=folder, remedy="choose another folder")
        state.mkdir(parents=True, exist_ok=True)
        with locked(state / "lock"):
            for place in _places(folder):
                remove_stand_ins(place)
            listing = list_blocks(recipe, root, partial(_keep_jobs, folder), state)
            _start(folder, {"recipe": recipe.model_dump(mode="json"), "made_by": made_by, **listing.digests})
            sizes = dict(enumerate(listing.blocks))
            todo = [(number, root, folder) for number in sizes if not state_path(folder, number).is_file()]
            done = sum(sizes.values()) - sum(sizes[task[0]] for task in todo)
            told(done, sum(sizes.values()))
            ran = _run(todo, workers, engine, address)
            # Closed at once after an error: workers must not outlive the lock.
            with closing(ran):
                for number in ran:
                    done += sizes[number]
                    told(done, sum(sizes.values()))
            info = _finish(recipe, folder, listing, made_by)
    except OSError as error:
        raise WriteError(
            f"the corpus cannot be written ({error.strerror or error})",
            path=folder,
            remedy="make room or choose another folder, and run the same command again: it goes on where it was",
        ) from error
    except MemoryError as error:
        raise WriteError(
            "there is not enough memory",
            path=folder,
            remedy="use fewer --workers, and run the same command again: it goes on where it was",
        ) from error
    # Not before the lock is free: Windows removes no open file.
    shutil.rmtree(state, ignore_errors=True)
    return info


def _run(todo: list[Task], workers: int, engine: Engine, address: str) -> Generator[int, None, None]:
    if engine == "ray":
        return run_on_ray(curate_block, todo, address)
    return run_here(curate_block, todo, workers, partial(curate_block, careful=True))


def _check(recipe: Recipe, root: Path) -> None:
    """Finds what is wrong with a recipe before anything is listed.

    Raises:
        ConfigError: Two data sets have one name, or a profile is unknown.
        ReadError: A data set has no folder.
    """
    names = Counter(dataset.name for dataset in recipe.datasets)
    doubled = [name for name, count in names.items() if count > 1]
    if doubled:
        raise ConfigError(f"two data sets are named {doubled[0]}", remedy="give each its own name")
    for dataset in recipe.datasets:
        find_profile(dataset.profile or recipe.profile)
        if not (root / dataset.root).is_dir():
            raise ReadError(
                "there is no such folder", path=root / dataset.root, remedy="correct the recipe, or give --root"
            )


def list_jobs(recipe: Recipe, root: Path, left_out: Counter[str], folder: Path | None = None) -> Iterator[Job]:
    """The entries of all data sets, in order, each with its rules; at the end label files that belong to no image.

    Args:
        recipe: What to curate.
        root: Folder that its folders are relative to.
        left_out: Counts entries that are left out, by reason.
        folder: For temporary files; by default where the system keeps them.

    Raises:
        ReadError: A data set has no entries, or its list of files is missing or damaged.
    """
    sets = [
        (dataset.model_copy(update={"root": root / dataset.root}), find_profile(dataset.profile or recipe.profile))
        for dataset in recipe.datasets
    ]
    by_place = any(label_files(placed) is not None for placed, _ in sets)
    used: SortedRows[int] | None = SortedRows(folder=folder) if by_place else None
    for placed, profile in sets:
        listed = list_entries(placed, folder, used)
        if not listed.count:
            raise ReadError(
                f"there is nothing in the layout {placed.layout}",
                path=placed.root,
                remedy="correct the recipe's root, layout or patterns",
            )
        if listed.unlabelled:
            left_out["there is no label file"] += listed.unlabelled
        for entry in listed.entries:
            # Labels for training and none for the test, such as challenges publish, do not divide.
            yield Job(entry if listed.divides else replace(entry, split=None), placed, profile)
    if used is not None:
        # After all data sets, which may share a folder of labels.
        for number, entry in labels_without_image([placed for placed, _ in sets], used):
            yield Job(entry, *sets[number])


def split_blocks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """Consecutive entries whose sources together are as large as a block should be."""
    block: list[Job] = []
    size = done = 0
    for job in jobs:
        block.append(job)
        size += sum(found[0] for found in _stat(job.entry.image))
        if size >= min(BLOCK_BYTES << done // GROWTH, LARGEST_BLOCK) or len(block) >= BLOCK_ENTRIES:
            yield block
            block, size, done = [], 0, done + 1
    if block:
        yield block


@dataclass(frozen=True)
class Listing:
    """What is known of the entries when they have been listed.

    Attributes:
        blocks: Number of entries of each block.
        digests: ``entries`` is that of everything that decides the corpus but the contents of the files; ``times`` that
            of when the files were changed.
        left_out: Entries that are left out, by reason.
    """

    blocks: tuple[int, ...]
    digests: dict[str, str]
    left_out: Counter[str]


def list_blocks(
    recipe: Recipe, root: Path, keep: Callable[[int, list[Job]], object], folder: Path | None = None
) -> Listing:
    """Lists all entries and hands over those of each block, with its number.

    Args:
        recipe: What to curate.
        root: Folder that its folders are relative to.
        keep: Is given the number of each block and its entries.
        folder: For temporary files; by default where the system keeps them.

    Raises:
        ReadError: A data set has no entries, or its list of files is missing or damaged.
    """
    entries, times = hashlib.sha256(), hashlib.sha256()
    blocks: list[int] = []
    left_out: Counter[str] = Counter()
    for dataset in recipe.datasets:
        entries.update(find_profile(dataset.profile or recipe.profile).model_dump_json().encode())
    for number, block in enumerate(split_blocks(list_jobs(recipe, root, left_out, folder))):
        for job in block:
            found = [_stat(path) for path in _sources(job)]
            about = {
                "dataset": job.dataset.name,
                "entry": vars(job.entry),
                "sizes": [[size for size, _ in one] for one in found],
            }
            entries.update(json.dumps(about, default=lambda path: below(path, root), sort_keys=True).encode())
            times.update(json.dumps([[time for _, time in one] for one in found]).encode())
        blocks.append(len(block))
        keep(number, block)
    return Listing(tuple(blocks), {"entries": entries.hexdigest(), "times": times.hexdigest()}, left_out)


def _sources(job: Job) -> Iterator[Path]:
    """The files that an entry is read from."""
    entry = job.entry
    channels = [job.dataset.root / name for name in entry.extra.get("images", ())]
    # Those of one series, where several share a folder.
    slices = [entry.image / name for name in entry.extra.get("files", ())] if entry.image.is_dir() else []
    for path in (*(channels or slices or [entry.image]), *entry.labels):
        yield path
        yield from (path.with_suffix(suffix) for suffix in DATA_OF.get(path.suffix.lower(), ()))


def _stat(path: Path) -> list[tuple[int, int]]:
    """Size and time of change of a file, or of the files of a folder; empty if it is missing."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            return [one for child in sorted(path.iterdir()) if child.is_file() for one in _stat(child)]
    except OSError as error:
        if error.errno in OF_THE_FILE:
            # It becomes a reject when it is read.
            return []
        raise ReadError(f"cannot be looked at ({error.strerror})", path=path) from error
    return [(found.st_size, found.st_mtime_ns)]


def _places(folder: Path) -> list[Path]:
    """The folders that a curation writes to."""
    return [folder, *(folder / name for name in (_STATE, *TABLES))]


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but what is there before the plan is."""
    places, state = _places(folder), folder / _STATE
    return all(
        path in places
        or (path.parent == state and (path.name == "lock" or path.suffix == ".jobs"))
        or (path.parent in places and path.name.startswith(STAND_IN))
        for path in folder.rglob("*")
    )


def _keep_jobs(folder: Path, number: int, jobs: list[Job]) -> None:
    with replacing(jobs_path(folder, number)) as part:
        part.write_bytes(pickle.dumps(jobs))


def _start(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / _STATE / "plan.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != plan:
            raise WriteError(
                "holds an unfinished corpus of another recipe, other data or other versions",
                path=folder,
                remedy="choose another folder, or delete this one",
            )
    else:
        with replacing(path) as part:
            part.write_text(json.dumps(plan, indent=2), encoding="utf-8")
    for place in _places(folder):
        place.mkdir(exist_ok=True)


def _finished(folder: Path, recipe: Recipe, listing: Listing) -> CorpusInfo:
    info = Corpus(folder).info
    if info.recipe != recipe or info.entries != listing.digests["entries"]:
        raise WriteError("holds another corpus", path=folder, remedy="choose another folder, or delete this one")
    shutil.rmtree(folder / _STATE, ignore_errors=True)
    return info


def _finish(recipe: Recipe, folder: Path, listing: Listing, made_by: dict[str, str]) -> CorpusInfo:
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts: Counter[str] = Counter()
    left_out = Counter(listing.left_out)
    unknown: Counter[str] = Counter()
    blocks = len(listing.blocks)
    with (
        replacing(folder / "rejects.parquet") as part,
        pq.ParquetWriter(part, reject_schema()) as writer,
    ):
        for number in range(blocks):
            result = read_result(folder, number)
            assert result is not None
            counts.update(images=result.images, masks=result.masks, rejects=len(result.rejects))
            left_out.update(result.left_out)
            unknown.update(result.unknown_targets)
            if result.rejects:
                rows = [reject.model_dump() for reject in result.rejects]
                writer.write_table(pa.Table.from_pylist(rows, schema=reject_schema()))
    for dataset, images in _limit_test(recipe, folder, blocks).items():
        left_out[f"more test images of {dataset} than the profile takes: no split"] = images
    # Those of workers that were killed while others went on.
    for place in _places(folder):
        remove_stand_ins(place)
    info = CorpusInfo(
        name=recipe.name,
        recipe=recipe,
        made_by=made_by,
        entries=listing.digests["entries"],
        images=counts["images"],
        masks=counts["masks"],
        rejects=counts["rejects"],
        left_out=dict(sorted(left_out.items())),
        unknown_targets=dict(sorted(unknown.items())),
        shards=blocks,
    )
    with replacing(folder / DESCRIPTION) as part:
        part.write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info


def _limit_test(recipe: Recipe, folder: Path, blocks: int) -> dict[str, int]:
    """Takes test cases beyond the profiles' limits out of every split; data set -> images so taken out.

    They do not go into training, which would then change with the size of the test set.
    """
    path = folder / _STATE / "test.json"
    if not path.is_file():
        # Decided once, since an interrupted change leaves other counts behind.
        divided = {}
        for dataset in recipe.datasets:
            most = find_profile(dataset.profile or recipe.profile).max_test
            if most is not None and (division := divide_test(folder, blocks, dataset.name, most)).beyond:
                divided[dataset.name] = division
        with replacing(path) as part:
            part.write_text(json.dumps(divided), encoding="utf-8")
    divisions = {name: LimitedTest(*parts) for name, parts in json.loads(path.read_text(encoding="utf-8")).items()}
    kept = {name: frozenset(division.kept) for name, division in divisions.items()}

    def limited(dataset: str, case: str, split: str | None) -> str | None:
        return None if split == "test" and dataset in kept and case not in kept[dataset] else split

    if kept:
        resplit(folder, blocks, limited)
    return {name: division.beyond for name, division in divisions.items()}


def default_workers() -> int:
    """One process per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
