"""What runs the blocks of a curation: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from vesalius.core.errors import ConfigError, ReadError

Result = TypeVar("Result")
# A call's arguments.
Task = tuple[Any, ...]

# How often a task is given to another process after the one that had it was killed.
_RETRIES = 3


def run_here(function: Callable[..., Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Runs tasks in this machine's processes; results come as they are ready.

    A task whose process is killed (by the system for want of memory, say) is given to another.

    Args:
        function: Of a module, so that it can be sent.
        tasks: Arguments of each call.
        workers: Number of processes; 1 runs all in this one.

    Raises:
        ReadError: A task's process was killed again and again.
    """
    if workers == 1:
        for task in tasks:
            yield function(*task)
        return
    left = list(tasks)
    for _ in range(1 + _RETRIES):
        left = yield from _pool(function, left, workers)
        if not left:
            return
    raise ReadError(f"{len(left)} blocks were given up: their processes were killed", remedy="use fewer --workers")


def _pool(function: Callable[..., Result], tasks: list[Task], workers: int) -> Generator[Result, None, list[Task]]:
    """Yields results; returns the tasks whose process was killed, and those not begun."""
    lost: list[Task] = []
    # A fresh interpreter per worker: forking after numpy and OpenCV have started threads can hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    waiting = iter(tasks)
    running: dict[Future[Result], Task] = {}
    broken = False
    try:
        while True:
            while not broken and len(running) < 2 * workers and (task := next(waiting, None)) is not None:
                try:
                    running[pool.submit(function, *task)] = task
                except BrokenProcessPool:
                    lost.append(task)
                    broken = True
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    lost.append(task)
                    broken = True
                else:
                    yield result
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        if running:
            for process in processes:
                process.terminate()
    return [*lost, *waiting]


def run_on_ray(function: Callable[..., Result], tasks: Iterable[Task], address: str) -> Iterator[Result]:
    """Runs tasks on a Ray cluster that sees the same files; results come as they are ready.

    A task whose worker or node is lost is given to another.

    Args:
        function: Of a module that is installed on all nodes.
        tasks: Arguments of each call.
        address: Of the cluster, such as ``"auto"`` or ``"10.0.0.1:6379"``.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("Ray is not installed", remedy='pip install "vesalius[ray]"') from error
    _reach(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"there is no Ray cluster at {address!r} ({error})", remedy="ray start --head") from error
    try:
        call = ray.remote(function).options(num_cpus=1, max_retries=_RETRIES)
        waiting = iter(tasks)
        running: set[Any] = set()
        room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while True:
            while len(running) < room and (task := next(waiting, None)) is not None:
                running.add(call.remote(*task))
            if not running:
                return
            done, rest = ray.wait(list(running), num_returns=1)
            running = set(rest)
            for reference in done:
                yield ray.get(reference)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises ConfigError if nobody listens at ``host:port``; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(f"there is no Ray cluster at {address!r} ({error})", remedy="ray start --head") from error


def _start_worker() -> None:
    import cv2

    # Ctrl-C is for the parent, which stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
