from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.frame import Frame

FITS: list[Callable[[tuple[int, int], int], Frame]] = [Frame.stretch, Frame.longest_side, Frame.pad]
sizes = st.tuples(st.integers(1, 700), st.integers(1, 700))
coordinates = st.floats(-1000, 1000)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Any of the three fits, or a window of an image."""
    size, side = draw(sizes), draw(st.sampled_from([64, 256, 1024]))
    if draw(st.booleans()):
        return draw(st.sampled_from(FITS))(size, side)
    height, width = size
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    window = (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
    return Frame.stretch(size, side, window)


@given(frames(), st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=4))
def test_points_round_trip(frame: Frame, points: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(frame.inverse_points(frame.points(points)), points, atol=1e-6)


@given(frames(), st.lists(st.tuples(*[coordinates] * 4), min_size=1, max_size=4))
def test_boxes_round_trip(frame: Frame, boxes: list[tuple[float, float, float, float]]) -> None:
    np.testing.assert_allclose(frame.inverse_boxes(frame.boxes(boxes)), boxes, atol=1e-6)


@given(frames())
def test_window_maps_to_content(frame: Frame) -> None:
    np.testing.assert_allclose(frame.boxes(frame.window), frame.content, atol=1e-6)
    x0, y0, x1, y1 = frame.content
    assert 0 <= x0 < x1 <= frame.side
    assert 0 <= y0 < y1 <= frame.side


@given(frames())
def test_points_and_boxes_agree(frame: Frame) -> None:
    """The box around one pixel has that pixel's centre in its middle: a half-open box is half a pixel off a point."""
    x, y = frame.window[:2]
    box = frame.boxes((x, y, x + 1, y + 1))
    np.testing.assert_allclose(frame.points((x, y)) + 0.5, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("size", "content"), [((100, 200), None), ((300, 200), None), ((256, 256), (0, 0, 256, 256))])
def test_the_three_fits(fit: Callable[[tuple[int, int], int], Frame], size: tuple[int, int], content: object) -> None:
    frame = fit(size, 256)
    expected = (
        content
        or {
            (Frame.stretch.__name__, (100, 200)): (0, 0, 256, 256),
            (Frame.stretch.__name__, (300, 200)): (0, 0, 256, 256),
            (Frame.longest_side.__name__, (100, 200)): (0, 0, 256, 128),
            (Frame.longest_side.__name__, (300, 200)): (0, 0, 171, 256),
            (Frame.pad.__name__, (100, 200)): (28, 78, 228, 178),
            (Frame.pad.__name__, (300, 200)): (0, 0, 256, 256),
        }[(fit.__name__, size)]
    )
    assert frame.content == expected
    assert frame.is_whole


def test_image_follows_points() -> None:
    """A bright pixel of the original is bright at the place that ``points`` says."""
    for fit in FITS:
        image = np.zeros((60, 90), np.uint8)
        image[20, 70] = 255
        frame = fit((60, 90), 256)
        shown = frame.image(image)
        assert shown.shape == (256, 256)
        y, x = np.unravel_index(shown.argmax(), shown.shape)
        assert np.abs(frame.points((70, 20)) - (x, y)).max() <= 0.5 * max(1, *frame.scale)


def test_an_axis_that_shrinks_is_averaged_though_the_other_grows() -> None:
    stripes = np.zeros((100, 2560), np.uint8)
    stripes[:, ::10] = 250
    assert (Frame.stretch(stripes.shape, 256).image(stripes) == 25).all()
    assert (Frame.stretch(stripes.T.shape, 256).image(stripes.T) == 25).all()


def test_padding_is_zero_and_colour_is_kept() -> None:
    image = np.full((50, 100, 3), 9, np.uint8)
    shown = Frame.longest_side((50, 100), 200).image(image)
    assert shown.shape == (200, 200, 3)
    assert (shown[:100] == 9).all()
    assert not shown[100:].any()


@st.composite
def ellipses(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(60, 300)), draw(st.integers(60, 300))
    y, x = np.mgrid[:height, :width]
    centre = draw(st.floats(0.3, 0.7)), draw(st.floats(0.3, 0.7))
    radius = draw(st.floats(0.15, 0.3)), draw(st.floats(0.15, 0.3))
    return ((y / height - centre[0]) / radius[0]) ** 2 + ((x / width - centre[1]) / radius[1]) ** 2 < 1


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@given(ellipses(), st.sampled_from(FITS), st.sampled_from([64, 128]))
def test_mask_to_low_resolution_and_back(mask: np.ndarray, fit: Callable[..., Frame], side: int) -> None:
    frame = fit(mask.shape, 256)
    low = frame.mask(mask, side)
    assert low.shape == (side, side)
    assert low.min() >= 0
    assert low.max() <= 1
    assert _iou(frame.inverse_logits(low - 0.5) > 0, mask) > 0.9


@given(ellipses())
def test_mask_through_a_window_and_back(mask: np.ndarray) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    frame = Frame.stretch(mask.shape, 256, window)
    again = frame.inverse_logits(frame.mask(mask, 128) - 0.5)
    assert _iou(again > 0, mask) > 0.95
    outside = np.ones(mask.shape, bool)
    outside[window[1] : window[3], window[0] : window[2]] = False
    assert (again[outside] == -32).all()
