from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError
from vesalius.metrics.complexity import aspect_ratio, fourier_order, intensity_difference, object_size
from vesalius.metrics.overlap import dice

Mask = NDArray[np.bool_]


def polygon(radius: NDArray[np.float64], size: int = 160) -> Mask:
    """An outline given by its distance from the centre at equally spaced angles."""
    angles = 2 * np.pi * np.arange(len(radius)) / len(radius)
    points = size / 2 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(cv2.fillPoly(np.zeros((size, size), np.uint8), [points.round().astype(np.int32)], 1) > 0)


def ellipse(wide: int, high: int, turned: int = 0) -> Mask:
    return np.asarray(cv2.ellipse(np.zeros((160, 160), np.uint8), (80, 80), (wide, high), turned, 0, 360, 1, -1) > 0)


# One point higher than the others, so that no harmonic is absent.
STAR = polygon(np.array([75.0, 25, 55, 25, 55, 25, 55, 25, 55, 25]))


@pytest.mark.parametrize("radius", [1, 3, 10, 40, 75])
def test_a_circle_is_of_order_one(radius: int) -> None:
    found = fourier_order(ellipse(radius, radius))
    assert found.order == 1
    assert found.final == pytest.approx(1 + 200 * (1 - found.dice))
    assert found.final < 3


@pytest.mark.parametrize("turned", [0, 30, 90])
def test_a_round_ellipse_is_of_order_one(turned: int) -> None:
    found = fourier_order(ellipse(60, 45, turned))
    assert found.order == 1
    assert found.final < 7
    # Descriptors go along the outline at even speed, an ellipse of one harmonic does not; and it has no second one.
    assert fourier_order(ellipse(60, 20, turned)).order == 2


def test_a_star_is_of_higher_order_the_higher_the_deeper_it_is() -> None:
    found = fourier_order(STAR)
    assert found.order >= 3
    orders = [
        fourier_order(polygon(np.array([75.0, deep, 55, deep, 60, deep, 65, deep]))).final for deep in (60, 40, 20)
    ]
    assert 1 < orders[0] < orders[1] < orders[2]


@pytest.mark.parametrize("mask", [ellipse(60, 40, 20), STAR, STAR[:, :90]])
def test_descriptors_are_those_of_pyefd(mask: Mask) -> None:
    pyefd = pytest.importorskip("pyefd")
    mask = np.pad(mask, 40)
    outline = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0].astype(
        float
    )
    overlaps = []
    for order in range(1, fourier_order(mask).order + 1):
        descriptors = pyefd.elliptic_fourier_descriptors(outline, order)
        lengths = np.hypot(*np.diff(outline, axis=0, append=outline[:1]).T)
        angles = 2 * np.pi * np.concatenate([[0], np.cumsum(lengths)[:-1]]) / lengths.sum()
        decoded = np.array(pyefd.calculate_dc_coefficients(outline)) + sum(
            np.stack(
                [a * np.cos(n * angles) + b * np.sin(n * angles), c * np.cos(n * angles) + d * np.sin(n * angles)], 1
            )
            for n, (a, b, c, d) in enumerate(descriptors, 1)
        )
        filled = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [decoded.round().astype(np.int32)], 1) > 0
        overlaps.append(dice(filled, mask))
    assert fourier_order(mask).dice == pytest.approx(overlaps[-1], abs=2e-3)
    # The order is the first at which either rule holds.
    gains = np.diff(overlaps)
    assert all(overlap <= 0.97 for overlap in overlaps[:-1])
    assert all(gain >= 0.001 for gain in gains[:-1])
    assert overlaps[-1] > 0.97 or gains[-1] < 0.001


def test_place_other_parts_and_holes_do_not_count() -> None:
    alone = fourier_order(STAR)
    framed = np.pad(STAR, 30)
    framed[5:9, 5:9] = True
    framed[105:112, 105:112] = False
    assert fourier_order(framed) == alone
    rows, columns = (np.flatnonzero(STAR.any(axis=axis)) for axis in (1, 0))
    assert fourier_order(STAR[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]) == alone


def test_the_largest_part_may_be_thin() -> None:
    line, both = np.zeros((20, 50), np.bool_), np.zeros((20, 50), np.bool_)
    line[3, 4:44] = both[3, 4:44] = both[10:14, 10:14] = True
    assert fourier_order(both) == fourier_order(line)


def test_least_objects() -> None:
    pixel = np.zeros((9, 9), np.bool_)
    assert fourier_order(pixel).order == 0
    assert math.isnan(fourier_order(pixel).final)
    pixel[3, 4] = True
    assert fourier_order(pixel).final == 1
    pixel[3, 5] = True
    assert fourier_order(pixel).order == 1


def test_refusals() -> None:
    with pytest.raises(GeometryError):
        fourier_order(np.ones((3, 4, 5), np.bool_))
    with pytest.raises(TypeError, match="booleans"):
        fourier_order(np.ones((3, 4)))  # type: ignore[arg-type]
    with pytest.raises(GeometryError):
        intensity_difference(np.ones((3, 4)), np.ones((4, 3), np.bool_))


def test_size_and_aspect_ratio() -> None:
    mask = np.zeros((50, 60), np.bool_)
    assert object_size(mask) == 0
    assert math.isnan(aspect_ratio(mask))
    mask[10:20, 5:45] = True
    mask[12, 12] = False
    assert object_size(mask) == 399
    assert aspect_ratio(mask) == aspect_ratio(mask.T) == pytest.approx(10 / 40)


def test_intensity_difference() -> None:
    mask = np.zeros((50, 60), np.bool_)
    mask[10:30, 5:45] = True
    mask[15:20, 15:20] = False
    image = np.full((50, 60), 200, np.uint8)
    # A tenth of 20 rows and of 40 columns on every side; what is beyond does not count.
    image[8:32, 1:49] = 10
    image[mask] = 70
    assert intensity_difference(image, mask) == 60
    assert intensity_difference(np.stack([image] * 3, axis=-1), mask) == 60
    assert intensity_difference(255 - image, mask) == 60
    image[8, 1] = 200
    assert intensity_difference(image, mask) != 60
    assert math.isnan(intensity_difference(image, np.zeros_like(mask)))
    assert math.isnan(intensity_difference(image, np.ones_like(mask)))
