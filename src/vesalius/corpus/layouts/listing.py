"""JSON that grows with the number of images, read and written row by row, and what layouts have no place for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ijson

from vesalius.core.errors import ReadError
from vesalius.corpus.objects import LabelledImage

# Beside the files of a layout that has no place for them: the case, modality and split of each image.
CASES = "cases.json"


class Rows:
    """Rows of JSON lists and mappings, kept in files until they are put together: memory does not grow with them.

    Args:
        folder: Where the files lie meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count: Counter[str] = Counter()

    def add(self, name: str, row: Any) -> None:
        """Adds a row to the list ``name``."""
        self._append(name, json.dumps(row, ensure_ascii=False))

    def put(self, name: str, key: str, value: Any) -> None:
        """Adds a key and its value to the mapping ``name``."""
        self._append(name, f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}")

    def write_lists(self, path: Path, head: dict[str, Any], names: dict[str, str]) -> None:
        """Writes a JSON object with what ``head`` has and then the lists, ``names`` giving the key of each."""
        with path.open("w", encoding="utf-8") as file:
            file.write("{\n")
            for key, value in head.items():
                file.write(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n")
            for number, (name, key) in enumerate(names.items()):
                file.write(f"{',' if number else ''}{json.dumps(key)}: [\n")
                self._copy(name, file)
                file.write("]\n")
            file.write("}\n")

    def write_mapping(self, path: Path, name: str) -> None:
        """Writes a mapping as a JSON object."""
        with path.open("w", encoding="utf-8") as file:
            file.write("{\n")
            self._copy(name, file)
            file.write("}\n")

    def _append(self, name: str, text: str) -> None:
        with (self._folder / f".{name}.rows").open("a", encoding="utf-8") as file:
            file.write((",\n" if self.count[name] else "") + text)
        self.count[name] += 1

    def _copy(self, name: str, target: Any) -> None:
        path = self._folder / f".{name}.rows"
        if not self.count[name]:
            return
        with path.open(encoding="utf-8") as rows:
            for line in rows:
                target.write(line)
        target.write("\n")
        path.unlink()


def about(image: LabelledImage) -> dict[str, str | None]:
    """What a layout has no place for, as a row of ``cases.json``."""
    return {
        "case": image.case,
        "modality": None if image.modality == "unknown" else image.modality,
        "split": image.split,
    }


def read_cases(root: Path) -> Iterator[tuple[str, dict[str, str | None]]]:
    """The rows of ``cases.json``, each with the image's path below the root; none where there is no such file.

    Raises:
        ReadError: It is damaged.
    """
    path, remedy = root / CASES, "copy it again, or delete it"
    if path.is_file():
        for image, row in read_members(path, remedy):
            if not isinstance(row, dict):
                raise ReadError("does not state the case of each image", path=path, remedy=remedy)
            yield image, row


def read_members(path: Path, remedy: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of a JSON object, one by one.

    Raises:
        ReadError: It is missing or damaged, or is no object.
    """
    with _parsing(path, remedy) as file:
        if next(ijson.basic_parse(file))[0] != "start_map":
            raise ReadError("is no mapping", path=path, remedy=remedy)
        file.seek(0)
        yield from ijson.kvitems(file, "", use_float=True)


def read_rows(path: Path, name: str, remedy: str) -> Iterator[Any]:
    """Rows of the list ``name`` of a JSON object, one by one; none where it has no such list.

    Raises:
        ReadError: It is missing or damaged.
    """
    with _parsing(path, remedy) as file:
        yield from ijson.items(file, f"{name}.item", use_float=True)


def read_member(path: Path, name: str, remedy: str) -> Any:
    """The value of one key of a JSON object, or None.

    Raises:
        ReadError: It is missing or damaged.
    """
    with _parsing(path, remedy) as file:
        return next(ijson.items(file, name, use_float=True), None)


@contextmanager
def _parsing(path: Path, remedy: str) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ReadError(f"cannot be read ({error.strerror})", path=path, remedy=remedy) from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ReadError(
            f"is not JSON, or is damaged or cut short ({reason}); NaN is not JSON", path=path, remedy=remedy
        ) from error
