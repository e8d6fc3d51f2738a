import copy
import math

import pytest
import torch

from golden import fill
from vesalius.core.errors import ConfigError, ModelError
from vesalius.models import adapters
from vesalius.models.adapters import LightAdapter, SamMed2dAdapter
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam

SIZES = {"side": 64, "encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2, "global_blocks": (1,), "window": 3}
PRESET = Preset(side=64, mask_side=16)


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def filled(adapter=None):
    model = Sam(SamConfig(**SIZES, adapter=adapter), PRESET).eval()
    model.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in model.state_dict().items()}))
    return model


@torch.no_grad()
def embedding(model, images):
    return model.encode(images)[0]


@torch.no_grad()
def test_matrix_products_are_the_convolutions():
    adapter = SamMed2dAdapter(8)
    maps = torch.randn(2, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    found = adapter._convolve(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, adapter.spatial(maps))


@torch.no_grad()
def test_light_adapter_is_what_it_says():
    adapter = LightAdapter(8)
    adapter.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in adapter.state_dict().items()}))
    weights = adapter.state_dict()
    x = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    gate = weights["channel.2.weight"] @ torch.relu(weights["channel.0.weight"] @ x.mean((0, 1, 2)))
    down = (x * gate.sigmoid()) @ weights["down.weight"].T + weights["down.bias"]
    padded = torch.nn.functional.pad(down, (0, 0, 1, 1, 1, 1))
    mixed = weights["spatial.bias"].expand(1, 3, 4, 2).clone()
    for i in range(3):
        for j in range(3):  # each channel by itself
            mixed += padded[:, i : i + 3, j : j + 4] * weights["spatial.weight"][:, 0, i, j]
    active = mixed * (1 + torch.erf(mixed / math.sqrt(2))) / 2
    expected = active @ weights["up.weight"].T + weights["up.bias"]
    torch.testing.assert_close(adapter(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sam-med2d", "light"])
def test_block_adds_mlp_and_adapter(kind):
    block = filled(kind).image_encoder.blocks[0]
    x = torch.randn(1, 4, 4, 32, generator=torch.Generator().manual_seed(0))
    y = x + block.attn(block.norm1(x))
    n = block.norm2(y)
    mlp = block.mlp.lin2(torch.nn.functional.gelu(block.mlp.lin1(n)))
    torch.testing.assert_close(block(x), y + mlp + block.Adapter(n))


@pytest.mark.parametrize("kind", ["sam-med2d", "light"])
def test_dropped_adapters_leave_the_plain_network(images, kind):
    adapted, plain = filled(kind), filled()
    assert not torch.allclose(embedding(adapted, images), embedding(plain, images), atol=1e-2)
    adapted.drop_adapters()
    assert adapted.config == plain.config
    assert adapted.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(embedding(adapted, images), embedding(plain, images))
    with pytest.raises(ModelError, match="has no adapters"):
        adapted.drop_adapters()


@pytest.mark.parametrize("kind", ["sam-med2d", "light"])
def test_added_adapters_are_those_of_a_network_built_with_them(images, kind):
    model, adapted = filled(), filled(kind)
    model.add_adapters(kind)
    assert model.config == adapted.config
    model.load_state_dict(adapted.state_dict())
    assert torch.equal(embedding(model, images), embedding(adapted, images))


def test_a_new_light_adapter_changes_nothing_and_learns(images):
    model, plain = filled(), filled()
    model.add_adapters("light")
    assert torch.equal(embedding(model, images), embedding(plain, images))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # what leads to the zero weights learns once they are not zero
        optimiser.zero_grad()
        model.encode(images)[0].square().sum().backward()
        optimiser.step()
    own = {name: p for name, p in model.named_parameters() if ".Adapter." in name}
    assert [name for name, p in own.items() if not p.grad.any()] == []


@pytest.mark.parametrize("kind", ["sam-med2d", "light"])
def test_a_checkpoint_keeps_the_adapters(images, kind, tmp_path):
    model = filled(kind)
    save_checkpoint(model, tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(embedding(loaded, images), embedding(model, images))


@pytest.mark.parametrize(
    ("said", "reason"), [('"sam-med2d"', "missing.*unexpected"), ("null", "unexpected"), ("true", "adapter")]
)
def test_a_checkpoint_with_another_adapter_than_it_says_is_refused(said, reason, tmp_path):
    save_checkpoint(filled("light"), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"adapter": "light"', f'"adapter": {said}'))
    with pytest.raises(ModelError, match=reason):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [True, False, "heavy"])
def test_what_names_no_adapter_is_refused(value):
    with pytest.raises(ConfigError, match="adapter"):
        SamConfig.from_dict({"adapter": value})


def test_adapters_that_do_not_fit_are_refused():
    model = filled("light")
    with pytest.raises(ModelError, match="light adapters already"):
        model.add_adapters("sam-med2d")
    odd = Sam(SamConfig(**{**SIZES, "side": 48}), Preset(side=48, mask_side=12))
    with pytest.raises(ConfigError, match="even number of tokens"):
        odd.add_adapters("sam-med2d")
    assert odd.config.adapter is None
    odd.add_adapters("light")


def test_a_copy_has_its_own_adapters(images):
    model = filled("sam-med2d")
    expected = embedding(model, images)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(embedding(twin, images), expected)
    twin.drop_adapters()
    assert torch.equal(embedding(twin, images), embedding(filled(), images))
    assert model.config.adapter


def test_attaching_twice_and_detaching_nothing_are_refused():
    block = filled("sam-med2d").image_encoder.blocks[0]
    with pytest.raises(ValueError, match="already"):
        adapters.attach(block, SamMed2dAdapter(32))
    adapters.detach(block)
    with pytest.raises(ValueError, match="no adapter"):
        adapters.detach(block)
