from pathlib import Path

import pytest
import torch
from tests.training.conftest import SMALL, discs

from golden.networks import CONFIG, sam
from made_specialists import SIZES, specialist
from vesalius.core.errors import ConfigError
from vesalius.models.presets import PRESETS
from vesalius.models.tiny import PRESET, Tiny
from vesalius.training.config import TrainConfig
from vesalius.training.loop import train
from vesalius.training.run import RECIPES, find_recipe, make_network, tune
from words import CONFIG as WORDED
from words import imis, write_tokenizer

# What each recipe trains, told without patterns: parts of the network, and of what is attached to it.
TRAINED = {
    "vesalius-tiny": {"encoder", "decoder", "words"},
    "vesalius-tiny-1": {"encoder", "decoder"},
    "vesalius-tiny-2": {"encoder", "decoder"},
    "vesalius-tiny-3": {"encoder", "decoder", "words"},
    "sam-med2d": {"adapters", "prompt_encoder", "mask_decoder"},
    "ft-sam": {"mask_decoder"},
    "cosmos-decoder": {"mask_decoder"},
    "medsam": {"image_encoder", "mask_decoder"},
    "imis-net": {"text_out_dim", "prompt_encoder", "mask_decoder"},
    "lora": {"lora", "prompt_encoder", "mask_decoder"},
    "finetune-tiny": {"encoder", "decoder"},
    "finetune-sam": {"lora", "prompt_encoder", "mask_decoder"},
    "finetune-imis": {"prompt_encoder", "mask_decoder"},
    "full": {"image_encoder", "prompt_encoder", "mask_decoder"},
    "unet": {"network"},
    "unet-semantic": {"network"},
    "deeplab": {"network"},
    "deeplab-semantic": {"network"},
}


def part(name: str) -> str:
    if ".Adapter." in name:
        return "adapters"
    return "lora" if ".lora_" in name else name.split(".")[0]


def small(config: TrainConfig, folder: Path):
    """The recipe's kind of network, with its preset, in small."""
    torch.manual_seed(0)
    if config.network.architecture == "tiny":
        sizes = SMALL.model_copy(update={"words": ("corner", "disc") if config.network.words else ()})
        return Tiny(sizes, PRESET.model_copy(update={"side": 64, "mask_side": 32}))
    if config.network.architecture in SIZES:
        return specialist(config.network.architecture, ("corner", "disc") if config.network.words else ())
    preset = PRESETS[config.network.preset].model_copy(update={"side": 64, "mask_side": 16})
    if config.network.architecture == "imis":
        write_tokenizer(folder)
        model = imis(WORDED.model_copy(update={"semantic_dim": 16}), preset)
        model.read_extras(folder)
        return model
    return sam(CONFIG, preset)


def test_the_table_names_all_recipes() -> None:
    assert {path.stem for path in RECIPES.glob("*.toml")} == set(TRAINED)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_exactly_what_a_recipe_trains_changes_in_a_step(name: str, tmp_path: Path) -> None:
    for library, needed in (("peft", "lora" in TRAINED[name]), ("monai", "unet" in name)):
        if needed:
            pytest.importorskip(library)
    recipe = TrainConfig.from_toml(find_recipe(name))
    # All kinds of first prompts come in one step.
    samples = recipe.samples.model_copy(update={"objects": min(recipe.samples.objects, 3), "emphasis": {}})
    length = {"epochs": None, "steps": 1, "stop": None, "images": 6, "accumulate": 2, "warmup": 0, "rate": 1e-2}
    config = recipe.model_copy(
        update={**length, "seed": 0, "bf16": False, "ema": 0.0, "samples": samples, "patience": None}
    )
    model = small(recipe, tmp_path)
    table = tune(model, recipe.network, 0)
    expected = {key for key, _ in model.named_parameters() if part(key) in TRAINED[name]}
    assert {key for key, p in model.named_parameters() if p.requires_grad} == expected
    assert {key for key, count in table.items() if count.trained} == TRAINED[name]
    before = {key: value.clone() for key, value in model.named_parameters()}
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    names = ("corner", "disc") if recipe.loss.category else ()
    train(model, discs(model, config, 6, names=names), config, tmp_path / "run")
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed <= expected
    # Each module that trains has changed, but for those that no prompt and no mask of the recipe needs.
    assert {part(key) for key in changed} == TRAINED[name]
    idle = {key for key in expected - changed if not is_idle(key, recipe)}
    assert idle == set()
    if "tiny" not in name and "deeplab" not in name:  # which keep running means
        assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


def is_idle(key: str, recipe: TrainConfig) -> bool:
    multimask = recipe.network.preset is None or PRESETS[recipe.network.preset].multimask
    idle = [f"output_hypernetworks_mlps.{i}." for i in ((0,) if multimask else (1, 2, 3))]
    if recipe.interaction.select != "loss":
        # One of three masks has the loss: by chance two of them may not be chosen.
        idle += ["output_hypernetworks_mlps."]
    if recipe.interaction.first.mask == 0 and (recipe.interaction.later or recipe.interaction.rounds == 1):
        idle += ["mask_downscaling", "point_embeddings.0"]
    if not recipe.loss.category:
        idle += ["semantic_prediction_head", "text_output"]
    # Of low-rank updates the second factor starts at zero, so the first has no gradient in the first step.
    idle += ["lora_A"]
    return any(pattern in key for pattern in idle)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_each_recipe_has_a_network_that_its_preset_fits(name: str) -> None:
    recipe = TrainConfig.from_toml(find_recipe(name))
    with torch.device("meta"):
        model = make_network(recipe.network, 0)
    assert model.architecture == recipe.network.architecture


def test_new_networks_are_made_as_the_recipe_says_and_others_refused(tmp_path: Path) -> None:
    recipe = TrainConfig.from_toml(find_recipe("vesalius-tiny"))
    network = recipe.network.model_copy(update={"sizes": SMALL.model_dump()})
    assert make_network(network, 0).config == SMALL
    for update, told in (({"architecture": "vnet"}, "no architecture"), ({"preset": "sam3"}, "no preset")):
        with pytest.raises(ConfigError, match=told):
            make_network(network.model_copy(update=update), 0)
