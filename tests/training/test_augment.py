import numpy as np
import pytest

from vesalius.core.frame import Frame
from vesalius.predict.predictor import LEAST_WINDOW
from vesalius.training.augment import (
    AugmentConfig,
    drawn_view,
    grown_region,
    inversion,
    paint_shape,
    random_shape,
    vary_intensity,
    warp,
    warp_crop,
)


def test_shapes_are_painted_where_their_mask_says() -> None:
    rng = np.random.default_rng(0)
    image = np.full((96, 96, 3), 128, np.uint8)
    for _ in range(20):
        shape = random_shape(96, rng)
        changed = np.abs(paint_shape(image, shape, rng).astype(float) - 128).mean(2)
        if shape.sum() > 100:
            assert changed[shape].mean() > 3 * changed[~shape].mean()


def test_grown_regions_are_of_like_colour() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:40, 20:50] = 200
    regions = [region for seed in range(40) if (region := grown_region(image, np.random.default_rng(seed))) is not None]
    assert regions
    for region in regions:
        assert image[region].mean() > 195
        assert region.sum() > 0.9 * 30 * 30


STILL = AugmentConfig(focus=0, rotate=0, flip=0, zoom=(1, 1), aspect=1)


@pytest.mark.parametrize("fit", [Frame.stretch, Frame.longest_side, Frame.pad])
@pytest.mark.parametrize("size", [(40, 60), (300, 500)])
def test_a_view_that_changes_nothing_is_the_frame(fit, size) -> None:
    frame = fit(size, 128)
    rng = np.random.default_rng(0)
    view = drawn_view(frame, (3, 4, 10, 20), STILL, rng)
    corners = np.array([[0, 0], [size[1], size[0]]], float)
    moved = corners @ view.matrix[:, :2].T + view.matrix[:, 2]
    assert np.allclose(moved, corners * frame.scale + frame.shift)
    image = np.repeat(np.repeat(rng.integers(0, 256, (size[0] // 20, size[1] // 20), np.uint8), 20, 0), 20, 1)
    difference = np.abs(warp(image, view.matrix, 128).astype(float) - frame.image(image))
    assert not view.flipped
    assert np.mean(difference) < 4  # a picture that lies one pixel beside differs by 10 and more


def test_a_window_holds_its_object_and_lies_in_the_image() -> None:
    config = STILL.model_copy(update={"focus": 1.0})
    frame = Frame.stretch((200, 300), 64)
    for seed in range(50):
        view = drawn_view(frame, (250, 20, 280, 50), config, np.random.default_rng(seed))
        x0, y0 = np.linalg.solve(view.matrix[:, :2], -view.matrix[:, 2])
        x1, y1 = np.linalg.solve(view.matrix[:, :2], 64 - view.matrix[:, 2])
        assert -1e-6 <= x0 <= 250 + 1e-6
        assert 280 - 1e-6 <= x1 <= 300 + 1e-6
        assert -1e-6 <= y0 <= 20 + 1e-6
        assert 50 - 1e-6 <= y1 <= 200
        assert 1.3 * 30 - 1e-6 <= x1 - x0 <= 3.5 * 30 + 1e-6


def test_no_window_is_smaller_than_that_of_a_second_look() -> None:
    config = STILL.model_copy(update={"focus": 1.0})
    frame = Frame.stretch((200, 300), 64)
    for seed in range(20):
        view = drawn_view(frame, (250, 20, 251, 21), config, np.random.default_rng(seed))
        assert np.allclose(np.diag(view.matrix[:, :2]), 64 / LEAST_WINDOW)


def test_views_are_flipped_turned_and_zoomed_as_often_as_they_say() -> None:
    frame = Frame.stretch((100, 100), 100)
    views = [drawn_view(frame, (0, 0, 9, 9), AugmentConfig(focus=0), np.random.default_rng(i)) for i in range(2000)]
    linear = np.stack([view.matrix[:, :2] for view in views])
    flipped = np.array([view.flipped for view in views])
    assert abs(flipped.mean() - (1 - 0.5 * 0.75)) < 0.04
    assert flipped[np.linalg.det(linear) < 0].all()
    turned = np.abs(linear[:, 1, 0]) > 1e-9
    assert abs(turned.mean() - 0.5) < 0.04
    areas = np.abs(np.linalg.det(linear))
    assert areas.min() > 0.905**2 / 1.127**2 - 1e-6
    assert areas.max() < 1.162**2 * 1.127**2 + 1e-6
    assert areas.std() > 0.1


@pytest.mark.parametrize("scale", [0.2, 0.7, 2.5])
def test_a_crop_is_warped_as_the_whole_mask_is(scale: float) -> None:
    y, x = np.mgrid[0:200, 0:300]
    mask = ((x - 150) / 60) ** 2 + ((y - 90) / 40) ** 2 < 1
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]) * scale
    matrix = np.column_stack([turn, 64 - turn @ np.array([190, 90])])  # near the edge of the ellipse
    whole = warp(mask.astype(np.uint8) * np.uint8(255), matrix, 128) > 127
    crop = warp_crop(mask[50:131, 90:211], 50, 90, matrix, 128)
    assert 100 < whole.sum() < 128 * 128
    # Areas are averaged from another first pixel, so the outline may differ.
    assert (whole ^ crop).sum() <= 0.04 * whole.sum()
    assert scale > 0.5 or abs(scale**2 * mask.sum() / whole.sum() - 1) < 0.04


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_a_line_does_not_vanish_where_it_is_warped(angle: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.25
    matrix = np.column_stack([turn, 64 - turn @ np.array([150, 90])])
    line = warp_crop(np.ones((1, 200), bool), 90, 50, matrix, 128)
    assert 40 <= line.any(0).sum() <= line.sum() <= 51


def test_what_shrinks_is_averaged() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (400, 200))
    matrix = np.array([[0.1, 0, 0], [0, 0.1, 0]])
    assert np.abs(warp(stripes, matrix, 40).astype(float) - 127.5).max() < 2


def test_only_what_is_ever_shown_inverted_is_inverted() -> None:
    config = AugmentConfig()
    assert inversion("mammography", config) == 0.15  # a kind of radiography
    assert [inversion(name, config) for name in ("fundus", "ct", "unknown", "never heard of")] == [0, 0, 0, 0]
    assert inversion("fundus", config.model_copy(update={"inverted": None})) == 0.15
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8] = 220

    def turned(invert: float) -> int:
        varied = [vary_intensity(image, np.random.default_rng(i), 1.0, invert) for i in range(60)]
        return sum(bool(one[:8].mean() < one[8:].mean()) for one in varied)

    assert turned(0) == 0
    assert turned(1) == 60


@pytest.mark.parametrize("scale", [4.0, 1.3])
def test_what_is_warped_lies_where_the_matrix_says(scale: float) -> None:
    image = np.zeros((30, 40), np.uint8)
    image[7:12, 10:13] = 200  # its middle is at (11.5, 9.5), measured at edges
    shown = warp(image, np.array([[scale, 0, 5], [0, -scale, 60]]), 64).astype(float)
    y, x = np.mgrid[0:64, 0:64] + 0.5
    middle = np.array([(shown * x).sum(), (shown * y).sum()]) / shown.sum()
    assert np.abs(middle - [11.5 * scale + 5, 60 - 9.5 * scale]).max() < 0.05
