import os
import signal
import time
from pathlib import Path

import pytest

import vesalius as vs
from made_tasks import dies, dies_once, square, waits
from vesalius.corpus.engines import run_here, run_on_ray


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once(workers: int) -> None:
    assert sorted(run_here(square, [(n,) for n in range(20)], workers)) == [n * n for n in range(20)]
    assert list(run_here(square, [], workers)) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_the_task_of_a_killed_process_is_given_to_another(tmp_path: Path) -> None:
    assert sorted(run_here(dies_once, [(n, tmp_path) for n in range(12)], 2)) == list(range(12))
    assert (tmp_path / "died").exists()
    with pytest.raises(vs.VesaliusError, match="2 blocks were given up"):
        list(run_here(dies, [(1,), (2,)], 2))


def test_a_run_that_is_left_stops_its_processes(tmp_path: Path) -> None:
    start = time.monotonic()
    results = run_here(waits, [(tmp_path, n) for n in range(2)], 2)
    with pytest.raises(KeyboardInterrupt):
        for _ in _interrupted(results, tmp_path):
            pass
    assert time.monotonic() - start < 50


def _interrupted(results, folder: Path):
    """Raises KeyboardInterrupt in the main thread once the tasks run, as Ctrl-C does."""
    import threading

    def press() -> None:
        while len(list(folder.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    yield from results


def test_without_a_cluster_ray_says_what_to_do() -> None:
    with pytest.raises(vs.VesaliusError, match=r"no Ray cluster at '127.0.0.1:1'.*ray start --head"):
        list(run_on_ray(square, [(1,)], "127.0.0.1:1"))
