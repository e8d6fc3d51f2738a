"""JSON that grows with the number of images, and what layouts have no place for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from vesalius.core.errors import ReadError
from vesalius.corpus.layouts.support import read_json
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


def read_cases(root: Path) -> dict[str, dict[str, str | None]]:
    """The rows of ``cases.json`` by the image's path below the root; empty where there is none.

    Raises:
        ReadError: It is damaged.
    """
    path = root / CASES
    if not path.is_file():
        return {}
    content = read_json(path, "copy it again, or delete it")
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise ReadError("does not state the case of each image", path=path, remedy="copy it again, or delete it")
    return content
