import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.conftest import tiny
from tests.training.test_loop import assert_close, rows

from vesalius.core.errors import ModelError
from vesalius.training import distributed
from vesalius.training.distributed import World, world
from vesalius.training.interaction import InteractionConfig, InteractiveStep
from vesalius.training.losses import LossConfig

SCRIPT = """
import sys, torch
from pathlib import Path
from golden.networks import sam
from tests.training.conftest import discs
from tests.training.test_loop import SAM_RUN
from vesalius.models.tuning import TUNINGS, apply_tuning
from vesalius.training.distributed import world
from vesalius.training.loop import train
torch.set_num_threads(1)
with world("cpu") as here:
    model = sam()
    torch.manual_seed(0)  # for adapters
    apply_tuning(model, TUNINGS[sys.argv[2]])
    images, parts = map(int, sys.argv[3:])
    config = SAM_RUN.model_copy(update={"images": images, "accumulate": parts, "steps": 2, "ema": 0.5})
    if sys.argv[2] == "sam-med2d":
        later = config.interaction.model_copy(update={"later": ("mask_decoder.*",)})
        config = config.model_copy(update={"interaction": later})
    trained = train(model, discs(model, config), config, Path(sys.argv[1]), here)
    torch.save(trained.state_dict(), f"{sys.argv[1]}/rank{here.rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="torchrun's rendezvous is tried on POSIX alone")
# Even shares, of adapters that rounds after the first do not train, and two images beside one.
@pytest.mark.parametrize(("tuning", "images", "parts"), [("sam-med2d", 4, 2), ("medsam", 3, 1)])
def test_two_processes_end_as_one_with_the_summed_batch(tuning: str, images: int, parts: int, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder, command in (("one", [sys.executable]), ("two", launched)):
        arguments = [str(script), str(tmp_path / folder), tuning, str(images), str(parts)]
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
    one = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "two" / f"rank{i}.pt", weights_only=True) for i in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_close(first, one, 1e-6)
    # The running means of the gradients, which Adam does not enlarge, agree everywhere.
    states = [torch.load(tmp_path / folder / "state.pt", weights_only=True) for folder in ("one", "two")]
    kept = [state["optimiser"]["state"] for state in states]
    assert kept[0].keys() == kept[1].keys()
    for i, value in kept[0].items():
        torch.testing.assert_close(kept[1][i]["exp_avg"], value["exp_avg"], rtol=1e-4, atol=1e-6)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    tables = [rows(tmp_path / folder / "log.csv") for folder in ("one", "two")]
    assert len(tables[1]) == len(tables[0])
    assert float(tables[1][-1]["loss"]) == pytest.approx(float(tables[0][-1]["loss"]), rel=1e-5)


STOPPING = """
import sys, torch
from pathlib import Path
from tests.training.conftest import discs, tiny
from tests.training.test_loop import RUN
from vesalius.training.distributed import world
from vesalius.training.loop import train
torch.set_num_threads(1)
with world("cpu") as here:
    config = RUN.model_copy(update={"steps": 8, "validate_every": 2, "patience": 2})
    model = tiny()
    # Only the first process validates.
    task = discs(model, config, validate=(lambda _: {"dice": 0.5}) if here.is_first else None)
    trained = train(model, task, config, Path(sys.argv[1]), here)
    # Before a second call, which reads the state of the first process in both.
    torch.save(dict(trained.named_parameters()), f"{sys.argv[1]}/rank{here.rank}.pt")
    train(model, task, config, Path(sys.argv[1]), here)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="torchrun's rendezvous is tried on POSIX alone")
def test_all_processes_stop_when_the_first_finds_validation_no_better(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(STOPPING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launched, str(tmp_path / "run.py"), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert [row["step"] for row in rows(tmp_path / "run" / "validation.csv")] == ["0", "2", "4"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == 4
    first, second = (torch.load(tmp_path / "run" / f"rank{i}.pt", weights_only=True) for i in (0, 1))
    assert first
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("device", "kind"), [("cuda:0", torch.nn.SyncBatchNorm), ("cpu", torch.nn.BatchNorm2d)])
def test_on_gpus_batches_are_normalised_over_all_processes(device: str, kind: type, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda step, **_: step)
    model = tiny()
    before = dict(model.state_dict(keep_vars=True))
    World(1, 2, device).wrap(InteractiveStep(model, InteractionConfig(), LossConfig()))
    norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert {type(part) for part in norms} == {kind}
    # The optimiser has the same parameters, and a checkpoint the same names.
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is value for name, value in before.items())
    # Alone, as in validation, it answers as it did.
    images = torch.rand(1, 3, 64, 64)
    expected, found = (network.eval().encode(images) for network in (tiny(), model))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_told_at_once(device: str) -> None:
    told = rf"torch cannot use the device '{device}'.*give one that is here: cpu"
    with pytest.raises(ModelError, match=told), world(device):
        pass
