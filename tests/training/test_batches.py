import pytest
import torch
from tests.training.conftest import disc_images

from vesalius.models.presets import Preset
from vesalius.models.torch_runtime import prepare
from vesalius.training.batches import collate, steps
from vesalius.training.config import TrainConfig
from vesalius.training.distributed import World
from vesalius.training.samples import SampleConfig, SampleSource


def test_padding_is_as_in_use_zero_after_normalisation() -> None:
    preset = Preset(side=128, mask_side=32, fit="longest_side")
    source = SampleSource(disc_images(2), preset, SampleConfig(augment=False), 0)
    batch = collate([source[0], source[1]], [0, 1], 0, preset)
    assert batch.content.tolist() == [[0, 0, 128, 96]] * 2
    pixels = prepare(batch.images, batch.content, preset)
    assert (pixels[:, :, 96:] == 0).all()
    assert (pixels[:, :, :96] != 0).float().mean() > 0.9
    assert batch.truth.shape[1:] == (1, 32, 32)
    assert collate([source[0]], [0], 0, preset, "input").truth.shape[1:] == (1, 128, 128)


@pytest.mark.parametrize(
    ("images", "size", "parts"), [(4, 1, 1), (4, 2, 1), (4, 1, 4), (4, 2, 2), (5, 4, 1), (8, 3, 2), (4, 4, 1)]
)
def test_a_step_has_the_same_samples_however_it_is_shared_out(images: int, size: int, parts: int) -> None:
    preset = Preset(side=64, mask_side=16, fit="stretch")
    config = TrainConfig(steps=3, images=images, accumulate=parts, samples=SampleConfig(augment=False))
    seen: dict[int, torch.Tensor] = {}
    for rank in range(size):
        source = SampleSource(disc_images(5), preset, config.samples, 0)
        for step, batches in steps(source, preset, config, 1, 3, World(rank, size)):
            sizes = [len(batch.images) for batch in batches]
            assert len(sizes) == parts
            assert max(sizes) - min(sizes) <= 1
            for batch in batches:
                assert batch.step == step
                assert seen.keys().isdisjoint(batch.numbers)
                seen |= dict(zip(batch.numbers, batch.images, strict=True))
    assert sorted(seen) == list(range(images, 3 * images))
    source = SampleSource(disc_images(5), preset, config.samples, 0)
    assert all(torch.equal(image, torch.from_numpy(source[number].image)) for number, image in seen.items())


def test_batches_are_prepared_where_they_are() -> None:
    # The device without values stands for a GPU: it mixes with the CPU as little.
    images, content = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.tensor([[0, 0, 64, 64]] * 2)
    preset = Preset(side=64, mask_side=16)
    assert prepare(images.to("meta"), content.to("meta"), preset).shape == (2, 3, 64, 64)
    assert prepare(images.to("meta"), content, preset).shape == (2, 3, 64, 64)
