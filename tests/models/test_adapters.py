import copy

import pytest
import torch

from golden import fill
from vesalius.models import adapters
from vesalius.models.adapters import Adapter
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam

SIZES = {"side": 64, "encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2, "global_blocks": (1,), "window": 3}
PRESET = Preset(side=64, mask_side=16)


@pytest.fixture
def images():
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def filled(adapter):
    model = Sam(SamConfig(**SIZES, adapter=adapter), PRESET).eval()
    model.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in model.state_dict().items()}))
    return model


@torch.no_grad()
def embedding(model, images):
    return model.encode(images)[0]


@torch.no_grad()
def test_matrix_products_are_the_convolutions():
    adapter = Adapter(8)
    maps = torch.randn(2, 8, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapter._convolve(maps), adapter.spatial(maps))


@torch.no_grad()
def test_block_adds_mlp_and_adapter():
    block = filled(adapter=True).image_encoder.blocks[0]
    x = torch.randn(1, 4, 4, 32, generator=torch.Generator().manual_seed(0))
    y = x + block.attn(block.norm1(x))
    n = block.norm2(y)
    mlp = block.mlp.lin2(torch.nn.functional.gelu(block.mlp.lin1(n)))
    torch.testing.assert_close(block(x), y + mlp + block.Adapter(n))


def test_dropped_adapters_leave_the_plain_network(images):
    adapted, plain = filled(adapter=True), filled(adapter=False)
    assert not torch.allclose(embedding(adapted, images), embedding(plain, images), atol=1e-2)
    adapted.drop_adapters()
    assert adapted.config == plain.config
    assert adapted.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(embedding(adapted, images), embedding(plain, images))


def test_added_adapters_are_those_of_a_network_built_with_them(images):
    model, adapted = filled(adapter=False), filled(adapter=True)
    model.add_adapters()
    assert model.config == adapted.config
    model.load_state_dict(adapted.state_dict())
    assert torch.equal(embedding(model, images), embedding(adapted, images))


def test_a_copy_has_its_own_adapters(images):
    model = filled(adapter=True)
    expected = embedding(model, images)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(embedding(twin, images), expected)
    twin.drop_adapters()
    assert torch.equal(embedding(twin, images), embedding(filled(adapter=False), images))
    assert model.config.adapter


def test_attaching_twice_and_detaching_nothing_are_refused():
    block = filled(adapter=True).image_encoder.blocks[0]
    with pytest.raises(ValueError, match="already"):
        adapters.attach(block, Adapter(32))
    adapters.detach(block)
    with pytest.raises(ValueError, match="no adapter"):
        adapters.detach(block)
