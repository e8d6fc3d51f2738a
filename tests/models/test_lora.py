import copy
import sys

import pytest
import torch

from golden import fill
from vesalius.core.errors import ConfigError, ModelError
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.lora import DECODER, ENCODER, Lora, attach_lora, has_lora, merge_lora
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam

# Windows of 3 on a grid of 4 leave padded tokens, whose keys and values come from the bias alone.
CONFIG = SamConfig(
    side=64, encoder_dim=32, encoder_depth=2, encoder_heads=2, global_blocks=(1,), window=3, prompt_dim=32
)
WHOLE = ("image_encoder.blocks.*.attn.qkv", "image_encoder.blocks.*.attn.proj")
BOTH = Lora(rank=3, alpha=6.0, targets=WHOLE + DECODER)


def filled():
    model = Sam(CONFIG, Preset(side=64, mask_side=16)).eval()
    model.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in model.state_dict().items()}))
    return model


def attached(lora=BOTH):
    """A network with updates that are not zero, and their matrices by the layer's name."""
    pytest.importorskip("peft")
    model = filled()
    attach_lora(model, lora)
    generator = torch.Generator().manual_seed(0)
    down, up = {}, {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for kind, found in ((".lora_A.default.weight", down), (".lora_B.default.weight", up)):
                if name.endswith(kind):
                    parameter.normal_(0, 0.1, generator=generator)
                    found[name.removesuffix(kind)] = parameter.detach()
    return model, {name: up[name] @ down[name] for name in down}


@torch.no_grad()
def outputs(model):
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    features = model.encode(image)
    return features[0], *model.decode(features, PromptBatch(torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])))


@pytest.mark.parametrize("lora", [BOTH, Lora()])
def test_new_updates_change_nothing(lora):
    pytest.importorskip("peft")
    model = filled()
    attach_lora(model, lora)
    assert has_lora(model)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(filled()), strict=True))


def test_an_update_is_the_product_of_its_matrices_by_alpha_over_rank():
    model, products = attached()
    assert len(products) == 4 + 7 * 4  # qkv and proj of two blocks; four layers of the decoder's seven attentions
    plain = filled()
    with torch.no_grad():
        for name, product in products.items():
            plain.get_submodule(name).weight += 2 * product
    assert not torch.allclose(outputs(plain)[0], outputs(filled())[0], atol=1e-2)
    for a, b in zip(outputs(model), outputs(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_by_default_queries_and_values_of_the_encoder_have_an_update_each():
    model, products = attached(Lora())
    assert sorted(products) == [f"image_encoder.blocks.{i}.attn.qkv.{third}" for i in (0, 1) for third in "qv"]
    plain = filled()
    dim = CONFIG.encoder_dim
    with torch.no_grad():
        for name, product in products.items():
            weight = plain.get_submodule(name[:-2]).weight
            third = "qkv".index(name[-1])
            weight[third * dim : (third + 1) * dim] += product
    for a, b in zip(outputs(model), outputs(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    merge_lora(model)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    keys = [model.get_submodule(f"image_encoder.blocks.{i}.attn.qkv").weight[dim : 2 * dim] for i in (0, 1)]
    before = [filled().get_submodule(f"image_encoder.blocks.{i}.attn.qkv").weight[dim : 2 * dim] for i in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(keys, before, strict=True))


def test_patterns_that_match_the_joint_layer_do_not_mean_its_thirds():
    _, products = attached(Lora(targets=("image_encoder.blocks.*.attn.*",)))
    assert sorted(products) == [f"image_encoder.blocks.{i}.attn.{name}" for i in (0, 1) for name in ("proj", "qkv")]
    _, products = attached(Lora(targets=("*.qkv.?",)))
    assert sorted(products) == [f"image_encoder.blocks.{i}.attn.qkv.{third}" for i in (0, 1) for third in "kqv"]


def test_merging_draws_no_random_numbers():
    model, _ = attached(Lora())
    before = torch.get_rng_state()
    merge_lora(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("lora", [BOTH, Lora()])
def test_a_merged_network_is_a_plain_one(lora, tmp_path):
    model, _ = attached(lora)
    expected = outputs(model)
    merge_lora(model)
    assert not has_lora(model)
    plain = filled()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    save_checkpoint(model, tmp_path)
    for a, b in zip(outputs(load_checkpoint(tmp_path)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    attach_lora(model, Lora())  # PEFT left nothing behind that it would warn of
    assert has_lora(model)


def test_a_network_that_is_not_merged_is_not_saved(tmp_path):
    model, _ = attached()
    with pytest.raises(ModelError, match=r"unexpected.*lora_A"):
        save_checkpoint(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_copy_has_its_own_updates():
    model, _ = attached()
    expected = outputs(model)
    twin = copy.deepcopy(model)
    merge_lora(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(outputs(twin), expected, strict=True))


def test_updates_and_adapters_go_together():
    pytest.importorskip("peft")
    model = filled()
    model.add_adapters("light")
    attach_lora(model, Lora())
    merge_lora(model)
    model.drop_adapters()
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(filled()), strict=True))


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (("image_encoder.blocks.*.attn.query",), "matches no layer"),
        ((*ENCODER, "image_encoder.blocks.0.norm?"), "norm1, which is not a linear layer"),
        ((*ENCODER, *WHOLE), r"name both image_encoder.blocks.0.attn.qkv and a part of it"),
    ],
)
def test_targets_that_make_no_sense_are_refused(targets, reason):
    model = filled()
    with pytest.raises(ConfigError, match=reason):
        attach_lora(model, Lora(targets=targets))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_twice_and_none_are_refused():
    model, _ = attached()
    with pytest.raises(ModelError, match="already"):
        attach_lora(model, BOTH)
    with pytest.raises(ModelError, match="no low-rank updates"):
        merge_lora(filled())


def test_without_peft_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    model = filled()
    with pytest.raises(ModelError, match=r'pip install "vesalius\[tuning\]"'):
        attach_lora(model, Lora())
    assert all(parameter.requires_grad for parameter in model.parameters())
