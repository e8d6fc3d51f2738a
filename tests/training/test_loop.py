import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from tests.training.conftest import disc_images

from vesalius.core.errors import ConfigError, VesaliusError
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.tiny import Tiny
from vesalius.models.tuning import TUNINGS, apply_tuning
from vesalius.training.loop import TrainConfig, train

RUN = TrainConfig(steps=12, images=2, warmup=2, save_every=3, bf16=False)


def test_it_learns(small_model: Tiny, tmp_path: Path) -> None:
    config = RUN.model_copy(update={"steps": 60, "images": 4, "rate": 3e-3, "save_every": 20})
    train(small_model, disc_images(6), config, tmp_path)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows[1:]]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]


SCRIPT = """
import sys, torch
from pathlib import Path
from tests.training.conftest import SMALL, disc_images
from tests.training.test_loop import RUN
from vesalius.models.tiny import PRESET, Tiny
from vesalius.training.loop import train
torch.set_num_threads(1)
torch.manual_seed(0)
model = Tiny(SMALL, PRESET.model_copy(update={"side": 64, "mask_side": 32}))
torch.save(train(model, disc_images(4), RUN, Path(sys.argv[1])).state_dict(), sys.argv[1] + "/done.pt")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX signal")
def test_a_killed_run_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stdout=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait() == 0
    process = start(killed)
    deadline = time.monotonic() + 120
    while not (killed / "state.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "done.pt").exists()
    assert start(killed).wait() == 0
    expected, resumed = (torch.load(folder / "done.pt", weights_only=True) for folder in (whole, killed))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_folder_of_another_run_is_refused(small_model: Tiny, tmp_path: Path) -> None:
    train(small_model, disc_images(2), RUN.model_copy(update={"steps": 3}), tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        train(small_model, disc_images(2), RUN, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(small_model: Tiny, tmp_path: Path) -> None:
    with torch.no_grad():
        small_model.decoder.masks.bias.fill_(torch.nan)
    with pytest.raises(VesaliusError, match="nan at step 0"):
        train(small_model, disc_images(2), RUN, tmp_path)
    assert not (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("way", ["light", "lora"])
def test_what_is_frozen_stays_as_it_is(way: str, tmp_path: Path) -> None:
    if TUNINGS[way].lora:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    sizes = SamConfig(side=64, encoder_dim=32, encoder_depth=2, encoder_heads=2, global_blocks=(1,), prompt_dim=32)
    model = Sam(sizes, Preset(side=64, mask_side=16))
    apply_tuning(model, TUNINGS[way])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = train(model, disc_images(4), RUN.model_copy(update={"steps": 3, "rate": 1e-2}), tmp_path)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for state in (model.state_dict(), averaged.state_dict()):
        changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
        assert changed <= trained
        assert any(".Adapter." in name or ".lora_" in name for name in changed)
        assert any(name.startswith("mask_decoder.") for name in changed)
