import numpy as np
import pytest
import torch

from vesalius.prompts.simulate import pick_pixels, sample_error_points


def test_every_pixel_of_the_region_and_no_other_is_drawn() -> None:
    region = torch.zeros(1, 5, 7, dtype=torch.bool)
    wanted = {(0, 0), (6, 0), (3, 2), (6, 4)}
    for x, y in wanted:
        region[0, y, x] = True
    points, found = pick_pixels(region, torch.linspace(0, 0.999, 200, dtype=torch.float64)[None])
    assert found.tolist() == [True]
    assert {tuple(point) for point in points[0].tolist()} == wanted


def test_draws_are_uniform_over_the_region() -> None:
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[0, 1, 1:4] = True
    uniforms = torch.from_numpy(np.random.default_rng(0).random((1, 6000)))
    points, _ = pick_pixels(region, uniforms)
    counts = torch.bincount(points[0, :, 0], minlength=4)
    assert counts[0] == 0
    assert (counts[1:] > 1850).all()
    assert (counts[1:] < 2150).all()


def test_an_empty_region_is_said_to_be_empty() -> None:
    region = torch.zeros(2, 3, 3, dtype=torch.bool)
    region[1, 2, 2] = True
    points, found = pick_pixels(region, torch.tensor([[0.5], [0.999999]]))
    assert found.tolist() == [False, True]
    assert points[1, 0].tolist() == [2, 2]


@pytest.mark.parametrize("side", [17, 300])
def test_labels_say_what_was_wrong(side: int) -> None:
    rng = np.random.default_rng(1)
    prediction = torch.from_numpy(rng.random((3, side, side)) < 0.4)
    truth = torch.from_numpy(rng.random((3, side, side)) < 0.4)
    truth[2] = prediction[2]
    points, labels = sample_error_points(prediction, truth, torch.from_numpy(rng.random((3, 50))))
    for row in (0, 1):
        for (x, y), label in zip(points[row].tolist(), labels[row].tolist(), strict=True):
            assert prediction[row, y, x] != truth[row, y, x]
            assert label == int(truth[row, y, x])
    assert (labels[2] == -1).all()


def test_a_one_pixel_object_gets_a_click_on_itself() -> None:
    truth = torch.zeros(1, 9, 9, dtype=torch.bool)
    truth[0, 4, 7] = True
    points, labels = sample_error_points(torch.zeros_like(truth), truth, torch.rand(1, 3, dtype=torch.float64))
    assert points.tolist() == [[[7, 4]] * 3]
    assert labels.tolist() == [[1, 1, 1]]
