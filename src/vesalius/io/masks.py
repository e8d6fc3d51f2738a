"""Any file to the mask of one slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError, ReadError
from vesalius.core.types import AXES, Slice
from vesalius.io.grid import Grid, check_shape, decoding
from vesalius.io.read import read_grid


def read_mask(path: str | Path, *, like: Slice) -> NDArray[np.bool_]:
    """Reads the mask of one object on one slice.

    A mask has one value besides 0 (0 and 1, 0 and 255, ...); a palette picture counts by its indices, a colour picture
    by its three equal channels. A file with the whole volume gives the slice at ``like``'s place.

    Args:
        path: A picture, a scan or a DICOM segmentation.
        like: The slice that the mask belongs to.

    Returns:
        (H, W) bool; it may be empty.

    Raises:
        ReadError: The file cannot be read, or holds more than one object.
        GeometryError: The mask has another size, or lies elsewhere in the patient.
    """
    path = Path(path)
    grid = _labels(path, like)
    check_shape(grid.values.shape, path)
    plane = _plane(grid, like, path)
    found = np.unique(plane)
    if not np.isfinite(found).all() or np.count_nonzero(found) > 1:
        raise ReadError(
            f"is not the mask of one object: its slice has {len(found)} different values",
            path=path,
            remedy="give a file with 0 and one other value",
        )
    return np.asarray(plane != 0)


def _labels(path: Path, like: Slice) -> Grid:
    if path.is_file():
        with decoding(path, "file"), path.open("rb") as file:
            start = file.read(132)
        if start[128:] == b"DICM":
            from vesalius.io.dicom_seg import read_segmentation

            size = (like.geometry.size[1], like.geometry.size[0]) if like.geometry else like.size
            return Grid(read_segmentation(path, like.geometry, size), like.geometry)
        if start.startswith(b"\x89PNG"):
            from PIL import Image

            with decoding(path, "PNG image"), Image.open(path, formats=("PNG",)) as image:
                if image.mode == "P":
                    return Grid(np.asarray(image)[None])
    return read_grid(path, None)


def _plane(grid: Grid, like: Slice, path: Path) -> NDArray[Any]:
    values = grid.values
    if values.ndim == 4:
        if values.shape[-1] != 3 or (values != values[..., :1]).any():
            raise ReadError("is a colour picture, not a mask", path=path, remedy="save it as black and white")
        values = values[..., 0]
    if like.geometry is not None and values.shape == like.geometry.size[::-1]:
        if grid.geometry is not None and not grid.geometry.close_to(like.geometry, 0.05):
            raise GeometryError(
                "lies elsewhere in the patient than its image (origin, spacing or direction differ)",
                path=path,
                remedy="resample it to the image's grid",
            )
        return np.asarray(np.take(values, like.index, axis=2 - AXES.index(like.axis)))
    if values.shape != (1, *like.size):
        raise GeometryError(
            f"is {' x '.join(map(str, values.shape[::-1]))} pixels, its image {like.size[1]} x {like.size[0]}",
            path=path,
            remedy="give a mask of the same size",
        )
    return np.asarray(values[0])
