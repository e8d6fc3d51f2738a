"""Tasks that tests send to other processes, which must be able to import them."""

import os
import signal
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def dies_once(number: int, folder: Path) -> int:
    mark = folder / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(_number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def waits(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    time.sleep(60)
    return number


def kills_its_worker_once(number: int, folder: Path) -> tuple[int, str]:
    import ray

    mark = folder / "killed"
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return number, ray.get_runtime_context().get_node_id()
