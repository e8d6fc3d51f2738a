"""Everything mode, end to end, beside the published generator's way written plainly, on the same weights and settings.

    python benchmarks/everything.py -o OUT [--sides 256 1024] [--weights FOLDER] [--exports FOLDER] [--clicks 32]

From an image of the network's own size to compressed run lengths of all outlines, on the CPU, by a ViT-B SAM with
32 x 32 clicks; ``--clicks 8`` is quick. The plain way (`plain_everything.py`) enlarges every mask of 64 clicks before
it filters; its network is written plainly too (`plain_sam.py`). All take turns in one process; the ratios carry over to
other machines better than the seconds. On a machine where other work runs, ``taskset -c 0`` and ``--processor-time``
count the seconds that one core worked.

Thresholds are set once, on the answers of torch in float32, so that of all masks 40 % pass that of the predicted IoU
and of these 60 % that of stability, whose offset is a tenth of what the surest of the logits reach: weights that were
trained for a short time are less sure of themselves than published ones, and without survivors the work after decoding
would not be measured. ``--weights`` names a checkpoint of a ViT-B SAM at 256; without it weights are random.
``--exports`` is the folder of exports that ``models.py`` left; what is not there is exported.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import plain_everything
import plain_sam
from models import network
from vesalius.core.frame import Frame
from vesalius.demo import CASES, read_case
from vesalius.models.export import export_model
from vesalius.models.exported import load_export
from vesalius.models.runtime import PromptArrays, Runtime
from vesalius.models.sam.model import Sam
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.everything import (
    EverythingConfig,
    Proposal,
    Zoom,
    coco_annotations,
    grid_points,
    segment_everything,
)
from vesalius.predict.predictor import Predictor

SURE, STABLE = 0.4, 0.6
EXPORTS = (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))


def picture(side: int) -> np.ndarray:
    """(side, side, 3) uint8, an image of the demonstration."""
    rgb = read_case(CASES[0]).rgb()
    return Frame.stretch(rgb.shape[:2], side).image(rgb)


def settings_for(runtime: Runtime, rgb: np.ndarray, side: int) -> dict[str, float]:
    """Thresholds that the shares of masks pass that the head of this file names."""
    predictor = Predictor(runtime, "torch")
    embedding = predictor.encode(rgb)
    points = grid_points(embedding.frame, side)
    rows = np.zeros(len(points), np.int64)
    prompts = PromptArrays(points[:, None], np.ones((len(points), 1), np.int64), rows)
    logits, quality = runtime.decode([embedding.features], prompts, True)
    low, scores = logits.reshape(-1, *logits.shape[2:]), quality.reshape(-1)
    least = float(np.quantile(scores, 1 - SURE))
    zoom = Zoom(embedding.frame, runtime.preset.mask_side)
    sure = low[scores > least]
    offset = float(np.quantile(np.abs(low), 0.95)) / 10
    stable = np.array([zoom.measure(mask, offset)[0] for mask in sure])
    threshold = float(np.quantile(stable, 1 - STABLE))
    refused = sum(zoom.stability_bound(mask, offset) < threshold for mask in sure)
    print(
        f"{len(scores)} masks, {len(sure)} above a predicted IoU of {least:.3f}, of these {(stable >= threshold).sum()}"
        f" have a stability of {threshold:.3f} with offset {offset:.2f}; of the others {refused} are refused by the"
        " bound at low resolution",
        flush=True,
    )
    return {"side": side, "min_quality": min(max(least, 0), 1), "min_stability": threshold, "offset": offset}


def ours(runtime: Runtime, rgb: np.ndarray, settings: dict[str, float]) -> list[Proposal]:
    # A new predictor each time: it keeps embeddings.
    found = segment_everything(Predictor(runtime, runtime.label), rgb, **settings)
    coco_annotations(found)
    return found


def plain(sam: Sam, rgb: np.ndarray, settings: dict[str, float]) -> list[plain_everything.Found]:
    found = plain_everything.generate(
        sam, plain_sam.plain_decoder(sam), rgb, EverythingConfig.from_dict(dict(settings))
    )
    plain_everything.to_coco(found)
    return found


def alike(found: list[Any], others: list[np.ndarray]) -> float:
    """The share of masks that have one like it, of an IoU above 0.9, among others."""
    if not found:
        return float("nan")
    rest = np.stack(others).reshape(len(others), -1).astype(np.float32)
    shares = []
    for entry in found:
        mask = entry.mask.ravel().astype(np.float32)
        common = rest @ mask
        shares.append((common / (rest.sum(1) + mask.sum() - common)).max() > 0.9)
    return float(np.mean(shares))


def compete(side: int, arguments: argparse.Namespace) -> list[str]:
    """The table of one input side, as lines of Markdown."""
    sam = network(side, None, arguments.weights)
    by_torch = TorchRuntime(sam)
    rgb = picture(side)
    settings = settings_for(by_torch, rgb, arguments.clicks)
    runtimes: list[Runtime] = [by_torch]
    for kind, precision in EXPORTS:
        folder = arguments.exports / f"{side}-plain-{kind}-{precision}"
        if not (folder / "export.json").is_file() or load_export(folder).digest != by_torch.digest:
            print(f"exporting {folder.name}", flush=True)
            export_model(sam, folder, kind, precision, [rgb])
        runtimes.append(load_export(folder))
    clock = time.process_time if arguments.processor_time else time.perf_counter
    few = settings | {"side": 2}
    calls: dict[str, Callable[[dict[str, float]], list[Any]]] = {"plain": lambda s: plain(sam, rgb, s)}
    for runtime in runtimes:
        calls[f"vesalius, {runtime.label}"] = lambda s, r=runtime: ours(r, rgb, s)
    for call in calls.values():
        call(few)
    results: dict[str, list[Any]] = {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(arguments.turns):
        for name, call in calls.items():
            start = clock()
            results[name] = call(settings)
            times[name].append(clock() - start)
            print(f"{side} {name} {times[name][-1]:.2f} s, {len(results[name])} outlines", flush=True)
    spent = {name: statistics.median(values) for name, values in times.items()}
    masks = [entry.mask() for entry in results["plain"]]
    lines = [
        f"### ViT-B, {side} x {side}, {settings['side']} x {settings['side']} clicks",
        "",
        "| | s | times as fast as plain | outlines | like one of plain's |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.items():
        same = "" if name == "plain" else f"{alike(found, masks):.0%}"
        lines.append(f"| {name} | {spent[name]:.2f} | {spent['plain'] / spent[name]:.2f} | {len(found)} | {same} |")
    print("\n".join(lines), flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for everything.md")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--weights", type=Path, help="checkpoint folder of a ViT-B SAM at 256")
    parser.add_argument("--exports", type=Path, help="folder of exports; OUT/exports if left out")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--clicks", type=int, default=32, help="clicks along each side")
    parser.add_argument("--processor-time", action="store_true", help="count processor seconds, not those of the clock")
    arguments = parser.parse_args()
    arguments.exports = arguments.exports or arguments.output / "exports"
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}", ""]
    for side in arguments.sides:
        lines += compete(side, arguments)
        (arguments.output / "everything.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
