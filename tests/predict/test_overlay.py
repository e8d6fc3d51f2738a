from __future__ import annotations

import numpy as np
import pytest

from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prediction, Prompt, Slice
from vesalius.predict.overlay import NEGATIVE, PALETTE, POSITIVE, contact_sheet, draw_overlay


def _prediction(mask, quality=0.9):
    return Prediction(mask, quality, Logits(np.zeros((4, 4), np.float32), Frame.stretch(mask.shape, 4)))


def _square(size=(64, 64), box=(16, 16, 48, 48)):
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def _places(picture, colour, tolerance=40):
    """(N, 2) pixels (x, y) close to a colour."""
    near = np.abs(picture.astype(int) - colour).max(axis=-1) <= tolerance
    return np.argwhere(near)[:, ::-1]


GREY = Slice(np.full((64, 64), 100, np.uint8))


def test_small_images_are_enlarged_and_the_outline_lies_where_the_mask_does():
    picture = draw_overlay(GREY, [Prompt(points=[(32, 32)])], [_prediction(_square())])

    assert picture.dtype == np.uint8
    assert picture.shape[1] == 768
    assert picture.shape[0] > 768  # the legend lies below
    found = _places(picture[:768], PALETTE[0])
    scale = 768 / 64
    assert np.abs(found.min(axis=0) - 16 * scale).max() <= 3
    assert np.abs(found.max(axis=0) - 48 * scale).max() <= 3
    inside = ((found > 16 * scale + 4) & (found < 48 * scale - 4)).all(axis=1)
    assert not inside.any()  # a line, not a filled shape


def test_large_images_keep_their_size_and_thin_objects_stay_visible():
    image = Slice(np.full((1000, 1500), 100, np.uint8))
    mask = np.zeros((1000, 1500), bool)
    mask[500, 700:800] = True

    assert draw_overlay(image, [Prompt(points=[(750, 500)])], [_prediction(mask)]).shape[1] == 1500
    small = draw_overlay(image, [Prompt(points=[(5, 5)])], [_prediction(mask)], longest=150)
    assert len(_places(small[:100], PALETTE[0]))


def test_unequal_spacing_is_drawn_at_its_true_aspect_ratio():
    image = Slice(np.full((20, 40), 100, np.uint8), spacing=(4.0, 1.0))  # 80 mm high, 40 mm wide
    picture = draw_overlay(image, [Prompt(points=[(20, 10)])], [_prediction(_square((20, 40), (10, 5, 30, 15)))])

    found = _places(picture[:768], PALETTE[0])
    width, height = found.max(axis=0) - found.min(axis=0)
    assert height / width == pytest.approx((10 * 4) / (20 * 1), rel=0.05)


def test_prompts_are_drawn_where_they_were_given():
    prompt = Prompt(points=[(10, 20), (50, 40)], labels=[1, 0], box=(8, 12, 56, 60))
    picture = draw_overlay(GREY, [prompt], [_prediction(np.zeros((64, 64), bool))])[:768]

    def centre(x, y):
        return np.array([(x + 0.5) * 12, (y + 0.5) * 12])

    plus, minus = _places(picture, POSITIVE, 5), _places(picture, NEGATIVE, 5)
    assert np.abs(plus.mean(axis=0) - centre(10, 20)).max() <= 2
    assert np.abs(minus.mean(axis=0) - centre(50, 40)).max() <= 2
    assert np.ptp(plus[:, 1]) > np.ptp(minus[:, 1])  # a plus has an upright stroke, a minus has none
    box = _places(picture, PALETTE[0])
    assert np.abs(box.min(axis=0) - (8 * 12, 12 * 12)).max() <= 3
    assert np.abs(box.max(axis=0) - (56 * 12, 60 * 12)).max() <= 3


def test_a_rough_mask_is_drawn_too():
    rough = Prompt(mask=_square(box=(4, 4, 20, 20)))
    picture = draw_overlay(GREY, [rough], [_prediction(np.zeros((64, 64), bool))])[:768]
    found = _places(picture, PALETTE[0])
    assert np.abs(found.min(axis=0) - 48).max() <= 4
    assert np.abs(found.max(axis=0) - 240).max() <= 16


def test_each_object_has_its_colour_and_its_line_in_the_legend():
    masks = [_square(box=(4, 4, 20, 20)), _square(box=(40, 40, 60, 60))]
    prompts = [Prompt(points=[(10, 10)]), Prompt(points=[(50, 50)])]
    one = draw_overlay(GREY, prompts[:1], [_prediction(masks[0])])
    two = draw_overlay(GREY, prompts, [_prediction(masks[0]), _prediction(masks[1], 0.4)])

    assert not len(_places(one, PALETTE[1]))
    for colour in PALETTE[:2]:
        assert len(_places(two[:768], colour))
        assert len(_places(two[768:], colour))


def test_the_quality_is_written():
    prompt = [Prompt(points=[(32, 32)])]
    good, bad = (draw_overlay(GREY, prompt, [_prediction(_square(), quality)]) for quality in (0.95, 0.15))
    assert (good[:768] == bad[:768]).all()
    assert (good[768:] != bad[768:]).any()


def test_a_view_shows_only_that_part():
    image = Slice(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), window=(0.0, 4095.0))
    picture = draw_overlay(
        image,
        [Prompt(box=(20, 20, 44, 44))],
        [_prediction(_square(box=(24, 24, 40, 40)))],
        longest=320,
        view=(16, 16, 48, 48),
    )
    found = _places(picture[:320], PALETTE[0])
    assert np.abs(found.min(axis=0) - (20 - 16) * 10).max() <= 3
    assert np.abs(found.max(axis=0) - (44 - 16) * 10).max() <= 3


def test_what_was_given_is_not_drawn_into():
    pixels = np.full((800, 800, 3), 100, np.uint8)
    draw_overlay(Slice(pixels), [Prompt(box=(1, 1, 700, 700))], [_prediction(_square((800, 800)))])
    assert (pixels == 100).all()


def test_a_contact_sheet_holds_every_picture_whole():
    pictures = [(f"case {i}", np.full((60 + 10 * i, 200, 3), (250, 10 * i, 40 * i), np.uint8)) for i in range(5)]
    sheet = contact_sheet(pictures, columns=2)

    for _, picture in pictures:
        found = _places(sheet, picture[0, 0], 0)
        assert len(found) == picture.shape[0] * picture.shape[1]
        assert (np.ptp(found, axis=0) + 1 == picture.shape[1::-1]).all()


def test_a_long_title_is_shortened_to_its_cell():
    long, short = (contact_sheet([(title, np.zeros((100, 200, 3), np.uint8))]) for title in ("word " * 100, "word"))
    assert long.shape == short.shape
    margin = 200 // 16
    assert (long[:, :margin] == short[:, :margin]).all()
