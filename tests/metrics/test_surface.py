from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from vesalius.core.errors import GeometryError
from vesalius.metrics import surface
from vesalius.metrics.elements import element_sizes
from vesalius.metrics.surface import SurfaceScores, surface_scores

Mask = NDArray[np.bool_]


def blobs(rng: np.random.Generator, shape: tuple[int, ...], smooth: float) -> tuple[Mask, Mask]:
    """Two masks of smooth noise that agree in part; neither is empty, both touch the border often."""
    first, second = (ndimage.gaussian_filter(rng.standard_normal(shape), smooth) for _ in range(2))
    a, b = first > np.quantile(first, 0.7), first + second > np.quantile(first + second, 0.8)
    return a, b


def disc(radius: float, centre: tuple[float, ...], size: int) -> Mask:
    grid = np.indices((size,) * len(centre))
    return np.asarray(sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) <= radius**2)


def values(scores: SurfaceScores) -> list[float]:
    return [scores.hd, scores.hd95, scores.assd, scores.nsd]


SPACINGS = [(1.0, 1.0), (0.7, 0.7), (0.5, 2.1), (1.0, 1.0, 1.0), (3.0, 0.8, 1.1)]


# MONAI warns of arguments that its own functions pass, surface-distance calls scipy by deprecated names.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("smooth", [0.5, 1.5, 4])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_monai_and_surface_distance_agree(spacing: tuple[float, ...], smooth: float) -> None:
    monai_metrics = pytest.importorskip("monai.metrics")
    surface_distance = pytest.importorskip("surface_distance")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(len(spacing))
    for _ in range(4):
        shape = tuple(rng.integers(12, 50 if len(spacing) == 2 else 20, len(spacing)))
        a, b = blobs(rng, shape, smooth)
        tolerance = float(rng.uniform(0, 3))
        rows = [torch.from_numpy(mask)[None, None] for mask in (a, b)]
        common = {"include_background": True, "spacing": spacing}
        expected = [
            monai_metrics.compute_hausdorff_distance(*rows, **common),
            monai_metrics.compute_hausdorff_distance(*rows, percentile=95, **common),
            monai_metrics.compute_average_surface_distance(*rows, symmetric=True, **common),
            monai_metrics.compute_surface_dice(*rows, [tolerance], use_subvoxels=True, **common),
        ]
        found = values(surface_scores(a, b, spacing, tolerance))
        assert found == pytest.approx([float(value) for value in expected], abs=1e-5)
        distances = surface_distance.compute_surface_distances(b, a, spacing)
        nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
        assert found[3] == pytest.approx(nsd, abs=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_sizes_of_elements_are_those_of_surface_distance(spacing: tuple[float, ...]) -> None:
    tables = pytest.importorskip("surface_distance").lookup_tables
    two = len(spacing) == 2
    table = "create_table_neighbour_code_to_contour_length" if two else "create_table_neighbour_code_to_surface_area"
    assert element_sizes(spacing) == pytest.approx(getattr(tables, table)(spacing), abs=1e-12)


@pytest.mark.parametrize("dilated", [0, 10**9])
@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("window", [1, 4, 30])
@pytest.mark.parametrize("spacing", SPACINGS[:3])
def test_every_way_of_finding_distances_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, ...], window: int, block: int, dilated: int
) -> None:
    rng = np.random.default_rng(1)
    pairs = [blobs(rng, (40, 60), smooth) for smooth in (0.6, 2, 5)]
    expected = [values(surface_scores(a, b, spacing, 2.1)) for a, b in pairs]
    for name, value in {"WINDOW": window, "BLOCK": block, "DILATED_PIXELS": dilated}.items():
        monkeypatch.setattr(surface, name, value)
    surface._window.cache_clear()
    try:
        for (a, b), before in zip(pairs, expected, strict=True):
            assert values(surface_scores(a, b, spacing, 2.1)) == pytest.approx(before, abs=1e-12)
    finally:
        surface._window.cache_clear()


@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_shifted_squares(spacing: float) -> None:
    a, b = np.zeros((40, 40), np.bool_), np.zeros((40, 40), np.bool_)
    a[5:20, 5:20] = True
    b[8:23, 9:24] = True
    # The corners are farthest: 3 rows and 4 columns.
    assert surface_scores(a, b, (spacing, spacing), 0).hd == pytest.approx(5 * spacing)
    inner = a.copy()
    inner[8:17, 8:17] = False
    # The outer outlines coincide; the hole's 36 pixels are two from the outer 56.
    scores = surface_scores(inner, a, (spacing, spacing), 0)
    assert scores.hd == pytest.approx(2 * spacing)
    assert scores.hd95 == pytest.approx(2 * spacing)
    assert scores.assd == pytest.approx(spacing * 36 * 2 / (56 + 36 + 56))


@pytest.mark.parametrize(("axes", "radius", "shift", "size"), [(2, 200.3, 40, 500), (3, 40.3, 14, 110)])
@pytest.mark.parametrize("tolerance", [0.5, 0.9, 5])
def test_nsd_of_shifted_discs_and_balls_is_the_analytic_value(
    axes: int, radius: float, shift: int, size: int, tolerance: float
) -> None:
    spacing, middle = 10 / shift, size // 2
    a, b = (disc(radius, (middle - side * shift / 2, *[middle] * (axes - 1)), size) for side in (-1, 1))
    found = surface_scores(a, b, (spacing,) * axes, 2 * tolerance).nsd
    # A point at angle t of one sphere is |sqrt(r^2 + s^2 - 2 r s cos t) - r| from the other.
    reach = tolerance * 2 / spacing
    low, high = ((radius**2 + shift**2 - (radius + side * reach) ** 2) / (2 * radius * shift) for side in (1, -1))
    low, high = max(low, -1), min(high, 1)
    expected = (high - low) / 2 if axes == 3 else (math.acos(low) - math.acos(high)) / math.pi
    assert found == pytest.approx(expected, abs=0.03 if axes == 2 else 0.08)


def test_nsd_weighs_by_length() -> None:
    a = np.zeros((40, 40), np.bool_)
    a[5:35, 5:25] = True
    b = a.copy()
    b[5:35, 25:30] = True
    # Three sides coincide, with two cut corners; of those along the rows, 19 elements of length one. At the ends of
    # the fourth side of the first lie its cut corners and, in the same two cells, straight elements of the second.
    corner = math.sqrt(0.5)
    shared = 29 + 2 * 19 + 2 * corner
    of_a, of_b = 2 * 29 + 2 * 19 + 4 * corner, 2 * 29 + 2 * 24 + 4 * corner
    expected = (2 * shared + 2 * corner + 2) / (of_a + of_b)
    assert surface_scores(a, b, (1, 1), 0).nsd == pytest.approx(expected, abs=1e-12)


def test_a_mask_at_the_border_is_closed_there() -> None:
    rng = np.random.default_rng(2)
    for shape in ((25, 30), (9, 10, 11)):
        a, b = blobs(rng, shape, 2)
        spacing = (1.0,) * len(shape)
        inside = values(surface_scores(np.pad(a, 4), np.pad(b, 4), spacing, 1.5))
        assert values(surface_scores(a, b, spacing, 1.5)) == pytest.approx(inside)


def test_empty_masks() -> None:
    empty, some = np.zeros((30, 40), np.bool_), disc(5, (12, 20), 40)[:30]
    assert all(math.isnan(value) for value in values(surface_scores(empty, empty, (1, 1), 2)))
    for pair in ((empty, some), (some, empty)):
        assert values(surface_scores(*pair, (0.5, 0.5), 2)) == [25, 25, 25, 0]
    assert surface_scores(empty, some, (3.0, 1.0), 2).hd == pytest.approx(math.hypot(90, 40))


def test_one_pixel_and_equal_masks() -> None:
    a, b = np.zeros((9, 9), np.bool_), np.zeros((9, 9), np.bool_)
    a[0, 0] = b[3, 4] = True
    # Around a pixel four elements, the nearest two of which are two rows and three columns apart.
    assert values(surface_scores(a, b, (1, 1), 3.6)) == [5, 5, 5, 0]
    assert surface_scores(a, b, (1, 1), 3.7).nsd == 1 / 4
    assert surface_scores(a, b, (1, 1), 5).nsd == 1
    assert values(surface_scores(a, a, (1, 1), 0)) == [0, 0, 0, 1]


def test_the_last_digit_does_not_decide_what_is_within_tolerance() -> None:
    a, b = np.zeros((20, 20), np.bool_), np.zeros((20, 20), np.bool_)
    a[4, 4] = b[7, 4] = True
    assert 3 * 1.1 > 3.3
    assert surface_scores(a, b, (1.1, 1.1), 3.3).nsd == 1
    assert surface_scores(a, b, (1.1, 1.1), 3.29).nsd == 0.5


def test_what_makes_no_sense_is_refused() -> None:
    mask = disc(5, (12, 20), 40)
    for spacing, tolerance in (((1,), 1), ((1, 1, 1), 1), ((0, 1), 1), ((1, math.nan), 1), ((1, 1), -1)):
        with pytest.raises(GeometryError):
            surface_scores(mask, mask, spacing, tolerance)
    with pytest.raises(GeometryError, match="two or three axes"):
        surface_scores(mask[0], mask[0], (1,), 1)
    with pytest.raises(GeometryError):
        surface_scores(mask, mask[:-1], (1, 1), 1)
    with pytest.raises(TypeError, match="booleans"):
        surface_scores(mask, mask.astype(np.float32), (1, 1), 1)  # type: ignore[arg-type]
