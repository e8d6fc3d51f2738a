from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vesalius.core.errors import GeometryError
from vesalius.metrics.overlap import dice, iou


def test_known_overlap() -> None:
    a = np.array([[True, True, False], [True, False, False]])
    b = np.array([[True, False, False], [True, True, True]])
    assert dice(a, b) == pytest.approx(2 * 2 / (3 + 4))
    assert iou(a, b) == pytest.approx(2 / 5)


def test_both_empty_is_undefined_and_one_empty_is_zero() -> None:
    empty, some = np.zeros((4, 5), np.bool_), np.eye(4, 5, dtype=np.bool_)
    for metric in (dice, iou):
        assert math.isnan(metric(empty, empty))
        assert metric(empty, some) == 0
        assert metric(some, empty) == 0
        assert metric(some, some) == 1


@given(st.data(), array_shapes(min_dims=2, max_dims=3, max_side=6))
def test_iou_follows_from_dice(data: st.DataObject, shape: tuple[int, ...]) -> None:
    a, b = (data.draw(arrays(np.bool_, shape)) for _ in range(2))
    d, j = dice(a, b), iou(a, b)
    assert d == pytest.approx(dice(b, a), nan_ok=True)
    assert j == pytest.approx(d / (2 - d), nan_ok=True)


# Logits without a negative value went unthresholded through published metrics; here they are refused.
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_only_booleans_are_masks(dtype: type) -> None:
    mask, logits = np.ones((3, 3), np.bool_), np.ones((3, 3), dtype)
    for pair in ((mask, logits), (logits, mask)):
        for metric in (dice, iou):
            with pytest.raises(TypeError, match="booleans"):
                metric(*pair)


def test_shapes_must_agree() -> None:
    # (1, 3) against (3, 3) would broadcast without a word.
    with pytest.raises(GeometryError, match=r"\(1, 3\)"):
        dice(np.ones((1, 3), np.bool_), np.ones((3, 3), np.bool_))
    with pytest.raises(GeometryError):
        iou(np.ones((4, 3), np.bool_), np.ones((3, 4), np.bool_))
