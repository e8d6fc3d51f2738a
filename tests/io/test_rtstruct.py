from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.data import get_testdata_file
from skimage.draw import polygon2mask

from made_dicom import structure_set
from vesalius import read_volume
from vesalius.core.errors import ReadError
from vesalius.core.geometry import Geometry
from vesalius.io.rtstruct import fill, read_structures

# Anisotropic and oblique, so that a swap of axes or of signs shows.
TURN = (0.8, -0.36, 0.48, 0.6, 0.48, -0.64, 0.0, 0.8, 0.6)
GRID = Geometry((30, 20, 4), (0.7, 0.9, 2.5), (-10.0, 20.0, 30.0), TURN)


def masks_of(path: Path, geometry: Geometry = GRID) -> dict[tuple[int, str], np.ndarray]:
    found = {}
    for region in read_structures(path, geometry):
        mask = np.zeros(geometry.size[::-1], bool)
        for height, part in region.planes.items():
            mask[height][part.where] = part.mask
        found[region.value, region.name] = mask
    return found


def box(x0: float, y0: float, x1: float, y1: float, z: float) -> list[tuple[float, float, float]]:
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def test_pixels_whose_centres_lie_inside_are_filled(tmp_path: Path) -> None:
    path = structure_set(
        tmp_path / "rs.dcm", GRID, {"a": [box(1.6, 2.4, 5.4, 7.6, 2)], "b": [box(1.4, 2.6, 5.6, 7.4, 0)]}
    )
    found = masks_of(path)
    expected = np.zeros((4, 20, 30), bool)
    expected[2, 3:8, 2:6] = True
    np.testing.assert_array_equal(found[1, "a"], expected)
    expected[:] = False
    expected[0, 3:8, 2:6] = True
    np.testing.assert_array_equal(found[2, "b"], expected)


def test_contours_inside_others_are_holes_and_islands(tmp_path: Path) -> None:
    rings = [box(a - 0.5, a - 0.5, 19.5 - a, 19.5 - a, 1) for a in (1, 4, 7)] + [box(21.5, 0.5, 25.5, 3.5, 1)]
    ((key, mask),) = masks_of(structure_set(tmp_path / "rs.dcm", GRID, {"ring": rings})).items()
    expected = np.zeros((20, 30), bool)
    for a, value in ((1, True), (4, False), (7, True)):
        expected[a : 20 - a, a : 20 - a] = value
    expected[1:4, 22:26] = True
    np.testing.assert_array_equal(mask[1], expected)
    assert mask.sum() == expected.sum()
    assert key == (1, "ring")


def test_filling_against_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        contours = [rng.uniform(-8, 48, (rng.integers(3, 12), 2)) for _ in range(rng.integers(1, 4))]
        expected = np.zeros((33, 40), bool)
        for contour in contours:
            expected ^= polygon2mask((33, 40), contour[:, ::-1])
        np.testing.assert_array_equal(fill(contours, (33, 40)), expected)


def test_neighbours_share_no_pixel_and_leave_none() -> None:
    """Edges through pixel centres belong to one of the two sides."""
    corners = np.array([[2, 1], [7, 3], [12, 1], [9, 8], [4, 9]], float)
    whole = fill([corners], (12, 15))
    parts = [fill([np.stack([corners[i - 1], corners[i], [7.0, 5.0]])], (12, 15)) for i in range(5)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), whole)


def test_contours_on_no_slice_are_left_out_and_counted(tmp_path: Path, caplog) -> None:
    on, between, beyond = (box(1.5, 1.5, 9.5, 9.5, z) for z in (1.04, 1.5, 4))
    across = [(1.5, 1.5, 1.0), (9.5, 1.5, 1.0), (9.5, 9.5, 2.0)]
    path = structure_set(
        tmp_path / "rs.dcm", GRID, {"some": [on, between, beyond, across], "none": [beyond], "empty": [], "all": [on]}
    )
    with caplog.at_level(logging.WARNING):
        found = masks_of(path)
    assert {key: int(mask.sum()) for key, mask in found.items()} == {(1, "some"): 64, (4, "all"): 64}
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "of the 4 contours of some, 3 lie on no slice of the series and 0 are no areas; they are left out",
        "of the 1 contours of none, 1 lie on no slice of the series and 0 are no areas; they are left out",
    ]


def test_points_and_lines_are_no_areas(tmp_path: Path, caplog) -> None:
    path = structure_set(tmp_path / "rs.dcm", GRID, {"a": [box(1, 1, 5, 5, 0)]}, kind="OPEN_PLANAR")
    with caplog.at_level(logging.WARNING):
        assert masks_of(path) == {}
    assert "0 lie on no slice of the series and 1 are no areas" in caplog.text
    path = structure_set(tmp_path / "rs.dcm", GRID, {"a": [box(1, 1, 5, 5, 0)[:2]]})
    assert masks_of(path) == {}
    path = structure_set(tmp_path / "rs.dcm", GRID, {"a": [box(1, 1, 5, 5, 0)]}, kind="CLOSEDPLANAR_XOR")
    assert len(masks_of(path)) == 1


def test_numbers_from_0_and_missing_names(tmp_path: Path) -> None:
    path = structure_set(tmp_path / "rs.dcm", GRID, {"": [box(1, 1, 5, 5, 0)], "b": [box(1, 1, 5, 5, 0)]}, first=0)
    assert list(masks_of(path)) == [(1, "ROI 0"), (2, "b")]


def test_what_is_no_structure_set(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="is DICOM but no structure set"):
        read_structures(Path(get_testdata_file("CT_small.dcm")), GRID)

    def cut(dataset: Dataset) -> None:
        dataset.ROIContourSequence[0].ContourSequence[0].ContourData = [1, 2, 3, 4]

    path = structure_set(tmp_path / "rs.dcm", GRID, {"a": [box(1, 1, 5, 5, 0)]}, change=cut)
    with pytest.raises(ReadError, match=r"rs.dcm: is not a DICOM structure set, or is damaged"):
        read_structures(path, GRID)


@pytest.mark.skipif("VESALIUS_DATA" not in os.environ, reason="VESALIUS_DATA is not set")
def test_real_structure_set() -> None:
    """The contours of a patient, against the published mask of the same patient."""
    data = Path(os.environ["VESALIUS_DATA"])
    series = read_volume(data / "dicom/sts_rtstruct/STS_002/PET/image")
    truth = read_volume(data / "volumes/sts/STS_002/PET_mask.nii.gz")
    assert series.geometry is not None
    assert truth.geometry is not None
    assert series.geometry.close_to(truth.geometry, 1e-4)
    found = masks_of(data / "dicom/sts_rtstruct/STS_002/PET/mask/RS.dcm", series.geometry)
    np.testing.assert_array_equal(found[1, "GTV_Mass_PET"], truth.voxels > 0)
