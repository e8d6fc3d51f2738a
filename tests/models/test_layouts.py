from pathlib import Path

import pytest
import torch

from golden import fill
from golden.networks import ADAPTED, CONFIG, sam
from vesalius.core.errors import ModelError
from vesalius.models.layouts import recognise, sam_config, without_adapters
from vesalius.models.presets import PRESETS, Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.sam.transformers_names import to_transformers

PLAIN = sam().state_dict()
SMALL = sam(ADAPTED).state_dict()
PATH = Path("file.pth")


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("content", "layout", "dropped"),
    [
        (PLAIN, "SAM", ()),
        ({"model": PLAIN, "optimizer": {"state": {}}, "epoch": 7}, "SAM under 'model'", ("optimizer", "epoch")),
        (
            {"model": prefixed("module.", PLAIN), "optimizer": {}, "epoch": 7},
            "SAM under 'model', every name after 'module.'",
            ("optimizer", "epoch"),
        ),
        (prefixed("module.sam_model.", PLAIN), "SAM, every name after 'module.sam_model.'", ()),
        ({"state_dict": prefixed("model.", PLAIN)}, "SAM under 'state_dict', every name after 'model.'", ()),
        (to_transformers(PLAIN), "SAM of transformers", ()),
    ],
)
def test_sam_in_every_wrapping(content, layout, dropped):
    weights = recognise(content, PATH)
    assert (weights.layout, weights.dropped, weights.architecture, weights.preset) == (layout, dropped, "sam", None)
    assert SamConfig(**weights.config) == CONFIG
    assert weights.state.keys() == PLAIN.keys()
    assert all(weights.state[name] is value for name, value in PLAIN.items())


def test_sam_med2d_is_known_by_its_adapters():
    weights = recognise({"model": SMALL, "optimizer": {"state": {}, "param_groups": []}}, PATH)
    assert (weights.layout, weights.dropped) == ("SAM-Med2D under 'model'", ("optimizer",))
    assert SamConfig(**weights.config) == ADAPTED
    assert weights.preset is PRESETS["sam-med2d"]


def test_adapters_can_be_left_out():
    weights = without_adapters(recognise(SMALL, PATH))
    assert SamConfig(**weights.config) == CONFIG
    assert weights.state.keys() == PLAIN.keys()
    assert weights.dropped == ("the adapters (18 parameters)",)
    plain = recognise(PLAIN, PATH)
    assert without_adapters(plain) is plain


@pytest.mark.parametrize(
    "name", ["sam_vit_b_1024", "sam_vit_l_1024", "sam_vit_h_1024", "sam_vit_b_256", "sam_med2d_vit_b_256"]
)
def test_sizes_are_read_from_the_published_shapes(name):
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in fill.manifest(name).items()}
        weights = recognise(state, PATH)
        config = SamConfig(**weights.config)
        model = Sam(config, Preset(side=config.side, mask_side=config.mask_side))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == fill.manifest(name)
    assert config.encoder_heads == (12 if "_b_" in name else 16)
    assert config.side == int(name.rsplit("_", 1)[1])
    assert config.adapter == ("sam-med2d" if "med2d" in name else None)
    assert (weights.preset is None) != config.adapter


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.zeros(1)],
        torch.zeros(1),
        {"model": {"epoch": 1}},
        {"model": {}},
        {"model": PLAIN, "state_dict": PLAIN},
        {**PLAIN, "epoch": 3},
    ],
)
def test_what_is_no_state_dict_is_refused(content):
    with pytest.raises(ModelError, match=r"file\.pth: is not a state dict of tensors; known are SAM"):
        recognise(content, PATH)


def without(part):
    return {name: value for name, value in PLAIN.items() if part not in name}


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(1)},
        without("pos_embed"),
        without("patch_embed"),
        without("mask_decoder"),
        {name: value for name, value in to_transformers(PLAIN).items() if name.startswith("vision_encoder.")},
        {**PLAIN, "image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(3, 16)},
        {**PLAIN, "image_encoder.pos_embed": torch.zeros(4)},
        {**prefixed("module.", PLAIN), "other": torch.zeros(1)},
    ],
)
def test_other_layouts_are_refused(content):
    with pytest.raises(ModelError, match=r"file\.pth: does not have the layout of a network that we know; known are"):
        recognise(content, PATH)


def test_transformers_with_two_positional_matrices_is_refused():
    state = to_transformers(PLAIN)
    state["shared_image_embedding.positional_embedding"] = torch.zeros(2, 16)
    with pytest.raises(ModelError, match=r"file\.pth: .*differ"):
        recognise(state, PATH)


def test_sizes_of_a_window_as_large_as_the_grid():
    config = CONFIG.model_copy(update={"window": 4, "global_blocks": (0, 1, 2)})
    found = sam_config({name: tuple(value.shape) for name, value in sam(config).state_dict().items()})
    assert SamConfig(**found) == config
