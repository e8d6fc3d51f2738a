"""What runs the blocks of a curation: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar

from vesalius.core.errors import ConfigError, ReadError

Result = TypeVar("Result")
# A call's arguments.
Task = tuple[Any, ...]

# How often a task is given to another process after the one that had it was killed.
_RETRIES = 3


class DiedError(Exception):
    """A process ended before it answered; the text says how."""


class Child:
    """A process that runs calls, one at a time; it ends with the process that started it, however that ends.

    Attributes:
        pipe: Has something to receive when `answer` need not wait.
    """

    def __init__(self) -> None:
        # A fresh interpreter: forking after numpy and OpenCV have started threads can hang.
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far,))
        self._process.start()
        # Kept open here too, it would hide the end of the process.
        far.close()

    def give(self, function: Callable[..., Any], task: Task) -> None:
        """Has a function of a module called with some arguments."""
        # `answer` tells of a process that has ended.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((function, task))

    def answer(self) -> Any:
        """What the call returned; waits for it.

        Raises:
            DiedError: The process ended instead.
            Exception: What the call raised.
        """
        try:
            error, result = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise DiedError(_ending(self._process.exitcode)) from None
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


class Apart:
    """Runs calls in another process, which they may kill; a context manager, which ends it."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def call(self, function: Callable[..., Result], *task: Any) -> Result:
        """What a function of a module returns.

        Raises:
            DiedError: The call ended a process that had run no other.
            Exception: What the call raised.
        """
        if self._child is not None:
            # An earlier call may have left behind what kills the process now: a new one tells.
            with suppress(DiedError):
                return self._ask(self._child, function, task)
            self._drop()
        self._child = Child()
        try:
            return self._ask(self._child, function, task)
        except DiedError:
            self._drop()
            raise

    def _ask(self, child: Child, function: Callable[..., Result], task: Task) -> Result:
        child.give(function, task)
        result: Result = child.answer()
        return result

    def _drop(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def run_here(
    function: Callable[..., Result],
    tasks: Iterable[Task],
    workers: int,
    careful: Callable[..., Result] | None = None,
) -> Generator[Result, None, None]:
    """Runs tasks in this machine's processes; results come as they are ready.

    A task whose process is killed (by the system for want of memory, say) is given to another, and after some deaths
    to ``careful``.

    Args:
        function: Of a module, so that it can be sent.
        tasks: Arguments of each call.
        workers: Number of processes; 1 runs all in this one, which then dies with its task.
        careful: Does the same without being killed by a bad file.

    Raises:
        ReadError: A task's process was killed again and again.
    """
    if workers == 1:
        for task in tasks:
            yield function(*task)
        return
    waiting = deque((function, task, 0) for task in tasks)
    children: set[Child] = set()
    idle: list[Child] = []
    busy: dict[Any, tuple[Child, Callable[..., Result], Task, int]] = {}
    try:
        while waiting or busy:
            # One task per process and none in advance: then it is known which task a process died of.
            while waiting and len(busy) < workers:
                if not idle:
                    idle.append(Child())
                    children.add(idle[-1])
                child = idle.pop()
                called, task, deaths = waiting.popleft()
                child.give(called, task)
                busy[child.pipe] = child, called, task, deaths
            for pipe in wait(list(busy)):
                child, called, task, deaths = busy.pop(pipe)
                try:
                    result: Result = child.answer()
                except DiedError as died:
                    children.remove(child)
                    child.end()
                    if deaths < _RETRIES:
                        waiting.append((called, task, deaths + 1))
                    elif careful is not None and called is not careful:
                        waiting.append((careful, task, deaths + 1))
                    else:
                        raise ReadError(
                            f"a block was given up: its process was killed {deaths + 1} times ({died})",
                            remedy="use fewer --workers",
                        ) from died
                else:
                    idle.append(child)
                    yield result
    finally:
        for child in children:
            child.end()


def run_on_ray(function: Callable[..., Result], tasks: Iterable[Task], address: str) -> Generator[Result, None, None]:
    """Runs tasks on a Ray cluster that sees the same files; results come as they are ready.

    A task whose worker or node is lost is given to another.

    Args:
        function: Of a module that is installed on all nodes.
        tasks: Arguments of each call.
        address: Of the cluster, such as ``"auto"`` or ``"10.0.0.1:6379"``.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
        ReadError: A task's worker was lost again and again.
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
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    # Ray's own says where it was raised, at length, and not what.
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise ReadError(
                        f"a block was given up: its worker was lost {_RETRIES + 1} times ({type(error).__name__})",
                        remedy="run the same command again with --engine local, which finds the file that kills it",
                    ) from error
                yield result
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


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _serve(pipe: Connection) -> None:
    """What a child does: it answers calls until nobody can ask any more."""
    # Ctrl-C is for the parent, which stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with suppress(EOFError, ConnectionResetError, BrokenPipeError):
        while True:
            function, task = pipe.recv()
            answer: tuple[Exception | None, Any]
            try:
                answer = None, function(*task)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = error, None
            try:
                pipe.send(answer)
            except Exception:
                # Not everything that is raised can be sent.
                pipe.send((RuntimeError(repr(answer)), None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # At once: a killed parent's workers must write nothing after the next run has begun.
    os._exit(1)
