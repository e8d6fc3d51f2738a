"""Training beside SAM-Med2D's published loop written plainly (`plain_training.py`), on the same weights and samples.

    python benchmarks/training.py [--images 2] [--turns 5] [--steps 10] [--parts float32 bfloat16 run loader features]
                                  [--device cuda]

ViT-B at 256 with SAM-Med2D's adapters by the recipe ``sam-med2d``: 5 masks per image and 9 rounds. A step is forward,
backward and Adam; all contestants take turns in one process, so a busy machine slows them alike: the ratios are
comparable between machines, the seconds are not. The plain loop runs on the network written plainly (`plain_sam.py`)
and on our own modules, decoding mask by mask or all masks of a batch at once.

"Of peak" is the useful work of a step, in floating-point operations of the engine's forward and backward, per second,
as a share of what a large matrix product in the same precision reaches on the same device in the same turns. Float32 is
float32 in full, without TF32.

"Apart" compares the plain loop's loss and gradients with the engine's where both are shown the same prompts: the
largest difference of any gradient, as a share of the largest gradient. Prompts follow from the masks drawn before, so
a single pixel that rounding moves to the other side would lead the two to other prompts.

The run goes through `vesalius.training.loop.train`, samples and records included. The loader's figures are of the same
corpus, made up by `curation.py`. ``ft-sam`` trains the mask decoder on kept features, and without keeping them.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import plain_training
from curation import made_up
from flop_count import flops
from vesalius.corpus.curate import curate
from vesalius.corpus.recipe import DatasetRecipe, Recipe
from vesalius.corpus.store import Corpus
from vesalius.models.presets import PRESETS
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.torch_runtime import without_tf32
from vesalius.models.tuning import TUNINGS, apply_tuning
from vesalius.training.batches import collate
from vesalius.training.config import TrainConfig
from vesalius.training.distributed import World
from vesalius.training.interaction import Batch, InteractiveStep
from vesalius.training.loop import Task, optimiser_of, train
from vesalius.training.run import find_recipe
from vesalius.training.samples import SampleSource, batches

PARTS = ("float32", "bfloat16", "run", "loader", "features")
# Side of the matrices of the large product; a GPU would be done with those of a CPU before it is busy.
PRODUCT = {"cpu": 2048, "cuda": 8192}


def network(tuning: str) -> Sam:
    torch.manual_seed(0)
    model = Sam(SamConfig(side=256), PRESETS["sam-med2d"])
    for name, parameter in model.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter, std=0.02)
    apply_tuning(model, TUNINGS[tuning])
    return model


def recipe(name: str, **changes: Any) -> TrainConfig:
    config = TrainConfig.from_toml(find_recipe(name))
    return TrainConfig.from_dict({**config.model_dump(mode="json"), **changes})


def made_corpus(folder: Path) -> Corpus:
    made_up(folder / "raw", volumes=4, side=160)
    datasets = (DatasetRecipe(name="all", layout="msd", root=Path(), modality="ct"),)
    curate(Recipe(name="all", datasets=datasets), folder / "corpus", root=folder / "raw", workers=1)
    return Corpus(folder / "corpus")


def batch_of(source: SampleSource, config: TrainConfig, step: int) -> Batch:
    numbers = list(range(step * config.images, (step + 1) * config.images))
    samples = [source[number] for number in numbers]
    return collate(samples, numbers, step, source.preset, config.interaction.grid)


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def products(config: TrainConfig, device: torch.device) -> dict[str, Callable[[], object]]:
    """A large matrix product in a run's precision; two libraries have one in float32 on a CPU."""
    kind = torch.bfloat16 if config.bf16 else torch.float32
    a, b = torch.randn(2, PRODUCT[device.type], PRODUCT[device.type], device=device).to(kind)
    calls: dict[str, Callable[[], object]] = {"BLAS": lambda: a @ b}
    if device.type == "cpu" and not config.bf16:
        picture, kernel = a[None, :, None].permute(0, 3, 1, 2), b[:, :, None, None]
        calls["oneDNN"] = lambda: F.conv2d(picture, kernel)
    return calls


class Engine:
    """The engine's step, as `vesalius.training.loop` takes it."""

    def __init__(self, model: Sam, config: TrainConfig) -> None:
        self.step, self.config = InteractiveStep(model, config.interaction, config.loss), config

    def __call__(self, batch: Batch) -> float:
        """Leaves gradients; the loss."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.config.bf16):
            loss, _ = self.step(batch)
        loss.backward()
        return float(loss.detach())


class Plain:
    """The plain loop."""

    def __init__(self, network: plain_training.Network, config: TrainConfig, together: bool) -> None:
        self.network, self.config, self.together = network, config, together

    def __call__(self, batch: Batch, **given: Any) -> float:
        """Leaves gradients; the loss."""
        config = self.config
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=config.bf16):
            losses = plain_training.step(
                self.network, batch, config.interaction, config.loss, together=self.together, **given
            )
        return statistics.fmean(losses)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def apart(engine: Engine, plain: Plain, batch: Batch) -> tuple[float, float]:
    """Differences of the loss and of the gradients, as shares of the largest, where both are shown the same prompts."""
    model = engine.step.model
    low = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=engine.config.bf16)
    with torch.no_grad(), low:
        given = [(told.logits, told.quality) for told in engine.step.play(batch)]
    model.zero_grad()
    loss = engine(batch)
    ours = gradients(model)
    model.zero_grad()
    theirs_loss = plain(batch, given=given)
    theirs = gradients(model)
    assert ours.keys() <= theirs.keys()
    largest = max(float(value.abs().max()) for value in theirs.values())
    # The engine leaves out the bias of some keys: softmax does not feel it, and its gradient is nothing but rounding.
    difference = max(float((ours.get(name, 0) - value).abs().max()) for name, value in theirs.items())
    return abs(loss - theirs_loss) / abs(theirs_loss), difference / largest


@without_tf32()
def compete(source: SampleSource, config: TrainConfig, turns: int, device: torch.device) -> Table:
    """One step of all contestants."""
    model = network("sam-med2d").to(device)
    plainly = plain_training.written_plainly(model)
    own = plain_training.as_it_is(model)
    contestants: dict[tuple[str, str], Engine | Plain] = {
        ("plain", "mask by mask"): Plain(plainly, config, together=False),
        ("plain", "at once"): Plain(plainly, config, together=True),
        ("ours", "mask by mask"): Plain(own, config, together=False),
        ("ours", "at once"): Plain(own, config, together=True),
        ("ours", "the engine"): Engine(model, config),
    }
    engine = contestants["ours", "the engine"]
    assert isinstance(engine, Engine)
    batch = batch_of(source, config, 0).to(device)
    work = flops(lambda: engine(batch))
    model.zero_grad()
    agreement = {
        key: apart(engine, one, batch)
        for key, one in contestants.items()
        if isinstance(one, Plain) and key[0] == "plain"
    }
    # All of them train the same weights.
    adam = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=config.rate)
    fused = optimiser_of(model, config)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in contestants}
    large = products(config, device)
    times_of_products: dict[str, list[float]] = {name: [] for name in large}
    for turn in range(turns + 1):
        batch = batch_of(source, config, turn).to(device)
        for key, call in contestants.items():
            optimiser = fused if call is engine else adam
            start = now(device)
            optimiser.zero_grad(set_to_none=True)
            call(batch)
            optimiser.step()
            times[key].append(now(device) - start)
        for name, product in large.items():
            start = now(device)
            product()
            times_of_products[name].append(now(device) - start)
    # The first turn warms up.
    medians = {key: statistics.median(values[1:]) for key, values in times.items()}
    peak = max(2 * PRODUCT[device.type] ** 3 / statistics.median(values[1:]) for values in times_of_products.values())
    slowest = medians["plain", "mask by mask"]
    columns = ("s per step", "images/s", "times as fast", "of peak", "loss apart", "gradients apart")
    table = Table("network", "loop", *columns)
    for key, seconds in medians.items():
        told = [f"{value:.1e}" for value in agreement[key]] if key in agreement else ["", ""]
        loop = key[1] if key[1] == "the engine" else f"plain, {key[1]}"
        figures = [f"{value:.2f}" for value in (config.images / seconds, slowest / seconds)]
        table.add_row(key[0], loop, f"{seconds:.3g}", *figures, f"{work / seconds / peak:.1%}", *told)
    return table


def rows_of_run(model: Sam, source: SampleSource, config: TrainConfig, device: torch.device) -> list[float]:
    """Images per second of each part of ``save_every`` steps of a run, without its start, checkpoints and pictures."""
    with tempfile.TemporaryDirectory() as folder:
        config = config.model_copy(update={"validate_every": 10**6})
        train(model, Task(source), config, Path(folder), World(device=str(device)))
        with (Path(folder) / "log.csv").open(newline="") as file:
            return [float(row["images_per_second"]) for row in csv.DictReader(file)]


def plain_run(source: SampleSource, config: TrainConfig, steps: int, device: torch.device) -> float:
    """Images per second of a plain run, which draws samples between its steps."""
    model = network("sam-med2d").to(device)
    loop = Plain(plain_training.written_plainly(model), config, together=False)
    optimiser = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=config.rate)
    start = now(device)
    for step in range(steps):
        optimiser.zero_grad(set_to_none=True)
        loop(batch_of(source, config, step).to(device))
        optimiser.step()
    return config.images * steps / (now(device) - start)


def runs(source: SampleSource, config: TrainConfig, steps: int, device: torch.device) -> Table:
    """A run of several steps, samples and records included."""
    config = config.model_copy(update={"stop": steps, "save_every": steps})
    plain = plain_run(source, config, steps, device)
    (engine,) = rows_of_run(network("sam-med2d"), source, config, device)
    table = Table("run", "images/s", "times as fast")
    table.add_row("plain, mask by mask", f"{plain:.2f}", "1.00")
    table.add_row("vesalius train", f"{engine:.2f}", f"{engine / plain:.2f}")
    return table


def rate_of_samples(source: SampleSource, config: TrainConfig, workers: int, seconds: float = 3.0) -> float:
    """Samples per second, collated, while nobody else computes; the first ones, which start it, are left out."""
    count, start = 0, 0.0
    for number, samples in enumerate(batches(source, 0, 10**6, 8, workers)):
        collate(samples, list(range(8)), number, source.preset, config.interaction.grid)
        if number < 8:
            start = time.perf_counter()
            continue
        count += len(samples)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def loading(corpus: Corpus, config: TrainConfig) -> Table:
    table = Table("samples", "drawn by", "images/s")
    for name, changes in (
        ("whole, kept decoded", {}),
        ("whole, decoded each time", {"memory": 0.0}),
        ("augmented, kept decoded", {"augment": True}),
    ):
        for workers in (0, 2):
            settings = config.samples.model_copy(update=changes)
            rate = rate_of_samples(SampleSource(corpus, PRESETS["sam-med2d"], settings, seed=0), config, workers)
            table.add_row(name, f"{workers} processes" if workers else "a thread", f"{rate:.0f}")
    return table


def features(corpus: Corpus, steps: int, device: torch.device) -> Table:
    """FT-SAM's recipe on few images, so that all are known after the first part of the run."""
    table = Table("features", "images/s after the first epoch", "times as fast")
    base = 0.0
    for cache in ("none", "memory", "disk"):
        config = recipe("ft-sam", epochs=None, steps=8 * (1 + steps), cache=cache, bf16=False, save_every=8)
        images = [image for i in range(100) if (image := corpus.read(i)).masks and image.split == "train"]
        source = SampleSource(images[: 8 * config.images], PRESETS["sam-med2d"], config.samples, seed=0)
        rate = statistics.median(rows_of_run(network("decoder"), source, config, device)[1:])
        base = base or rate
        table.add_row({"none": "computed each time"}.get(cache, f"kept ({cache})"), f"{rate:.2f}", f"{rate / base:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    console = Console(width=140)
    exact = recipe("sam-med2d", images=arguments.images, bf16=False)
    with tempfile.TemporaryDirectory() as folder:
        corpus = made_corpus(Path(folder))
        source = SampleSource(corpus, PRESETS["sam-med2d"], exact.samples, seed=0)
        for part in arguments.parts:
            if part in ("float32", "bfloat16"):
                config = exact.model_copy(update={"bf16": part == "bfloat16"})
                table = compete(source, config, arguments.turns, arguments.device)
            elif part == "run":
                table = runs(source, exact, arguments.steps, arguments.device)
            else:
                loader = part == "loader"
                table = loading(corpus, exact) if loader else features(corpus, arguments.steps, arguments.device)
            table.box, table.title = box.MARKDOWN, part
            console.print(table)


if __name__ == "__main__":
    main()
