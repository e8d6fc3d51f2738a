"""Where a grid of voxels lies in the patient: size, spacing, origin, direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# RAS and LPS differ in the sign of the first two world axes.
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Geometry:
    """The placement of a 3-D grid in the patient, in ITK's and DICOM's convention (LPS, millimetres).

    Attributes:
        size: Number of voxels along the index axes (x, y, z).
        spacing: Distance between voxel centres along (x, y, z), in mm, each > 0.
        origin: World position (LPS, mm) of the centre of voxel (0, 0, 0).
        direction: 3x3 matrix, row-major; column i is the world direction of index axis i.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.direction) != 9:
            raise ValueError("direction holds nine numbers")
        if min(self.size) < 1:
            raise ValueError("size is at least one voxel along each axis")
        if not all(0 < step < np.inf for step in self.spacing):
            raise ValueError("spacing is positive along each axis")

    def affine(self, world: str = "LPS") -> Array:
        """The 4x4 matrix from voxel index (x, y, z) to world mm, in ``"LPS"`` or ``"RAS"``."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        if world == "RAS":
            return _FLIP @ matrix
        if world != "LPS":
            raise ValueError("world is 'LPS' or 'RAS'")
        return matrix

    def nearest_directions(self) -> tuple[str, str, str]:
        """For each index axis (x, y, z) the side of the patient in which it grows most: L, R, P, A, S or I."""
        columns = np.reshape(self.direction, (3, 3)).T
        worlds = np.abs(columns).argmax(axis=1)
        sides = ("LR", "PA", "SI")
        x, y, z = (sides[world][int(column[world] < 0)] for world, column in zip(worlds, columns, strict=True))
        return x, y, z

    @classmethod
    def from_affine(cls, affine: Array, size: tuple[int, int, int], world: str = "LPS") -> Geometry:
        """The geometry of a 4x4 index-to-world matrix given in ``"LPS"`` or ``"RAS"``."""
        matrix = np.asarray(affine, dtype=np.float64)
        if world == "RAS":
            matrix = _FLIP @ matrix
        elif world != "LPS":
            raise ValueError("world is 'LPS' or 'RAS'")
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        direction = matrix[:3, :3] / spacing
        return cls(
            size=size,
            spacing=_three(spacing),
            origin=_three(matrix[:3, 3]),
            direction=tuple(float(v) for v in direction.ravel()),
        )

    def to_world(self, index: Array) -> Array:
        """World positions (LPS, mm), shape (..., 3), of voxel indices (x, y, z), shape (..., 3)."""
        matrix = self.affine()
        return np.asarray(index, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def to_index(self, world: Array) -> Array:
        """Continuous voxel indices (x, y, z), shape (..., 3), of world positions (LPS, mm), shape (..., 3)."""
        matrix = self.affine()
        return (np.asarray(world, dtype=np.float64) - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T

    def close_to(self, other: Geometry, tolerance: float = 1e-3) -> bool:
        """Whether both grids put every voxel at the same place.

        Args:
            other: The other geometry.
            tolerance: Largest allowed displacement of any corner, as a share of the smallest spacing.
        """
        if self.size != other.size:
            return False
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(self.size) - 1)
        shift = np.abs(self.to_world(corners) - other.to_world(corners)).max()
        return bool(shift <= tolerance * min(*self.spacing, *other.spacing))


def _three(values: Array) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
