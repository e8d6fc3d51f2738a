import numpy as np
import torch

from vesalius.models.tiny import Tiny
from vesalius.training.interaction import InteractionConfig, first_prompts, interactive_loss


def two_masks() -> torch.Tensor:
    real = torch.zeros(2, 32, 32, dtype=torch.bool)
    real[0, 3:9, 10:20] = True
    real[0, 25:28, 2:5] = True  # a second part
    real[1, 16, 16] = True
    return real


def test_boxes_hold_the_whole_mask_and_each_coordinate_moves_by_itself() -> None:
    config = InteractionConfig(first=(0, 1, 0), jitter=3)
    rng = np.random.default_rng(0)
    real = two_masks()[:1].repeat(400, 1, 1)
    _, labels, boxes, masks = first_prompts(real, config, rng, step=2.0)
    assert masks is None
    assert (labels == -1).all()
    moved = boxes - torch.tensor([4.0, 6.0, 40.0, 56.0])
    assert moved.abs().max() <= 3
    assert moved.std(0).min() > 1
    correlation = torch.corrcoef(moved.T).fill_diagonal_(0)
    assert correlation.abs().max() < 0.2


def test_points_lie_in_their_object() -> None:
    points, labels, boxes, _ = first_prompts(
        two_masks(), InteractionConfig(first=(1, 0, 0)), np.random.default_rng(1), step=2.0
    )
    assert boxes.isnan().all()
    assert (labels == 1).all()
    cells = ((points[:, 0] + 0.5) / 2).long()
    for real, (x, y) in zip(two_masks(), cells.tolist(), strict=True):
        assert real[y, x]


def test_rough_masks_are_near_the_truth_and_others_are_absent() -> None:
    real = two_masks()[:1].repeat(40, 1, 1)
    _, _, _, masks = first_prompts(real, InteractionConfig(first=(0.5, 0, 0.5)), np.random.default_rng(2), step=2.0)
    assert masks is not None
    given = ~masks.isnan().flatten(1).any(1)
    assert 5 < given.sum() < 35
    assert set(masks[given].unique().tolist()) == {-4.0, 4.0}
    agree = ((masks[given, 0] > 0) & real[given]).sum() / real[given].sum()
    assert agree > 0.5


def test_every_part_of_the_network_gets_a_gradient(small_model: Tiny) -> None:
    features = small_model.encode(torch.randn(2, 3, 64, 64))
    truth = torch.zeros(3, 1, 32, 32)
    truth[:, :, 8:20, 8:24] = 1
    loss, ious = interactive_loss(
        small_model, features, truth, torch.tensor([0, 0, 1]), InteractionConfig(mask_only=0), np.random.default_rng(0)
    )
    assert len(ious) == 3
    loss.backward()
    assert [name for name, p in small_model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
