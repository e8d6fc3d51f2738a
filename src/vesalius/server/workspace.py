"""The images that a server shows: found once below the given paths, asked for by id ever after.

No request names a path: it names an id that `Workspace` made while looking, so nothing outside of the given paths can
be asked for. Links that lead out of them are left aside.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vesalius.core.errors import ReadError, VesaliusError
from vesalius.core.types import Volume
from vesalius.io.read import count_times, read_grid, suffix_of, volume_of
from vesalius.io.scans import data_file
from vesalius.predict.cache import Bounded, pixel_digest
from vesalius.server.documents import Document, State
from vesalius.server.refusals import Refusal

FOLDER = "vesalius-annotations"
_KINDS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")
_DICOM = (".dcm", ".dicom", ".ima", "")
# Most time points of one file; what claims more is damaged, or an attack on the memory.
_MOST_TIMES = 10_000
# Names of the folders that data sets keep label maps in, beside those of their images.
_LABELS = re.compile(r"(label|mask)", re.IGNORECASE)
_IMAGES = re.compile(r"image", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """An image that can be asked for.

    Attributes:
        id: What requests call it; the same in every run, where the image has not moved.
        name: What people call it: the path below the given folder, and more where a path holds several images.
        path: The file, or the folder of the series.
        base: The given folder, or that of the given file; the image lies below it.
        log: The log of its annotations.
        files: The files of a DICOM series.
        time: Time point of a file that holds several.
        error: What is wrong with it, where its header says so already.
        series: SeriesInstanceUID of a DICOM image, by which viewers name it.
        patient: Whose image it is, or of which study, where its DICOM header says so.
    """

    id: str
    name: str
    path: Path
    base: Path
    log: Path
    files: tuple[Path, ...] | None = None
    time: int | None = None
    error: str | None = None
    series: str | None = None
    patient: str | None = None

    def check(self) -> None:
        """ReadError where a link, or the name of another file in its header, leads out of the given folder by now."""
        for path in (self.path, *(self.files or ())):
            if not path.resolve().is_relative_to(self.base):
                raise ReadError("is a link that leads out of the given folder", path=path)
        data = data_file(self.path) if self.files is None else None
        if data is not None and not data.resolve().is_relative_to(self.base):
            raise ReadError("has its voxels in a file outside of the given folder", path=self.path)

    def read(self) -> Volume:
        """Reads it; errors as `read_volume` and `check`."""
        self.check()
        if self.files is None:
            return volume_of(read_grid(self.path, self.time), self.path)
        from vesalius.io.dicom import read_series

        return volume_of(read_series(self.path, self.time, self.files), self.path)


class Workspace:
    """The images below some paths, those that were read lately, and their documents.

    Args:
        paths: Files, folders of a DICOM series, or folders that are looked through.
        output: Folder of the logs; if None, ``vesalius-annotations`` beside what each path names.
        memory: Bytes of images to keep.

    Raises:
        ReadError: A path does not exist, or there is no image at all.
    """

    def __init__(self, paths: Sequence[Path], output: Path | None = None, memory: int = 2**31) -> None:
        self._paths = list(paths)
        self._output = output
        self._lock = threading.Lock()
        self._reading: dict[str, threading.RLock] = {}
        self._volumes: Bounded[str, Volume] = Bounded(memory)
        self._digests: dict[str, tuple[tuple[int, ...], str]] = {}
        self._documents: dict[str, Document] = {}
        self._states: dict[str, tuple[tuple[int, int], State]] = {}
        self.items: dict[str, Item] = {}
        self.refresh()
        if not self.items:
            raise ReadError("there is no image", path=self._paths[0], remedy="give images, or folders that hold some")

    @property
    def folders(self) -> list[Path]:
        """The folders of the logs."""
        return list(dict.fromkeys(item.log.parent for item in self.items.values()))

    @property
    def uploads(self) -> Path | None:
        """Folder of images that are added; None where only single files are shown."""
        return next((path.resolve() / "uploaded" for path in self._paths if path.is_dir()), None)

    def refresh(self) -> None:
        """Looks for images anew.

        Raises:
            ReadError: A path does not exist any more, or two images would have one log.
        """
        found: dict[str, Item] = {}
        logs: dict[Path, str] = {}
        for path in self._paths:
            for item in find_items(path, self._output):
                found.setdefault(item.id, item)
                if logs.setdefault(item.log, item.id) != item.id:
                    raise ReadError(
                        "has the name of another image, so that both would have one log of annotations",
                        path=item.path,
                        remedy="rename it, or start a server for each with an --output of its own",
                    )
        names = Counter(item.name for item in found.values())
        for number, item in found.items():
            if names[item.name] > 1:
                found[number] = replace(item, name=f"{item.base.name}/{item.name}")
        self.items = dict(sorted(found.items(), key=lambda pair: _natural(pair[1].name)))

    def item(self, image: str) -> Item:
        """The image of an id; a Refusal if there is none."""
        try:
            return self.items[image]
        except KeyError:
            raise Refusal(404, "no_image", "there is no such image", remedy="ask for the list of images") from None

    def volume(self, image: str) -> Volume:
        """An image, read when it is first asked for; errors as `read_volume`."""
        item = self.item(image)
        with self._held(image):
            volume = self._volumes.get(image)
            if volume is None:
                volume = item.read()
                about = volume.voxels.shape[:3], pixel_digest(volume.voxels)
                # What is kept of it (its document, embeddings) would be about another image.
                if self._digests.setdefault(image, about) != about:
                    raise ReadError("has changed since it was opened", path=item.path, remedy="start the server anew")
                self._volumes.put(image, volume, volume.voxels.nbytes)
            return volume

    def document(self, image: str) -> Document:
        """The document of an image.

        Raises:
            ReadError: The image or its log is damaged, or they do not belong together.
        """
        item = self.item(image)
        if image not in self._documents:
            with self._held(image):
                self.volume(image)
                if image not in self._documents:
                    shape, digest = self._digests[image]
                    about = {"image": item.name, "shape": list(shape), "digest": digest}
                    self._documents[image] = Document(item.log, about)
        return self._documents[image]

    def _held(self, image: str) -> threading.RLock:
        """The lock under which an image or its log is read."""
        with self._lock:
            return self._reading.setdefault(image, threading.RLock())

    def state(self, image: str) -> State:
        """The annotations of an image, which is not read for it.

        Raises:
            ReadError: The log is damaged.
        """
        if image in self._documents:
            return self._documents[image].state
        log = self.item(image).log
        if not log.exists():
            return State()
        about = log.stat()
        stamp = about.st_mtime_ns, about.st_size
        found = self._states.get(image)
        if found is None or found[0] != stamp:
            found = self._states[image] = stamp, Document(log, None).state
        return found[1]

    def neighbours(self, image: str) -> tuple[str | None, str | None]:
        """Ids of the images before and after one in the list."""
        order = list(self.items)
        place = order.index(self.item(image).id)
        return order[place - 1] if place else None, order[place + 1] if place + 1 < len(order) else None


def find_items(path: Path, output: Path | None = None) -> Iterator[Item]:
    """The images of a file, or below a folder, but for the label maps of data sets (`find_label_maps`).

    Raises:
        ReadError: The path does not exist.
    """
    if not path.exists():
        raise ReadError("there is no such file or folder", path=path)
    path = path.resolve()
    if path.is_file():
        found = list(_series(path.parent, [path], path.parent, output)) if suffix_of(path) in _DICOM else []
        yield from found or _items_of_file(path, path.parent, output)
        return
    for here, files, _ in _walk(path, output):
        dicom: list[Path] = []
        for file in files:
            if suffix_of(file) in _KINDS:
                yield from _items_of_file(file, path, output)
            elif suffix_of(file) in _DICOM:
                dicom.append(file)
        yield from _series(here, dicom, path, output)


def find_label_maps(path: Path, output: Path | None = None) -> Iterator[Path]:
    """The files below a folder that `find_items` leaves out because they lie where data sets keep label maps.

    These are the folders whose names begin with label or mask, beside one whose name begins with image: ``labelsTr``
    beside ``imagesTr``, ``masks`` beside ``images``.
    """
    for _, _, aside in _walk(path.resolve(), output):
        for folder in aside:
            for _, files, _ in _walk(folder, output):
                yield from (file for file in files if suffix_of(file) in _KINDS)


def _walk(path: Path, output: Path | None) -> Iterator[tuple[Path, list[Path], list[Path]]]:
    """Each folder that is looked through, with its files and those of its folders that hold label maps."""
    for folder, folders, names in os.walk(path):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if name != FOLDER and not name.startswith("."))
        if output is not None and here == output.resolve():
            folders.clear()
            continue
        images = any(map(_IMAGES.match, folders))
        aside = [name for name in folders if images and _LABELS.match(name)]
        folders[:] = [name for name in folders if name not in aside]
        files = [here / name for name in sorted(names) if not name.startswith(".")]
        inside = [file for file in files if file.resolve().is_relative_to(path)]
        yield here, inside, [here / name for name in aside]


def _items_of_file(path: Path, base: Path, output: Path | None) -> Iterator[Item]:
    try:
        times = count_times(path)
    except VesaliusError:
        times = 1  # what is wrong with it is told when it is opened
    yield from _items_of_times(path, times, base, output)


def _items_of_times(path: Path, times: int, base: Path, output: Path | None) -> Iterator[Item]:
    if times > _MOST_TIMES:
        yield _item(path, base, output, error=f"has {times} time points, more than the {_MOST_TIMES} that are listed")
    elif times == 1:
        yield _item(path, base, output)
    else:
        for time in range(times):
            yield _item(path, base, output, f" [{time}]", time=time)


def _series(folder: Path, files: Sequence[Path], base: Path, output: Path | None) -> Iterator[Item]:
    """A folder's DICOM images, one item for each series, file of several frames, or time point of such a file."""
    from vesalius.io.dicom import list_file

    series: dict[str, list[Path]] = {}
    patients: dict[str, str] = {}
    for path in files:
        try:
            listed = list_file(path)
        except VesaliusError as error:
            yield _item(path, base, output, error=error.reason)
            continue
        if listed is None:
            continue
        if listed.frames > 1:
            for item in _items_of_times(path, listed.times, base, output):
                yield replace(item, series=listed.series, patient=listed.patient or None)
        else:
            series.setdefault(listed.series, []).append(path)
            patients.setdefault(listed.series, listed.patient)
    for uid, members in series.items():
        if len(members) == 1:
            item = _item(members[0], base, output)
        else:
            item = _item(folder, base, output, "" if len(series) == 1 else f" [{uid}]", files=tuple(members))
        yield replace(item, series=uid, patient=patients[uid] or None)


def _item(
    path: Path,
    base: Path,
    output: Path | None,
    more: str = "",
    *,
    files: tuple[Path, ...] | None = None,
    time: int | None = None,
    error: str | None = None,
) -> Item:
    # A folder that is itself a series keeps its annotations beside it.
    beside = base.parent if files is not None and path == base else base
    name = f"{path.relative_to(beside).as_posix()}{more}"
    readable = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)[-80:].lstrip(".")
    # A log is found again where the folder has moved, and however the image is given.
    log = f"{readable}-{_digest(name if output is None else f'{beside.name}/{name}')[:6]}.jsonl"
    folder = output.resolve() if output is not None else beside / FOLDER
    return Item(_digest(f"{path}{more}"), name, path, base, folder / log, files, time, error)


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts scan2 before scan10."""
    parts: list[str] = [""]
    for letter in name.casefold():
        if parts[-1] and parts[-1][-1].isdecimal() == letter.isdecimal():
            parts[-1] += letter
        else:
            parts.append(letter)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
