"""First prompts and corrections of the protocols, on drawn masks."""

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vesalius.core.errors import PromptError
from vesalius.core.types import Prompt
from vesalius.corpus.objects import ObjectMask
from vesalius.evaluation.protocols import PROTOCOLS, Strategy, correction, strategies_of
from vesalius.prompts.sample import central_error_point, even_points, shift_box, shift_points


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def strategy(protocol: str, name: str, variant: str = "") -> Strategy:
    return next(s for s in PROTOCOLS[protocol] if s.name == name and s.variant == variant)


def prompt_of(protocol: str, name: str, mask: NDArray[np.bool_], variant: str = "") -> Prompt:
    first = strategy(protocol, name, variant).first
    assert first is not None
    return first(ObjectMask(mask, "liver", 1), rng())


def rectangle() -> NDArray[np.bool_]:
    """Rows 10 to 14 and columns 20 to 28 of 40 x 60."""
    mask = np.zeros((40, 60), np.bool_)
    mask[10:15, 20:29] = True
    return mask


def ring() -> NDArray[np.bool_]:
    y, x = np.indices((41, 41))
    distance = np.hypot(y - 20, x - 20)
    return (distance < 15) & (distance > 8)


def test_one_point_is_the_centre_of_mass() -> None:
    prompt = prompt_of("cosmos", "S2", rectangle())
    assert np.asarray(prompt.points).tolist() == [[24, 12]]
    assert prompt.box is None


def test_one_point_of_a_ring_lies_on_it() -> None:
    mask = ring()
    ((x, y),) = np.asarray(prompt_of("cosmos", "S2", mask).points).astype(int).tolist()
    assert mask[y, x]
    assert not mask[20, 20]


def test_five_points_are_the_centre_and_four_evenly_from_all_pixels() -> None:
    # 45 pixels row by row; four of them evenly are the 5th, 16th, 28th and 39th, counted from 0.
    points = np.asarray(prompt_of("cosmos", "S3", rectangle()).points).tolist()
    assert points == [[24, 12], [25, 10], [27, 11], [21, 13], [23, 14]]


def test_ten_points_have_five_near_the_box_but_not_on_the_object() -> None:
    mask = ring()
    prompt = prompt_of("cosmos", "S4", mask)
    points, labels = np.asarray(prompt.points).astype(int), np.asarray(prompt.labels)
    assert labels.tolist() == [1] * 5 + [0] * 5
    assert mask[points[:5, 1], points[:5, 0]].all()
    assert not mask[points[5:, 1], points[5:, 0]].any()
    # The box of the ring is 29 wide; twice its size reaches 14 pixels beyond it.
    mask = np.zeros((200, 200), np.bool_)
    mask[90:110, 80:120] = True
    points = np.asarray(prompt_of("cosmos", "S4", mask).points)[5:]
    assert points.min(0).tolist() >= [60, 80]
    assert points.max(0).tolist() < [140, 120]
    assert len(np.unique(points, axis=0)) == 5


def test_boxes_are_tight_and_half_open() -> None:
    assert prompt_of("cosmos", "S5", rectangle()).box == (20, 10, 29, 15)
    both = prompt_of("cosmos", "S6", rectangle())
    assert both.box == (20, 10, 29, 15)
    assert np.asarray(both.points).tolist() == [[24, 12]]


def test_a_small_object_has_fewer_points() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[4, 4:6] = True
    assert even_points(mask, 5).tolist() == [[4, 4], [5, 4]]
    assert even_points(~mask & False, 3).shape == (0, 2)
    with pytest.raises(PromptError, match="empty mask"):
        prompt_of("cosmos", "S2", np.zeros((9, 9), np.bool_))


def test_medsam_boxes_are_up_to_20_pixels_of_1024_too_large() -> None:
    mask = np.zeros((512, 2048), np.bool_)
    mask[200:300, 500:900] = True
    first = strategy("medsam", "box", "0-20").first
    assert first is not None
    boxes = np.array([first(ObjectMask(mask, "liver", 1), np.random.default_rng(i)).box for i in range(200)])
    beyond = (boxes - (500, 200, 900, 300)) * (-1, -1, 1, 1)
    assert (beyond >= 0).all()
    # A pixel of the stretched image is two wide and half a pixel high.
    assert beyond.max(0) == pytest.approx([40, 10, 40, 10], rel=0.05)


def test_shifted_boxes_move_by_their_range_on_both_sides() -> None:
    generator = rng()
    box = (100, 60, 180, 110)
    moves = np.array([shift_box(box, (200, 300), 10, 20, generator) for _ in range(500)]) - box
    assert set(np.unique(np.abs(moves))) == set(range(10, 21))
    assert (moves > 0).mean() == pytest.approx(0.5, abs=0.05)
    small = np.array([shift_box((50, 50, 51, 51), (100, 100), 20, 30, generator) for _ in range(100)])
    assert ((small[:, 0] <= 50) & (small[:, 2] >= 51) & (small[:, 1] <= 50) & (small[:, 3] >= 51)).all()


def test_shifted_points_move_by_their_range_and_stay_inside() -> None:
    points = np.full((500, 2), 100.0)
    moved = shift_points(points, (201, 201), 20, 30, rng())
    distance = np.hypot(*(moved - points).T)
    assert distance.min() >= 19
    assert distance.max() <= 31
    assert shift_points(np.zeros((50, 2)), (5, 5), 20, 30, rng()).max() <= 4


def test_jitter_has_three_draws_of_every_range() -> None:
    found = [(s.name, s.variant, s.repeat) for s in PROTOCOLS["jitter"]]
    assert len(found) == len(set(found)) == 5 * (1 + 3 * 3)
    assert ("S6", "20-30", 2) in found
    assert prompt_of("jitter", "S5", rectangle(), "0").box == (20, 10, 29, 15)


def test_strategies_have_names_of_their_own() -> None:
    everything = strategies_of(list(PROTOCOLS))
    keys = {(s.protocol, s.name, s.variant, s.repeat) for s in everything}
    assert len(keys) == len(everything)
    assert {s.protocol for s in everything} == set(PROTOCOLS)


def test_the_middle_of_the_largest_error_is_clicked() -> None:
    truth = rectangle()
    nothing, none = np.zeros_like(truth), np.empty((0, 2))
    points, labels = central_error_point(nothing, truth, none)
    assert labels.tolist() == [1]
    assert points[0, 1] == 12
    assert 22 <= points[0, 0] <= 26
    # Nine rows too many below are a larger error than the one row that is missed.
    answer = truth.copy()
    answer[10] = False
    answer[15:24, 20:29] = True
    points, labels = central_error_point(answer, truth, none)
    assert (points.tolist(), labels.tolist()) == ([[24, 19]], [0])
    # Of errors that are equally deep, that which is too many comes first.
    answer = truth.copy()
    answer[10] = False
    answer[15, 20:29] = True
    _, labels = central_error_point(answer, truth, none)
    assert labels.tolist() == [0]
    answer[15, 20:29] = False
    answer[15:24, 20:29] = True
    # What has been clicked is not clicked again.
    again, _ = central_error_point(answer, truth, points)
    assert again.tolist() != points.tolist()
    assert all(len(part) == 0 for part in central_error_point(truth, truth, none))


def test_of_equally_deep_errors_the_first_is_clicked_whatever_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, exact = rng(), cv2.distanceTransform

    def inexact(*given: Any) -> NDArray[np.float32]:
        distance = exact(*given)
        noisy: NDArray[np.float32] = distance * generator.uniform(1 - 3e-7, 1 + 3e-7, distance.shape)
        return noisy

    monkeypatch.setattr(cv2, "distanceTransform", inexact)
    truth = np.zeros((600, 600), np.bool_)
    truth[10:311, 20:590] = True
    for _ in range(5):
        points, _ = central_error_point(np.zeros_like(truth), truth, np.empty((0, 2)))
        # The distance of the middle row is 151 from here on.
        assert points.tolist() == [[170, 160]]


def test_an_error_at_the_border_is_clicked_inside_the_image() -> None:
    truth = np.zeros((20, 20), np.bool_)
    truth[:5, :5] = True
    points, _ = central_error_point(np.zeros_like(truth), truth, np.empty((0, 2)))
    # Beyond the image nothing is wrong, so the middle is the middle of what is seen.
    assert points.tolist() == [[2, 2]]


@pytest.mark.parametrize("how", ["random", "central"])
def test_a_correction_keeps_what_was_said(how: str) -> None:
    truth = rectangle()
    answer = truth.copy()
    answer[14] = False
    before = Prompt(points=[(1, 2)], labels=[1], box=(0, 0, 30, 30), text="liver")
    after = correction(before, answer, truth, how, rng())  # type: ignore[arg-type]
    assert after is not None
    assert (after.box, after.text) == ((0, 0, 30, 30), "liver")
    assert np.asarray(after.labels).tolist() == [1, 1]
    assert np.asarray(after.points)[0].tolist() == [1, 2]
    assert np.asarray(after.points)[1, 1] == 14
    assert correction(before, truth, truth, how, rng()) is None  # type: ignore[arg-type]
