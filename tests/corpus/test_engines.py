import os
import signal
import time
from pathlib import Path

import pytest

import vesalius as vs
from made_tasks import dies, dies_at_three, dies_once, fails, negative, square, waits
from vesalius.corpus.engines import Apart, DiedError, run_here, run_on_ray

kills = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once(workers: int) -> None:
    assert sorted(run_here(square, [(n,) for n in range(20)], workers)) == [n * n for n in range(20)]
    assert list(run_here(square, [], workers)) == []


@kills
def test_the_task_of_a_killed_process_is_given_to_another(tmp_path: Path) -> None:
    assert sorted(run_here(dies_once, [(n, tmp_path) for n in range(12)], 2)) == list(range(12))
    assert (tmp_path / "died").exists()
    with pytest.raises(vs.VesaliusError, match=r"killed 4 times \(SIGKILL\)"):
        list(run_here(dies, [(1,), (2,)], 2))


@kills
def test_deaths_are_those_of_a_task_and_the_last_resort_is_its_alone(tmp_path: Path) -> None:
    tasks = [(n, tmp_path) for n in (0, 1, 2, 3, 4)]
    assert sorted(run_here(dies_at_three, tasks, 2, negative)) == [-3, 0, 1, 2, 4]
    runs = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert sorted(runs) == ["0", "1", "2", "3", "3", "3", "3", "4"]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_is_raised(workers: int) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(run_here(fails, [(1,)], workers))
    assert caught.value.errno == 5


@kills
def test_calls_apart_end_their_process_alone() -> None:
    with Apart() as apart:
        assert apart.call(square, 3) == 9
        for _ in range(2):
            with pytest.raises(DiedError, match="SIGKILL"):
                apart.call(dies, 1)
            assert apart.call(square, 4) == 16
        with pytest.raises(OSError, match="Input/output error"):
            apart.call(fails, 1)
        assert apart.call(square, 5) == 25


@kills
def test_a_call_that_is_not_to_blame_is_made_again(tmp_path: Path) -> None:
    with Apart() as apart:
        assert apart.call(square, 3) == 9
        assert apart.call(dies_once, 3, tmp_path) == 3


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
