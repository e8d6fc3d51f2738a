"""How long an image and a prompt take, beside transformers' ``SamModel`` with the same weights in the same process.

    python benchmarks/latency.py [--quick]

All contestants take turns, so a busy machine slows them alike: the ratios are comparable between machines, the
milliseconds are not. "GFLOP" is the work each one does, and "of peak" its speed as a share of that of a large float32
matrix product, measured in the same turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vesalius
from transformers_layout import transformers_sam
from vesalius.models.base import PromptBatch, SegmentationModel
from vesalius.models.presets import PRESETS
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam

PRODUCT = 2048


@dataclass
class Contestant:
    """Something to be timed: what it does, who does it, and how."""

    task: str
    name: str
    call: Callable[[], object]


def boxes(count: int) -> PromptBatch:
    corners = torch.tensor([[60.0, 70.0, 180.0, 190.0]]).repeat(count, 1) + torch.arange(count)[:, None]
    return PromptBatch(torch.zeros(count, 0, 2), torch.zeros(count, 0, dtype=torch.long), corners)


def ours(name: str, model: SegmentationModel, image: torch.Tensor, counts: list[int]) -> list[Contestant]:
    features = model.encode(image)
    prompts = {count: boxes(count) for count in counts}
    return [
        Contestant("encode", name, lambda: model.encode(image)),
        *(Contestant(task(n), name, lambda n=n: model.decode(features, prompts[n])) for n in counts),
    ]


def theirs(model: nn.Module, image: torch.Tensor, counts: list[int]) -> list[Contestant]:
    embedding = model.get_image_embeddings(image)
    corners = {count: boxes(count).boxes[None] for count in counts}
    return [
        Contestant("encode", "transformers", lambda: model.get_image_embeddings(image)),
        *(
            Contestant(task(n), "transformers", lambda n=n: model(image_embeddings=embedding, input_boxes=corners[n]))
            for n in counts
        ),
    ]


def task(count: int) -> str:
    return f"prompt, {count} box{'es' if count > 1 else ''}"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 turns instead of 30")
    turns = 5 if parser.parse_args().quick else 30
    torch.manual_seed(0)
    image = torch.randn(1, 3, 256, 256)
    counts = [1, 16]

    sam = Sam(SamConfig(side=256), PRESETS["sam-256"]).eval()
    reference = transformers_sam(sam.config, sam.state_dict())
    expected = reference(pixel_values=image, input_boxes=boxes(1).boxes[None]).pred_masks[:, 0]
    torch.testing.assert_close(sam.decode(sam.encode(image), boxes(1))[0], expected, rtol=1e-3, atol=1e-3)

    contestants = [
        *theirs(reference, image, counts),
        *ours("vesalius, SAM ViT-B 256", sam, image, counts),
    ]
    try:
        contestants += ours("vesalius-tiny", vesalius.load_model().runtime.model, image, counts)
    except vesalius.VesaliusError as error:
        print(f"vesalius-tiny is left out: {error}")
    flops = []
    for contestant in contestants:
        with FlopCounterMode(display=False) as counter:
            contestant.call()
        flops.append(counter.get_total_flops())

    matrix = torch.randn(PRODUCT, PRODUCT)
    product: list[float] = []
    times: list[list[float]] = [[] for _ in contestants]
    for turn in range(turns + 1):
        taken = [seconds(lambda: matrix @ matrix), *(seconds(contestant.call) for contestant in contestants)]
        if turn:  # the first turn warms up
            product.append(taken[0])
            for own, value in zip(times, taken[1:], strict=True):
                own.append(value)

    peak = 2 * PRODUCT**3 / statistics.median(product)
    medians = [statistics.median(own) for own in times]
    base = {c.task: value for c, value in zip(contestants, medians, strict=True) if c.name == "transformers"}
    table = Table("task", "network", "ms", "of transformers", "GFLOP", "of peak", box=box.MARKDOWN)
    for contestant, median, count in sorted(
        zip(contestants, medians, flops, strict=True), key=lambda row: list(base).index(row[0].task)
    ):
        table.add_row(
            contestant.task,
            contestant.name,
            f"{1e3 * median:.1f}",
            f"{median / base[contestant.task]:.2f}",
            f"{count / 1e9:.2f}",
            f"{count / median / peak:.0%}",
        )
    console = Console(width=120)
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {turns} turns, "
        f"matrix product {peak / 1e9:.0f} GFLOP/s"
    )
    console.print(table)


if __name__ == "__main__":
    main()
