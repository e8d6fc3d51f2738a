"""Tasks that tests send to other processes, which must be able to import them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vesalius.corpus import block
from vesalius.corpus.block import Found, Job, Reject, curate_block, read_entry
from vesalius.corpus.store import ShardWriter

# Stem of a picture that kills the process that reads it.
DEADLY = "discs_08_2d"


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


def dies_at_three(number: int, folder: Path) -> int:
    (folder / f"{number}-{os.getpid()}").touch()
    time.sleep(0.2)
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def negative(number: int, _folder: Path) -> int:
    return -number


def fails(_number: int) -> int:
    raise OSError(5, "Input/output error")


def waits(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    time.sleep(60)
    return number


@contextmanager
def _adding(before) -> Iterator[None]:
    """Calls a function with the number of rows so far before each row of a shard."""
    add, count = ShardWriter.add, 0

    def changed(self: ShardWriter, *rows) -> None:
        nonlocal count
        before(count)
        count += 1
        add(self, *rows)

    ShardWriter.add = changed
    try:
        yield
    finally:
        ShardWriter.add = add


def slow_block(number: int, root: Path, folder: Path) -> int:
    """Makes a block so slowly that it can be interrupted, and notes when it lived."""

    def live(_count: int) -> None:
        time.sleep(0.3)
        with (folder.parent / "alive").open("a") as file:
            file.write(f"{time.time()}\n")

    with _adding(live):
        return curate_block(number, root, folder)


def block_killed_once(number: int, root: Path, folder: Path) -> int:
    """Makes a block; the first time, block 2 is killed while its shard is being written."""
    mark = folder.parent / "killed"

    def kill(count: int) -> None:
        if number == 2 and count == 3 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)

    with _adding(kill):
        return curate_block(number, root, folder)


def deadly_read(job: Job, root: Path) -> Found | Reject:
    if job.entry.image.stem == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_entry(job, root)


def deadly_block(number: int, root: Path, folder: Path, careful: bool = False) -> int:
    """Makes a block with a reader that one picture kills."""
    block.read_entry = deadly_read
    return curate_block(number, root, folder, careful)


def places(number: int) -> tuple[int, str]:
    import ray

    time.sleep(0.2)
    return number, ray.get_runtime_context().get_node_id()
