from __future__ import annotations

import math

import numpy as np
import pytest

from vesalius.core.errors import GeometryError
from vesalius.metrics.boundary import boundary_iou


def test_shifted_squares_by_hand() -> None:
    # The diagonal of 100 x 100 is 141, the band is 3 wide.
    a, b = np.zeros((100, 100), np.bool_), np.zeros((100, 100), np.bool_)
    a[10:50, 10:50] = True
    b[10:50, 11:51] = True
    each, shared = 40 * 40 - 34 * 34, 40 * 39 - 34 * 35
    assert boundary_iou(a, b) == pytest.approx(shared / (2 * each - shared))


def test_the_image_ends_where_the_mask_does() -> None:
    full = np.ones((100, 100), np.bool_)
    ring = full.copy()
    ring[3:-3, 3:-3] = False
    assert boundary_iou(full, ring) == 1
    ring[3, 3] = True
    assert boundary_iou(full, ring) < 1


def test_the_band_grows_with_the_image_and_is_at_least_a_pixel() -> None:
    a = np.zeros((10, 10), np.bool_)
    a[2:8, 2:8] = True
    hollow = a.copy()
    hollow[3:7, 3:7] = False
    assert boundary_iou(a, hollow) == 1
    # In a larger image the band of the same square is all of it.
    assert boundary_iou(np.pad(a, 100), np.pad(hollow, 100)) == pytest.approx(20 / 36)


def test_empty_masks_and_refusals() -> None:
    empty, some = np.zeros((20, 20), np.bool_), np.eye(20, dtype=np.bool_)
    assert math.isnan(boundary_iou(empty, empty))
    assert boundary_iou(empty, some) == 0
    with pytest.raises(GeometryError):
        boundary_iou(np.ones((3, 4, 5), np.bool_), np.ones((3, 4, 5), np.bool_))
    with pytest.raises(TypeError, match="booleans"):
        boundary_iou(some, some.astype(np.uint8))  # type: ignore[arg-type]
