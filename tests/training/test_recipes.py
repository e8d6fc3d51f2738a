from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.conftest import SMALL, disc_images, discs

from golden.networks import CONFIG, sam
from made_sam2 import small_sam2
from made_specialists import SIZES, specialist
from vesalius.core.errors import ConfigError, ModelError
from vesalius.models.base import PromptBatch, SegmentationModel
from vesalius.models.baseline_sam2 import Sam2, Sam2Config, load_sam2
from vesalius.models.checkpoint import save_checkpoint, weights_digest
from vesalius.models.presets import PRESETS
from vesalius.models.tiny import PRESET, Tiny
from vesalius.prompts.sample import tight_box
from vesalius.training.batches import collate
from vesalius.training.config import TrainConfig
from vesalius.training.interaction import InteractionConfig, InteractiveStep, Round
from vesalius.training.loop import train
from vesalius.training.run import RECIPES, find_recipe, make_network, tune
from vesalius.training.samples import SampleSource
from words import CONFIG as WORDED
from words import imis, write_tokenizer

# What each recipe trains, told without patterns: parts of the network, and of what is attached to it.
TRAINED = {
    "vesalius-tiny": {"encoder", "decoder", "words"},
    "vesalius-tiny-1": {"encoder", "decoder"},
    "vesalius-tiny-2": {"encoder", "decoder"},
    "vesalius-tiny-3": {"encoder", "decoder", "words"},
    "vesalius-tiny-4": {"encoder", "decoder", "words"},
    "vesalius-tiny-5": {"encoder", "decoder", "words"},
    "vesalius-tiny-6": {"encoder", "decoder", "words"},
    "vesalius-tiny-7": {"encoder", "decoder", "words"},
    "vesalius-tiny-8": {"encoder", "decoder", "words"},
    "vesalius-tiny-9": {"encoder", "decoder", "words"},
    "vesalius-tiny-10": {"encoder", "decoder", "words"},
    "vesalius-tiny-11": {"encoder", "decoder", "words"},
    "vesalius-tiny-12": {"encoder", "decoder", "words"},
    "vesalius-tiny-13": {"encoder", "decoder", "words"},
    "sam-med2d": {"adapters", "prompt_encoder", "mask_decoder"},
    "ft-sam": {"mask_decoder"},
    "cosmos-decoder": {"mask_decoder"},
    "medsam": {"image_encoder", "mask_decoder"},
    "imis-net": {"text_out_dim", "prompt_encoder", "mask_decoder"},
    "lora": {"lora", "prompt_encoder", "mask_decoder"},
    "finetune-tiny": {"encoder", "decoder"},
    "finetune-sam": {"lora", "prompt_encoder", "mask_decoder"},
    "finetune-imis": {"prompt_encoder", "mask_decoder"},
    "finetune-sam2": {"prompt_encoder", "mask_decoder"},
    "full": {"image_encoder", "prompt_encoder", "mask_decoder"},
    "unet": {"network"},
    "unet-semantic": {"network"},
    "deeplab": {"network"},
    "deeplab-semantic": {"network"},
}


def part(name: str) -> str:
    if ".Adapter." in name:
        return "adapters"
    if ".lora_" in name:
        return "lora"
    if "pred_obj_score_head" in name:  # of SAM 2's mask decoder, but no loss asks it
        return "pred_obj_score_head"
    first, second = name.split(".")[:2]
    return second if f"{first}.{second}" in ("network.prompt_encoder", "network.mask_decoder") else first


def small(config: TrainConfig, folder: Path):
    """The recipe's kind of network, with its preset, in small."""
    torch.manual_seed(0)
    if config.network.architecture == "tiny":
        # Fine-tuning takes networks that know words, such as the bundled one, and leaves the words alone.
        worded = config.network.words or config.network.tuning != "full"
        sizes = SMALL.model_copy(update={"words": ("corner", "disc") if worded else ()})
        return Tiny(sizes, PRESET.model_copy(update={"side": 64, "mask_side": 32}))
    if config.network.architecture in SIZES:
        return specialist(config.network.architecture, ("corner", "disc") if config.network.words else ())
    if config.network.architecture == "sam2":
        small_sam2().save_pretrained(folder / "sam2")
        return load_sam2(folder / "sam2")
    # Those that start from any network of a kind take their input as it does.
    name = config.network.preset or {"sam": "sam", "imis": "imis-net"}[config.network.architecture]
    preset = PRESETS[name].model_copy(update={"side": 64, "mask_side": 16})
    if config.network.architecture == "imis":
        write_tokenizer(folder)
        model = imis(WORDED.model_copy(update={"semantic_dim": 16}), preset)
        model.read_extras(folder)
        return model
    return sam(CONFIG, preset)


# What the papers state of their recipes, or the code published with them.
ONE_BOX = {"rounds": 1, "first": (0.0, 1.0, 0.0, 0.0)}
SAM_LOSS = {"focal": 20.0, "dice": 1.0, "entropy": 0.0, "sized_entropy": 0.0, "quality": 1.0, "category": 0.0}
ENTROPY_LOSS = {**SAM_LOSS, "focal": 0.0, "entropy": 1.0}
DECODER = {"optimiser": "adamw", "rate": 1e-4, "images": 2, "epochs": 20, "schedule": "constant", "cache": "disk"}
VALUES = {
    "sam-med2d": {
        **SAM_LOSS,
        **{"optimiser": "adam", "rate": 1e-4, "images": 50, "epochs": 12, "schedule": "halved", "halve": (7, 10)},
        **{"rounds": 9, "first": (0.5, 0.5, 0.0, 0.0), "points": (1, 3, 5, 9), "keep": False},
        **{"jitter": 5.0, "jitter_share": 0.5, "jitter_outward": False, "mask_only": "last and middle"},
        **{"select": "iou", "spread": 0.0},
        **{"objects": 5, "repeat": True, "side": 256, "later": ("mask_decoder.*",), "grid": "input"},
    },
    "ft-sam": {
        **{**SAM_LOSS, **DECODER, **ONE_BOX, "jitter": 5.0, "jitter_share": 0.5, "jitter_outward": False},
        **{"side": 256, "grid": "input"},
    },
    "cosmos-decoder": {**ENTROPY_LOSS, **DECODER, **ONE_BOX, "jitter": 0.0, "side": 1024, "grid": "input"},
    "medsam": {
        **ENTROPY_LOSS,
        **ONE_BOX,
        **{"optimiser": "adamw", "rate": 1e-4, "decay": 0.01, "images": 160, "epochs": 150, "schedule": "constant"},
        **{"jitter": 20.0, "jitter_outward": True, "objects": 1, "side": 1024, "grid": "input", "squares": True},
    },
    "imis-net": {
        **SAM_LOSS,
        **{"category": 1.0, "optimiser": "adamw", "rate": 1e-4, "images": 10, "epochs": 20, "schedule": "constant"},
        **{"rounds": 5, "first": (0.3, 0.4, 0.0, 0.3), "keep": False, "mask_only": "last and middle"},
        **{"mask_text": True, "pseudo_share": 0.5, "side": 256, "grid": "input"},
        **{"points": (1, 3, 4, 7), "text_for_mask": 0.4, "objects": 4, "repeat": True, "decay": 1e-5},
        **{"jitter": 5.0, "jitter_share": 0.5, "jitter_outward": False},
        **{"select": "quality", "spread": 0.0, "later": ("prompt_encoder.*", "mask_decoder.*")},
    },
}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_recipes_have_the_values_of_their_papers(name: str) -> None:
    recipe = TrainConfig.from_toml(find_recipe(name))
    found: dict[str, object] = {}
    for part in (recipe, recipe.samples, recipe.interaction, recipe.loss):
        assert found.keys().isdisjoint(vars(part))
        found |= vars(part)
    found["first"] = recipe.interaction.first.of(named=True)
    found["side"] = recipe.network.sizes.get("side", PRESETS[recipe.network.preset].side)
    assert {key: found[key] for key in VALUES[name]} == VALUES[name]
    assert found["side"] == PRESETS[recipe.network.preset].side


def test_the_table_names_all_recipes() -> None:
    assert {path.stem for path in RECIPES.glob("*.toml")} == set(TRAINED)


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_exactly_what_a_recipe_trains_changes_in_a_step(name: str, tmp_path: Path) -> None:
    for library, needed in (
        ("peft", "lora" in TRAINED[name]),
        ("monai", "unet" in name),
        ("transformers", "sam2" in name),
    ):
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
    frozen = [value for key, value in model.named_parameters() if key not in expected]
    assert all(value.grad is None for value in frozen)
    # Each module that trains has changed, but for those that no prompt and no mask of the recipe needs.
    assert {part(key) for key in changed} == TRAINED[name]
    idle = {key for key in expected - changed if not is_idle(key, recipe)}
    assert idle == set()
    if "mask_decoder" in TRAINED[name]:
        # By chance one of three masks may not be chosen, but some are.
        makers = [{key for key in expected if f"output_hypernetworks_mlps.{i}." in key} for i in range(4)]
        trained = {i for i, maker in enumerate(makers) if maker <= changed}
        assert trained & {1, 2, 3} if has_three_masks(recipe) else trained == {0}
    if "tiny" not in name and "deeplab" not in name:  # which keep running means
        assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())


def has_three_masks(recipe: TrainConfig) -> bool:
    return recipe.network.preset is None or PRESETS[recipe.network.preset].multimask


def is_idle(key: str, recipe: TrainConfig) -> bool:
    idle = [f"output_hypernetworks_mlps.{i}." for i in ((0,) if has_three_masks(recipe) else (1, 2, 3))]
    if recipe.interaction.select != "loss" and has_three_masks(recipe):
        # One of them has the loss: by chance two may not be chosen.
        idle += ["output_hypernetworks_mlps."]
    if recipe.interaction.first.mask == 0 and (recipe.interaction.later or recipe.interaction.rounds == 1):
        idle += ["mask_downscaling", "point_embeddings.0"]
    if not recipe.loss.category:
        idle += ["semantic_prediction_head", "text_output"]
    # Of low-rank updates the second factor starts at zero, so the first has no gradient in the first step.
    idle += ["lora_A"]
    return any(pattern in key for pattern in idle)


class Asked(InteractiveStep):
    """Plays rounds that nobody answers."""

    def _answer(self, features, prompts):
        nothing = torch.zeros(len(prompts), 3, 4, 4)
        return Round(prompts, nothing, nothing[:, :, 0, 0], None)


@pytest.mark.parametrize("name", ["medsam", "cosmos-decoder", "ft-sam"])
def test_a_box_holds_its_object_to_the_pixel_of_the_network_s_input(name: str) -> None:
    recipe = TrainConfig.from_toml(find_recipe(name))
    preset = PRESETS[recipe.network.preset]
    assert preset.side == {"ft-sam": 256}.get(name, 1024)
    model = sam()
    model.preset = preset
    source = SampleSource(disc_images(3), preset, recipe.samples, 0)
    samples = [source[number] for number in range(3)]
    tight = torch.tensor([tight_box(mask) for sample in samples for mask in sample.masks])
    assert (tight % 4 != 0).any()  # which a box of the low resolution could not be

    def widening(interaction: InteractionConfig) -> torch.Tensor:
        """(N, 4) pixels by which the sides of the boxes are further out than the objects'."""
        batch = replace(collate(samples, range(3), 0, preset, interaction.grid), features=())
        (asked,) = Asked(model, interaction, recipe.loss).play(batch)
        far = 1 if preset.box == "inclusive" else 0
        return (asked.prompts.boxes + torch.tensor([0, 0, far, far]) - tight) * torch.tensor([-1, -1, 1, 1])

    assert (widening(recipe.interaction.model_copy(update={"jitter": 0.0})) == 0).all()
    if recipe.interaction.jitter_outward:
        assert (widening(recipe.interaction) >= 0).all()
        assert 4 < widening(recipe.interaction).max() <= 20


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_each_recipe_has_a_network_that_its_preset_fits(name: str) -> None:
    recipe = TrainConfig.from_toml(find_recipe(name))
    if recipe.network.architecture in ("sam", "imis") and recipe.network.preset is None:
        with pytest.raises(ConfigError, match=r"wants its input; start from a trained network \(--init\)"):
            make_network(recipe.network, 0)
        return
    if recipe.network.architecture == "sam2":
        pytest.importorskip("transformers")
    with torch.device("meta"):
        model = make_network(recipe.network, 0)
    assert model.architecture == recipe.network.architecture


@pytest.mark.parametrize("name", ["lora", "full", "finetune-sam"])
@pytest.mark.parametrize("preset", ["medsam", "sam-med2d", "sam"])
def test_recipes_for_any_network_leave_its_input_as_it_is(name: str, preset: str, tmp_path: Path) -> None:
    wanted = PRESETS[preset].model_copy(update={"side": 64, "mask_side": 16})
    save_checkpoint(sam(CONFIG, wanted), tmp_path / "start")
    recipe = TrainConfig.from_toml(find_recipe(name))
    assert make_network(recipe.network, 0, tmp_path / "start").preset == wanted


@pytest.mark.parametrize("name", ["sam-med2d", "ft-sam", "medsam", "cosmos-decoder"])
def test_a_start_for_images_of_another_size_is_refused(name: str, tmp_path: Path) -> None:
    recipe = TrainConfig.from_toml(find_recipe(name))
    save_checkpoint(sam(CONFIG, PRESETS["sam"].model_copy(update={"side": 64, "mask_side": 16})), tmp_path / "start")
    side = PRESETS[recipe.network.preset].side
    told = rf"for images of {side} pixels, and the network for 64; .*--side {side} --preset {recipe.network.preset} "
    with pytest.raises(ConfigError, match=told):
        make_network(recipe.network, 0, tmp_path / "start")


def test_a_sam_2_trains_on_and_is_kept_as_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    recipe = TrainConfig.from_toml(find_recipe("finetune-sam2"))
    start = small(recipe, tmp_path)
    save_checkpoint(start, tmp_path / "start")
    model = make_network(recipe.network, 0, tmp_path / "start")
    assert weights_digest(model) == weights_digest(start)
    assert (model.config, model.preset) == (start.config, start.preset)
    # All of it has a gradient, where a recipe trains all.
    model.requires_grad_(True).train()
    labels = torch.ones(2, 1, dtype=torch.long)
    prompts = PromptBatch(torch.full((2, 1, 2), 20.0), labels, rows=torch.arange(2))
    logits, quality = model.decode(model.encode(torch.randn(2, 3, 64, 64)), prompts)
    (logits.square().mean() + quality.sum()).backward()
    shaping = ("vision_encoder", "no_memory_embedding", "conv_s0", "conv_s1")
    assert all(
        value.grad is not None for key, value in model.named_parameters() if any(part in key for part in shaping)
    )
    # In bfloat16, with other parts in each row.
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [torch.nan] * 4])
    mixed = replace(prompts, labels=torch.tensor([[-1], [1]]), boxes=boxes)
    with torch.no_grad():
        exact, _ = model.decode(model.encode(torch.ones(2, 3, 64, 64)), mixed)
        with torch.autocast("cpu", torch.bfloat16):
            near, _ = model.decode(model.encode(torch.ones(2, 3, 64, 64)), mixed)
    assert (near.float() - exact).abs().max() < 0.1 * exact.abs().max()
    with pytest.raises(ModelError, match="which tells its own preset"):
        make_network(recipe.network.model_copy(update={"preset": "sam"}), 0, tmp_path / "start")
    with pytest.raises(ModelError, match="for images of 1024 pixels"):
        Sam2(start.config, PRESETS["sam"])
    with pytest.raises(ModelError, match="transformers can make no SAM 2 of these sizes"):
        Sam2(Sam2Config(network={"mask_decoder_config": {"hidden_size": "many"}}))
    with pytest.raises(ConfigError, match=r"for networks of kind 'sam', .* is of kind 'sam2'"):
        make_network(TrainConfig.from_toml(find_recipe("full")).network, 0, tmp_path / "start")
    with pytest.raises(ConfigError, match=r"for networks of kind 'sam', .* is of kind 'sam2'"):
        make_network(TrainConfig.from_toml(find_recipe("medsam")).network, 0, tmp_path / "sam2")


def test_new_networks_are_made_as_the_recipe_says_and_others_refused(tmp_path: Path) -> None:
    recipe = TrainConfig.from_toml(find_recipe("vesalius-tiny"))
    network = recipe.network.model_copy(update={"sizes": SMALL.model_dump()})
    assert make_network(network, 0).config == SMALL
    for update, told in (({"architecture": "vnet"}, "no architecture"), ({"preset": "sam3"}, "no preset")):
        with pytest.raises(ConfigError, match=told):
            make_network(network.model_copy(update=update), 0)


def test_a_trained_network_grows_as_the_recipe_says(tmp_path: Path) -> None:
    recipe = TrainConfig.from_toml(find_recipe("vesalius-tiny"))
    start = Tiny(SMALL, PRESET)
    save_checkpoint(start, tmp_path / "start")

    def made(**sizes: object) -> SegmentationModel:
        return make_network(recipe.network.model_copy(update={"sizes": sizes}), 0, tmp_path / "start")

    grown, again = (made(depths=[1, 1, 2, 1, 1]) for _ in range(2))
    assert grown.config == SMALL.model_copy(update={"depths": (1, 1, 2, 1, 1)})
    for name, value in start.state_dict().items():
        assert torch.equal(grown.state_dict()[name], value)
    assert weights_digest(grown) == weights_digest(again)
    assert made(widths=[8, 8, 16, 16, 16]).config == SMALL
    for sizes in ({"key": 16}, {"depths": [1, 1, 0, 1, 1]}):
        with pytest.raises(ModelError, match="a trained network cannot grow from"):
            made(**sizes)
    finer = made(fine=[8, 8])
    assert (finer.preset.side, finer.preset.mask_side) == (512, 256)
    # The kind is told before the size of the images.
    with pytest.raises(ConfigError, match=r"for networks of kind 'sam', .* is of kind 'tiny'"):
        make_network(TrainConfig.from_toml(find_recipe("ft-sam")).network, 0, tmp_path / "start")
