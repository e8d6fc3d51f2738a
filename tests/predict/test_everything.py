import threading

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from skimage import data
from threadpoolctl import threadpool_info

import plain_everything
import plain_sam
from vesalius.core.errors import ConfigError
from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prompt, Slice
from vesalius.models.presets import Preset
from vesalius.models.runtime import SPATIAL
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict import everything
from vesalius.predict.everything import (
    EverythingConfig,
    Proposal,
    Zoom,
    clean_mask,
    coco_annotations,
    crop_boxes,
    cut_by,
    distinct,
    grid_points,
    label_map,
    segment_everything,
    without_small_regions,
)
from vesalius.predict.predictor import Predictor
from vesalius.prompts.sample import tight_box

# Each step by itself


def test_the_grid_covers_what_is_image_evenly():
    # 80 x 40 pixels shown as 64 x 32 model pixels, the rest is padding.
    points = grid_points(Frame.longest_side((40, 80), 64), 4)
    assert points.shape == (16, 2)
    np.testing.assert_allclose(points[0], (8, 4))
    np.testing.assert_allclose(points[1], (24, 4))
    np.testing.assert_allclose(points[-1], (56, 28))


def test_crops_of_two_layers():
    crops = crop_boxes((60, 100), 2, 0.5)
    assert crops[0] == (0, (0, 0, 100, 60))
    # Layer 1 shares 0.5 x 60 = 30 pixels: ceil((100 + 30) / 2) = 65 wide, ceil((60 + 30) / 2) = 45 high.
    assert crops[1:5] == [(1, (0, 0, 65, 45)), (1, (0, 15, 65, 60)), (1, (35, 0, 100, 45)), (1, (35, 15, 100, 60))]
    # Layer 2 shares 15: ceil((100 + 45) / 4) = 37 wide in steps of 22, ceil((60 + 45) / 4) = 27 high in steps of 12.
    assert len(crops) == 21
    assert crops[5] == (2, (0, 0, 37, 27))
    assert crops[-1] == (2, (66, 36, 100, 60))
    assert crop_boxes((60, 100), 0, 0.5) == crops[:1]


def test_a_box_that_ends_at_a_crop_and_not_at_the_image_is_cut():
    whole, crop = (0, 0, 300, 200), (100, 0, 300, 150)
    assert not cut_by((150, 30, 250, 100), crop, whole)
    assert cut_by((120, 30, 250, 100), crop, whole)
    assert not cut_by((121, 30, 250, 100), crop, whole)
    assert not cut_by((150, 0, 299, 100), crop, whole)
    assert cut_by((150, 30, 250, 149), crop, whole)


def test_stability_and_box_are_those_of_the_enlarged_mask():
    zoom = Zoom(Frame.stretch((24, 48), 32), 8)
    slope = np.tile(np.linspace(-4, 3, 8, dtype=np.float32), (8, 1))
    # Low-resolution centres lie at x = 2.5, 8.5, ..., six pixels apart, so pixel x is at (x - 2.5) / 6 - 4.
    values = np.clip((np.arange(48) - 2.5) / 6 - 4, -4, 3)
    stability, box = zoom.measure(slope, 1.0)
    assert stability == (values > 1).sum() / (values > -1).sum()
    assert box == (int(np.flatnonzero(values > 0)[0]), 0, 47, 23)
    assert zoom.measure(np.full((8, 8), -9, np.float32), 1.0) == (0, None)
    assert zoom.measure(np.full((8, 8), -0.5, np.float32), 1.0) == (0, None)
    assert zoom.measure(np.full((8, 8), 9, np.float32), 1.0) == (1, (0, 0, 47, 23))


FRAMES = [
    Frame.longest_side((61, 90), 64),
    Frame.longest_side((200, 131), 64),
    Frame.longest_side((9, 30), 64),
    Frame.stretch((37, 90), 32, (10, 5, 60, 33)),
    Frame.pad((40, 50), 64),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_parts_are_enlarged_as_the_whole_is(frame):
    rng = np.random.default_rng(0)
    zoom = Zoom(frame, 16)
    x0, y0, x1, y1 = frame.window
    cx0, cy0, cx1, cy1 = frame.content
    for _ in range(20):
        low = np.full((16, 16), -5, np.float32)
        top, left = rng.integers(0, 4, 2)
        low[top : top + rng.integers(5, 16), left : left + rng.integers(5, 16)] = 3
        low += rng.normal(0, 1, low.shape).astype(np.float32)
        full = torch.nn.functional.interpolate(torch.from_numpy(low)[None, None], (frame.side,) * 2, mode="bilinear")
        there = torch.nn.functional.interpolate(full[..., cy0:cy1, cx0:cx1], (y1 - y0, x1 - x0), mode="bilinear")
        true = np.full(frame.size, -9, np.float32)
        true[y0:y1, x0:x1] = there[0, 0].numpy()
        np.testing.assert_array_equal(zoom.mask(low), true > 0)
        stability, box = zoom.measure(low, 0.7)
        assert stability == pytest.approx((true > 0.7).sum() / (true > -0.7).sum())
        rows, columns = np.nonzero(true > 0)
        assert box == (columns.min(), rows.min(), columns.max(), rows.max())


@pytest.mark.parametrize("frame", FRAMES)
def test_the_bound_of_stability_is_above_it_and_tells_much(frame):
    rng = np.random.default_rng(1)
    zoom = Zoom(frame, 16)
    y, x = np.indices((16, 16))
    refused = unstable = 0
    for _ in range(200):
        centre, slope = rng.uniform(0, 16, 2), rng.uniform(0.1, 3)
        low = slope * (rng.uniform(2, 8) - np.hypot(y - centre[0], x - centre[1])) + rng.normal(0, 0.1, (16, 16))
        bound, stability = zoom.stability_bound(low.astype(np.float32), 1.0), zoom.measure(low.astype("f4"), 1.0)[0]
        assert bound >= stability
        refused += bound < 0.9
        unstable += stability < 0.9
    assert refused > 0.15 * unstable


def test_of_masks_with_nearly_one_box_the_best_remains():
    boxes = np.array([[2, 2, 10, 10], [2, 2, 11, 10], [12, 12, 18, 18], [2, 2, 6, 10]])
    scores = np.array([0.8, 0.9, 0.5, 0.7], np.float32)
    assert distinct(boxes, scores, 0.7) == [1, 3, 2]
    assert distinct(boxes, scores, 0.4) == [1, 2]
    assert distinct(boxes[:0], scores[:0], 0.7) == []
    # Boxes of 10 x 10 and 7 x 10 have an IoU of 0.7, which is not too much; of equal scores the first remains.
    assert distinct(np.array([[0, 0, 10, 10], [0, 0, 7, 10]]), np.ones(2, np.float32), 0.7) == [0, 1]
    assert distinct(np.array([[0, 0, 10, 10], [0, 0, 10, 8]]), np.ones(2, np.float32), 0.7) == [0]
    # A mask one pixel thin has a box without area, which overlaps nothing.
    assert distinct(np.array([[0, 0, 0, 9], [0, 0, 0, 9]]), np.ones(2, np.float32), 0.7) == [0, 1]


def test_small_holes_and_parts_go():
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12] = True
    assert clean_mask(mask, 50) is mask
    spotted = mask.copy()
    spotted[4, 4] = spotted[5, 5] = False  # one hole: its pixels touch in a corner
    spotted[15, 20] = spotted[16, 21] = spotted[17, 22] = True
    np.testing.assert_array_equal(clean_mask(spotted, 4), mask)
    np.testing.assert_array_equal(clean_mask(spotted, 3) & mask, mask)
    assert clean_mask(spotted, 3)[16, 21]
    assert clean_mask(spotted, 2) is spotted
    # Of small parts alone the largest stays; all the background is a hole if it is small.
    np.testing.assert_array_equal(clean_mask(mask, 200), mask)
    assert clean_mask(np.pad(np.ones((6, 6), bool), 1), 29).all()


def _proposal(mask, quality):
    rows, columns = np.nonzero(mask)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    logits = Logits(np.zeros((2, 2), np.float32), Frame.stretch(mask.shape, 2))
    crop = (0, 0, mask.shape[1], mask.shape[0])
    return Proposal(mask, quality, logits, box=box, stability=1.0, point=(3.0, 4.0), crop=crop)


def test_after_the_cleaning_an_unchanged_mask_is_preferred():
    whole = np.zeros((20, 30), bool)
    whole[2:12, 2:12] = True
    spotted, other = whole.copy(), np.zeros((20, 30), bool)
    spotted[18, 28] = True
    other[10:19, 15:29] = True
    spotted_first = [_proposal(spotted, 0.9), _proposal(whole, 0.8), _proposal(other, 0.7)]
    kept = without_small_regions(spotted_first, 5, 0.7)
    assert [proposal.quality for proposal in kept] == [0.8, 0.7]
    (alone,) = without_small_regions(spotted_first[:1], 5, 0.7)
    assert alone.box == (2, 2, 12, 12)
    np.testing.assert_array_equal(alone.mask, whole)


def test_annotations_are_what_pycocotools_reads():
    mask = np.zeros((20, 30), bool)
    mask[2:12, 5:8] = True
    (told,) = coco_annotations([_proposal(mask, 0.9)])
    np.testing.assert_array_equal(coco.decode(told["segmentation"]) > 0, mask)
    assert coco.toBbox(told["segmentation"]).tolist() == told["bbox"] == [5, 2, 3, 10]
    assert told["area"] == 30
    assert told["point_coords"] == [[3.0, 4.0]]
    assert told["crop_box"] == [0, 0, 30, 20]
    assert (told["id"], told["predicted_iou"], told["stability_score"]) == (1, 0.9, 1.0)


def test_in_a_label_map_the_small_lie_on_the_large():
    large, small = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    large[:, :4] = True
    small[1:3, 3:5] = True
    for order in ([large, small], [small, large]):
        numbers = label_map([_proposal(mask, 0.5) for mask in order], (4, 6))
        for i, mask in enumerate(order, 1):
            np.testing.assert_array_equal(numbers == i, mask if mask is small else mask & ~small)


# All steps together


@pytest.fixture(scope="module")
def network():
    """A small SAM of random weights whose masks are spots: all its logits are lowered by one channel that is constant.

    Its predicted IoU is made to lie around 0.9.
    """
    config = SamConfig(
        side=64,
        encoder_dim=32,
        encoder_depth=3,
        encoder_heads=2,
        global_blocks=(1,),
        window=3,
        prompt_dim=32,
        decoder_heads=4,
        decoder_mlp=48,
        iou_hidden=24,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sam(config, Preset(side=64, mask_side=16)).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if "pos" in name:
                torch.nn.init.normal_(parameter, std=0.02)
            if "mask_decoder" in name and parameter.ndim > 1:
                parameter.mul_(4)
    decoder = model.mask_decoder
    enlarging = decoder.output_upscaling[3]
    enlarging.weight[:, 0], enlarging.bias[0] = 0, 1
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight[0], head.layers[-1].bias[0] = 0, -10
    decoder.iou_prediction_head.layers[-1].weight.mul_(0.02)
    decoder.iou_prediction_head.layers[-1].bias.fill_(0.8)
    return model


LOOSE = {"offset": 0.5, "min_stability": 0.3}
SETTINGS = {
    "plain": {"side": 12, "min_quality": 0.8, **LOOSE},
    "crops": {"side": 8, "crop_layers": 2, "crop_shrink": 2, "crop_overlap": 0.4, "min_quality": 0.5, **LOOSE},
    "cleaned": {"side": 6, "crop_layers": 1, "min_area": 90, "max_overlap": 0.6, "min_stability": 0, "min_quality": 0},
    "all pass": {"side": 8, "max_overlap": 1, "min_stability": 0, "min_quality": 0},
}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("plain", (150, 111)),
        ("plain", (37, 50)),
        pytest.param("crops", (150, 111), marks=pytest.mark.long),
        ("cleaned", (150, 111)),
        ("all pass", (64, 64)),
    ],
)
def test_everything_is_that_of_the_published_steps(network, name, size):
    rgb = data.astronaut()[: size[0], : size[1]]
    settings = SETTINGS[name]
    found = segment_everything(Predictor(TorchRuntime(network), "random"), rgb, **settings)
    decoder = plain_sam.plain_decoder(network)
    expected = plain_everything.generate(network, decoder, rgb, EverythingConfig(**settings))
    assert len(found) == len(expected) > 6
    if "crop_layers" in settings:
        assert len({proposal.crop for proposal in found}) > 1
    assert [proposal.quality for proposal in found] == sorted((proposal.quality for proposal in found), reverse=True)

    def key(entry):
        return (*entry.crop, *np.round(entry.point, 2), round(min(max(entry.quality, 0), 1), 3))

    for ours, plain in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert ours.crop == plain.crop
        assert ours.point == pytest.approx(plain.point, abs=1e-4)
        assert ours.quality == pytest.approx(min(max(plain.quality, 0), 1), abs=1e-5)
        assert ours.stability == pytest.approx(plain.stability, abs=2e-3)
        # Rounding may turn pixels whose logits are zero.
        assert np.count_nonzero(ours.mask != plain.mask()) <= 5
        np.testing.assert_allclose(ours.box, np.add(plain.box, (0, 0, 1, 1)), atol=1)
        assert ours.box == tight_box(ours.mask)
        assert ours.mask.shape == size


@pytest.mark.parametrize("size", [(3, 40), (40, 3)])
def test_the_clicks_of_an_image_with_fewer_pixels_than_clicks_lie_on_it(network, size):
    image = data.camera()[: size[0], : size[1]]
    settings = {"side": 8, "min_quality": 0, "min_stability": 0}
    found = segment_everything(Predictor(TorchRuntime(network), "random"), image, **settings)
    assert found
    for proposal in found:
        Prompt(points=[proposal.point]).check(size)
        assert proposal.mask.shape == size


def blas():
    return [one for one in threadpool_info() if one["user_api"] == "blas"]


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


def test_each_object_is_found_once_best_first():
    predictor = Predictor(Discs(), "discs")
    image = Slice(data.camera()[:128:2, :])
    said = []
    settings = {"side": 12, "min_stability": 0.75}
    found = segment_everything(predictor, image, **settings, progress=lambda *now: said.append(now))
    assert said == [(64, 144), (128, 144), (144, 144)]
    assert [round(entry.quality, 2) for entry in found] == [0.95, 0.9]
    height, width = image.size
    for entry, (cx, cy) in zip(found, Discs.centres, strict=True):
        assert entry.mask.shape == image.size
        y, x = np.nonzero(entry.mask)
        assert abs(x.mean() - (cx + 0.5) / 16 * width) < width / 32
        assert abs(y.mean() - (cy + 0.5) / 16 * height) < height / 32
        assert entry.mask[round(entry.point[1]), round(entry.point[0])]
        x0, y0, x1, y1 = entry.box
        assert (x0, y0, x1, y1) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    embedding = predictor.encode(image)
    again = segment_everything(predictor, embedding, **settings)
    assert [entry.point for entry in again] == [entry.point for entry in found]
    assert segment_everything(predictor, embedding, side=8, min_quality=0.96) == []
    both = segment_everything(predictor, embedding, side=8, min_stability=0.0)
    assert [round(entry.quality, 2) for entry in both] == [0.99, 0.99, 0.95, 0.9]


class Bright(Discs):
    """Answers every click with all that is bright."""

    def decode(self, features, prompts, multimask):
        (image,) = features[0]
        low = image[..., 0].reshape(16, 4, 16, 4).mean((1, 3)) / 16.0 - 8
        count = len(prompts)
        return np.tile(low.astype(np.float32), (count, 1, 1, 1)), np.full((count, 1), 0.95, np.float32)


def test_of_a_mask_from_several_crops_that_from_the_smallest_remains():
    y, x = np.indices((240, 240))
    image = np.where(np.hypot(y - 70, x - 70) < 30, 255, 0).astype(np.uint8)
    (found,) = segment_everything(Predictor(Bright(), "bright"), image, side=2, crop_layers=1, min_stability=0)
    assert found.crop == crop_boxes((240, 240), 1, 512 / 1500)[1][1]
    assert np.count_nonzero(found.mask != (image > 0)) < 0.05 * np.count_nonzero(image)
    assert found.logits.frame.window == found.crop
    # A crop that cuts the disc, as all do but the first, gives none.
    image = np.roll(image, 50, axis=(0, 1))
    (found,) = segment_everything(Predictor(Bright(), "bright"), image, side=2, crop_layers=1, min_stability=0)
    assert found.crop == (0, 0, 240, 240)


@pytest.mark.skipif(not any(one["num_threads"] > 1 for one in blas()), reason="BLAS has one thread here")
def test_two_at_a_time_leave_blas_its_threads(monkeypatch):
    """The first begins before the second, and ends before it."""
    before, during = blas(), []
    turns = [threading.Event() for _ in range(3)]
    begun = []
    limits = everything.threadpool_limits
    monkeypatch.setattr(everything, "threadpool_limits", lambda *limit: (begun.append(limit), limits(*limit))[1])

    def first(done, total):
        during.append({one["num_threads"] for one in blas()})
        turns[0].set()
        turns[1].wait(10)

    def second(done, total):
        turns[1].set()
        turns[2].wait(10)

    def ask(progress):
        segment_everything(Predictor(Discs(), "discs"), data.camera(), side=8, progress=progress)

    threads = [threading.Thread(target=ask, args=(progress,)) for progress in (first, second)]
    threads[0].start()
    assert turns[0].wait(10)
    threads[1].start()
    threads[0].join(10)
    turns[2].set()
    threads[1].join(10)
    assert during == [{1}]
    assert begun == [(1, "blas")]  # what the second would have put back is what the first had set
    assert {one["filepath"]: one["num_threads"] for one in blas()} == {
        one["filepath"]: one["num_threads"] for one in before
    }


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"side": 0}, "side"), ({"min_quality": 1.5}, "min_quality"), ({"points": 8}, "points"), ({"side": 1.5}, "side")],
)
def test_settings_that_make_no_sense(settings, reason):
    predictor = Predictor(Discs(), "discs")
    with pytest.raises(ConfigError, match=reason):
        segment_everything(predictor, data.camera(), **settings)
