import numpy as np
from skimage import data

from vesalius.core.types import Slice
from vesalius.models.presets import Preset
from vesalius.models.runtime import SPATIAL
from vesalius.predict.everything import distinct, grid_points, segment_everything, stability
from vesalius.predict.predictor import Predictor


def test_the_grid_covers_the_image_evenly() -> None:
    points = grid_points((40, 80), 4)
    assert points.shape == (16, 2)
    np.testing.assert_allclose(points[0], (9.5, 4.5))
    np.testing.assert_allclose(points[-1], (69.5, 34.5))
    np.testing.assert_allclose(points.mean(0), (39.5, 19.5))


def test_stability_is_the_overlap_of_a_higher_and_a_lower_threshold() -> None:
    slope = np.tile(np.linspace(-4, 4, 9, dtype=np.float32), (9, 1))
    steep = np.where(slope > 0, 5, -5).astype(np.float32)
    found = stability(np.stack([slope, steep, np.full_like(slope, -9)]), 1.0)
    # The slope is above 1 in three columns of nine and above -1 in five.
    np.testing.assert_allclose(found, [3 / 5, 1, 0])


def test_of_masks_with_nearly_one_box_the_best_remains() -> None:
    masks = np.zeros((4, 20, 20), bool)
    masks[0, 2:10, 2:10] = masks[1, 2:10, 2:11] = masks[2, 12:18, 12:18] = masks[3, 2:6, 2:10] = True
    scores = np.array([0.8, 0.9, 0.5, 0.7], np.float32)
    assert distinct(masks, scores, 0.7) == [1, 3, 2]
    assert distinct(masks, scores, 0.4) == [1, 2]
    assert distinct(masks[:0], scores[:0], 0.7) == []


class Discs:
    """Answers a click with the disc that it hits, if any: sure of the first, half sure of the second."""

    preset = Preset(
        side=64, fit="stretch", mean=(0, 0, 0), std=(1, 1, 1), box="half_open", mask_prompt="logits", mask_side=16
    )
    digest, label, takes = "0" * 64, "test", SPATIAL
    centres, quality = np.array([(4, 4), (11, 10)]), np.array([0.95, 0.9])

    def encode(self, images, content):
        return [(image,) for image in images]

    def decode(self, features, prompts, multimask):
        y, x = np.indices((16, 16))
        out, qualities = [], []
        for point in (prompts.points[:, 0] + 0.5) / 4 - 0.5:
            distance = np.hypot(*(self.centres - point).T)
            nearest = int(distance.argmin())
            radius = np.hypot(x - self.centres[nearest][0], y - self.centres[nearest][1])
            disc = np.where(radius <= 3, 8.0, -8.0)
            nothing = np.full((16, 16), -8.0)
            vague = np.where(radius <= 3, 0.5, -8.0)
            hit = distance[nearest] <= 3
            out.append([disc if hit else nothing, vague, disc])
            qualities.append([self.quality[nearest], 0.99, 0.3])
        return np.array(out, np.float32), np.array(qualities, np.float32)


def test_each_object_is_found_once_best_first() -> None:
    predictor = Predictor(Discs(), "discs")
    image = Slice(data.camera()[:128:2, :])
    found = segment_everything(predictor, predictor.encode(image), side=8)
    assert [round(entry.quality, 2) for entry in found] == [0.95, 0.9]
    height, width = image.size
    for entry, (cx, cy) in zip(found, Discs.centres, strict=True):
        assert entry.mask.shape == image.size
        y, x = np.nonzero(entry.mask)
        assert abs(x.mean() - (cx + 0.5) / 16 * width) < width / 32
        assert abs(y.mean() - (cy + 0.5) / 16 * height) < height / 32
    assert segment_everything(predictor, predictor.encode(image), side=8, min_quality=0.96) == []
    both = segment_everything(predictor, predictor.encode(image), side=8, min_stability=0.0)
    assert [round(entry.quality, 2) for entry in both] == [0.99, 0.99]
