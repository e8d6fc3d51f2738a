import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from skimage import data

import vesalius as vs
from vesalius.core.files import file_digest
from vesalius.models import export as export_module
from vesalius.models import exported
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import save_checkpoint, weights_digest
from vesalius.models.export import agreement, export_model, halve
from vesalius.models.exported import EXPORT, Arrays, ExportedRuntime, Run, best_export, load_export, read_export
from vesalius.models.imis.model import Imis
from vesalius.models.presets import PRESETS, Preset
from vesalius.models.runtime import PromptArrays
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.tiny import Tiny, TinyConfig
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.load import BUNDLED, load_model
from words import CONFIG, PRESET, imis, write_tokenizer

# The exporter and what it uses warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

IMAGES = [data.camera(), data.retina()[::4, ::4]]


def small_sam(adapter: str | None = None, **preset: object) -> Sam:
    torch.manual_seed(0)
    config = SamConfig(
        side=64,
        patch=8,
        encoder_dim=32,
        encoder_depth=2,
        encoder_heads=2,
        global_blocks=(1,),
        window=5,
        prompt_dim=32,
        decoder_heads=2,
        decoder_mlp=48,
        iou_hidden=16,
        adapter=adapter,
    )
    model = Sam(config, PRESETS["sam-256"].model_copy(update={"side": 64, "mask_side": 32, **preset}))
    for name, parameter in model.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    balance(model)
    return model.eval()


@torch.no_grad()
def balance(model: Sam) -> None:
    """Makes its masks about half full: an untrained network's are empty or cover everything."""
    decoder = model.mask_decoder
    seen = []
    handle = decoder.output_upscaling.register_forward_hook(lambda *args: seen.append(args[-1]))
    prompts = PromptBatch(torch.full((1, 1, 2), 30.0), torch.ones(1, 1, dtype=torch.long))
    logits, _ = model.decode(model.encode(torch.randn(1, 3, 64, 64)), prompts)
    handle.remove()
    mean = seen[0].mean((0, 1, 2))
    for head, values in zip(decoder.output_hypernetworks_mlps[1:], logits[0], strict=True):
        head.layers[-1].bias -= values.mean() * mean / mean.square().sum()


def small_imis() -> Imis:
    return imis(CONFIG.model_copy(update={"patch": 8}), PRESET.model_copy(update={"mask_side": 32}))


def small_tiny(words: tuple[str, ...] = (), fine: tuple[int, int] | None = None) -> Tiny:
    torch.manual_seed(0)
    # With a finer level the lowest is a single pixel, which is normalised over its channels alone.
    lowest = 64 if fine else 8
    config = TinyConfig(
        widths=(8, 8, 8, 8, 8), depths=(1, 1, 1, 1, 1), decoder=(8, 8, 8, 8, lowest), key=8, words=words, fine=fine
    )
    return Tiny(config, Preset(side=64, fit="stretch", box="half_open", mask_side=32, focus=2.0))


def parts(count: int, masks: bool = False, boxes: bool = False, points: int = 0, rows: list[int] | None = None):
    rng = np.random.default_rng(count + 7 * points)
    corners = np.sort(rng.uniform(2, 60, (count, 2, 2)), axis=1).reshape(count, 4)
    return PromptArrays(
        rng.uniform(0, 63, (count, points, 2)).astype(np.float32),
        rng.integers(0, 2, (count, points)),
        np.zeros(count, np.int64) if rows is None else np.array(rows),
        corners.astype(np.float32) if boxes else None,
        rng.standard_normal((count, 1, 32, 32)).astype(np.float32) if masks else None,
    )


KINDS = {
    "a box": parts(1, boxes=True),
    "many boxes": parts(70, boxes=True),
    "a point": parts(1, points=1),
    "points": parts(5, points=4),
    "box and points": parts(3, boxes=True, points=2),
    "mask": parts(2, masks=True),
    "points and mask": parts(3, masks=True, points=2),
    "everything": parts(3, masks=True, points=3, boxes=True),
    "two images": parts(4, boxes=True, rows=[0, 1, 1, 0]),
    "two images and masks": parts(3, masks=True, points=1, rows=[1, 0, 1]),
}
MODELS = {
    "sam": small_sam,
    "one mask": lambda: small_sam("sam-med2d", fit="pad", channels="bgr", multimask=False, intensity="min_max"),
    "tiny": small_tiny,
    "words": lambda: small_tiny(("liver", "right kidney"), fine=(8, 16)),
    "imis": small_imis,
}
EXPORTS = [("sam", "onnx"), ("sam", "openvino"), ("one mask", "onnx"), ("tiny", "onnx"), ("words", "onnx")]
EXPORTS += [("imis", "onnx"), pytest.param("tiny", "openvino", marks=pytest.mark.long)]
Made = Callable[[str, str], tuple[TorchRuntime, ExportedRuntime]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def made(folder: Path) -> Made:
    """Exports a network when a test first asks for it."""

    @cache
    def make(name: str, kind: str) -> tuple[TorchRuntime, ExportedRuntime]:
        model = MODELS[name]()
        save_checkpoint(model, folder / name)
        export_model(model, folder / f"{name}-{kind}", kind, "fp32", IMAGES, folder / name)
        return TorchRuntime(model), load_export(folder / f"{name}-{kind}")

    return make


@pytest.mark.parametrize(("name", "kind"), EXPORTS)
def test_exports_give_what_torch_gives(made: Made, name: str, kind: str) -> None:
    truth, other = made(name, kind)
    assert other.digest == truth.digest
    assert other.label == f"{kind} fp32"
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    content = np.array([[0, 0, 64, 64], [5, 0, 60, 40]])
    features, others = truth.encode(pixels, content), other.encode(pixels, content)
    for ours, theirs in zip(features, others, strict=True):
        for level, other_level in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(other_level, level, atol=1e-4)
    for what, prompts in KINDS.items():
        logits, quality = truth.decode(features, prompts, truth.preset.multimask)
        answer, answer_quality = other.decode(others, prompts, truth.preset.multimask)
        np.testing.assert_allclose(answer, logits, atol=1e-4, err_msg=what)
        np.testing.assert_allclose(answer_quality, quality, atol=1e-4, err_msg=what)


def test_graphs_do_not_name_the_code_that_they_came_from(made: Made, folder: Path) -> None:
    made("sam", "onnx")
    files = [*folder.glob("*-onnx/*.onnx"), *(BUNDLED / "vesalius-tiny").glob("*/*.onnx")]
    assert len(files) > 4
    for path in files:
        assert b".py" not in path.read_bytes()


def test_prompts_on_one_image_share_its_work(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = made("sam", "onnx")
    features = other.encode(np.zeros((2, 64, 64, 3), np.uint8), np.array([[0, 0, 64, 64]] * 2))
    used = []
    graphs = {
        name: lambda arrays, name=name, run=run: used.append(name) or run(arrays) for name, run in other._graphs.items()
    }
    monkeypatch.setattr(other, "_graphs", graphs)
    other.decode(features, KINDS["many boxes"], True)
    other.decode(features, parts(2, boxes=True, rows=[1, 1]), True)
    assert set(used) == {"prompts", "decoder_shared"}
    other.decode(features, KINDS["two images"], True)
    other.decode(features[:1], KINDS["mask"], True)
    assert used[-4:] == ["prompts", "decoder"] * 2


def test_many_prompts_run_side_by_side_by_openvino(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, other = made("sam", "openvino")
    monkeypatch.setattr(other, "config", other.config.model_copy(update={"prompts_at_once": 35}))
    features = other.encode(data.astronaut()[None, :64, :64], np.array([[0, 0, 64, 64]]))
    together = threading.Barrier(2)

    def met(run: Run, arrays: Arrays) -> list[np.ndarray]:
        together.wait(30)
        return run(arrays)

    streams = dict(other._streams)
    assert set(streams) == {"prompts", "decoder", "decoder_shared"}
    monkeypatch.setitem(streams, "decoder_shared", partial(met, streams["decoder_shared"]))
    monkeypatch.setitem(other.__dict__, "_streams", streams)
    monkeypatch.setattr(other, "_graphs", {})
    expected = truth.decode(features, KINDS["many boxes"], True)
    for values, same in zip(other.decode(features, KINDS["many boxes"], True), expected, strict=True):
        np.testing.assert_allclose(values, same, atol=1e-4)


def test_tokens_that_no_prompt_has_are_not_computed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    _, other = made("sam", "onnx")
    features = other.encode(data.astronaut()[None, :64, :64], np.array([[0, 0, 64, 64]]))
    seen = []

    def noted(run: Run, arrays: Arrays) -> list[np.ndarray]:
        seen.append(arrays["tokens"].shape[1])
        return run(arrays)

    graphs = other._graphs | {"decoder_shared": partial(noted, other._graphs["decoder_shared"])}
    monkeypatch.setattr(other, "_graphs", graphs)
    for what in ("a box", "a point", "points", "box and points"):
        other.decode(features, KINDS[what], True)
    # A point without a box comes with the token that stands for no box.
    assert seen == [2, 2, 5, 4]


def test_words_are_understood_without_torch(made: Made, tmp_path: Path) -> None:
    with pytest.raises(vs.VesaliusError, match=r"OpenVINO does not run .* that take words; export for onnx"):
        export_model(small_tiny(("liver",)), tmp_path / "out", "openvino", "fp32", IMAGES)
    assert not (tmp_path / "out").exists()
    truth, other = made("words", "onnx")
    assert "text" in other.takes
    assert "text" not in made("tiny", "onnx")[1].takes
    image = np.random.default_rng(3).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    content = np.array([[0, 0, 64, 64]])
    features, others = truth.encode(image, content), other.encode(image, content)
    answers = {}
    for words in (["liver", "kidney_right"], ["liver", "liver"]):
        prompts = replace(parts(2, points=1), text=words)
        logits, _ = truth.decode(features, prompts, True)
        answers[words[1]], _ = other.decode(others, prompts, True)
        np.testing.assert_allclose(answers[words[1]], logits, atol=1e-4)
    assert np.abs(answers["liver"][1] - answers["kidney_right"][1]).max() > 1e-3
    alone = PromptArrays(
        np.zeros((1, 0, 2), np.float32), np.zeros((1, 0), np.int64), np.zeros(1, np.int64), text=["liver"]
    )
    np.testing.assert_allclose(other.decode(others, alone, True)[0], truth.decode(features, alone, True)[0], atol=1e-4)
    with pytest.raises(vs.VesaliusError, match="not trained on 'spleen'"):
        other.decode(others, replace(alone, text=["spleen"]), True)


def test_exports_that_lose_words_are_passed_over(made: Made, tmp_path: Path, folder: Path) -> None:
    truth, other = made("imis", "onnx")
    assert "text" in truth.takes
    assert "text" not in other.takes
    save_checkpoint(small_imis(), tmp_path / "model")
    shutil.copytree(folder / "imis-onnx", tmp_path / "model" / "onnx-fp32")
    rewrite(tmp_path / "model" / "onnx-fp32", encode_speedup=9, dice=1)
    assert best_export(tmp_path / "model") == (None, {"onnx-fp32": "it takes no words, and the network does"})
    write_tokenizer(tmp_path / "model")
    prompts = [vs.Prompt(text="liver")]
    model = load_model(tmp_path / "model")
    assert model.predict(model.encode(IMAGES[0]), prompts)[0].logits.values.shape
    fast = load_model(tmp_path / "model", runtime="onnx")
    assert fast.runtime.label == "onnx fp32"
    with pytest.raises(vs.VesaliusError, match="use a model that takes words, such as an IMIS-Net run by torch"):
        fast.predict(fast.encode(IMAGES[0]), prompts)


def test_another_number_of_masks_is_refused(made: Made) -> None:
    _, other = made("one mask", "onnx")
    with pytest.raises(vs.VesaliusError, match="gives 1 masks per prompt"):
        other.decode([], KINDS["a box"], True)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("onnx", "int8"),
        pytest.param("openvino", "int8", marks=pytest.mark.long),
        pytest.param("openvino", "bf16", marks=pytest.mark.long),
    ],
)
def test_lower_precision_is_near_and_says_how_near(made: Made, tmp_path: Path, kind: str, precision: str) -> None:
    truth, exact = made("sam", kind)
    config = export_model(small_sam(), tmp_path / "out", kind, precision, IMAGES)
    measured = agreement(truth, load_export(tmp_path / "out"), IMAGES)
    assert config.agreement.dice == pytest.approx(measured.dice, abs=0.02)
    assert 0.9 < config.agreement.dice <= 1
    assert config.agreement.prompts == 36
    assert 10 * exact.config.agreement.logits < config.agreement.logits < 1


def test_agreement_sees_a_network_that_is_not_the_same() -> None:
    model, other = small_sam(), small_sam()
    torch.nn.init.normal_(other.mask_decoder.mask_tokens.weight)
    assert agreement(TorchRuntime(model), TorchRuntime(other), IMAGES).dice < 0.95
    assert agreement(TorchRuntime(model), TorchRuntime(model), IMAGES).dice == 1


def test_weights_that_float16_holds_are_stored_so() -> None:
    values = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.float32)
    values[0] = values[0].astype(np.float16)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "whole"], ["y"]), helper.make_node("MatMul", ["y", "rest"], ["z"])],
            "two products",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 64])],
            [numpy_helper.from_array(values[0], "whole"), numpy_helper.from_array(values[1], "rest")],
        )
    )
    x = np.ones((1, 64), np.float32)
    before = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    halve(proto)
    assert [tensor.data_type for tensor in proto.graph.initializer] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    np.testing.assert_array_equal(ReferenceEvaluator(proto).run(None, {"x": x})[0], before)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(vs.VesaliusError, match="does not compute in bfloat16"):
        export_model(small_sam(), tmp_path / "out", "onnx", "bf16", IMAGES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(vs.VesaliusError, match="is not an export"):
        export_model(small_sam(), tmp_path / "full", "onnx", "fp32", IMAGES)
    monkeypatch.setitem(export_module._NEEDED, "onnx", ("nothing_of_this_name",))
    with pytest.raises(vs.VesaliusError, match=r"nothing_of_this_name must be installed.*vesalius\[export\]"):
        export_model(small_sam(), tmp_path / "out", "onnx", "fp32", IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.fixture
def checkpoint(tmp_path: Path, made: Made, folder: Path) -> Path:
    """A checkpoint with an ONNX and an OpenVINO export in its folder."""
    # The same network gives the same file, so the exports are of this checkpoint too.
    save_checkpoint(small_sam(), tmp_path / "model")
    for kind in ("onnx", "openvino"):
        made("sam", kind)
        shutil.copytree(folder / f"sam-{kind}", tmp_path / "model" / f"{kind}-fp32")
    return tmp_path / "model"


def rewrite(folder: Path, **agreement: float) -> None:
    content = json.loads((folder / EXPORT).read_text())
    content["agreement"] |= agreement
    (folder / EXPORT).write_text(json.dumps(content))


def test_auto_takes_the_fastest_that_is_exact_enough(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rewrite(checkpoint / "onnx-fp32", encode_speedup=2.0)
    rewrite(checkpoint / "openvino-fp32", encode_speedup=3.0)
    assert load_model(checkpoint).runs_by == "openvino fp32"
    assert "model runs by openvino fp32" in caplog.text
    rewrite(checkpoint / "openvino-fp32", dice=0.98)
    assert load_model(checkpoint).runs_by == "onnx fp32"
    assert "passed over: the Dice of its masks with those of torch is 0.980, below 0.99" in caplog.text
    assert load_model(checkpoint, adapters=False).runs_by == "torch fp32"
    assert load_model(checkpoint, precision="bf16").runs_by == "torch bf16"
    rewrite(checkpoint / "onnx-fp32", encode_speedup=0.9)
    assert load_model(checkpoint).runs_by == "torch fp32"
    assert load_model(checkpoint, runtime="onnx").runs_by == "onnx fp32"
    assert load_model(checkpoint, runtime="torch").runs_by == "torch fp32"
    assert load_model(checkpoint / "openvino-fp32").runs_by == "openvino fp32"
    monkeypatch.setitem(exported.PACKAGES, "onnx", "nothing_of_this_name")
    with pytest.raises(vs.VesaliusError, match=r"model: needs nothing_of_this_name.*vesalius\[onnx\]"):
        load_model(checkpoint, runtime="onnx")
    with pytest.raises(vs.VesaliusError, match=r"needs nothing_of_this_name.*vesalius\[onnx\]"):
        load_model(checkpoint / "onnx-fp32")


def test_exports_of_what_is_no_longer_there_are_passed_over(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rewrite(checkpoint / "onnx-fp32", encode_speedup=2.0)
    rewrite(checkpoint / "openvino-fp32", encode_speedup=3.0)
    save_checkpoint(small_sam(fit="stretch"), checkpoint)
    loaded = load_model(checkpoint)
    assert (loaded.runs_by, loaded.preset.fit) == ("torch fp32", "stretch")
    assert "onnx-fp32 is passed over: it was made with another preset" in caplog.text

    other = small_sam()
    torch.nn.init.normal_(other.mask_decoder.mask_tokens.weight)
    save_checkpoint(other, checkpoint)
    loaded = load_model(checkpoint)
    assert (loaded.runs_by, loaded.digest) == ("torch fp32", weights_digest(other))
    assert "openvino-fp32 is passed over: it was made from other weights" in caplog.text
    told = "has no export that onnx can run here (onnx-fp32: it was made from other weights than are here now, "
    told += f"openvino-fp32: it is for openvino); make one: vesalius models export {checkpoint} --format onnx"
    with pytest.raises(vs.VesaliusError, match=re.escape(told)):
        load_model(checkpoint, runtime="onnx")

    save_checkpoint(small_sam(), checkpoint)
    assert load_model(checkpoint).runs_by == "openvino fp32"
    # Weights are not needed to know what an export is of.
    (checkpoint / "model.safetensors").unlink()
    assert load_model(checkpoint).runs_by == "openvino fp32"
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(vs.VesaliusError, match="not a checkpoint of ours"):
        load_model(checkpoint, runtime="openvino")


def test_an_export_that_does_not_say_what_it_is_of_is_passed_over(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for kind in ("onnx", "openvino"):
        path = checkpoint / f"{kind}-fp32" / EXPORT
        content = json.loads(path.read_text())
        del content["checkpoint"]
        path.write_text(json.dumps(content))
    assert load_model(checkpoint).runs_by == "torch fp32"
    assert "it does not say which checkpoint it was made from" in caplog.text
    assert load_model(checkpoint / "onnx-fp32").runs_by == "onnx fp32"


def test_runtimes_that_make_no_sense_are_refused(checkpoint: Path) -> None:
    with pytest.raises(vs.VesaliusError, match="there is no runtime 'tensorrt'"):
        load_model(checkpoint, runtime="tensorrt")
    with pytest.raises(vs.VesaliusError, match="runtime 'onnx' takes no device"):
        load_model(checkpoint, runtime="onnx", precision="bf16")
    with pytest.raises(vs.VesaliusError, match="is an export for onnx"):
        load_model(checkpoint / "onnx-fp32", runtime="openvino")
    shutil.rmtree(checkpoint / "openvino-fp32")
    with pytest.raises(vs.VesaliusError, match=f"models export {checkpoint} --format openvino"):
        load_model(checkpoint, runtime="openvino")


def test_damaged_exports_are_refused(checkpoint: Path) -> None:
    folder = checkpoint / "onnx-fp32"
    graph = folder / "encoder.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-10] + b"0123456789")
    with pytest.raises(vs.VesaliusError, match=r"encoder.onnx.*has SHA-256"):
        load_export(folder)
    graph.unlink()
    with pytest.raises(vs.VesaliusError, match=r"encoder.onnx.*is missing"):
        load_export(folder)
    (folder / EXPORT).write_text("{")
    with pytest.raises(vs.VesaliusError, match="cannot be read"):
        read_export(folder)
    (folder / EXPORT).write_text('{"version": 1}')
    with pytest.raises(vs.VesaliusError, match="Field required"):
        load_model(folder)


def test_the_bundled_model_runs_without_torch_and_draws_the_same_outlines() -> None:
    code = """
import sys
for name in ("torch", "safetensors", "openvino", "transformers"):
    sys.modules[name] = None
import numpy as np
import vesalius as vs
from vesalius.demo import CASES, read_case
model = vs.load_model()
assert model.runs_by == "onnx fp32", model.runs_by
masks = {}
for case in CASES[:4]:
    found = model.predict(model.encode(read_case(case)), case.prompts)
    masks |= {f"{case.name} {i}": p.mask for i, p in enumerate(found)}
np.savez(sys.argv[1], **masks)
"""
    from tempfile import TemporaryDirectory

    from vesalius.demo import CASES, read_case

    with TemporaryDirectory() as folder:
        path = Path(folder) / "masks.npz"
        subprocess.run([sys.executable, "-c", code, path], check=True)
        masks = dict(np.load(path))
    model = load_model(runtime="torch")
    for case in CASES[:4]:
        for i, prediction in enumerate(model.predict(model.encode(read_case(case)), case.prompts)):
            assert (prediction.mask != masks[f"{case.name} {i}"]).mean() < 1e-4


def test_the_bundled_export_is_of_the_bundled_weights() -> None:
    folder = BUNDLED / "vesalius-tiny"
    config = read_export(folder / "onnx-fp32")
    assert config.digest == load_model(folder, runtime="torch").digest
    assert config.checkpoint == file_digest(folder / "model.safetensors")
