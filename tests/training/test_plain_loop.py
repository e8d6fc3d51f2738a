"""The engine's step beside the same step written plainly."""

import copy

import pytest
import torch
from tests.training.conftest import disc_images

import plain_training
from golden.networks import ADAPTED, sam
from vesalius.models.presets import Preset
from vesalius.models.sam.model import Sam
from vesalius.models.tuning import TUNINGS, apply_tuning
from vesalius.training.batches import collate
from vesalius.training.config import TrainConfig
from vesalius.training.interaction import Batch, InteractiveStep
from vesalius.training.run import find_recipe
from vesalius.training.samples import SampleSource

RECIPE = TrainConfig.from_toml(find_recipe("sam-med2d"))
PRESET = Preset(side=64, mask_side=16, fit="pad", box="half_open", mask_prompt="probability")


def network() -> Sam:
    model = sam(ADAPTED, PRESET)
    apply_tuning(model, TUNINGS["sam-med2d"])
    return model


def batch() -> Batch:
    source = SampleSource(disc_images(2), PRESET, RECIPE.samples, seed=0)
    return collate([source[0], source[1]], [0, 1], 0, PRESET, RECIPE.interaction.grid)


def gradients(model: Sam) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("written", [plain_training.written_plainly, plain_training.as_it_is])
def test_a_step_is_that_of_the_plain_loop(written, together: bool) -> None:
    model = network()
    plain = written(copy.deepcopy(model))
    step = InteractiveStep(model, RECIPE.interaction, RECIPE.loss, seed=0)
    rounds = list(step.play(batch()))
    loss, _ = step(batch())
    loss.backward()
    given = [(now.logits.detach(), now.quality.detach()) for now in rounds]
    told: list = []
    losses = plain_training.step(
        plain, batch(), RECIPE.interaction, RECIPE.loss, together=together, given=given, told=told
    )
    for now, prompts in zip(rounds, told, strict=True):
        for i, prompt in enumerate(prompts):
            seen = now.prompts.labels[i] >= 0
            assert torch.equal(now.prompts.points[i][seen], prompt.points[0][prompt.labels[0] >= 0])
            assert torch.equal(now.prompts.labels[i][seen], prompt.labels[0][prompt.labels[0] >= 0])
            if prompt.boxes is not None:
                assert torch.equal(now.prompts.boxes[i], prompt.boxes[0])
    assert sum(losses) / len(losses) == pytest.approx(float(loss.detach()), rel=1e-5)
    expected, found = gradients(plain.sam), gradients(model)
    assert expected.keys() == found.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5 * largest, msg=name)
