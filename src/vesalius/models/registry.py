"""The published checkpoints: where they are, under which licence, and how to know them.

The facts are in ``registry.toml``; a digest or a size is there only if it is published.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path

from vesalius.core.config import Config
from vesalius.core.errors import ModelError


class Entry(Config):
    """A published checkpoint.

    Attributes:
        title: Its name in words.
        paper: Where it is described.
        page: Where it is published.
        licence: SPDX identifier of the weights' licence; None where the page states none.
        preset: Key of ``PRESETS``; None for a network that is not loaded from a checkpoint.
        file: Name of the file.
        url: Where the file can be downloaded directly.
        sha256: Published digest of the file, in hexadecimal.
        md5: Published digest, where there is no other.
        size: Of the file in bytes.
        how: What to do where there is no ``url``.
    """

    title: str
    paper: str
    page: str
    licence: str | None = None
    preset: str | None = None
    file: str | None = None
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    how: str | None = None


@cache
def entries() -> dict[str, Entry]:
    """All published checkpoints that we know, by name."""
    with (Path(__file__).parent / "registry.toml").open("rb") as file:
        return {name: Entry.from_dict(values, name) for name, values in tomllib.load(file).items()}


def entry(name: str) -> Entry:
    """A published checkpoint.

    Raises:
        ModelError: The name is unknown.
    """
    if name not in entries():
        raise ModelError(f"there is no model {name!r} in the registry", remedy=f"give one of {', '.join(entries())}")
    return entries()[name]


def by_digest(sha256: str) -> tuple[str, Entry] | None:
    """The name and entry of the file with this SHA-256, if it is known."""
    return next(((name, found) for name, found in entries().items() if found.sha256 == sha256), None)


def cache_folder() -> Path:
    """Where fetched models lie: the environment variable ``VESALIUS_CACHE``, or the user's cache of the platform."""
    import platformdirs

    named = os.environ.get("VESALIUS_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("vesalius", appauthor=False)


def model_folder(name: str) -> Path:
    """Where the checkpoint of a registry's name lies once it is fetched."""
    return cache_folder() / "models" / name
