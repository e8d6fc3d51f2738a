import math

import pytest
import torch

from vesalius.training.losses import LossConfig, category_loss, dice_loss, focal_loss, mask_loss, true_iou

TINY = LossConfig(dice=1, sized_entropy=1)
SAM = LossConfig(focal=20, dice=1)
MEDSAM = LossConfig(dice=1, entropy=1, squares=True)


def square(side: int, size: int) -> torch.Tensor:
    out = torch.zeros(1, 1, side, side)
    out[..., 4 : 4 + size, 4 : 4 + size] = 1
    return out


@pytest.mark.parametrize("config", [TINY, SAM, MEDSAM])
def test_a_mask_s_loss_does_not_depend_on_its_neighbours(config: LossConfig) -> None:
    torch.manual_seed(0)
    truth = torch.cat([square(32, 4), square(32, 20)])
    logits = torch.randn(2, 3, 32, 32)
    together = mask_loss(logits, truth, config)
    apart = torch.cat([mask_loss(logits[i : i + 1], truth[i : i + 1], config) for i in (0, 1)])
    assert torch.allclose(together, apart)


@pytest.mark.parametrize("config", [TINY, SAM, MEDSAM])
def test_better_masks_cost_less(config: LossConfig) -> None:
    truth = square(32, 12)
    right = 12 * (truth - 0.5)
    worse = right.clone()
    worse[..., 4:8, 4:16] = -6
    losses = [mask_loss(logits, truth, config).item() for logits in (right, worse, -right)]
    assert losses[0] < 0.05
    assert losses == sorted(losses)


def test_focal_loss_is_the_formula_of_its_paper() -> None:
    logits, truth = torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    expected = (-0.25 * (1 - p) ** 2 * math.log(p) - 0.75 * q**2 * math.log(1 - q)) / 2
    assert focal_loss(logits, truth).item() == pytest.approx(expected)
    # A wrong pixel however sure costs a finite amount.
    assert focal_loss(torch.tensor([[[[-200.0]]]]), torch.ones(1, 1, 1, 1)).item() == pytest.approx(50)


def test_weights_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 3, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    expected = 20 * focal_loss(logits, truth.expand_as(logits)) + dice_loss(logits, truth.expand_as(logits))
    assert torch.allclose(mask_loss(logits, truth, SAM), expected)


def test_a_small_object_s_boundary_weighs_more() -> None:
    logits = torch.zeros(2, 1, 32, 32)
    truth = torch.cat([square(32, 4), square(32, 20)])
    entropy = mask_loss(logits, truth, LossConfig(dice=0, sized_entropy=1))
    assert entropy[0].item() > 2 * entropy[1].item()


def test_categories_are_told_by_the_direction_of_their_embedding() -> None:
    names = torch.eye(3)
    shown = torch.tensor([[5.0, 0.1, 0.0], [5.0, 0.1, 0.0], [0.0, 0.0, 1.0]])
    losses = category_loss(shown, names, torch.tensor([0, 1, -1]), 0.07)
    assert losses[0] < 0.01
    assert losses[1] > 10
    assert losses[2] == 0
    assert torch.allclose(category_loss(9 * shown, names, torch.tensor([0, 1, -1]), 0.07), losses)


def test_iou_is_per_mask_and_thresholded_at_zero_even_without_negative_logits() -> None:
    truth = torch.cat([square(16, 4), square(16, 8)])
    logits = torch.cat([12 * (square(16, 4) - 0.5), 0.5 + torch.rand(1, 1, 16, 16)])
    assert true_iou(logits, truth > 0.5)[:, 0].tolist() == [1.0, pytest.approx(64 / 256)]
