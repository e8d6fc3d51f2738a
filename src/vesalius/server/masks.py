"""From what was said about an object on slices of any axis to its voxels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import AXES
from vesalius.io.outlines import mask_of_runs, runs_of_mask
from vesalius.io.regions import CutOut, Region, cut_out
from vesalius.server.documents import Annotation, Place

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a volume.

    Attributes:
        voxels: (z, y, x) bool.
        start: Index (z, y, x) of its first voxel.
    """

    voxels: Bools
    start: tuple[int, int, int]


def slice_shape(shape: Sequence[int], axis: str) -> tuple[int, int]:
    """(height, width) of the slices of a (Z, Y, X) grid along an axis."""
    height, width = (length for name, length in zip(AXES[::-1], shape, strict=True) if name != axis)
    return height, width


def block_of(thing: Annotation, shape: Sequence[int]) -> Block | None:
    """The voxels of an object; None if it has none.

    What was said last about a voxel holds: a slice replaces what slices of other axes said about its voxels before.

    Args:
        thing: The object.
        shape: (Z, Y, X) of the volume.
    """
    parts: list[tuple[Place, CutOut | None]] = [
        ((axis, index), cut_out(mask_of_runs(plane.mask, slice_shape(shape, axis))) if plane.area else None)
        for (axis, index), plane in thing.planes.items()
    ]
    corners = [_extent(place, part) for place, part in parts if part is not None]
    if not corners:
        return None
    start = np.min([low for low, _ in corners], axis=0)
    stop = np.max([high for _, high in corners], axis=0)
    voxels = np.zeros(stop - start, np.bool_)
    for (axis, index), part in parts:
        along = 2 - AXES.index(axis)
        if not start[along] <= index < stop[along]:
            continue
        plane = np.moveaxis(voxels, along, 0)[index - start[along]]
        plane[:] = False
        if part is not None:
            top, left = (value for value, name in zip(start, AXES[::-1], strict=True) if name != axis)
            rows, columns = part.where
            plane[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part.mask
    return Block(voxels, (int(start[0]), int(start[1]), int(start[2])))


def _extent(place: Place, part: CutOut) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last + 1 index (z, y, x) of a cut-out of a slice."""
    rows, columns = part.where
    along = 2 - AXES.index(place[0])
    low, high = [rows.start, columns.start], [rows.stop, columns.stop]
    low.insert(along, place[1])
    high.insert(along, place[1] + 1)
    return np.array(low), np.array(high)


def crosses(thing: Annotation, axis: str) -> bool:
    """Whether something was said about an object on slices of other axes than this."""
    return any(other != axis for other, _ in thing.planes)


def mask_in_block(block: Block | None, axis: str, index: int, shape: Sequence[int]) -> Bools:
    """(H, W) mask of a slice of a block in a (Z, Y, X) volume."""
    mask = np.zeros(slice_shape(shape, axis), np.bool_)
    along = 2 - AXES.index(axis)
    if block is not None and block.start[along] <= index < block.start[along] + block.voxels.shape[along]:
        plane = np.moveaxis(block.voxels, along, 0)[index - block.start[along]]
        top, left = (value for value, name in zip(block.start, AXES[::-1], strict=True) if name != axis)
        mask[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return mask


def region_of(number: int, thing: Annotation, shape: Sequence[int]) -> Region:
    """An object slice by slice along z.

    Args:
        number: What the region is numbered.
        thing: The object.
        shape: (Z, Y, X) of the volume.
    """
    name = thing.name or f"object {number}"
    block = block_of(thing, shape)
    planes: dict[int, CutOut] = {}
    if block is not None:
        top, left = block.start[1:]
        for height, plane in enumerate(block.voxels, block.start[0]):
            part = cut_out(plane)
            if part is not None:
                planes[height] = CutOut(part.mask, part.top + top, part.left + left)
    return Region(number, name, planes, one=True)


def label_map(regions: Iterable[Region], shape: Sequence[int]) -> NDArray[Any]:
    """(Z, Y, X) uint8 or uint16, the numbers of the regions; of those that overlap, the later one is on top."""
    regions = list(regions)
    most = max((region.value for region in regions), default=0)
    labels = np.zeros(tuple(shape), np.uint8 if most < 256 else np.uint16)
    for region in regions:
        for height, part in region.planes.items():
            labels[height][part.where][part.mask] = region.value
    return labels


def runs(mask: Bools) -> dict[str, Any]:
    """The mask and its area as actions hold them."""
    return {"mask": runs_of_mask(mask), "area": int(np.count_nonzero(mask))}
