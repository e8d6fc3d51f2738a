from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from vesalius.core.errors import GeometryError
from vesalius.metrics.effort import human_correction_effort, skeleton

Mask = NDArray[np.bool_]


def drawn(*boxes: tuple[int, int, int, int]) -> Mask:
    """A mask of 100 x 120 pixels with boxes of (top, bottom, left, right)."""
    mask = np.zeros((100, 120), np.bool_)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


TRUTH = (20, 60, 20, 60)


# What is relaxed loses the corners of a square, as if cut by scissors.
@pytest.mark.parametrize(
    ("prediction", "clicks"),
    [
        pytest.param(drawn(TRUTH), 0, id="equal"),
        pytest.param(drawn((16, 64, 16, 64)), 0, id="four pixels too wide all around"),
        pytest.param(drawn((24, 56, 24, 56)), 0, id="four pixels too narrow, but for the ends of the skeleton"),
        pytest.param(drawn(TRUTH, (70, 95, 80, 110)), 1, id="a part too much"),
        pytest.param(drawn(TRUTH, (70, 95, 80, 110), (0, 15, 80, 110)), 2, id="two parts too much"),
        pytest.param(drawn(TRUTH, (70, 75, 80, 85)), 0, id="a small part too much"),
        pytest.param(drawn(TRUTH, (30, 50, 60, 110)), 2, id="an arm too much is cut off by a line"),
        pytest.param(drawn((20, 60, 20, 38)), 6, id="half is missing: a line around three sides, its two corners cut"),
        pytest.param(drawn(TRUTH) & ~drawn((30, 50, 30, 50)), 1, id="a hole is filled"),
        pytest.param(drawn(), 9, id="all is missing: a square, its corners cut, back to where it began"),
    ],
)
def test_by_hand(prediction: Mask, clicks: int) -> None:
    assert human_correction_effort(prediction, drawn(TRUTH)) == clicks


def test_a_thin_line_that_is_missing_counts() -> None:
    truth = drawn(TRUTH)
    truth[40, 60:110] = True
    # Too thin for the relaxation to leave anything of it, but part of the skeleton.
    assert human_correction_effort(drawn(TRUTH), truth) == 2
    assert human_correction_effort(truth, drawn(TRUTH)) == 0


def test_teeth_of_a_pixel_are_not_followed() -> None:
    truth = drawn(TRUTH)
    truth[20:60:4, 60] = truth[21:60:4, 60] = True
    assert human_correction_effort(truth | drawn((30, 50, 60, 110)), truth) == 2


def test_where_the_image_ends_does_not_matter_to_what_is_far_from_it() -> None:
    a, b = drawn((20, 60, 20, 38)), drawn(TRUTH)
    assert human_correction_effort(np.pad(a, 30), np.pad(b, 30)) == human_correction_effort(a, b)
    assert human_correction_effort(a[12:68, 12:68], b[12:68, 12:68]) == human_correction_effort(a, b)


def test_empty_masks_and_refusals() -> None:
    empty = drawn()
    assert human_correction_effort(empty, empty) == 0
    assert human_correction_effort(drawn(TRUTH), empty) == 1
    with pytest.raises(GeometryError):
        human_correction_effort(np.ones((3, 4, 5), np.bool_), np.ones((3, 4, 5), np.bool_))
    with pytest.raises(TypeError, match="booleans"):
        human_correction_effort(empty, empty.astype(np.uint8))  # type: ignore[arg-type]


def test_skeleton_of_a_bar_is_its_middle() -> None:
    found = skeleton(drawn((20, 25, 10, 60)))
    assert (np.flatnonzero(found.any(axis=1)) == [22]).all()
    assert 45 <= np.count_nonzero(found) <= 50
    assert not skeleton(drawn()).any()
    assert skeleton(drawn((20, 22, 20, 22))).any()


def test_skeleton_is_thin_connected_and_where_scikit_image_has_it() -> None:
    morphology = pytest.importorskip("skimage.morphology")
    rng = np.random.default_rng(0)
    for smooth in (2, 4, 8):
        noise = ndimage.gaussian_filter(rng.standard_normal((120, 150)), smooth)
        mask = noise > np.quantile(noise, 0.7)
        found, theirs = skeleton(mask), morphology.skeletonize(mask)
        assert not (found & ~mask).any()
        everywhere = np.ones((3, 3))
        assert ndimage.label(found, everywhere)[1] == ndimage.label(mask, everywhere)[1]
        assert not (skeleton(found) ^ found).any()
        assert (ndimage.distance_transform_edt(~theirs)[found] < 3).mean() > 0.9
        assert (ndimage.distance_transform_edt(~found)[theirs] < 3).mean() > 0.9
