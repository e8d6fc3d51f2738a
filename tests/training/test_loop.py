import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tests.training.conftest import discs, tiny

from golden.networks import sam
from made_specialists import specialist
from vesalius.core.errors import ConfigError, VesaliusError, WriteError
from vesalius.core.files import locked
from vesalius.models.base import SegmentationModel
from vesalius.models.checkpoint import load_checkpoint
from vesalius.models.tiny import Tiny
from vesalius.models.tuning import TUNINGS, apply_tuning
from vesalius.training import embeddings, loop
from vesalius.training.batches import collate
from vesalius.training.config import TrainConfig
from vesalius.training.distributed import World
from vesalius.training.embeddings import FeatureCache
from vesalius.training.interaction import FirstPrompt, InteractionConfig, InteractiveStep
from vesalius.training.loop import Task, optimiser_of, train
from vesalius.training.losses import LossConfig
from vesalius.training.monitor import GREEN, contact_sheet
from vesalius.training.samples import SampleConfig

RUN = TrainConfig(steps=12, images=2, rate=2e-3, warmup=2, ema=0.9, clip=1.0, save_every=3, validate_every=6)
# What the networks of the papers are trained by, in small.
SAM_RUN = TrainConfig(
    steps=3,
    images=2,
    rate=1e-3,
    samples=SampleConfig(augment=False),
    interaction=InteractionConfig(
        rounds=3, first=FirstPrompt(point=0.5, box=0.5, mask=0), keep=False, select="iou", spread=0, grid="input"
    ),
    loss=LossConfig(focal=20, dice=1),
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def changed(model: SegmentationModel, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def copied(model: SegmentationModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_it_learns(small_model: Tiny, tmp_path: Path) -> None:
    config = RUN.model_copy(update={"steps": 40, "images": 4, "rate": 3e-3, "save_every": 10, "validate_every": 20})
    train(small_model, discs(small_model, config, 6), config, tmp_path)
    table = rows(tmp_path / "log.csv")
    assert [int(row["step"]) for row in table] == [10, 20, 30, 40]
    assert float(table[-1]["loss"]) < 0.8 * float(table[0]["loss"])
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["0000020.png", "0000040.png"]


def test_tensorboard_is_told_what_the_table_is(small_model: Tiny, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(small_model, discs(small_model, RUN), RUN, tmp_path)
    board = reading.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    table = rows(tmp_path / "log.csv")
    for name in ("loss", "iou_round_1", "rate"):
        told = [(event.step, event.value) for event in board.Scalars(f"log/{name}")]
        assert told == [(int(row["step"]), pytest.approx(float(row[name]), rel=1e-5)) for row in table]
    assert [event.step for event in board.Images("predictions")] == [6, 12]


SCRIPT = """
import sys, torch
from pathlib import Path
from tests.training.conftest import discs, tiny
from tests.training.test_loop import RUN
from vesalius.training import loop
torch.set_num_threads(1)
model = tiny()
if len(sys.argv) > 2:
    save, left = loop._Run._save, [int(sys.argv[2])]
    def die_between_log_and_checkpoint(run):
        left[0] -= 1
        if not left[0]:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        save(run)
    loop._Run._save = die_between_log_and_checkpoint
task = discs(model, RUN, validate=lambda model: {"dice": float(next(model.parameters()).sum())})
torch.save(loop.train(model, task, RUN, Path(sys.argv[1])).state_dict(), sys.argv[1] + "/done.pt")
"""


def numbers(folder: Path) -> list[dict[str, str]]:
    timed = {"seconds", "images_per_second"}
    table = rows(folder / "log.csv") + rows(folder / "validation.csv")
    return [{key: value for key, value in row.items() if key not in timed} for row in table]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX signal")
def test_a_killed_run_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}

    def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(folder), *more]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole, killed, between = tmp_path / "whole", tmp_path / "killed", tmp_path / "between"
    assert start(whole).wait() == 0
    process = start(killed)
    deadline = time.monotonic() + 120
    while not (killed / "state.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "done.pt").exists()
    # The third row of the log is there, and its checkpoint is not.
    assert start(between, "3").wait() == -signal.SIGKILL
    assert [row["step"] for row in rows(between / "log.csv")] == ["3", "6", "9"]
    expected = torch.load(whole / "done.pt", weights_only=True)
    for folder in (killed, between):
        assert start(folder).wait() == 0
        resumed = torch.load(folder / "done.pt", weights_only=True)
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)
        assert numbers(folder) == numbers(whole)


def test_a_run_is_continued_only_if_asked_and_only_as_the_same(small_model: Tiny, tmp_path: Path) -> None:
    start = copied(small_model)
    first = RUN.model_copy(update={"stop": 3})
    train(small_model, discs(small_model, RUN), first, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["step"] == 3
    small_model.load_state_dict(start)
    with pytest.raises(ConfigError, match="--resume"):
        train(small_model, discs(small_model, RUN), RUN, tmp_path, resume=False)
    with pytest.raises(ConfigError, match=r"another configuration: config.rate was 0.002, and is 0.1"):
        train(small_model, discs(small_model, RUN), RUN.model_copy(update={"rate": 0.1}), tmp_path)
    # Where it stops is no part of what it is, nor how much of its images stays decoded.
    spare = RUN.model_copy(update={"samples": RUN.samples.model_copy(update={"memory": 0.5})})
    train(small_model, discs(small_model, spare), spare, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["step"] == 12


def test_a_run_goes_on_where_its_corpus_has_moved_and_settings_are_new(small_model: Tiny, tmp_path: Path) -> None:
    def task(**about: str) -> Task:
        return dataclasses.replace(discs(small_model, RUN), about={"corpus_digest": "1", **about})

    start = copied(small_model)
    whole = copied(train(small_model, task(corpus="data"), RUN, tmp_path / "whole"))
    small_model.load_state_dict(start)
    train(small_model, task(corpus="data"), RUN.model_copy(update={"stop": 2}), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    identity = json.loads(state["identity"])
    del identity["config"]["interaction"]["loose"]  # of a version that did not have it
    torch.save({**state, "identity": json.dumps(identity)}, tmp_path / "run" / "state.pt")
    with pytest.raises(ConfigError, match="corpus_digest was 1, and is 2"):
        train(small_model, task(corpus="data", corpus_digest="2"), RUN, tmp_path / "run")
    with pytest.raises(ConfigError, match="features kept was False"):
        train(small_model, task(corpus="data"), RUN.model_copy(update={"cache": "memory"}), tmp_path / "run")
    moved = copied(train(small_model, task(corpus="/elsewhere/data"), RUN, tmp_path / "run"))
    assert all(torch.equal(moved[name], value) for name, value in whole.items())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["corpus"] == "/elsewhere/data"


def test_an_output_that_is_a_file_is_refused(small_model: Tiny, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"notes.txt: no folder can be made there"):
        train(small_model, discs(small_model, RUN), RUN, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", "2024-01-01,mine\n"),
        ("log.csv", "1,mine\n"),
        ("validation.csv", "case,dice\n1,2\n"),
        ("run.json", '{"protocols": []}'),
        ("run.json", "mine"),
    ],
)
def test_files_of_another_kind_are_left_alone(small_model: Tiny, name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WriteError, match=f"{name}: is there, and is of no training run"):
        train(small_model, discs(small_model, RUN), RUN, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: content}


def test_two_processes_do_not_train_into_one_folder(small_model: Tiny, tmp_path: Path) -> None:
    short = RUN.model_copy(update={"stop": 1})
    with locked(tmp_path / ".lock"), pytest.raises(VesaliusError, match="another process is at work"):
        train(small_model, discs(small_model, RUN), short, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    train(small_model, discs(small_model, RUN), short, tmp_path)
    assert (tmp_path / loop.STATE).is_file()


def test_a_run_is_continued_by_as_many_processes_as_began_it(small_model: Tiny, tmp_path: Path, monkeypatch) -> None:
    train(small_model, discs(small_model, RUN), RUN.model_copy(update={"stop": 1}), tmp_path)
    monkeypatch.setattr(World, "wait", lambda self: None)
    monkeypatch.setattr(World, "wrap", lambda self, step: step)
    with pytest.raises(ConfigError, match=r"another configuration: processes was 1, and is 2"):
        train(small_model, discs(small_model, RUN), RUN, tmp_path, World(size=2))


def test_more_processes_than_a_step_has_images_are_refused(small_model: Tiny, tmp_path: Path) -> None:
    config = RUN.model_copy(update={"images": 6, "accumulate": 2})
    with pytest.raises(ConfigError, match="4 processes need 8 images per step, and the recipe has 6; start at most 3"):
        train(small_model, discs(small_model, config), config, tmp_path, World(size=4))
    assert not list(tmp_path.iterdir())


def test_what_killed_runs_left_half_written_is_removed(small_model: Tiny, tmp_path: Path) -> None:
    left = [tmp_path / folder / ".part-1-abc-x.pt" for folder in ("", "predictions", "features")]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    train(small_model, discs(small_model, RUN), RUN.model_copy(update={"stop": 1}), tmp_path)
    assert not any(path.exists() for path in left)


def test_a_run_from_another_network_is_not_continued(tmp_path: Path) -> None:
    model = sam()
    apply_tuning(model, TUNINGS["decoder"])
    train(model, discs(model, SAM_RUN), SAM_RUN.model_copy(update={"stop": 1}), tmp_path)
    with torch.no_grad():
        model.image_encoder.pos_embed += 1
    with pytest.raises(ConfigError, match="frozen was"):
        train(model, discs(model, SAM_RUN), SAM_RUN, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(small_model: Tiny, tmp_path: Path) -> None:
    with torch.no_grad():
        small_model.decoder.masks.bias.fill_(torch.nan)
    with pytest.raises(VesaliusError, match=r"nan at step 0; .* in another folder$"):
        train(small_model, discs(small_model, RUN), RUN, tmp_path)
    assert not (tmp_path / "state.pt").exists()
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    task = discs(small_model, RUN)
    assert kept["step"] == 0
    assert np.array_equal(kept["batches"][0]["images"][1].numpy(), task.source[1].image)


def test_a_gradient_that_is_no_number_stops_the_run(small_model: Tiny, tmp_path: Path) -> None:
    small_model.decoder.masks.bias.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(VesaliusError, match=r"the gradient became (nan|inf) at step 0"):
        train(small_model, discs(small_model, RUN), RUN, tmp_path)
    assert (tmp_path / "bad_batch.pt").exists()


class Recorder(torch.optim.SGD):
    """Plain gradient descent that keeps, of each step, its rate, the norm of its gradient and the weights after it."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model.parameters(), lr=1.0)
        self.model, self.kept = model, []

    def step(self, closure: None = None) -> None:
        norm = torch.nn.utils.get_total_norm([value.grad for value in self.model.parameters()])
        super().step()
        weights = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.kept.append((self.param_groups[0]["lr"], float(norm), weights))


def test_steps_are_of_the_stated_rate_clipped_and_averaged(small_model: Tiny, tmp_path: Path, monkeypatch) -> None:
    config = RUN.model_copy(update={"rate": 0.2, "clip": 0.05, "ema": 0.5, "save_every": 1})
    recorder = Recorder(small_model)
    monkeypatch.setattr(loop, "optimiser_of", lambda *_: recorder)
    average = {name: value.detach().clone() for name, value in small_model.named_parameters()}
    averaged = dict(train(small_model, discs(small_model, config), config, tmp_path).named_parameters())
    assert [rate for rate, _, _ in recorder.kept] == [config.rate_at(step, 4) for step in range(12)]
    told = [float(row["gradient"]) for row in rows(tmp_path / "log.csv")]
    assert min(told) > config.clip
    assert [norm for _, norm, _ in recorder.kept] == pytest.approx([config.clip] * 12, rel=1e-3)
    for step, (_, _, weights) in enumerate(recorder.kept):
        kept = min(config.ema, (step + 1) / (step + 10))
        average = {name: kept * value + (1 - kept) * weights[name] for name, value in average.items()}
    for name, value in average.items():
        torch.testing.assert_close(averaged[name].detach(), value, rtol=1e-5, atol=1e-7)


def test_only_matrices_decay(small_model: Tiny) -> None:
    optimiser = optimiser_of(small_model, RUN.model_copy(update={"optimiser": "adamw", "decay": 0.1}))
    decays = {id(value): group["weight_decay"] for group in optimiser.param_groups for value in group["params"]}
    found = {name: decays[id(value)] for name, value in small_model.named_parameters()}
    assert found == {name: 0.1 if value.ndim > 1 else 0.0 for name, value in small_model.named_parameters()}
    assert set(found.values()) == {0.0, 0.1}


def test_a_run_that_fails_later_tells_what_state_it_left(small_model: Tiny, tmp_path: Path) -> None:
    config = RUN.model_copy(update={"save_every": 2})
    train(small_model, discs(small_model, config), config.model_copy(update={"stop": 2}), tmp_path)
    broken = torch.load(tmp_path / "state.pt", weights_only=True)
    broken["model"]["decoder.masks.bias"].fill_(torch.nan)
    torch.save(broken, tmp_path / "state.pt")
    with pytest.raises(VesaliusError, match=r"nan at step 2; .*holds the run as it was after step 2\)"):
        train(small_model, discs(small_model, config), config, tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_the_state_before_stays(small_model: Tiny, tmp_path: Path, monkeypatch) -> None:
    config = RUN.model_copy(update={"save_every": 2})
    train(small_model, discs(small_model, config), config.model_copy(update={"stop": 2}), tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        yield Path("/dev/full")

    monkeypatch.setattr(loop, "replacing", full)
    with pytest.raises(WriteError, match=r"state\.pt: cannot be written \(No space left on device\); make room"):
        train(small_model, discs(small_model, config), config, tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_network_that_marks_nothing_stops_the_run(small_model: Tiny, tmp_path: Path) -> None:
    with torch.no_grad():
        small_model.decoder.masks.bias.fill_(-100)
    config = RUN.model_copy(update={"collapse": 2, "rate": 1e-9})
    with pytest.raises(VesaliusError, match="no mask had a pixel in 2 steps up to step 1"):
        train(small_model, discs(small_model, RUN), config, tmp_path)
    assert (tmp_path / "bad_batch.pt").exists()


@pytest.mark.parametrize("way", ["light", "lora"])
def test_what_is_frozen_stays_as_it_is(way: str, tmp_path: Path) -> None:
    if TUNINGS[way].lora:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    model = sam()
    apply_tuning(model, TUNINGS[way])
    before = copied(model)
    config = SAM_RUN.model_copy(update={"rate": 1e-2, "ema": 0.5})
    averaged = train(model, discs(model, config), config, tmp_path)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = changed(averaged, before)
    assert found <= trained
    parts = json.loads((tmp_path / "run.json").read_text())["parameters"]
    assert parts["lora" if way == "lora" else "adapters"]["trained"] > 0
    assert any(".Adapter." in name or ".lora_" in name for name in found)
    assert any(name.startswith("mask_decoder.") for name in found)


def trained_by(config: TrainConfig, folder: Path, tuning: str = "full") -> dict[str, torch.Tensor]:
    model = sam()
    apply_tuning(model, TUNINGS[tuning])
    return copied(train(model, discs(model, config), config, folder))


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    """The same weights, but for a few whose gradient is nothing but rounding, which Adam makes as large as any."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The softmax does not feel what is added to all keys.
        if not name.endswith(("k_proj.bias", "qkv.bias")):
            apart = (found[name] - value).abs() > atol
            assert apart.float().mean() < 5e-3, name


def test_statistics_of_frozen_layers_stay_beside_layers_that_train(small_model: Tiny, tmp_path: Path) -> None:
    for name, value in small_model.named_parameters():
        value.requires_grad_(name.startswith(("encoder.smooth.0.", "decoder.")))
    before = copied(small_model)
    train(small_model, discs(small_model, RUN), RUN, tmp_path)
    moved = {name for name in changed(small_model, before) if "running_" in name}
    assert moved == {f"encoder.smooth.0.1.running_{what}" for what in ("mean", "var")}


def test_parts_of_a_step_add_up_to_the_step(tmp_path: Path) -> None:
    config = SAM_RUN.model_copy(update={"images": 4})
    whole = trained_by(config, tmp_path / "a")
    parts = trained_by(config.model_copy(update={"accumulate": 4}), tmp_path / "b")
    assert_close(parts, whole, 2e-5)


def test_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    plain = trained_by(SAM_RUN, tmp_path / "a")
    twice = trained_by(SAM_RUN.model_copy(update={"checkpointing": True}), tmp_path / "b")
    assert_close(twice, plain, 1e-5)
    model = tiny()
    with pytest.raises(ConfigError, match="checkpointing is for SAM networks"):
        train(model, discs(model, RUN), RUN.model_copy(update={"checkpointing": True}), tmp_path / "c")


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_each_image_is_encoded_once_with_equal_results(where: str, tmp_path: Path, monkeypatch) -> None:
    config = SAM_RUN.model_copy(update={"steps": 6, "samples": SampleConfig(augment=False, order="epochs")})
    plain = trained_by(config, tmp_path / "a", "decoder")
    encoded = []
    encode = type(sam()).encode

    def counted(self, images):
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(type(sam()), "encode", counted)
    config = config.model_copy(update={"cache": where})
    kept = trained_by(config, tmp_path / "b", "decoder")
    assert sum(encoded) - 8 * 2 <= 4 + 8  # once per image; the contact sheets encode eight samples each
    assert_close(kept, plain, 1e-5)
    with pytest.raises(ConfigError, match="image encoder trains"):
        trained_by(config, tmp_path / "c", "full")


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_run_that_keeps_features_is_resumed_bit_for_bit(where: str, tmp_path: Path, monkeypatch) -> None:
    encode = type(sam()).encode

    def by_company(self, images):
        """As sums over more images may be taken in another order, features differ with what is encoded together."""
        return tuple(level * (1 + 1e-6 * (len(images) - 1)) for level in encode(self, images))

    monkeypatch.setattr(type(sam()), "encode", by_company)
    # Images come again beside others than at first.
    config = SAM_RUN.model_copy(
        update={"steps": 6, "images": 3, "cache": where, "save_every": 2, "samples": SampleConfig(augment=False)}
    )
    whole = trained_by(config, tmp_path / "whole", "decoder")
    trained_by(config.model_copy(update={"stop": 2}), tmp_path / "stopped", "decoder")
    for path in sorted((tmp_path / "stopped" / "features").glob("*"))[::2]:
        path.unlink()  # as if the process had ended before they were written
    resumed = trained_by(config, tmp_path / "stopped", "decoder")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_features_are_of_one_preset(tmp_path: Path) -> None:
    model, config = sam(), SAM_RUN
    model.requires_grad_(False)
    sample = discs(model, config).source[0]
    batch = collate([sample], [0], 0, model.preset, "low")
    (first,), folder = FeatureCache(model, folder=tmp_path).fill(batch).features, tmp_path
    model.preset = model.preset.model_copy(update={"mean": (0.0, 0.0, 0.0)})
    (second,) = FeatureCache(model, folder=folder).fill(batch).features
    assert not torch.equal(first, second)


def test_features_that_cannot_be_kept_are_told(tmp_path: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(embeddings, "save_file", full)
    config = SAM_RUN.model_copy(update={"cache": "disk", "samples": SampleConfig(augment=False)})
    with pytest.raises(WriteError, match=r"features cannot be kept \(No space left.*make room there"):
        trained_by(config, tmp_path, "decoder")


def test_features_are_kept_of_images_as_they_are_alone() -> None:
    with pytest.raises(ConfigError, match="cache keeps features of images as they are"):
        TrainConfig.from_dict({"steps": 1, "cache": "memory"})


def test_a_contact_sheet_takes_no_more_memory_than_an_image(small_model: Tiny, tmp_path: Path, monkeypatch) -> None:
    seen, play = [], InteractiveStep.play

    def counted(self, batch):
        seen.append(len(batch.images))
        return play(self, batch)

    monkeypatch.setattr(InteractiveStep, "play", counted)
    config = RUN.model_copy(update={"steps": 1, "images": 4})
    train(small_model, discs(small_model, config), config, tmp_path)
    assert seen == [4] + [1] * 8


def test_what_covers_half_of_no_pixel_is_outlined_on_the_sheet(small_model: Tiny) -> None:
    batch = collate([discs(small_model, RUN).source[0]], [0], 0, small_model.preset, "low")
    step = InteractiveStep(small_model.eval(), RUN.interaction, RUN.loss, 0)
    green = [
        (contact_sheet(step, [dataclasses.replace(batch, truth=truth)]) == GREEN).all(2).sum()
        for truth in (batch.truth, 0.4 * (batch.truth > 0.5))
    ]
    assert min(green) > 20


@pytest.mark.parametrize("name", ["loose", "text_for_mask", "mask_only"])
def test_a_percentage_is_no_probability(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"interaction.{name}"):
        TrainConfig.from_dict({"steps": 1, "interaction": {name: 25}})


def test_bf16_is_near(tmp_path: Path) -> None:
    for name, config in (("a", SAM_RUN), ("b", SAM_RUN.model_copy(update={"bf16": True}))):
        trained_by(config, tmp_path / name)
    exact, rough = (float(rows(tmp_path / name / "log.csv")[-1]["loss"]) for name in "ab")
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.1)


def test_the_best_network_by_validation_is_kept(tmp_path: Path) -> None:
    model = tiny()
    seen = []

    def validate(network: SegmentationModel) -> dict[str, float]:
        seen.append(copied(network))
        return {"dice": [0.5, 0.8, 0.7, 0.6][len(seen) - 1], "box": 1.0}

    config = RUN.model_copy(update={"validate_every": 3})
    train(model, discs(model, config, validate=validate), config, tmp_path)
    assert [row["dice"] for row in rows(tmp_path / "validation.csv")] == ["0.5", "0.8", "0.7", "0.6"]
    best = load_checkpoint(tmp_path / "best").state_dict()
    assert all(torch.equal(best[name], value) for name, value in seen[1].items())
    assert json.loads((tmp_path / "run.json").read_text())["best_dice"] == 0.8


def test_rates_follow_the_schedule() -> None:
    halved = TrainConfig(epochs=12, images=50, rate=1e-4, schedule="halved", halve=(7, 10))
    assert halved.total_steps(1000) == 240
    epochs = [halved.rate_at(20 * epoch, 1000) for epoch in range(12)]
    assert epochs == pytest.approx([1e-4] * 7 + [5e-5] * 3 + [2.5e-5] * 2)
    cosine = TrainConfig(steps=100, rate=1.0, schedule="cosine", warmup=10)
    rates = [cosine.rate_at(step, 1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001


def test_configurations_that_make_no_sense_are_refused() -> None:
    for wrong, told in (
        ({}, "either steps or epochs"),
        ({"steps": 1, "epochs": 1}, "either steps or epochs"),
        ({"steps": 1, "halve": [7]}, "belong together"),
        ({"steps": 1, "images": 4, "accumulate": 3}, "multiple"),
        ({"steps": 1, "speed": 9}, "speed"),
    ):
        with pytest.raises(ConfigError, match=told):
            TrainConfig.from_dict(wrong)


class Killed(BaseException):
    """Stands for the end of the process."""


PATIENT = RUN.model_copy(update={"steps": 18, "save_every": 2, "validate_every": 3, "patience": 2})
# Of the untouched network, and after each three steps; the two after the best one are not better.
DICE = {0: 0.5, 3: 0.4, 6: 0.7, 9: 0.6, 12: 0.7, 15: 0.9, 18: 0.95}


def stopping(folder: Path, kill_at: int = 0, before: str = "_save", config: TrainConfig = PATIENT) -> SegmentationModel:
    """A run that validates as ``DICE`` says; its call number ``kill_at`` of a method ends the process instead."""
    model, calls = tiny(), [0]
    run = loop._Run(model, discs(model, config), config, folder, World())
    run.task = dataclasses.replace(run.task, validate=lambda _: {"dice": DICE[run.done]})
    kept = getattr(run, before)

    def called(*arguments) -> object:
        calls[0] += 1
        if calls[0] == kill_at:
            raise Killed
        return kept(*arguments)

    setattr(run, before, called)
    return run.go(resume=True)


def test_a_run_stops_when_validation_gets_no_better(tmp_path: Path) -> None:
    stopping(tmp_path)
    assert [(row["step"], row["dice"]) for row in rows(tmp_path / "validation.csv")] == [
        (str(step), str(DICE[step])) for step in (0, 3, 6, 9, 12)
    ]
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["step"], record["steps"], record["best_dice"]) == (12, 18, 0.7)
    # Nothing is left to do.
    stopping(tmp_path, kill_at=1, before="_one")


def test_a_stop_on_the_way_changes_nothing(tmp_path: Path) -> None:
    whole = copied(stopping(tmp_path / "whole"))
    for stop in (4, 6):
        stopping(tmp_path / "parts", config=PATIENT.model_copy(update={"stop": stop}))
        assert json.loads((tmp_path / "parts" / "run.json").read_text())["step"] == stop
    parts = copied(stopping(tmp_path / "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert rows(tmp_path / "parts" / "validation.csv") == rows(tmp_path / "whole" / "validation.csv")


@pytest.mark.parametrize("words", [(), ("disc", "corner")])
def test_a_validation_that_measures_nothing_is_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    model = specialist("unet", words) if words else tiny()
    named = FirstPrompt(point=0, box=0, mask=0, text=1)
    config = RUN.model_copy(update={"interaction": InteractionConfig(rounds=1, first=named)}) if words else RUN
    nothing = dataclasses.replace(discs(model, config), validate=lambda _: {"dice": math.nan})
    with pytest.raises(ConfigError, match="can be asked for nothing that the validation images show"):
        train(model, nothing, config, tmp_path)
    # A network of names alone may well know none, which is told before it trains.
    assert (tmp_path / "log.csv").exists() == (not words)


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_patience_without_validation_is_refused(cache: str, tmp_path: Path) -> None:
    model = tiny()
    config = PATIENT.model_copy(update={"cache": cache})
    with pytest.raises(ConfigError, match=r"patience = 2 .* leave patience out"):
        train(model, discs(model, config), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_that_stops_early_stops_at_the_same_step_after_a_kill(tmp_path: Path) -> None:
    whole = copied(stopping(tmp_path / "whole"))
    # Before the first state is written, in a step, and between the last validation and its state.
    for before, at in (("_save", 1), ("_one", 11), ("_save", 8)):
        killed = tmp_path / f"{before}_{at}"
        with pytest.raises(Killed):
            stopping(killed, at, before)
        resumed = copied(stopping(killed))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert numbers(killed) == numbers(tmp_path / "whole")
        best = [load_checkpoint(folder / "best").state_dict() for folder in (tmp_path / "whole", killed)]
        assert all(torch.equal(best[0][name], value) for name, value in best[1].items())
