"""DICOM structure sets: contours, filled on the slices of the series that they were drawn on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from vesalius.core.errors import ReadError
from vesalius.core.geometry import Geometry
from vesalius.io.dicom import load_file
from vesalius.io.grid import decoding
from vesalius.io.regions import CutOut, Region, cut_out

_log = logging.getLogger(__name__)

# Contours are areas if they are of these types (DICOM PS3.3 C.8.8.6.3).
_AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# Coordinates are rounded; a contour this share of a slice away from it lies on no slice.
_SLICE_TOLERANCE = 0.1


def read_structures(path: Path, geometry: Geometry, image: Path | None = None) -> list[Region]:
    """The regions of interest of a structure set on the voxels of a series.

    A voxel belongs to a region if its centre lies inside an odd number of the region's contours on its slice, so that
    a contour inside another is a hole. Contours that lie on no slice of the series, cross several, or are no areas are
    left out, and a warning counts them for each region.

    Args:
        path: The structure set.
        geometry: Of the series.
        image: The series, as warnings name it.

    Returns:
        The regions in the order of the file, valued by ROI Number, or by their place from 1 if a number is below 1.
        A region with no contour on the series is not among them.

    Raises:
        ReadError: It is no structure set, or is damaged.
    """
    dataset = load_structures(path)
    with decoding(path, "DICOM structure set"):
        names = {int(roi.ROINumber): str(roi.get("ROIName") or "").strip() for roi in dataset.StructureSetROISequence}
        contours = {int(roi.ReferencedROINumber): roi.get("ContourSequence") or [] for roi in _contours(dataset)}
        regions = []
        for place, (number, name) in enumerate(names.items(), 1):
            drawn = contours.get(number, [])
            planes, outside, others = _planes(drawn, geometry)
            if outside or others:
                _log.warning(
                    "%s: of the %d contours of %s, %d lie on no slice of %s and %d are no areas; they are left out",
                    path,
                    len(drawn),
                    name or f"ROI {number}",
                    outside,
                    image or "the series",
                    others,
                )
            if planes:
                value = number if min(names) > 0 else place
                regions.append(Region(value, name or f"ROI {number}", planes))
        return regions


def load_structures(path: Path) -> Dataset:
    """The data set of a structure set; ReadError if the file is none."""
    dataset = load_file(path)
    if dataset.get("Modality") != "RTSTRUCT" or "StructureSetROISequence" not in dataset:
        raise ReadError("is DICOM but no structure set", path=path, remedy="give a DICOM RTSTRUCT file")
    return dataset


def fill(contours: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside an odd number of polygons.

    Args:
        contours: (N, 2) corners (x, y) of each polygon, in pixels, with whole numbers at pixel centres.
        size: (height, width) of the image.

    Returns:
        (H, W) bool. Of pixels with their centre on an edge, those on the left and the top are inside.
    """
    height, width = size
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    # An edge crosses the rows from its upper end to before its lower one, so that a corner is crossed once.
    down = start[:, 1] <= end[:, 1]
    upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1]), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1]), 0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(start)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    crossings = upper[edge, 0] + (rows - upper[edge, 1]) * slope
    columns = np.clip(np.ceil(crossings), 0, width).astype(np.int64)
    crossed = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(crossed, axis=1)[:, :width] % 2 == 1)


def _contours(dataset: Dataset) -> Sequence[Dataset]:
    found: Sequence[Dataset] = dataset.get("ROIContourSequence") or []
    return found


def _planes(contours: Sequence[Dataset], geometry: Geometry) -> tuple[dict[int, CutOut], int, int]:
    """What each slice has of a region, the number of contours on no slice, and of those that are no areas."""
    on_slice: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    outside = others = 0
    for contour in contours:
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        if contour.get("ContourGeometricType") not in _AREAS or len(points) < 3:
            others += 1
            continue
        index = geometry.to_index(points)
        height = round(float(index[0, 2]))
        if not 0 <= height < geometry.size[2] or np.abs(index[:, 2] - height).max() > _SLICE_TOLERANCE:
            outside += 1
            continue
        on_slice[height].append(index[:, :2])
    planes = {}
    for height, drawn in sorted(on_slice.items()):
        part = cut_out(fill(drawn, (geometry.size[1], geometry.size[0])))
        if part is not None:
            planes[height] = part
    return planes, outside, others
