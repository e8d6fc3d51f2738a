from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vesalius.core.errors import GeometryError, PromptError
from vesalius.core.types import Prompt
from vesalius.prompts.sample import (
    central_points,
    error_points,
    nearby_background,
    random_point,
    shift_box,
    tight_box,
)

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)).filter(lambda mask: mask.any())


@st.composite
def boxes_in_images(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    x0, y0 = draw(st.integers(0, size[1] - 1)), draw(st.integers(0, size[0] - 1))
    return (x0, y0, draw(st.integers(x0 + 1, size[1])), draw(st.integers(y0 + 1, size[0]))), size


@given(masks)
def test_tight_box_holds_the_mask_and_touches_it_on_every_side(mask: np.ndarray) -> None:
    x0, y0, x1, y1 = tight_box(mask)
    inside = mask[y0:y1, x0:x1]
    assert inside.sum() == mask.sum()
    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_tight_box_is_half_open_and_around_every_part() -> None:
    mask = np.zeros((30, 50), np.bool_)
    mask[4, 7] = True
    assert tight_box(mask) == (7, 4, 8, 5)
    mask[20:28, 40:48] = True  # The larger part alone would give (40, 20, 48, 28).
    assert tight_box(mask) == (7, 4, 48, 28)


def test_an_empty_mask_has_neither_box_nor_point() -> None:
    empty = np.zeros((5, 5), np.bool_)
    with pytest.raises(PromptError, match="empty"):
        tight_box(empty)
    with pytest.raises(PromptError, match="empty"):
        random_point(empty, np.random.default_rng(0))


@given(boxes_in_images(), st.integers(0, 12), st.integers(0, 2**32))
def test_shift_stays_near_inside_and_valid(
    case: tuple[tuple[int, int, int, int], tuple[int, int]], pixels: int, seed: int
) -> None:
    box, size = case
    moved = shift_box(box, size, 0, pixels, np.random.default_rng(seed))
    assert max(abs(a - b) for a, b in zip(box, moved, strict=True)) <= pixels
    Prompt(box=moved).check(size)


def test_shift_moves_each_edge_by_itself() -> None:
    rng = np.random.default_rng(0)
    moves = np.array([shift_box((100, 60, 180, 110), (200, 300), 0, 5, rng) for _ in range(2000)]) - (100, 60, 180, 110)
    for edge in moves.T:
        assert set(edge.tolist()) == set(range(-5, 6))
    # A box that is only shifted keeps its size: opposite edges would correlate fully.
    correlation = np.corrcoef(moves.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.1


def test_shift_knows_height_from_width() -> None:
    rng = np.random.default_rng(1)
    wide = np.array([shift_box((150, 10, 190, 40), (50, 200), 0, 5, rng) for _ in range(200)])
    assert wide[:, 2].max() > 190  # Clamped to the height, it would be 50 at most.
    tall = np.array([shift_box((10, 150, 40, 190), (200, 50), 0, 5, rng) for _ in range(200)])
    assert tall[:, 3].max() > 190
    assert wide[:, 3].max() <= 50
    assert tall[:, 2].max() <= 50


@given(masks, st.integers(0, 2**32))
def test_random_point_is_on_the_object(mask: np.ndarray, seed: int) -> None:
    x, y = random_point(mask, np.random.default_rng(seed))
    assert mask[y, x]


def test_random_points_reach_all_of_an_object_far_from_the_corner() -> None:
    mask = np.zeros((300, 700), np.bool_)
    mask[290:293, 600:604] = True
    mask[270, 690] = True
    rng = np.random.default_rng(0)
    found = {random_point(mask, rng) for _ in range(500)}
    assert found == {(x, y) for y, x in np.argwhere(mask)}


def test_one_pixel_object_is_clicked_as_object() -> None:
    truth = np.zeros((20, 30), np.bool_)
    truth[11, 23] = True
    rng = np.random.default_rng(0)
    assert random_point(truth, rng) == (23, 11)
    points, labels = error_points(np.zeros_like(truth), truth, 5, rng)
    assert points.tolist() == [[23, 11]]
    assert labels.tolist() == [1]


@given(st.data(), array_shapes(min_dims=2, max_dims=2, max_side=9), st.integers(0, 6), st.integers(0, 2**32))
def test_error_points_lie_on_errors_and_carry_the_truth(
    data: st.DataObject, shape: tuple[int, int], count: int, seed: int
) -> None:
    prediction, truth = (data.draw(arrays(np.bool_, shape)) for _ in range(2))
    points, labels = error_points(prediction, truth, count, np.random.default_rng(seed))
    assert len(points) == min(count, np.count_nonzero(prediction != truth))
    x, y = points.astype(int).T
    assert (prediction[y, x] != truth[y, x]).all()
    assert (labels == truth[y, x]).all()
    assert len(set(zip(x, y, strict=True))) == len(points)


def test_clicks_of_one_object_are_all_different() -> None:
    pixel = np.zeros((9, 9), np.bool_)
    pixel[4, 6] = True
    assert central_points(pixel, 5).tolist() == [[6, 4]]
    around = nearby_background(pixel, 5)
    assert len({tuple(point) for point in around}) == 5
    assert (np.abs(around - (6, 4)).max(1) == 1).all()
    square = np.zeros((9, 9), np.bool_)
    square[3:6, 3:6] = True
    for count in (1, 5, 9, 12):
        clicks = central_points(square, count)
        assert len({tuple(point) for point in clicks}) == len(clicks) == min(count, 9)
        assert clicks[0].tolist() == [4, 4]


def test_error_points_are_spread_over_all_errors() -> None:
    truth = np.zeros((400, 600), np.bool_)
    truth[10:20, 10:20] = True  # 100 pixels missed
    prediction = np.zeros_like(truth)
    prediction[380:390, 560:590] = True  # 300 too many, far outside any 256 x 256 corner
    rng = np.random.default_rng(0)
    labels = np.concatenate([error_points(prediction, truth, 1, rng)[1] for _ in range(2000)])
    assert labels.mean() == pytest.approx(0.25, abs=0.04)


def test_error_points_of_masks_that_do_not_match() -> None:
    with pytest.raises(GeometryError):
        error_points(np.ones((4, 1), np.bool_), np.ones((4, 4), np.bool_), 1, np.random.default_rng(0))
