import pytest
import torch

from vesalius.models.base import normalise
from vesalius.models.presets import PRESETS


def test_masks_are_a_quarter_of_the_input():
    assert all(preset.mask_side * 4 == preset.side for preset in PRESETS.values())


def test_sam_med2d_takes_blue_first_with_the_means_of_red_first():
    red = torch.tensor([200, 100, 50], dtype=torch.uint8).expand(1, 4, 4, 3)
    pixels = normalise(red, PRESETS["sam-med2d"])[0, :, 0, 0]
    expected = [(50 - 123.675) / 58.395, (100 - 116.28) / 57.12, (200 - 103.53) / 57.375]
    assert pixels.tolist() == pytest.approx(expected)
    assert normalise(red, PRESETS["sam"])[0, 0, 0, 0].item() == pytest.approx((200 - 123.675) / 58.395)


def test_imis_net_stretches_at_both_sizes():
    small, large = PRESETS["imis-net"], PRESETS["imis-net-1024"]
    assert (small.side, large.side) == (256, 1024)
    assert large.model_copy(update={"side": 256, "mask_side": 64}) == small
    assert (small.fit, small.intensity, small.channels, small.box) == ("stretch", "mean_std", "rgb", "inclusive")
    assert (small.mask_prompt, small.multimask) == ("logits", True)


def test_medsam_sees_each_image_from_zero_to_one():
    image = torch.randint(20, 90, (1, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = normalise(image, PRESETS["medsam"])
    assert (pixels.min().item(), pixels.max().item()) == (0, 1)
