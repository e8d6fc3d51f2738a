import pytest
import torch

from vesalius.core.errors import ModelError
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import weights_digest
from vesalius.models.convert import convert, load_network
from vesalius.models.imis.layout import from_published, resample_positions
from words import CONFIG, imis, write_tokenizer


def to_published(state, deeper=False):
    """What training scripts save, by transformers 5 or an older version."""
    out = {"image_encoder.sam_encoder.neck.0.weight": torch.zeros(4, 32, 1, 1)}
    for name, value in state.items():
        if name.startswith("image_encoder.") and ".neck." not in name:
            timm = name.removeprefix("image_encoder.").replace("mlp.lin", "mlp.fc")
            out[f"image_encoder.sam_encoder.{timm}"] = value
        elif name.startswith("text_model.") and deeper:
            out[f"text_model.{name}"] = value
        else:
            out[name] = value
    if deeper:
        out["text_model.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return out


@torch.no_grad()
def answer(model):
    side = model.preset.side
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    words = model.embed_tokens(torch.tensor([[74, 3, 20, 75]]))
    prompts = PromptBatch(torch.tensor([[[9.0, 20.0]]]), torch.tensor([[1]]), text=words)
    return model.decode(model.encode(images), prompts)


@pytest.mark.parametrize("deeper", [False, True], ids=["transformers 5", "transformers 4"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "training"])
def test_the_published_file_converts_without_loss(tmp_path, deeper, wrapped, caplog):
    model = imis()
    state = to_published(model.state_dict(), deeper)
    path = tmp_path / "IMISNet-B.pth"
    torch.save({"model_state_dict": state, "optimizer": {"state": {}}} if wrapped else state, path)

    # One head of 64 is what a width of 16 is taken for.
    told = {**CONFIG.model_dump(), "decoder_heads": 8, "text": {**CONFIG.text.model_dump(), "heads": 1}}
    loaded = load_network(path)
    assert loaded.config.model_dump() == told
    assert (loaded.preset.side, loaded.preset.fit) == (64, "stretch")
    assert "text" in loaded.takes
    assert weights_digest(loaded) == weights_digest(model)
    assert "neck, which is not in use" in caplog.text

    done = convert(path, tmp_path / "out")
    assert done.layout.startswith("IMIS-Net")
    dropped = ["the encoder's own neck, which is not in use (1 parameters)"]
    dropped += ["text_model.text_model.embeddings.position_ids"] * deeper + ["optimizer"] * wrapped
    assert list(done.dropped) == dropped
    again = load_network(tmp_path / "out")
    assert weights_digest(again) == weights_digest(model)
    torch.testing.assert_close(answer(again), answer(loaded), rtol=0, atol=0)


def test_names_that_become_one_are_refused():
    state = to_published(imis().state_dict())
    name = "text_model.final_layer_norm.weight"
    state[f"text_model.{name}"] = state[name]
    with pytest.raises(ValueError, match="same name"):
        from_published(state)


def test_half_a_network_is_refused(tmp_path):
    state = to_published(imis().state_dict())
    del state["mask_decoder.text_output.bias"]
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"1 missing \(mask_decoder.text_output.bias\)"):
        load_network(tmp_path / "file.pth")


def test_a_tokenizer_goes_along(tmp_path):
    from vesalius.models.checkpoint import save_checkpoint

    save_checkpoint(imis(), tmp_path / "one")
    write_tokenizer(tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "two")
    assert load_network(tmp_path / "two").embed_text(["liver"]).shape == (1, 32)


def test_another_side_of_the_input(tmp_path):
    model = imis()
    torch.save(to_published(model.state_dict()), tmp_path / "file.pth")
    convert(tmp_path / "file.pth", tmp_path / "out", side=96)
    larger = load_network(tmp_path / "out")
    assert (larger.preset.side, larger.preset.mask_side, larger.config.grid) == (96, 24, 6)
    before, after = model.state_dict(), larger.state_dict()
    changed = {"image_encoder.pos_embed"} | {f"image_encoder.blocks.1.attn.rel_pos_{axis}" for axis in "hw"}
    assert {name for name in before if before[name].shape != after[name].shape} == changed
    assert all(torch.equal(before[name], after[name]) for name in before if name not in changed)
    assert answer(larger)[0].shape == (1, 3, 24, 24)


def test_positions_of_a_ramp_stay_a_ramp():
    state = imis().state_dict()
    ramp = torch.arange(4.0)[:, None].expand(4, 4)
    state["image_encoder.pos_embed"] = ramp[None, :, :, None].expand(1, 4, 4, 32)
    resampled = resample_positions(state, CONFIG, 128)
    inner = resampled["image_encoder.pos_embed"][0, 2:-2, 0, 0]
    torch.testing.assert_close(inner.diff(), torch.full((3,), 0.5), rtol=0, atol=0.05)
    assert resample_positions(state, CONFIG, 64).keys() == state.keys()
    with pytest.raises(ValueError, match="multiple of the patch"):
        resample_positions(state, CONFIG, 70)
