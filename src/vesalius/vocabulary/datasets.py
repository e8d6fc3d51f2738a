"""The catalogue: data sets that the papers list, and how each paper uses them.

The facts are in ``datasets.toml``, which says where each comes from.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from vesalius.core.errors import ConfigError
from vesalius.vocabulary.modalities import find_modality, modalities


@dataclass(frozen=True)
class Use:
    """What one row of a paper's table says of a data set.

    Attributes:
        paper: Key in ``papers()``.
        table: Number of its table, or "text".
        name: The data set's name there.
        roles: ("training", "internal"): trained on, and tested on a part kept apart; ("external",): only tested on.
        modalities: Canonical names.
        structures: SA-Med2D-20M's anatomical structures.
        classes: Number of classes.
        count: Number of ``unit``.
        unit: "scans" or "images".
        redistributable: Whether the paper may pass the data on; None where it does not say.
        link: Where the data are.
    """

    paper: str
    table: str
    name: str
    roles: tuple[str, ...]
    modalities: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    classes: int | None = None
    count: int | None = None
    unit: str | None = None
    redistributable: bool | None = None
    link: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: Of the entry.
        uses: One per row of a paper.
        dimension: "2D" or "3D"; None where it is not said.
        targets: What is segmented, by the names of the vocabulary where it has them.
        note: What is doubtful in the papers.
    """

    name: str
    uses: tuple[Use, ...]
    dimension: str | None = None
    targets: tuple[str, ...] = ()
    note: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, then the other names that papers give it."""
        return _distinct((self.name, *(use.name for use in self.uses)))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of all uses."""
        return _distinct(chain.from_iterable(use.modalities for use in self.uses))

    @property
    def structures(self) -> tuple[str, ...]:
        """Those of all uses."""
        return _distinct(chain.from_iterable(use.structures for use in self.uses))

    @property
    def papers(self) -> tuple[str, ...]:
        """Those that use it."""
        return _distinct(use.paper for use in self.uses)

    @property
    def links(self) -> tuple[str, ...]:
        """Those of all uses."""
        return _distinct(use.link for use in self.uses if use.link)


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


@cache
def _file() -> dict[str, Any]:
    with (Path(__file__).parent / "datasets.toml").open("rb") as file:
        return tomllib.load(file)


def papers() -> dict[str, dict[str, Any]]:
    """The papers: ``title``, what ``roles`` mean in it, and number of ``rows`` by table."""
    papers: dict[str, dict[str, Any]] = _file()["papers"]
    return papers


@cache
def datasets() -> dict[str, Dataset]:
    """All data sets by name."""
    found = {}
    for row in _file()["dataset"]:
        uses = (_tuples(use) for use in row["uses"])
        found[row["name"]] = Dataset(**_tuples({**row, "uses": [Use(**use) for use in uses]}))
    return found


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def find_datasets(name: str) -> list[Dataset]:
    """The data sets of this name; case, spaces and punctuation do not matter.

    The name of an entry gives just that one. A name in a paper can stand for several: Private10 is a set of
    SA-Med2D-20M, and another of IMed-361M.
    """
    key = _key(name)
    own = [found for found in datasets().values() if _key(found.name) == key]
    return own or [found for found in datasets().values() if key in map(_key, found.names)]


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter == "&")


def select_datasets(
    modality: str | None = None, paper: str | None = None, dimension: str | None = None
) -> list[Dataset]:
    """The data sets that fit all that is asked.

    Args:
        modality: Name or synonym of a modality; its kinds fit too (mr_t1 is mr).
        paper: Key in ``papers()``.
        dimension: "2D" or "3D".

    Raises:
        ConfigError: A value is unknown.
    """
    wanted = find_modality(modality) if modality is not None else None
    if modality is not None and wanted is None:
        raise ConfigError(f"there is no modality {modality!r}", remedy=f"give one of {', '.join(modalities())}")
    if paper is not None and paper not in papers():
        raise ConfigError(f"there is no paper {paper!r}", remedy=f"give one of {', '.join(papers())}")
    if dimension is not None and dimension.upper() not in ("2D", "3D"):
        raise ConfigError(f"there is no dimension {dimension!r}", remedy="give 2D or 3D")
    return [
        found
        for found in datasets().values()
        if (wanted is None or any(wanted.name in modalities()[name].lineage for name in found.modalities))
        and (paper is None or paper in found.papers)
        and (dimension is None or found.dimension == dimension.upper())
    ]
