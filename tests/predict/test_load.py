import numpy as np
import pytest
import torch

import vesalius as vs
from golden.networks import ADAPTED, CONFIG, sam
from vesalius.core.errors import ModelError
from vesalius.models import convert as conversion
from vesalius.models.checkpoint import save_checkpoint
from vesalius.models.convert import convert
from vesalius.models.registry import model_folder

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
PROMPT = vs.Prompt(box=(10, 12, 40, 50))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))


def logits(model, image):
    return model.predict(model.encode(image), [PROMPT])[0].logits.values


def test_a_name_of_the_registry_is_what_was_fetched(tmp_path, image):
    torch.save(sam().state_dict(), tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"'medsam' has not been fetched; run: vesalius models fetch medsam"):
        vs.load_model("medsam")
    convert(tmp_path / "file.pth", model_folder("medsam"), preset="medsam")
    model = vs.load_model("medsam")
    assert model.name == "medsam"
    assert (model.preset.intensity, model.preset.side) == ("min_max", 64)
    assert np.array_equal(logits(model, image), logits(vs.load_model(tmp_path / "file.pth", preset="medsam"), image))


def test_names_come_before_paths(tmp_path, monkeypatch, image):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(sam(), tmp_path / "medsam")
    with pytest.raises(ModelError, match=r"not been fetched.*\./medsam"):
        vs.load_model("medsam")
    assert vs.load_model("./medsam").name == "medsam"
    assert vs.load_model(tmp_path / "medsam").preset == sam().preset


def test_files_that_look_the_same_take_their_preset(tmp_path, image):
    path = tmp_path / "weights.pth"
    torch.save(sam().state_dict(), path)
    with pytest.raises(ModelError, match=r"weights\.pth.*look the same"):
        vs.load_model(path)
    answers = {name: logits(vs.load_model(path, preset=name), image) for name in ("sam", "ft-sam", "medsam")}
    assert np.array_equal(answers["sam"], answers["ft-sam"])
    assert not np.allclose(answers["sam"], answers["medsam"])


def test_adapters_can_be_left_off(tmp_path, image):
    torch.save({"model": sam(ADAPTED).state_dict()}, tmp_path / "sam-med2d_b.pth")
    torch.save(sam().state_dict(), tmp_path / "plain.pth")
    on = vs.load_model(tmp_path / "sam-med2d_b.pth")
    off = vs.load_model(tmp_path / "sam-med2d_b.pth", adapters=False)
    plain = vs.load_model(tmp_path / "plain.pth", preset="sam-med2d")
    assert off.preset == on.preset == plain.preset
    assert np.array_equal(logits(off, image), logits(plain, image))
    assert not np.allclose(logits(off, image), logits(on, image))
    assert off.digest == plain.digest


def test_what_does_not_exist():
    with pytest.raises(ModelError, match=r"no model 'sam9'; give one of vesalius-tiny, sam-vit-b.*checkpoint folder"):
        vs.load_model("sam9")


def test_loading_does_not_digest_the_file_for_the_registry(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "by_digest", None)
    torch.save(sam().state_dict(), tmp_path / "medsam_vit_b.pth")
    assert vs.load_model(tmp_path / "medsam_vit_b.pth").name == "medsam_vit_b"


@pytest.mark.parametrize("precision", ["int8", "fp16", None])
def test_a_precision_that_there_is_not(precision):
    with pytest.raises(ModelError, match=f"no precision {precision!r}; give one of fp32, bf16"):
        vs.load_model(precision=precision)


@pytest.mark.parametrize(
    "device", ["gpu", "", pytest.param("cuda", marks=NO_CUDA), pytest.param("cuda:1", marks=NO_CUDA)]
)
def test_a_device_that_there_is_not(tmp_path, device):
    save_checkpoint(sam(), tmp_path / "model")
    with pytest.raises(ModelError, match=rf"cannot use the device '{device}' \(.*\); give one that is here: cpu"):
        vs.load_model(tmp_path / "model", device=device)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_file_is_converted_before_it_is_exported(tmp_path, runtime):
    path = tmp_path / "medsam_vit_b.pth"
    torch.save(sam().state_dict(), path)
    told = f"convert it first: vesalius models convert {path} -o FOLDER, then vesalius models export FOLDER"
    with pytest.raises(ModelError, match=f"{told} --format {runtime}"):
        vs.load_model(path, runtime=runtime)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_networks_give_the_same_masks(tmp_path, image, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    save_checkpoint(sam(CONFIG.model_copy(update={"encoder_depth": 1, "global_blocks": ()})), tmp_path / "model")
    compiled = vs.load_model(tmp_path / "model", compile=True)
    assert compiled.runtime.label == "torch fp32, compiled"
    assert not list((tmp_path / "compiled").rglob("*.so"))
    np.testing.assert_allclose(
        logits(compiled, image), logits(vs.load_model(tmp_path / "model", runtime="torch"), image), atol=1e-4
    )
    assert list((tmp_path / "compiled").rglob("*.so"))


def test_compiling_needs_a_compiler_and_torch(tmp_path, monkeypatch):
    save_checkpoint(sam(), tmp_path / "model")
    with pytest.raises(ModelError, match="takes no device, precision, preset, adapters or compile"):
        vs.load_model(tmp_path / "model", runtime="onnx", compile=True)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"install g\+\+ or clang\+\+"):
        vs.load_model(tmp_path / "model", compile=True)
