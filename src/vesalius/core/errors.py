"""Every error Vesalius raises on purpose.

::

    VesaliusError                 the base: one sentence with what, why and what to do
    ├── ReadError                 a file is missing, damaged, empty, or of a kind we cannot read
    ├── GeometryError             slices that do not make a volume; a mask that does not fit its image
    ├── PromptError               a box, point or mask that makes no sense on this image
    ├── ModelError                a model that is unknown, or a checkpoint that does not fit
    ├── ConfigError               an unknown key or a value out of range
    └── WriteError                an output that cannot be written as asked

The command line prints the sentence and exits with code 2.
"""

from __future__ import annotations

from pathlib import Path


class VesaliusError(Exception):
    """Base of all errors raised on purpose.

    Args:
        reason: What is wrong, in one clause.
        path: The file or folder concerned, if any.
        remedy: What the reader can do about it.
    """

    def __init__(self, reason: str, *, path: str | Path | None = None, remedy: str | None = None) -> None:
        self.reason = reason
        self.path = Path(path) if path is not None else None
        self.remedy = remedy
        sentence = f"{path}: {reason}" if path is not None else reason
        super().__init__(f"{sentence}; {remedy}" if remedy else sentence)


class ReadError(VesaliusError):
    """A file is missing, damaged, empty, or of a kind we cannot read."""


class GeometryError(VesaliusError):
    """Slices that do not make a volume, or a mask that does not fit its image."""


class PromptError(VesaliusError):
    """A box, point or mask that makes no sense on this image."""


class ModelError(VesaliusError):
    """A model that is unknown, or a checkpoint that does not fit."""


class ConfigError(VesaliusError):
    """An unknown key or a value out of range in a configuration."""


class WriteError(VesaliusError):
    """An output that cannot be written as asked."""
