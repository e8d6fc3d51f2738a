"""The work on one block of entries, which becomes one shard; it runs in a process of its own."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.config import Config
from vesalius.core.errors import ReadError, VesaliusError
from vesalius.core.files import file_digest, replacing
from vesalius.core.types import Volume
from vesalius.corpus.engines import Apart, DiedError
from vesalius.corpus.layouts import layout
from vesalius.corpus.objects import consolidated
from vesalius.corpus.profile import Profile
from vesalius.corpus.recipe import DatasetRecipe
from vesalius.corpus.scans import Entry, Layer, Scan, below
from vesalius.corpus.slices import Cut, cuts
from vesalius.corpus.split import split_among
from vesalius.corpus.store import TABLES, ShardWriter, encode_png, mask_row
from vesalius.io.intensity import window_range
from vesalius.vocabulary.targets import target_of

# Data files that lie beside a header.
DATA_OF = {".hdr": (".img",), ".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz")}
# What an OSError says of a file itself; all else is of the machine.
OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
OF_THE_FILE |= {errno.EINVAL, errno.EFBIG, errno.EOVERFLOW, errno.ESPIPE}
# An image and its masks, as rows of the tables.
Rows = tuple[dict[str, Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """An entry with the rules for it.

    Attributes:
        entry: What to read.
        dataset: Its data set; its root is absolute.
        profile: What to do with it.
    """

    entry: Entry
    dataset: DatasetRecipe
    profile: Profile


class Reject(Config):
    """An entry that cannot be used.

    Attributes:
        dataset: Its data set.
        name: Of the entry.
        file: That is wrong.
        reason: What is wrong.
    """

    dataset: str
    name: str
    file: str
    reason: str


class BlockResult(Config):
    """What became of a block.

    Attributes:
        images: Number of images.
        masks: Number of masks.
        rejects: Entries that could not be used.
        left_out: Images and masks that the profile leaves out, by reason.
        unknown_targets: Names that the vocabulary does not know -> number of their masks.
    """

    images: int
    masks: int
    rejects: tuple[Reject, ...]
    left_out: dict[str, int]
    unknown_targets: dict[str, int]


@dataclass(frozen=True)
class Found:
    """What is in an entry.

    Attributes:
        rows: Of its images.
        left_out: Images and masks that the profile leaves out, by reason.
        unknown: Names that the vocabulary does not know -> number of their masks.
    """

    rows: list[Rows]
    left_out: Counter[str]
    unknown: Counter[str]


def state_path(folder: Path, number: int) -> Path:
    """Where the result of a block lies; it is written last, so a block with one is whole."""
    return folder / ".curate" / f"{number:05d}.json"


def jobs_path(folder: Path, number: int) -> Path:
    """Where the entries of a block lie until the corpus is whole."""
    return folder / ".curate" / f"{number:05d}.jobs"


def curate_block(number: int, root: Path, folder: Path, careful: bool = False) -> int:
    """Reads the entries of a block and writes its shard.

    Args:
        number: Of the block and its shard; its entries lie in `jobs_path`.
        root: Sources are named relative to it.
        folder: The corpus.
        careful: Whether entries are read in another process, so that one that kills its reader is a reject.

    Returns:
        ``number``, by which the result is found.

    Raises:
        ReadError: The machine, and not an entry, is to blame for what could not be read.
        OSError: The shard cannot be written.
    """
    # Written by this run: a pickle of nobody else's.
    jobs: list[Job] = pickle.loads(jobs_path(folder, number).read_bytes())
    left_out: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    rejects: list[Reject] = []
    images, masks = (folder / name / f"{number:05d}.parquet" for name in TABLES)
    with replacing(images) as image_part, replacing(masks) as mask_part, Apart() as apart:
        writer = ShardWriter(image_part, mask_part)
        for job in jobs:
            found = _read_apart(apart, job, root) if careful else read_entry(job, root)
            if isinstance(found, Reject):
                rejects.append(found)
                continue
            left_out.update(found.left_out)
            unknown.update(found.unknown)
            for image, own in found.rows:
                writer.add(image, own)
        writer.close()
    result = BlockResult(
        images=writer.count["images"],
        masks=writer.count["masks"],
        rejects=tuple(rejects),
        left_out=dict(sorted(left_out.items())),
        unknown_targets=dict(sorted(unknown.items())),
    )
    with replacing(state_path(folder, number)) as part:
        part.write_text(result.model_dump_json(), encoding="utf-8")
    return number


def read_entry(job: Job, root: Path) -> Found | Reject:
    """What is in an entry, which is in the corpus whole or not at all.

    Raises:
        ReadError: The machine is to blame for what could not be read.
    """
    found = Found([], Counter(), Counter())
    try:
        found.rows.extend(entry_rows(job, root, found.left_out, found.unknown))
    except Exception as error:
        if trouble := _trouble(error):
            raise ReadError(
                f"cannot be read for now ({trouble})",
                path=job.entry.image,
                remedy="run the same command again: it goes on where it was; take the file out if it is to blame",
            ) from error
        return _reject(job, error, root)
    return found


def _read_apart(apart: Apart, job: Job, root: Path) -> Found | Reject:
    try:
        return apart.call(read_entry, job, root)
    except DiedError as died:
        return _reject(job, ReadError(f"its reader ended without a message ({died})"), root)


def _trouble(error: BaseException | None) -> str | None:
    """What is wrong with the machine or its disks, if that is behind an error: it may be over the next time."""
    while error is not None:
        if isinstance(error, MemoryError):
            return "there is not enough memory"
        # Readers raise OSError without a number for damaged files.
        if isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_FILE:
            return error.strerror or str(error)
        error = error.__cause__ or error.__context__
    return None


def read_result(folder: Path, number: int) -> BlockResult | None:
    """The result of a block that is done, or None."""
    path = state_path(folder, number)
    if not path.is_file():
        return None
    return BlockResult.from_dict(json.loads(path.read_text(encoding="utf-8")), path)


def entry_rows(job: Job, root: Path, left_out: Counter[str], unknown: Counter[str]) -> Iterator[Rows]:
    """The rows of all images of an entry.

    Raises:
        VesaliusError: Something is wrong with the image or its labels.
    """
    entry, dataset, profile = job.entry, job.dataset, job.profile
    if "problem" in entry.extra:
        raise ReadError(entry.extra["problem"], path=entry.image)
    digests: dict[Path, str] = {}
    skipped: Counter[str] = Counter()
    found: Counter[str] = Counter()
    empty = labelled = 0
    for scan in layout(dataset.layout).read(entry, dataset):
        layers = tuple(judged(layer, dataset, entry) for layer in scan.layers)
        empty += bool(layers) and not any(layer.values.any() for layer in layers)
        labelled += any(layer.values.any() for layer in layers)
        if scan.empty:
            skipped["the mask covers no pixel"] += scan.empty
        scan = Scan(scan.name, _shown(scan.volume, dataset), layers)
        source = scan.volume.source or entry.image
        if source not in digests:
            digests[source] = source_digest(source, entry.extra.get("files"))
        for cut in cuts(scan, profile, lambda reason: skipped.update([reason])):
            masks = list(object_rows(cut, layers, profile, skipped, found))
            if not masks:
                continue
            place = "2d_none" if cut.axis == "2d" else f"{cut.axis}_{cut.index:04d}"
            image_id = f"{dataset.name}/{scan.name}/{place}"
            split = entry.split if entry.split is not None and dataset.keep_split else None
            if split is None:
                split = split_among(image_id if profile.split_by == "image" else entry.case, profile.split)
            shared = {
                "id": image_id,
                "modality": scan.volume.modality or dataset.modality,
                "dataset": dataset.name,
                "split": split,
            }
            image = shared | {
                "image": {"bytes": encode_png(cut.pixels), "path": f"{image_id}.png"},
                "height": cut.pixels.shape[0],
                "width": cut.pixels.shape[1],
                "case": entry.case,
                "name": scan.name,
                "axis": cut.axis,
                "index": cut.index,
                "row_spacing": cut.spacing[0] if cut.spacing else None,
                "column_spacing": cut.spacing[1] if cut.spacing else None,
                "slice_spacing": cut.step,
                "source": below(source, root),
                "source_digest": digests[source],
                "masks": len(masks),
            }
            yield image, [mask_row(mask, shared | about) for mask, about in masks]
    if empty and not labelled:
        raise ReadError("labels nothing", path=entry.labels[0] if entry.labels else entry.image)
    left_out.update(skipped)
    unknown.update(found)


def judged(layer: Layer, dataset: DatasetRecipe, entry: Entry) -> Layer:
    """A layer whose values are whole numbers that all mean something; ignored values are background.

    Raises:
        ReadError: Values are not whole, negative, or not listed.
    """
    path = entry.labels[0] if entry.labels else entry.image
    values = layer.values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise ReadError("its labels are not whole numbers", path=path, remedy="save it as integers")
        values = values.astype(np.int64)
    found = [int(value) for value in np.unique(values) if value]
    ignored = [value for value in found if value in dataset.ignore]
    found = [value for value in found if value not in dataset.ignore]
    if found and found[0] < 0:
        raise ReadError(f"has the negative label {found[0]}", path=path, remedy="name it in the recipe's ignore")
    unlisted = [value for value in found if value not in layer.names]
    if unlisted:
        raise ReadError(
            f"has labels that nothing names: {', '.join(map(str, unlisted[:10]))}",
            path=path,
            remedy="name them in the recipe's targets or ignore",
        )
    if ignored:
        values = np.where(np.isin(values, ignored), 0, values)
    return Layer(values, layer.names, layer.objects)


def object_rows(
    cut: Cut, layers: Sequence[Layer], profile: Profile, left_out: Counter[str], unknown: Counter[str]
) -> Iterator[tuple[NDArray[np.bool_], dict[str, Any]]]:
    """The masks of an image, each with what is known about it."""
    least = profile.min_area * cut.pixels.shape[0] * cut.pixels.shape[1]
    instances: Counter[str] = Counter()
    for layer, plane in zip(layers, cut.labels, strict=True):
        for label, masks in _masks(layer, plane, profile):
            target = target_of(label)
            for mask in masks:
                if np.count_nonzero(mask) < max(least, 1):
                    left_out["the mask is too small"] += 1
                    continue
                instances[target.name] += 1
                if not target.known:
                    unknown[target.name] += 1
                yield (
                    mask,
                    {
                        "target": target.name,
                        "label": label,
                        "group": target.group,
                        "organ": target.organ,
                        "instance": instances[target.name],
                        "pseudo": False,
                        "model": None,
                    },
                )


def _masks(layer: Layer, plane: NDArray[Any], profile: Profile) -> Iterator[tuple[str, Iterator[NDArray[np.bool_]]]]:
    """Names as the source has them, each with its masks."""
    import cc3d

    present = [int(value) for value in np.unique(plane) if value]
    if layer.objects:
        for value in present:
            yield layer.names[value], iter([plane == value])
        return
    # Values of one name are one class.
    first = {layer.names[value]: value for value in reversed(present)}
    merged = np.zeros(plane.shape, np.int64)
    for value in present:
        merged[plane == value] = first[layer.names[value]]
    classes = consolidated(merged) if profile.consolidate else {v: merged == v for v in sorted(first.values())}
    for value, mask in classes.items():
        if profile.components:
            parts = cc3d.connected_components(mask.astype(np.uint8), connectivity=8)
            yield layer.names[value], (parts == number for number in range(1, int(parts.max()) + 1))
        else:
            yield layer.names[value], iter([mask])


def source_digest(path: Path, names: Sequence[str] | None = None) -> str:
    """SHA-256 of a file; of the digests of its files in the order of their names, where a source is several.

    Args:
        path: A file, a header (its data file counts too), or a folder.
        names: The files of the folder that count; all if left out.
    """
    if path.is_dir():
        parts = [path / name for name in names] if names else [child for child in path.iterdir() if child.is_file()]
    else:
        beside = [path.with_suffix(suffix) for suffix in DATA_OF.get(path.suffix.lower(), ())]
        parts = [path, *(file for file in beside if file.is_file())]
    digests = [_file_digest(part) for part in sorted(parts)]
    return digests[0] if len(parts) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise ReadError(f"cannot be read ({error.strerror})", path=path) from error


def _shown(volume: Volume, dataset: DatasetRecipe) -> Volume:
    """The volume in the grey window of the recipe."""
    if dataset.window is None or volume.voxels.ndim == 4:
        return volume
    return replace(volume, window=window_range(dataset.window))


def _reject(job: Job, error: Exception, root: Path) -> Reject:
    wrong = error.path if isinstance(error, VesaliusError) and error.path else job.entry.image
    reason = error.reason if isinstance(error, VesaliusError) else f"unexpected {type(error).__name__}: {error}"
    return Reject(dataset=job.dataset.name, name=job.entry.name, file=below(wrong, root), reason=reason)
