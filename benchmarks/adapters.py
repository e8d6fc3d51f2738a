"""What ways to tune a SAM network cost, and what they bring.

    python benchmarks/adapters.py --data FOLDER --out DIR [--quick]

Cost: parameters, work and encoding time of ViT-B at 256 with what each way attaches. All take turns, so a busy machine
slows them alike.

Quality: a small SAM is trained from nothing on the training split of all sets but those of three modalities
(ultrasound, dermoscopy, OCT); each way to tune then gets the same samples, steps and two learning rates on the training
split of ``HELD_OUT``, and is scored by a tight box on their validation split. Cases are split by name, so no case is on
both sides.

FOLDER holds the paired sets (see `vesalius.corpus.layouts.pairs`). An interrupted run is taken up where it stopped;
what is finished is kept, but costs are measured anew. Results: ``cost.md``, ``quality.md`` and ``scores.csv`` in DIR.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from flop_count import flops
from vesalius.core.config import Config
from vesalius.core.files import replacing
from vesalius.core.types import Prompt
from vesalius.corpus.layouts.pairs import find_sets, read_pairs
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.split import split_of
from vesalius.evaluation.statistics import Estimate, macro_average
from vesalius.metrics.overlap import dice
from vesalius.models.base import SegmentationModel
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.lora import merge_lora
from vesalius.models.presets import PRESETS, Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.models.tuning import TUNINGS, apply_tuning
from vesalius.predict.predictor import Predictor
from vesalius.prompts.sample import tight_box
from vesalius.training.config import TrainConfig
from vesalius.training.interaction import FirstPrompt, InteractionConfig
from vesalius.training.loop import Task, train
from vesalius.training.losses import LossConfig
from vesalius.training.samples import SampleConfig, SampleSource

HELD_OUT = ("busi", "ddti_thyroid", "oct_bscan_lesions", "ph2")
WAYS = ("decoder", "sam-med2d", "light", "lora", "full")
# Objects of one image that are scored; a field of them would outweigh all else.
OBJECTS = 10

SMALL = SamConfig(
    side=128,
    patch=8,
    encoder_dim=192,
    encoder_depth=6,
    encoder_heads=3,
    global_blocks=(2, 5),
    prompt_dim=128,
    decoder_mlp=512,
    iou_hidden=128,
)
SMALL_PRESET = Preset(side=SMALL.side, mask_side=SMALL.mask_side, fit="stretch")


class Plan(Config):
    """Everything that decides the quality part."""

    pretraining: TrainConfig
    tuning: TrainConfig
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    held_out: tuple[str, ...] = HELD_OUT
    ways: tuple[str, ...] = WAYS


@dataclass(frozen=True)
class Score:
    """One object, outlined from its box after one way to tune."""

    way: str
    rate: float
    seed: int
    dataset: str
    case: str
    image: str
    instance: int
    dice: float


def plan(quick: bool) -> Plan:
    both = {
        "samples": SampleConfig(focus=0.3),
        "interaction": InteractionConfig(rounds=2, first=FirstPrompt(point=0.3, box=0.6, mask=0.1), spread=0.4),
        "loss": LossConfig(sized_entropy=1),
        "schedule": "cosine",
        "betas": (0.9, 0.98),
        "decay": 0.05,
        "clip": 1.0,
        "bf16": True,
    }
    return Plan(
        pretraining=TrainConfig(
            steps=20 if quick else 1600,
            images=8,
            rate=1e-3,
            warmup=100,
            ema=0.998,
            save_every=20 if quick else 50,
            **both,
        ),
        tuning=TrainConfig(steps=5 if quick else 300, images=4, warmup=20, ema=0.98, **both),
        rates=(3e-4,) if quick else (1e-4, 3e-4),
        seeds=(0,) if quick else (0, 1),
    )


def new_sam(config: SamConfig, preset: Preset) -> Sam:
    torch.manual_seed(0)
    model = Sam(config, preset)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos" in name:  # zero in a new network
                parameter.normal_(0, 0.02)
    return model


def cost(turns: int) -> Table:
    def variant(way: str) -> Sam:
        model = new_sam(SamConfig(side=256), PRESETS["sam-256"])
        if way != "none":
            apply_tuning(model, TUNINGS[way])
        return model.eval()

    models = {way: variant(way) for way in ("none", "sam-med2d", "light", "lora")}
    merged = variant("lora")
    merge_lora(merged)
    models["lora, merged"] = merged
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    table = Table(
        "network", "parameters, M", "attached, M", "GFLOP", "encode, ms", "of the plain one", box=box.MARKDOWN
    )
    with torch.inference_mode():
        for turn in range(turns + 1):
            for name, model in models.items():
                taken = seconds(lambda model=model: model.encode(image))
                if turn:  # the first turn warms up
                    times[name].append(taken)
        plain = models["none"]
        for name, model in models.items():
            ratio = statistics.median(a / b for a, b in zip(times[name], times["none"], strict=True))
            table.add_row(
                name,
                f"{size(model):.1f}",
                f"{size(model) - size(plain):.2f}",
                f"{flops(lambda model=model: model.encode(image)) / 1e9:.1f}",
                f"{1e3 * statistics.median(times[name]):.0f}",
                f"{ratio:.2f}",
            )
    return table


def size(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def read(data: Path, held_out: Sequence[str]) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Images of other modalities than those of the held-out sets, and images of the held-out sets."""
    images = [image for folder in find_sets(data) for image in read_pairs(folder)]
    missing = set(held_out) - {image.dataset for image in images}
    if missing:
        raise SystemExit(f"{data}: has no {', '.join(sorted(missing))}")
    unseen = {image.modality for image in images if image.dataset in held_out}
    return [i for i in images if i.modality not in unseen], [i for i in images if i.dataset in held_out]


def of_split(images: Sequence[LabelledImage], split: str) -> list[LabelledImage]:
    return [image for image in images if split_of(image.case) == split]


def task_of(model: Sam, images: Sequence[LabelledImage], config: TrainConfig) -> Task:
    return Task(SampleSource(of_split(images, "train"), model.preset, config.samples, config.seed))


def pretrained(images: Sequence[LabelledImage], config: TrainConfig, out: Path) -> Path:
    folder = out / "pretrained" / "checkpoint"
    if not (folder / "config.json").exists():
        model = new_sam(SMALL, SMALL_PRESET)
        trained = train(model, task_of(model, images, config), config, out / "pretrained")
        save_checkpoint(trained, folder)
    return folder


def tuned(start: Path, way: str, images: Sequence[LabelledImage], config: TrainConfig, out: Path) -> SegmentationModel:
    model = load_checkpoint(start)
    assert isinstance(model, Sam)
    torch.manual_seed(config.seed)
    for part, count in apply_tuning(model, TUNINGS[way]).items():
        print(f"  {part}: {count.trained} of {count.total} parameters train")
    trained = train(model, task_of(model, images, config), config, out)
    if TUNINGS[way].lora:
        merge_lora(trained)
    return trained


def score(model: SegmentationModel, images: Sequence[LabelledImage], way: str, rate: float, seed: int) -> list[Score]:
    predictor = Predictor(TorchRuntime(model), way)
    scores = []
    for image in of_split(images, "val"):
        objects = image.masks[:OBJECTS]
        prompts = [Prompt(box=tight_box(entry.mask)) for entry in objects]
        for entry, found in zip(objects, predictor.predict(predictor.encode(image.image), prompts), strict=True):
            value = dice(found.mask, entry.mask)
            scores.append(Score(way, rate, seed, image.dataset, image.case, image.path.stem, entry.instance, value))
    return scores


def quality(data: Path, out: Path, plan: Plan) -> tuple[Table, list[Score]]:
    others, held_out = read(data, plan.held_out)
    start = pretrained(others, plan.pretraining, out)
    scores = score(load_checkpoint(start), held_out, "none", 0.0, 0)
    for seed in plan.seeds:
        for rate in plan.rates:
            for way in plan.ways:
                folder = out / f"{way}-{rate:g}-{seed}"
                path = folder / "scores.json"
                if not path.exists():
                    print(f"{way}, rate {rate:g}, seed {seed}")
                    config = plan.tuning.model_copy(update={"rate": rate, "seed": seed})
                    model = tuned(start, way, held_out, config, folder)
                    with replacing(path) as part:
                        part.write_text(json.dumps([astuple(s) for s in score(model, held_out, way, rate, seed)]))
                    (folder / "state.pt").unlink()
                scores += [Score(*row) for row in json.loads(path.read_text())]
    table = Table("tuned", "rate", "box Dice", "gain", "over the decoder alone", "between seeds", box=box.MARKDOWN)
    for way, rate in dict.fromkeys((s.way, s.rate) for s in scores):
        own = [s for s in scores if (s.way, s.rate) == (way, rate)]
        by_seed = [
            macro(by_object(s for s in own if s.seed == seed)).mean for seed in dict.fromkeys(s.seed for s in own)
        ]
        values = by_object(own)
        row = [way, f"{rate:g}" if rate else "", told(macro(values), "{:.3f}")]
        for base, base_rate in (("none", 0.0), ("decoder", rate)):
            reference = by_object(s for s in scores if (s.way, s.rate) == (base, base_rate))
            compared = reference and base != way and way != "none"
            gain = {key: value - reference[key] for key, value in values.items()} if compared else {}
            row.append(told(macro(gain), "{:+.3f}") if gain else "")
        table.add_row(*row, f"{min(by_seed):.3f} to {max(by_seed):.3f}" if len(by_seed) > 1 else "")
    return table, scores


def by_object(scores) -> dict[tuple[str, str, str, int], float]:
    """Each object's mean over the seeds."""
    found: dict[tuple[str, str, str, int], list[float]] = {}
    for s in scores:
        found.setdefault((s.dataset, s.case, s.image, s.instance), []).append(s.dice)
    return {key: float(np.mean(values)) for key, values in found.items()}


def macro(values: dict[tuple[str, str, str, int], float]) -> Estimate:
    return macro_average(
        list(values.values()), [key[0] for key in values], [key[1] for key in values], np.random.default_rng(0)
    )


def told(estimate: Estimate, pattern: str) -> str:
    return f"{pattern} ({pattern} to {pattern})".format(estimate.mean, estimate.low, estimate.high)


def keep(table: Table, path: Path, heading: str) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        console = Console(file=file, width=160)
        console.print(heading)
        console.print(table)
    print(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    decided = plan(arguments.quick)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if (out / "plan.json").exists() and (out / "plan.json").read_text() != decided.model_dump_json():
        raise SystemExit(f"{out}: holds another run; choose another folder")
    with replacing(out / "plan.json") as part:
        part.write_text(decided.model_dump_json())
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    turns = 2 if arguments.quick else 15
    keep(cost(turns), out / "cost.md", f"ViT-B 256, {threads}, median of {turns} turns\n")
    table, scores = quality(arguments.data, out, decided)
    with replacing(out / "scores.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Score)])
        writer.writerows(astuple(s) for s in scores)
    objects = by_object(scores)
    cases = {key[:2] for key in objects}
    steps = f"{decided.pretraining.steps} steps of {decided.pretraining.images} images before, "
    steps += f"{decided.tuning.steps} of {decided.tuning.images} to tune"
    keep(table, out / "quality.md", f"{len(objects)} objects of {len(cases)} cases, {steps}\n")


if __name__ == "__main__":
    main()
