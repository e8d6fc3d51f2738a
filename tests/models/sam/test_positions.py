import pytest
import torch

from golden import fill
from golden.networks import CONFIG, sam
from vesalius.models.base import normalise
from vesalius.models.presets import PRESETS
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.sam.positions import interpolate_positions

STATE = sam().state_dict()


@pytest.mark.slow
def test_from_1024_to_256_is_the_published_way():
    state = interpolate_positions(fill.state_dict(fill.manifest("sam_vit_b_1024")), SamConfig(), 256)
    stored = fill.outputs("interpolate_1024_to_256")
    positions = state["image_encoder.pos_embed"][..., ::16]
    torch.testing.assert_close(positions, stored["pos_embed"], rtol=0, atol=1e-6)
    table = state["image_encoder.blocks.2.attn.rel_pos_h"]
    torch.testing.assert_close(table, stored["rel_pos_h_2"], rtol=0, atol=1e-6)
    model = Sam(SamConfig(side=256), PRESETS["sam-256"]).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        image = torch.from_numpy(fill.image(256, 256))[None]
        (embedding,) = model.encode(normalise(image, model.preset))
    torch.testing.assert_close(embedding, stored["embedding"], rtol=0, atol=1e-4)


def test_only_what_depends_on_the_size_changes():
    out = interpolate_positions(STATE, CONFIG, 128)
    changed = {name for name, value in out.items() if value is not STATE[name]}
    assert changed == {
        "image_encoder.pos_embed",
        "image_encoder.blocks.1.attn.rel_pos_h",
        "image_encoder.blocks.1.attn.rel_pos_w",
    }
    assert out["image_encoder.pos_embed"].shape == (1, 8, 8, 32)
    assert out["image_encoder.blocks.1.attn.rel_pos_w"].shape == (15, 16)


def test_constant_positions_stay_and_types_are_kept():
    state = {name: torch.full_like(value, 0.5).half() for name, value in STATE.items()}
    out = interpolate_positions(state, CONFIG, 16)
    assert all(value.dtype == torch.float16 and (value == 0.5).all() for value in out.values())


def test_the_same_side_changes_nothing():
    assert interpolate_positions(STATE, CONFIG, 64) == STATE


@pytest.mark.parametrize("side", [-16, 0, 100])
def test_sides_that_hold_no_whole_patches(side):
    with pytest.raises(ValueError, match="multiple of the patch"):
        interpolate_positions(STATE, CONFIG, side)
