from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from vesalius.evaluation.baselines import BASELINES, ellipse, grabcut, random_walker
from vesalius.metrics.overlap import dice
from vesalius.prompts.sample import tight_box


def disc_image(size: tuple[int, int] = (90, 140), centre: tuple[int, int] = (80, 40), radius: int = 20) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 8, (*size, 3))
    image = np.full((*size, 3), 60.0)
    cv2.circle(image, centre, radius, (190.0, 120.0, 90.0), -1)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_ellipse_has_its_area_and_touches_its_box() -> None:
    mask = ellipse(np.zeros((200, 300, 3), np.uint8), (40, 20, 240, 120))
    assert tight_box(mask) == (40, 20, 240, 120)
    assert mask.sum() == pytest.approx(np.pi / 4 * 200 * 100, rel=0.01)
    assert (mask[:, 40:240] == mask[:, 40:240][:, ::-1]).all()
    assert (mask[20:120] == mask[20:120][::-1]).all()


def test_ellipse_of_one_pixel_is_that_pixel() -> None:
    mask = ellipse(np.zeros((5, 6, 3), np.uint8), (4, 2, 5, 3))
    assert np.argwhere(mask).tolist() == [[2, 4]]


def test_grabcut_finds_a_disc_in_a_loose_box() -> None:
    image = disc_image()
    truth = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(truth, (80, 40), 20, 1, -1)
    found = grabcut(image, (52, 12, 110, 70))
    assert dice(found, truth > 0) > 0.97


def test_grabcut_leaves_what_is_outside_the_box() -> None:
    image = disc_image((90, 160), (120, 55), 10)
    cv2.circle(image, (70, 35), 10, (190, 120, 90), -1)
    x0, y0, x1, y1 = tight_box(grabcut(image, (57, 22, 83, 48)))
    assert 57 <= x0 < x1 <= 83
    assert 22 <= y0 < y1 <= 48


def test_grabcut_repeats_itself_whatever_ran_before() -> None:
    # A picture on which six different seeds give four different masks.
    image, box = np.ascontiguousarray(data.coffee()[::4, ::4]), (18, 12, 131, 87)
    first = grabcut(image, box)
    for seed in range(1, 6):
        cv2.setRNGSeed(seed)
        assert (grabcut(image, box) == first).all()


@pytest.mark.parametrize("outline", [grabcut, random_walker])
def test_without_background_the_answer_is_the_box(outline: Any) -> None:
    assert outline(disc_image(), (0, 0, 140, 90)).all()


def test_the_random_walker_finds_a_disc_in_a_loose_box_better_than_the_ellipse() -> None:
    image, box = disc_image(), (58, 18, 103, 63)
    truth = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(truth, (80, 40), 20, 1, -1)
    found = random_walker(image, box)
    assert dice(found, truth > 0) > 0.97 > dice(ellipse(image, box), truth > 0) + 0.05
    assert (random_walker(image, box) == found).all()


def test_the_random_walker_solves_large_windows_in_small() -> None:
    image = cv2.resize(disc_image(), None, fx=8, fy=6, interpolation=cv2.INTER_LINEAR)
    truth = np.zeros(image.shape[:2], np.uint8)
    cv2.ellipse(truth, (644, 243), (164, 123), 0, 0, 360, 1, -1)
    assert dice(random_walker(image, (464, 108, 824, 378)), truth > 0) > 0.95


@pytest.mark.parametrize("row", [46, 73, 120])  # in and between the rows to which the window is reduced
def test_the_random_walker_sees_a_thin_box_in_a_large_window(row: int) -> None:
    image, truth = np.full((250, 800, 3), 60, np.uint8), np.zeros((250, 800), np.bool_)
    truth[row, 130:670] = True
    image[truth] = 190
    assert dice(random_walker(image, (100, row, 700, row + 1)), truth) > 0.98


def test_the_random_walker_follows_edges_and_without_any_answers_the_box() -> None:
    image, box = np.full((60, 60, 3), 60, np.uint8), (10, 10, 42, 50)
    image[12:48, 12:40] = 190
    assert (random_walker(image, box) == (image[:, :, 0] == 190)).all()
    assert random_walker(np.full_like(image, 60), box).sum() == 32 * 40


@pytest.mark.parametrize(
    "box",
    [(79, 40, 80, 41), (79, 40, 81, 41), (139, 89, 140, 90), (0, 45, 140, 46), (70, 0, 71, 90), (0, 0, 139, 90)],
)
def test_the_random_walker_takes_the_smallest_and_the_largest_boxes(box: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = box
    mask = random_walker(disc_image(), box)
    assert mask[(y0 + y1) // 2, (x0 + x1) // 2]
    mask[y0:y1, x0:x1] = False
    assert not mask.any()


@pytest.mark.parametrize("box", [(79, 40, 80, 41), (79, 40, 81, 41), (0, 0, 139, 90), (0, 0, 140, 89), (1, 1, 140, 90)])
def test_grabcut_takes_the_smallest_and_the_largest_boxes(box: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = box
    outside = grabcut(disc_image(), box)
    outside[y0:y1, x0:x1] = False
    assert not outside.any()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_take_boxes_between_pixels_and_stay_inside(name: str) -> None:
    mask = BASELINES[name](disc_image(), (60.4, 20.2, 100.7, 60.9))
    x0, y0, x1, y1 = tight_box(mask)
    assert 60 <= x0 < x1 <= 101
    assert 20 <= y0 < y1 <= 61
