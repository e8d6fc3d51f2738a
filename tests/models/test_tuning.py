from fnmatch import fnmatchcase

import pytest
import torch

from vesalius.core.errors import ConfigError, ModelError
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.lora import Lora, merge_lora
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.tuning import TUNINGS, Count, Tuning, apply_tuning, find_tuning

# What each way trains, said without patterns: the parts of the network, and of what is attached to it.
TRAINED = {
    "decoder": {"mask_decoder"},
    "medsam": {"image_encoder", "mask_decoder"},
    "sam-med2d": {"adapters", "prompt_encoder", "mask_decoder"},
    "light": {"adapters", "prompt_encoder", "mask_decoder"},
    "lora": {"lora", "prompt_encoder", "mask_decoder"},
    "full": {"image_encoder", "prompt_encoder", "mask_decoder"},
}


def make(adapter=None):
    torch.manual_seed(0)
    config = SamConfig(
        side=64,
        encoder_dim=32,
        encoder_depth=2,
        encoder_heads=2,
        global_blocks=(1,),
        window=3,
        prompt_dim=32,
        adapter=adapter,
    )
    return Sam(config, Preset(side=64, mask_side=16))


def part(name):
    if "Adapter" in name:
        return "adapters"
    return "lora" if "lora" in name else name.split(".")[0]


def step(model, optimiser):
    """An optimiser step in which every parameter plays a part: all kinds of prompts, one mask and three."""
    generator = torch.Generator().manual_seed(0)
    features = model.encode(torch.randn(1, 3, 64, 64, generator=generator))
    prompts = PromptBatch(
        points=torch.tensor([[[20.0, 30.0], [40.0, 9.0]], [[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]),
        labels=torch.tensor([[1, 0], [1, -1], [-1, -1]]),
        boxes=torch.tensor([[torch.nan] * 4, [torch.nan] * 4, [3.0, 5.0, 40.0, 50.0]]),
        masks=torch.cat([torch.randn(1, 1, 16, 16, generator=generator), torch.full((2, 1, 16, 16), torch.nan)]),
    )
    loss = torch.zeros(())
    for multimask in (False, True):
        logits, quality = model.decode(features, prompts, multimask)
        weights = torch.randn(logits.shape, generator=generator)
        loss = loss + (logits * weights).sum() + quality.square().sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def test_every_way_is_tested():
    assert TRAINED.keys() == TUNINGS.keys()


@pytest.mark.parametrize("name", TUNINGS)
def test_exactly_what_is_named_trains(name):
    if TUNINGS[name].lora:
        pytest.importorskip("peft")
    model = make()
    plain = sum(parameter.numel() for parameter in model.parameters())
    table = apply_tuning(model, TUNINGS[name])
    parameters = dict(model.named_parameters())
    expected = {key for key in parameters if part(key) in TRAINED[name]}

    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    # Steps of one size whatever the gradient's: that of a bias of attention keys is all but zero.
    optimiser = torch.optim.Adam(model.parameters(), 1e-2, eps=1e-30)
    step(model, optimiser)
    if TUNINGS[name].adapter == "light" or TUNINGS[name].lora:
        # What leads to weights that begin at zero does not learn before they do.
        step(model, optimiser)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(after[key], before[key])}
    assert changed == expected

    counts = {group: sum(p.numel() for key, p in parameters.items() if part(key) == group) for group in table}
    assert table == {group: Count(n if group in TRAINED[name] else 0, n) for group, n in counts.items()}
    attached = table.get("adapters", Count(0, 0)).total + table.get("lora", Count(0, 0)).total
    assert sum(count.total for count in table.values()) == plain + attached
    assert (attached > 0) == bool(TUNINGS[name].adapter or TUNINGS[name].lora)


@pytest.mark.parametrize("pattern", ["image_encoder.block.*", "*.Adapter.*", "*.lora_*", "mask_decoder"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ConfigError, match="matches no parameter"):
        apply_tuning(make(), Tuning(train=("mask_decoder.*", pattern)))


def test_what_was_frozen_before_can_train_again():
    model = make()
    apply_tuning(model, TUNINGS["decoder"])
    apply_tuning(model, TUNINGS["full"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_that_are_there_are_kept_and_others_refused():
    model = make("sam-med2d")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    apply_tuning(model, TUNINGS["sam-med2d"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ModelError, match="sam-med2d adapters already"):
        apply_tuning(model, TUNINGS["light"])


@pytest.mark.parametrize("name", ["sam-med2d", "light", "lora"])
def test_what_is_attached_to_imis_net_is_saved_with_it(name, tmp_path):
    pytest.importorskip("transformers")
    from words import imis

    if TUNINGS[name].lora:
        pytest.importorskip("peft")
    model = imis()
    table = apply_tuning(model, TUNINGS[name])
    assert table["text_model"].trained == 0 < table["mask_decoder"].trained
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if part(key) in ("adapters", "lora"):
                parameter.normal_(0, 0.1)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.encode(images)[0]
        assert not torch.allclose(expected, imis().encode(images)[0], atol=1e-2)
        if TUNINGS[name].lora:
            merge_lora(model)
        save_checkpoint(model, tmp_path)
        loaded = load_checkpoint(tmp_path)
        assert type(loaded) is type(model)
        torch.testing.assert_close(loaded.encode(images)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_way_to_tune_is_data(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        'train = ["*.lora_*", "*.Adapter.*"]\nadapter = "light"\n'
        '[lora]\nrank = 8\nalpha = 16.0\ntargets = ["image_encoder.blocks.1.attn.qkv"]\n'
    )
    own = find_tuning(path)
    targets = ("image_encoder.blocks.1.attn.qkv",)
    assert own == Tuning(
        train=("*.lora_*", "*.Adapter.*"), adapter="light", lora=Lora(rank=8, alpha=16.0, targets=targets)
    )
    pytest.importorskip("peft")
    model = make()
    table = apply_tuning(model, own)
    assert table["lora"].trained == 8 * (32 + 96)
    assert table["adapters"].trained == table["adapters"].total > 0
    assert {key for key, p in model.named_parameters() if p.requires_grad} == {
        key for key, _ in model.named_parameters() if any(fnmatchcase(key, pattern) for pattern in own.train)
    }


def test_a_way_to_tune_that_does_not_exist_is_refused(tmp_path):
    assert find_tuning("light") is TUNINGS["light"]
    with pytest.raises(ConfigError, match="one of: decoder"):
        find_tuning("everything")
    (tmp_path / "own.toml").write_text('train = ["*"]\nadapter = true\n')
    with pytest.raises(ConfigError, match="adapter"):
        find_tuning(tmp_path / "own.toml")
