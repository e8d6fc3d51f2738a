"""Named regions of an image or a volume, kept as cut-outs, so that many of them fit in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class CutOut:
    """A part of a slice.

    Attributes:
        mask: (h, w) bool.
        top: Row of its first pixel.
        left: Column of its first pixel.
    """

    mask: NDArray[np.bool_]
    top: int = 0
    left: int = 0

    @property
    def where(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return (
            slice(self.top, self.top + self.mask.shape[0]),
            slice(self.left, self.left + self.mask.shape[1]),
        )


@dataclass(frozen=True, eq=False)
class Region:
    """A region; others may overlap it.

    Attributes:
        value: Its number, from 1.
        name: As the source calls it.
        planes: Index of a slice -> what the slice has of it; empty where it holds no pixel.
        one: Whether it is one object, even where it falls into parts.
    """

    value: int
    name: str
    planes: Mapping[int, CutOut] = field(default_factory=dict)
    one: bool = False


def cut_out(mask: NDArray[np.bool_]) -> CutOut | None:
    """The smallest cut-out with all that a (H, W) mask marks, or None where it marks nothing."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return CutOut(mask[top : rows[-1] + 1, left : columns[-1] + 1].copy(), top, left)
