from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from vesalius.io.outlines import mask_of_polygons, mask_of_runs, polygon_of_mask, runs_of_mask


def masks(count: int = 60):
    """Blobs, noise that touches in corners, stripes, single pixels, full and nearly empty masks."""
    rng = np.random.default_rng(1)
    for number in range(count):
        height, width = rng.integers(1, 40, 2)
        mask = rng.random((height, width)) < (0.02, 0.3, 0.5, 0.9, 1.0)[number % 5]
        mask.flat[rng.integers(mask.size)] = True
        yield mask
    yield np.arange(300).reshape(10, 30) % 2 == 0
    long = np.zeros((3000, 700), bool)  # run lengths of several characters, and negative differences
    long[:, 300:] = True
    long[5:1000, 3] = long[7, 90] = True
    yield long


def test_run_lengths_are_those_of_pycocotools() -> None:
    for mask in masks():
        rle = runs_of_mask(mask)
        np.testing.assert_array_equal(mask_of_runs(rle, mask.shape), mask)
        np.testing.assert_array_equal(coco.decode(rle), mask)
        np.testing.assert_array_equal(mask_of_runs(rle | {"counts": rle["counts"].encode()}, mask.shape), mask)


def test_every_cut_of_the_run_lengths_is_noticed() -> None:
    for mask in masks(10):
        rle = runs_of_mask(mask)
        for end in range(len(rle["counts"])):
            with pytest.raises(ValueError, match="run lengths"):
                mask_of_runs(rle | {"counts": rle["counts"][:end]}, mask.shape)
    with pytest.raises(ValueError, match="damaged"):
        mask_of_runs({"size": [2, 2], "counts": "o" * 30 + "0"}, (2, 2))
    with pytest.raises(ValueError, match="damaged"):
        mask_of_runs({"size": [2, 2], "counts": "\x05"}, (2, 2))
    with pytest.raises(ValueError, match="damaged"):  # their sum is 4 in 64 bits
        mask_of_runs({"size": [2, 2], "counts": [2, *[2**62] * 4, 2]}, (2, 2))


def test_an_outline_fills_to_its_mask() -> None:
    for mask in masks():
        corners = polygon_of_mask(mask)
        assert corners.min() >= 0
        np.testing.assert_array_equal(mask_of_polygons([corners.ravel()], mask.shape), mask)


def test_an_outline_has_corners_alone() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    assert sorted(map(tuple, polygon_of_mask(mask))) == [(3, 2), (3, 5), (8, 2), (8, 5)]
    with pytest.raises(ValueError, match="empty"):
        polygon_of_mask(np.zeros((3, 3), bool))


def test_polygons_make_one_mask() -> None:
    mask = mask_of_polygons([[0, 0, 3, 0, 3, 3, 0, 3], [2, 2, 5, 2, 5, 5, 2, 5]], (6, 7))
    expected = np.zeros((6, 7), bool)
    expected[:3, :3] = expected[2:5, 2:5] = True
    np.testing.assert_array_equal(mask, expected)
