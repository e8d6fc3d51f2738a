import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden.networks import ADAPTED, CONFIG, sam
from transformers_layout import transformers_sam
from vesalius.core.errors import ModelError, WriteError
from vesalius.models import convert as module
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from vesalius.models.convert import convert, load_network, read_weights, resized
from vesalius.models.layouts import Weights
from vesalius.models.presets import PRESETS
from vesalius.models.registry import Entry
from vesalius.models.sam.transformers_names import to_transformers
from vesalius.models.tiny import PRESET, Tiny, TinyConfig


@torch.no_grad()
def answer(model):
    side = model.preset.side
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    prompts = PromptBatch(torch.tensor([[[9.0, 20.0]]]), torch.tensor([[1]]))
    return model.decode(model.encode(images), prompts)


def same(one, other):
    torch.testing.assert_close(answer(one), answer(other), rtol=0, atol=0)


def small(name):
    return PRESETS[name].model_copy(update={"side": 64, "mask_side": 16})


@pytest.fixture(params=["plain", "training", "med2d", "transformers", "transformers_bin", "safetensors"])
def published(request, tmp_path):
    """A published file or folder, its network, the preset to name, and what is dropped."""
    model = sam(ADAPTED if request.param == "med2d" else CONFIG)
    state = model.state_dict()
    path = tmp_path / "weights.pth"
    dropped = ()
    if request.param == "plain":
        torch.save(state, path)
    elif request.param == "training":
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"model": wrapped, "optimizer": {"state": {}}, "epoch": 3}, path)
        dropped = ("optimizer", "epoch")
    elif request.param == "med2d":
        torch.save({"model": state, "optimizer": torch.optim.Adam(model.parameters())}, path)
        dropped = ("optimizer",)
    elif request.param == "transformers":
        path = tmp_path / "folder"
        transformers_sam(CONFIG, state).save_pretrained(path)
    elif request.param == "transformers_bin":
        path = tmp_path / "folder"
        path.mkdir()
        (path / "config.json").write_text('{"model_type": "sam", "mask_decoder_config": {"num_attention_heads": 8}}')
        torch.save(to_transformers(state), path / "pytorch_model.bin")
    else:
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    return path, model, None if request.param == "med2d" else "medsam", dropped


def test_every_layout_loads_as_it_is(published, caplog):
    path, model, preset, dropped = published
    loaded = load_network(path, preset)
    assert (loaded.config, loaded.preset) == (model.config, small(preset or "sam-med2d"))
    assert weights_digest(loaded) == weights_digest(model)
    assert not loaded.training
    same(loaded, model)
    assert all(name in caplog.text for name in dropped)


def test_every_layout_converts_without_loss(published, tmp_path):
    path, model, preset, dropped = published
    done = convert(path, tmp_path / "out", preset=preset)
    assert done.dropped == dropped
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(stored[name], value), name
    loaded = load_checkpoint(tmp_path / "out")
    assert (loaded.config, loaded.preset) == (model.config, small(preset or "sam-med2d"))
    same(loaded, model)
    card = (tmp_path / "out" / "README.md").read_text()
    assert path.name in card
    assert done.layout in card
    assert json.loads((tmp_path / "out" / "config.json").read_text())["sha256"] in card
    assert all(name in card for name in dropped)
    if path.is_file():
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept_bit_for_bit(tmp_path, kind):
    state = {name: value.to(kind) for name, value in sam().state_dict().items()}
    state["image_encoder.pos_embed"].view(-1)[0] = float("nan")
    view = torch.zeros(2 * 32, dtype=kind)  # a parameter in another's memory, and one that is not contiguous
    state["image_encoder.blocks.0.norm1.weight"], state["image_encoder.blocks.0.norm1.bias"] = view[:32], view[32:]
    state["image_encoder.blocks.0.attn.proj.weight"] = state["image_encoder.blocks.0.attn.proj.weight"].T
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    convert(tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in state.items():
        assert stored[name].dtype == kind
        assert torch.equal(stored[name].view(torch.uint8), value.contiguous().view(torch.uint8)), name
    assert load_checkpoint(tmp_path / "out").image_encoder.pos_embed.dtype == torch.float32


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("sam_vit_b_01ec64.pth", "sam"),
        ("medsam_vit_b.pth", "medsam"),
        ("own.pth", None),
        ("sam_vit_b_tuned.pth", None),
        ("medsam_vit_b_tuned.pth", None),
        ("ft-sam_b.pth", None),
    ],
)
def test_files_that_look_the_same_are_told_apart_by_name_or_preset(tmp_path, file, preset):
    torch.save(sam().state_dict(), tmp_path / file)
    if preset is None:
        remedy = rf"convert it first: vesalius models convert .*{file} --preset NAME -o FOLDER.*ft-sam"
        with pytest.raises(ModelError, match=rf"{file}.*look the same.*{remedy}"):
            load_network(tmp_path / file)
        with pytest.raises(ModelError, match="look the same"):
            convert(tmp_path / file, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        preset = "medsam"
    else:
        assert load_network(tmp_path / file).preset == small(preset)
    assert load_network(tmp_path / file, preset).preset == small(preset)
    assert load_network(tmp_path / file, "ft-sam").preset == small("ft-sam")
    with pytest.raises(ModelError, match="no preset 'sum'"):
        load_network(tmp_path / file, "sum")


def test_ft_sam_of_256_pixels_is_that_of_sam_med2d(tmp_path):
    path = tmp_path / "ft-sam_b.pth"
    torch.save(resized(Weights("SAM", "sam", CONFIG.model_dump(), sam().state_dict()), 256, path).state, path)
    for call in (load_network, lambda path, preset: convert(path, tmp_path / "out", preset=preset)):
        with pytest.raises(ModelError, match=r"ft-sam_b\.pth: is for 256 pixels.*give the preset sam-med2d"):
            call(path, preset="ft-sam")
    assert load_network(path, preset="sam-med2d").preset == PRESETS["sam-med2d"]
    # One that is made smaller here stays what it is.
    torch.save(sam().state_dict(), path)
    convert(path, tmp_path / "out", preset="ft-sam", side=256)
    smaller = PRESETS["ft-sam"].model_copy(update={"side": 256, "mask_side": 64})
    assert load_network(tmp_path / "out").preset == smaller
    assert load_network(tmp_path / "out", preset="ft-sam").preset == smaller


def test_adapters_off_and_dropped_for_good_are_the_network_without(tmp_path):
    adapted, plain = sam(ADAPTED), sam()
    torch.save({"model": adapted.state_dict()}, tmp_path / "a.pth")
    off = load_network(tmp_path / "a.pth", adapters=False)
    assert off.preset == small("sam-med2d")
    same(off, plain)
    done = convert(tmp_path / "a.pth", tmp_path / "dropped", adapters=False)
    assert done.dropped == ("the adapters (18 parameters)",)
    assert not any("Adapter" in name for name in load_file(tmp_path / "dropped" / "model.safetensors"))
    assert load_checkpoint(tmp_path / "dropped").preset == small("sam-med2d")
    same(load_checkpoint(tmp_path / "dropped"), plain)
    # From a checkpoint of ours too.
    convert(tmp_path / "a.pth", tmp_path / "whole")
    same(load_network(tmp_path / "whole"), adapted)
    same(load_network(tmp_path / "whole", adapters=False), plain)
    convert(tmp_path / "whole", tmp_path / "again", adapters=False)
    same(load_checkpoint(tmp_path / "again"), plain)


def test_positions_are_interpolated_on_request(tmp_path):
    torch.save(sam().state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    convert(tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "out", side=96)
    model = load_checkpoint(tmp_path / "out")
    assert (model.config.side, model.preset.side, model.preset.mask_side) == (96, 96, 24)
    assert answer(model)[0].shape == (1, 3, 24, 24)
    assert "from 64 to 96" in (tmp_path / "out" / "README.md").read_text()
    for side in (100, 0, -64):
        with pytest.raises(ModelError, match=rf"side {side} does not fit"):
            convert(tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "other", side=side)
    save_checkpoint(Tiny(TinyConfig(), PRESET), tmp_path / "tiny")
    with pytest.raises(ModelError, match="no positions"):
        convert(tmp_path / "tiny", tmp_path / "other", side=128)
    assert not (tmp_path / "other").exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    state = sam().state_dict()
    name = "mask_decoder.iou_token.weight"
    for content, told in [
        ({key: value for key, value in state.items() if key != name}, rf"1 missing \({name}\)"),
        ({**state, "extra": torch.zeros(1)}, r"1 unexpected \(extra\)"),
        ({**state, name: torch.zeros(1, 32, dtype=torch.int8)}, "1 of another shape or type"),
    ]:
        torch.save(content, path)
        for call in (lambda: load_network(path), lambda: convert(path, tmp_path / "out")):
            with pytest.raises(ModelError, match=rf"sam_vit_b_01ec64\.pth.*{told}"):
                call()
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_not_replaced(tmp_path):
    torch.save(sam().state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    convert(tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(WriteError, match="holds a checkpoint already"):
        convert(tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "out", side=96)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_a_known_digest_tells_preset_source_and_licence(tmp_path, monkeypatch):
    torch.save(sam().state_dict(), tmp_path / "anything.pth")
    known = Entry(
        title="MedSAM", paper="Ma et al.", page="https://example.org/medsam", licence="CC-BY-4.0", preset="medsam"
    )
    digest = hashlib.sha256((tmp_path / "anything.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(module, "by_digest", lambda sha256: ("medsam", known) if sha256 == digest else None)
    done = convert(tmp_path / "anything.pth", tmp_path / "out")
    assert done.known_as == "medsam"
    assert load_checkpoint(tmp_path / "out").preset == small("medsam")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: vesalius\nlicense: cc-by-4.0\npipeline_tag: mask-generation\n")
    assert "zenodo.org" in card


def test_a_folder_of_transformers_tells_the_number_of_the_decoders_heads(tmp_path):
    config = CONFIG.model_copy(update={"decoder_heads": 4})
    transformers_sam(config, sam(config).state_dict()).save_pretrained(tmp_path / "medsam-vit-base")
    loaded = load_network(tmp_path / "medsam-vit-base")
    assert loaded.config == config
    same(loaded, sam(config))


def test_folders_that_are_none_of_ours(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "sam2"}')
    with pytest.raises(ModelError, match=r"is a SAM 2 of transformers; use the folder as it is"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_weights(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="No such file"):
        read_weights(tmp_path / "absent.pth")
