import numpy as np
import pytest

from vesalius.core.geometry import Geometry
from vesalius.core.types import Volume
from vesalius.corpus.objects import consolidated
from vesalius.corpus.profile import Profile, find_profile, profile_names
from vesalius.corpus.scans import Layer, Scan
from vesalius.corpus.slices import cut_axes, cuts, min_max, squared


def volume(shape=(6, 20, 30), spacing=(1.0, 1.0, 1.0), seed=0) -> Volume:
    voxels = np.random.default_rng(seed).integers(-1000, 2000, shape).astype(np.int16)
    return Volume(voxels, Geometry(shape[::-1], spacing), (-160.0, 240.0))


def scan(given: Volume, values: np.ndarray | None = None) -> Scan:
    if values is None:
        values = np.zeros(given.voxels.shape, np.uint8)
        values[:, 5:15, 5:15] = 1
    return Scan("scan", given, (Layer(values, {1: "liver"}),))


def test_min_max_rounds_up_as_the_paper_does() -> None:
    values = np.array([10, 10.001, 61, 110])
    np.testing.assert_array_equal(min_max(values, 10, 110, "ceil"), [0, 1, 131, 255])
    np.testing.assert_array_equal(min_max(values, 10, 110, "nearest"), [0, 0, 130, 255])
    np.testing.assert_array_equal(min_max(values, 10, 10, "ceil"), 0)
    # 8-bit pictures that use the whole range stay as they are, rounded up or not.
    every = np.arange(256)
    np.testing.assert_array_equal(min_max(every, 0, 255, "ceil"), every)


def test_sa_med2d_cuts_three_axes_and_drops_narrow_slices() -> None:
    given = volume((16, 20, 50))
    reasons: list[str] = []
    values = np.ones(given.voxels.shape, np.uint8)
    found = list(cuts(scan(given, values), find_profile("sa-med2d"), reasons.append))
    # Along x slices are 16 x 20; along y 16 x 50 and along z 20 x 50, which are narrow.
    assert {cut.axis for cut in found} == {"x"}
    assert len(found) == 50
    assert reasons == ["the slice is too narrow"] * (16 + 20)
    assert found[7].index == 7
    low, high = given.voxels.min(), given.voxels.max()
    expected = np.ceil((given.voxels[:, :, 7] - float(low)) / (float(high) - low) * 255)
    np.testing.assert_array_equal(found[7].pixels, expected)


def test_slices_without_labels_are_passed_over_and_counted() -> None:
    given = volume()
    values = np.zeros(given.voxels.shape, np.uint8)
    values[2, 3:9, 3:9] = 1
    reasons: list[str] = []
    found = list(cuts(scan(given, values), Profile(axes=("z",)), reasons.append))
    assert [cut.index for cut in found] == [2]
    assert reasons == ["nothing is labelled"] * 5


def test_intensities_of_a_slice_or_of_the_volume() -> None:
    given = volume()
    over_slice = list(cuts(scan(given), Profile(axes=("z",), intensity="min_max", intensity_over="slice"), print))
    assert all((cut.pixels.min(), cut.pixels.max()) == (0, 255) for cut in over_slice)
    windowed = list(cuts(scan(given), Profile(axes=("z",)), print))
    expected = np.clip((given.voxels[3] + 160.0) * 255 / 400 + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_allclose(windowed[3].pixels, expected, atol=1)


def test_an_anisotropic_volume_is_resampled_to_square_pixels() -> None:
    given = volume((6, 20, 30), (1.0, 1.0, 5.0))
    found = list(cuts(scan(given), Profile(axes=("x", "z")), print))
    along_x = [cut for cut in found if cut.axis == "x"]
    assert {cut.pixels.shape for cut in along_x} == {(30, 20)}
    assert {cut.spacing for cut in along_x} == {(1.0, 1.0)}
    # Each labelled row of the volume becomes five.
    assert along_x[0].labels[0].sum() == 6 * 5 * 10
    assert {cut.pixels.shape for cut in found if cut.axis == "z"} == {(20, 30)}
    kept = list(cuts(scan(given), Profile(axes=("x",), square_pixels=False), print))
    assert kept[0].pixels.shape == (6, 20)
    assert kept[0].spacing == (5.0, 1.0)


def test_resampled_labels_stay_under_their_pixels() -> None:
    pixels = np.zeros((8, 40), np.uint8)
    pixels[2:5, 10:30] = 255
    wide, (labels,), _ = squared(pixels, [(pixels > 0).astype(int)], (4.0, 1.0))
    assert wide.shape == (32, 40)
    assert ((wide > 127) == (labels > 0)).mean() > 0.99


def test_size_stretches_and_tells_the_spacing() -> None:
    found = next(cuts(scan(volume()), Profile(axes=("z",), size=40), print))
    assert found.pixels.shape == found.labels[0].shape == (40, 40)
    assert found.spacing == (0.5, 0.75)


def test_pictures_have_no_axis_and_keep_their_colours() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (1, 12, 40, 3), dtype=np.uint8)
    given = Volume(colour, None, (0.0, 255.0))
    values = np.ones((1, 12, 40), np.uint8)
    (found,) = cuts(scan(given, values), Profile(axes=("x", "y", "z"), max_aspect=2.0), print)
    assert (found.axis, found.index, found.spacing) == ("2d", 0, None)
    np.testing.assert_array_equal(found.pixels, colour[0])


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1, 1, 5), "z"), ((5, 1, 1), "x"), ((1, 3, 1), "y"), ((1, 1, 1), "z"), ((1, 1.0004, 1), "z")]
)
def test_the_main_plane_is_the_fine_one(spacing: tuple[float, float, float], axis: str) -> None:
    assert cut_axes(volume(spacing=spacing), Profile(axes="main")) == (axis,)


def test_every_profile_that_ships_can_be_read() -> None:
    assert profile_names() == ["cosmos", "imed-361m", "medsam", "sa-med2d"]
    for name in profile_names():
        assert sum(find_profile(name).split) == pytest.approx(1)


def test_a_class_takes_in_what_lies_inside_it() -> None:
    labels = np.zeros((30, 30), int)
    labels[2:20, 2:20] = 1  # kidney
    labels[5:15, 5:15] = 2  # with a tumour
    labels[8:12, 8:12] = 3  # with a cyst in it
    labels[9:11, 9:11] = 0  # with a hole
    labels[22:28, 22:28] = 2  # a tumour outside
    labels[25:30, 0:5] = 3  # at the edge, touching nothing
    masks = consolidated(labels)
    np.testing.assert_array_equal(masks[1][2:20, 2:20], labels[2:20, 2:20] > 0)
    assert masks[1].sum() == 18 * 18 - 4
    assert masks[2].sum() == 100 - 4 + 36
    assert masks[3].sum() == 16 - 4 + 25


def test_two_classes_side_by_side_in_a_third_lie_inside_it() -> None:
    labels = np.zeros((40, 40), int)
    labels[5:35, 5:35] = 1  # oedema
    labels[15:25, 15:20] = 2  # with a necrosis
    labels[15:25, 20:23] = 3  # beside enhancing tumour
    masks = consolidated(labels)
    assert [masks[value].sum() for value in (1, 2, 3)] == [900, 50, 30]
    labels[12:15, 18] = 0  # a gap leads in, but not to the outside
    assert consolidated(labels)[1].sum() == 900 - 80 - 3


def test_a_neighbour_or_one_at_the_edge_is_not_inside() -> None:
    labels = np.zeros((10, 10), int)
    labels[2:8, 2:5] = 1
    labels[2:8, 5:8] = 2
    masks = consolidated(labels)
    assert masks[1].sum() == masks[2].sum() == 18
    labels = np.ones((10, 10), int)
    labels[0:3, 4:6] = 2
    assert consolidated(labels)[1].sum() == 94
