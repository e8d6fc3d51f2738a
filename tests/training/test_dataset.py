import numpy as np
from tests.training.conftest import disc_images

from vesalius.training.dataset import AugmentConfig, SampleSource, grown_region, paint_shape, random_shape


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    first = SampleSource(disc_images(3), 64, AugmentConfig(), seed=5)
    second = SampleSource(disc_images(3), 64, AugmentConfig(), seed=5)
    second[9]
    for number in (0, 7):
        assert (first[number].image == second[number].image).all()
        assert (first[number].masks == second[number].masks).all()
    assert not np.array_equal(first[0].image, first[1].image)
    other = SampleSource(disc_images(3), 64, AugmentConfig(), seed=6)
    assert not np.array_equal(first[0].image, other[0].image)


def test_masks_move_with_their_image() -> None:
    config = AugmentConfig(intensity=0, pseudo=0, shapes=0)
    source = SampleSource(disc_images(4), 128, config, seed=0)
    for number in range(30):
        sample = source[number]
        grey = sample.image[:, :, 0].astype(float)
        seen = grey > 0  # the warp leaves black where the image ends
        for mask in sample.masks:
            ring = seen & ~np.any(sample.masks, axis=0)
            assert grey[mask & seen].mean() > grey[ring].mean() + 30


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
