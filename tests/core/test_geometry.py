from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vesalius.core.geometry import Geometry


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any oblique grid, also left-handed."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    direction[:, 0] *= draw(st.sampled_from([-1, 1]))
    return Geometry(
        size=draw(st.tuples(*[st.integers(1, 600)] * 3)),
        spacing=draw(st.tuples(*[st.floats(0.01, 20)] * 3)),
        origin=draw(st.tuples(*[st.floats(-1000, 1000)] * 3)),
        direction=tuple(float(v) for v in direction.ravel()),
    )


@given(geometries(), st.sampled_from(["LPS", "RAS"]))
def test_affine_round_trip(geometry: Geometry, world: str) -> None:
    again = Geometry.from_affine(geometry.affine(world), geometry.size, world)
    np.testing.assert_allclose(again.spacing, geometry.spacing, rtol=1e-9)
    np.testing.assert_allclose(again.origin, geometry.origin, atol=1e-9)
    np.testing.assert_allclose(again.direction, geometry.direction, atol=1e-9)
    assert again.close_to(geometry)


@given(geometries(), st.lists(st.tuples(*[st.floats(-500, 500)] * 3), min_size=1, max_size=5))
def test_world_and_index_round_trip(geometry: Geometry, indices: list[tuple[float, float, float]]) -> None:
    index = np.array(indices)
    np.testing.assert_allclose(geometry.to_index(geometry.to_world(index)), index, atol=1e-4)
    homogeneous = np.c_[index, np.ones(len(index))] @ geometry.affine().T
    np.testing.assert_allclose(geometry.to_world(index), homogeneous[:, :3], atol=1e-6)
    np.testing.assert_allclose(
        geometry.to_world(index) * [-1, -1, 1], (homogeneous @ np.diag([-1, -1, 1, 1]))[:, :3], atol=1e-6
    )


def test_ras_and_lps_differ_in_two_signs() -> None:
    geometry = Geometry((4, 5, 6), (1, 2, 3), (10, 20, 30))
    np.testing.assert_array_equal(geometry.affine("LPS"), [[1, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    np.testing.assert_array_equal(
        geometry.affine("RAS"), [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(geometry.to_world(np.array([1, 1, 1])), [11, 22, 33])


def test_direction_is_by_columns() -> None:
    """Index axis x runs along world y, and y along world z."""
    geometry = Geometry((4, 5, 6), (1, 2, 3), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    np.testing.assert_array_equal(geometry.to_world(np.eye(3)), [[0, 1, 0], [0, 0, 2], [3, 0, 0]])


@given(geometries())
def test_close_to(geometry: Geometry) -> None:
    assert geometry.close_to(geometry)
    x, y, z = geometry.origin
    step = min(geometry.spacing)
    assert geometry.close_to(Geometry(geometry.size, geometry.spacing, (x + step * 1e-5, y, z), geometry.direction))
    assert not geometry.close_to(Geometry(geometry.size, geometry.spacing, (x, y + step / 2, z), geometry.direction))
    other = (geometry.size[0] + 1, *geometry.size[1:])
    assert not geometry.close_to(Geometry(other, geometry.spacing, geometry.origin, geometry.direction))


def test_close_to_sees_the_far_corner() -> None:
    one, other = Geometry((500, 5, 5)), Geometry((500, 5, 5), (1.001, 1, 1))
    assert not one.close_to(other)


@pytest.mark.parametrize(
    "values",
    [
        {"size": (0, 1, 1)},
        {"size": (1, 1, 1), "spacing": (1.0, 0.0, 1.0)},
        {"size": (1, 1, 1), "spacing": (1.0, -2.0, 1.0)},
        {"size": (1, 1, 1), "spacing": (1.0, float("nan"), 1.0)},
        {"size": (1, 1, 1), "direction": (1.0,) * 4},
    ],
)
def test_senseless_geometry(values: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Geometry(**values)  # type: ignore[arg-type]


def test_unknown_world() -> None:
    with pytest.raises(ValueError, match="LPS"):
        Geometry((1, 1, 1)).affine("LAS")
    with pytest.raises(ValueError, match="LPS"):
        Geometry.from_affine(np.eye(4), (1, 1, 1), "LAS")


@pytest.mark.parametrize(
    ("affine", "sides"),
    [
        (np.eye(4), ("R", "A", "S")),
        (np.diag([-1.0, -1, 1, 1]), ("L", "P", "S")),
        # A sagittal grid: the first index runs to the back, the second down, the third to the left.
        ([[0, 0, -1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], ("P", "I", "L")),
        # Tilted by 30 degrees about the first axis.
        ([[1, 0, 0, 0], [0, 0.866, -0.5, 0], [0, 0.5, 0.866, 0], [0, 0, 0, 1]], ("R", "A", "S")),
    ],
)
def test_sides_of_the_patient(affine: list[list[float]], sides: tuple[str, str, str]) -> None:
    assert Geometry.from_affine(np.array(affine), (4, 5, 6), "RAS").nearest_directions() == sides
