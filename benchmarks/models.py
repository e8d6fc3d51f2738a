"""SAM and SAM-Med2D by every runtime, beside transformers and the plainly written network, on the same weights.

    python benchmarks/models.py -o OUT [--sides 256 1024] [--turns 7] [--weights FOLDER] [--adapted FOLDER] [--compile]

All contestants of a task take turns in one process, so a busy machine slows them alike: the ratios are comparable
between machines, the milliseconds are not. Ours are measured from 8-bit pixels to features and from numpy prompts to
numpy masks, the peers from tensors to tensors. "Of peak" is the useful work, in floating-point operations of our torch
network, per second, as a share of what the largest matrix product in the same precision reaches in the same turns.

"Largest difference" is that of mask logits from transformers (or the plain network), whose largest is about 1.
Dice is that of the masks from those of torch in float32, on the images and prompts of ``vesalius demo``; it needs
weights that draw something, so it is left out unless ``--weights`` names a checkpoint folder of a ViT-B SAM at 256.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
import torch
import torch.nn.functional as F
from torch import nn

import plain_sam
from flop_count import flops
from transformers_layout import transformers_sam
from vesalius.demo import CASES, read_case
from vesalius.models.base import PromptBatch
from vesalius.models.convert import load_network
from vesalius.models.export import export_model
from vesalius.models.exported import load_export, openvino_settings
from vesalius.models.presets import PRESETS
from vesalius.models.runtime import PromptArrays, Runtime
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.sam.positions import interpolate_positions
from vesalius.models.torch_runtime import TorchRuntime, prepare
from vesalius.predict.predictor import Predictor

COUNTS = (1, 16, 64)
EXPORTS = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
PRODUCT = 2048


@dataclass
class Contestant:
    """One way to do a task; ``answer`` gives the mask logits it leads to."""

    name: str
    precision: str
    encode: Callable[[], Any]
    decode: Callable[[int], Any]
    answer: Callable[[], np.ndarray]
    dice: float | None = None


def boxes(count: int, side: int) -> np.ndarray:
    corners = np.array([[60.0, 70.0, 180.0, 190.0]], np.float32) * side / 256
    return np.repeat(corners, count, 0) + np.arange(count, dtype=np.float32)[:, None] * side / 512


def batch(count: int, side: int) -> PromptBatch:
    empty = torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.long)
    return PromptBatch(*empty, torch.from_numpy(boxes(count, side)))


def ours(runtime: Runtime, precision: str, pixels: np.ndarray) -> Contestant:
    side = pixels.shape[1]
    content = np.array([[0, 0, side, side]])
    features = runtime.encode(pixels, content)
    prompts = {
        count: PromptArrays(
            np.zeros((count, 0, 2), np.float32),
            np.zeros((count, 0), np.int64),
            np.zeros(count, np.int64),
            boxes(count, side),
        )
        for count in COUNTS
    }
    return Contestant(
        f"vesalius, {runtime.label}",
        precision,
        lambda: runtime.encode(pixels, content),
        lambda count: runtime.decode(features, prompts[count], True),
        lambda: runtime.decode(features, prompts[1], True)[0][0],
    )


def theirs(model: nn.Module, image: torch.Tensor) -> Contestant:
    side = image.shape[-1]
    embedding = model.get_image_embeddings(image)

    def decode(count: int) -> Any:
        return model(image_embeddings=embedding, input_boxes=torch.from_numpy(boxes(count, side))[None])

    return Contestant(
        "transformers",
        "fp32",
        lambda: model.get_image_embeddings(image),
        decode,
        lambda: decode(1).pred_masks[0, 0].numpy(),
    )


def plain(model: Sam, image: torch.Tensor) -> Contestant:
    side = image.shape[-1]
    embedding, decoder = plain_sam.encode(model, image), plain_sam.plain_decoder(model)
    return Contestant(
        "plain",
        "fp32",
        lambda: plain_sam.encode(model, image),
        lambda count: plain_sam.decode(model, decoder, embedding, batch(count, side)),
        lambda: plain_sam.decode(model, decoder, embedding, batch(1, side))[0][0].numpy(),
    )


def network(side: int, adapter: str | None, weights: Path | None) -> Sam:
    torch.manual_seed(0)
    preset = PRESETS["sam-med2d" if adapter else "sam"].model_copy(update={"side": side, "mask_side": side // 4})
    if weights is None:
        model = Sam(SamConfig(side=side, adapter=adapter), preset)
        for name, parameter in model.named_parameters():
            if "pos" in name:
                nn.init.normal_(parameter, std=0.02)
        return model.eval()
    trained = load_network(weights)
    assert isinstance(trained, Sam)
    config = trained.config.model_copy(update={"side": side})
    model = Sam(config, preset)
    state = (
        trained.state_dict()
        if side == trained.config.side
        else interpolate_positions(trained.state_dict(), trained.config, side)
    )
    model.load_state_dict(state)
    if adapter != model.config.adapter:
        model.add_adapters(adapter)
    return model.eval()


def contestants(side: int, adapter: str | None, arguments: argparse.Namespace) -> Iterator[Contestant]:
    weights = arguments.adapted if adapter and arguments.adapted else arguments.weights
    model = network(side, adapter, weights)
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    runtime = TorchRuntime(model)
    with torch.inference_mode():
        image = prepare(torch.from_numpy(pixels), torch.tensor([[0, 0, side, side]]), model.preset)
        if adapter is None:
            yield theirs(transformers_sam(model.config, model.state_dict()), image)
        yield plain(model, image)
    low = TorchRuntime(copy.deepcopy(model), precision="bf16")
    runtimes: list[tuple[Runtime, str]] = [(runtime, "fp32"), (low, "bf16")]
    if arguments.compile:
        runtimes.append((TorchRuntime(copy.deepcopy(model), compile=True), "fp32"))
        runtimes.append((TorchRuntime(copy.deepcopy(model), precision="bf16", compile=True), "bf16"))
    for kind, precision in EXPORTS:
        folder = arguments.output / "exports" / f"{side}-{adapter or 'plain'}-{kind}-{precision}"
        if not (folder / "export.json").is_file() or load_export(folder).digest != runtime.digest:
            print(f"exporting {folder.name}", flush=True)
            export_model(model, folder, kind, precision, [read_case(CASES[0]).rgb()])
        runtimes.append((load_export(folder), precision))
    truth = drawn(runtime) if weights else []
    for which, precision in runtimes:
        contestant = ours(which, precision, pixels)
        if weights and which is not runtime:
            contestant.dice = agreement(truth, drawn(which))
        yield contestant


def drawn(runtime: Runtime) -> list[np.ndarray]:
    """The masks of the demonstration's images and prompts."""
    model = Predictor(runtime, runtime.label)
    return [p.mask for case in CASES for p in model.predict(model.encode(read_case(case)), case.prompts)]


def agreement(masks: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Mean Dice of masks, those empty in both left out."""
    pairs = [(a, b) for a, b in zip(masks, others, strict=True) if a.any() or b.any()]
    return float(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]))


def peaks() -> dict[str, Callable[[], object]]:
    """Large matrix products in each precision."""
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    low_a, low_b = a.bfloat16(), b.bfloat16()
    picture, kernel = a[None, :, None].permute(0, 3, 1, 2), b[:, :, None, None]
    scales = torch.full((PRODUCT,), 0.03, dtype=torch.double)
    zeros = torch.zeros(PRODUCT, dtype=torch.long)
    packed = torch.ops.quantized.linear_prepack(torch.quantize_per_channel(b, scales, zeros, 0, torch.qint8), None)
    return {
        "fp32 by BLAS": lambda: a @ b,
        "fp32 by oneDNN": lambda: F.conv2d(picture, kernel),
        "bf16": lambda: low_a @ low_b,
        "int8 by torch": lambda: torch.ops.quantized.linear_dynamic(a, packed, False),
        "int8 by OpenVINO": by_openvino(a.numpy()),
    }


def by_openvino(a: np.ndarray) -> Callable[[], object]:
    """A product with a matrix of 8-bit numbers, as the exports in int8 have it."""
    rows = ops.parameter(a.shape, np.float32)
    numbers = np.random.default_rng(0).integers(-127, 128, a.shape).astype(np.int8)
    weights = ops.multiply(ops.convert(ops.constant(numbers), "f32"), ops.constant(np.full((len(a), 1), 1e-2, "f4")))
    product = openvino.Model([ops.matmul(rows, weights, False, True)], [rows])
    request = openvino.Core().compile_model(product, "CPU", openvino_settings("int8")).create_infer_request()
    return lambda: request.infer({0: a})


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(calls: dict[Any, Callable[[], object]], turns: int) -> dict[Any, float]:
    """Median seconds of each; the first turn warms up."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for _ in range(turns + 1):
        for key, call in calls.items():
            times[key].append(seconds(call))
    return {key: statistics.median(values[1:]) for key, values in times.items()}


@torch.inference_mode()
def compete(side: int, adapter: str | None, arguments: argparse.Namespace) -> list[str]:
    """The table of one network, as lines of Markdown."""
    with torch.inference_mode(False), torch.no_grad():
        rivals = list(contestants(side, adapter, arguments))
    model = network(side, adapter, None)
    embedding = model.encode(torch.zeros(1, 3, side, side))
    base = rivals[0]
    reference = base.answer()
    lines = [
        f"### ViT-B, {side} x {side}, {'with' if adapter else 'without'} SAM-Med2D's adapters",
        "",
        f"| task | network | ms | times as fast as {base.name} | of peak | largest difference | Dice |",
        "|---|---|---|---|---|---|---|",
    ]
    products = peaks()
    for count in (0, *COUNTS):
        image, prompts = torch.zeros(1, 3, side, side), batch(max(count, 1), side)
        work = flops(lambda n=count, i=image, p=prompts: model.decode(embedding, p) if n else model.encode(i))
        calls: dict[Any, Callable[[], object]] = {f"peak {name}": call for name, call in products.items()}
        for i, rival in enumerate(rivals):
            calls[i] = (lambda r=rival, n=count: r.decode(n)) if count else rival.encode
        times = take_turns(calls, arguments.turns)
        peak = {name: 2 * PRODUCT**3 / times[f"peak {name}"] for name in products}
        peak["fp32"] = max(peak["fp32 by BLAS"], peak["fp32 by oneDNN"])
        peak["int8"] = max(peak["int8 by torch"], peak["int8 by OpenVINO"])
        task = f"{count} box{'es' if count > 1 else ''}" if count else "encode"
        for i, rival in enumerate(rivals):
            difference = float(np.abs(rival.answer() - reference).max())
            shown = "" if rival.dice is None else f"{rival.dice:.4f}"
            lines.append(
                f"| {task} | {rival.name} | {1e3 * times[i]:.1f} | {times[0] / times[i]:.2f} | "
                f"{work / times[i] / peak[rival.precision]:.0%} | {difference:.1g} | {shown} |"
            )
        print("\n".join(lines[-len(rivals) :]), flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for models.md and the exports")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--no-adapters", action="store_true", help="leave out the network with SAM-Med2D's adapters")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--weights", type=Path, help="checkpoint folder of a ViT-B SAM at 256")
    parser.add_argument("--adapted", type=Path, help="that of a SAM-Med2D, without which its adapters are new")
    parser.add_argument("--compile", action="store_true", help="also compiled torch, which takes minutes to compile")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}", ""]
    for side in arguments.sides:
        for adapter in (None,) if arguments.no_adapters else (None, "sam-med2d"):
            lines += compete(side, adapter, arguments)
            (arguments.output / "models.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
