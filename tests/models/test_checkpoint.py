import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden.networks import ADAPTED
from golden.networks import sam as make
from vesalius.core.errors import ModelError, WriteError
from vesalius.core.files import file_digest
from vesalius.models import checkpoint
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from vesalius.models.tiny import Tiny, TinyConfig

TINY = TinyConfig(widths=(8, 8, 8, 8, 8), depths=(1, 1, 1, 1, 1), decoder=(8, 8, 8, 8, 8), key=4)


@torch.no_grad()
def answer(model):
    side = model.preset.side
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    prompts = PromptBatch(torch.tensor([[[9.0, 20.0]]]), torch.tensor([[1]]))
    return model.decode(model.encode(images), prompts)


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(make(), tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


def reweigh(folder, change):
    """Replaces the weights, with a digest that agrees."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    rewrite(folder, sha256=file_digest(folder / "model.safetensors"))


@pytest.mark.parametrize("model", [make(), make(ADAPTED), Tiny(TINY).eval()])
def test_round_trip(model, tmp_path):
    save_checkpoint(model, tmp_path / "a" / "b")
    loaded = load_checkpoint(tmp_path / "a" / "b")
    assert type(loaded) is type(model)
    assert not loaded.training
    assert (loaded.config, loaded.preset) == (model.config, model.preset)
    assert weights_digest(loaded) == weights_digest(model)
    torch.testing.assert_close(answer(loaded), answer(model), rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_half_weights_come_back_as_float32(tmp_path):
    model = make()
    save_checkpoint(model, tmp_path, half=True)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    loaded = load_checkpoint(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float()), name


def test_half_weights_lose_no_value_that_float16_cannot_hold(tmp_path):
    model = make()
    name = "mask_decoder.iou_token.weight"
    with torch.no_grad():
        model.get_parameter(name)[0, 0] = 7e4
    save_checkpoint(model, tmp_path, half=True)
    stored = load_file(tmp_path / "model.safetensors")
    assert [key for key, value in stored.items() if value.dtype != torch.float16] == [name]
    assert torch.equal(load_checkpoint(tmp_path).get_parameter(name), model.get_parameter(name))


def test_digest_is_of_names_and_values():
    model = make()
    first = weights_digest(model)
    assert weights_digest(make()) == first
    with torch.no_grad():
        model.mask_decoder.iou_token.weight[0, 0] += 1e-3
    assert weights_digest(model) != first


def test_saving_again_replaces_and_keeps_the_card(folder):
    (folder / "README.md").write_text("card")
    model = make()
    torch.nn.init.zeros_(model.mask_decoder.iou_token.weight)
    save_checkpoint(model, folder)
    assert weights_digest(load_checkpoint(folder)) == weights_digest(model)
    assert (folder / "README.md").read_text() == "card"


def test_an_interrupted_save_leaves_the_old_checkpoint(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupt(state, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(make(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        save_checkpoint(make(), tmp_path / "file")


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_checkpoint(tmp_path / "absent")


def test_config_that_does_not_hold(folder):
    rewrite(folder, architecture="vgg")
    with pytest.raises(ModelError, match=r"config\.json.*'vgg' is unknown.*sam"):
        load_checkpoint(folder)
    rewrite(folder, architecture="sam", config={"sides": 64})
    with pytest.raises(ModelError, match=r"config\.json.*sides"):
        load_checkpoint(folder)
    rewrite(folder, version=2)
    with pytest.raises(ModelError, match=r"config\.json.*version"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json.*JSON"):
        load_checkpoint(folder)


def test_truncated_or_changed_weights(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors.*SHA-256"):
        load_checkpoint(folder)
    rewrite(folder, sha256=file_digest(weights))
    with pytest.raises(ModelError, match=r"model\.safetensors.*safetensors"):
        load_checkpoint(folder)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"model\.safetensors.*SHA-256"):
        load_checkpoint(folder)


def test_weights_that_do_not_fit(folder):
    name = "mask_decoder.iou_token.weight"
    reweigh(folder, lambda state: state.update(extra=torch.zeros(1)))
    with pytest.raises(ModelError, match=r"1 unexpected \(extra\)"):
        load_checkpoint(folder)
    reweigh(folder, lambda state: (state.pop("extra"), state.update({name: torch.zeros(2, 32)})))
    with pytest.raises(ModelError, match=rf"1 of another shape or type \({name} \(2, 32\) instead of \(1, 32\)"):
        load_checkpoint(folder)
    reweigh(folder, lambda state: state.update({name: torch.zeros(1, 32, dtype=torch.int8)}))
    with pytest.raises(ModelError, match="another shape or type"):
        load_checkpoint(folder)
    reweigh(folder, lambda state: state.pop(name))
    with pytest.raises(ModelError, match=rf"1 missing \({name}\)"):
        load_checkpoint(folder)
