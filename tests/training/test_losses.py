import pytest
import torch

from vesalius.training.losses import mask_loss, true_iou


def square(side: int, size: int) -> torch.Tensor:
    out = torch.zeros(1, 1, side, side)
    out[..., 4 : 4 + size, 4 : 4 + size] = 1
    return out


def test_a_mask_s_loss_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    truth = torch.cat([square(32, 4), square(32, 20)])
    logits = torch.randn(2, 3, 32, 32)
    together = mask_loss(logits, truth)
    apart = torch.cat([mask_loss(logits[i : i + 1], truth[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(together, apart)


def test_better_masks_cost_less() -> None:
    truth = square(32, 12)
    right = 12 * (truth - 0.5)
    worse = right.clone()
    worse[..., 4:8, 4:16] = -6
    losses = [mask_loss(logits, truth).item() for logits in (right, worse, -right)]
    assert losses[0] < 0.05
    assert losses == sorted(losses)


def test_iou_is_per_mask_and_thresholded_at_zero_even_without_negative_logits() -> None:
    truth = torch.cat([square(16, 4), square(16, 8)])
    logits = torch.cat([12 * (square(16, 4) - 0.5), 0.5 + torch.rand(1, 1, 16, 16)])
    assert true_iou(logits, truth)[:, 0].tolist() == [1.0, pytest.approx(64 / 256)]
