"""Writing a file whole or not at all, holding a folder's lock, and the digest of a file."""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vesalius.core.errors import WriteError

# Names of stand-ins begin so; what has such a name when nobody is writing was left behind by a killed process.
STAND_IN = ".part-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A stand-in beside ``path``, of the same suffix, which replaces it when the block ends without an error.

    After an error the stand-in is removed and ``path`` is as it was. Two processes that write one file at a time do
    not disturb each other; the last to end wins. A killed process leaves its stand-in behind (`remove_stand_ins`).

    Raises:
        OSError: The folder cannot be written, or nothing was written to the stand-in.
    """
    written = path.with_name(f"{STAND_IN}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield written
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, if it is not there.

    Raises:
        WriteError: It cannot be made, as where a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"no folder can be made there ({error.strerror})", path=folder, remedy="name another folder for the output"
        ) from error


def remove_stand_ins(folder: Path) -> None:
    """Removes what killed processes left behind in a folder."""
    for path in folder.glob(f"{STAND_IN}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made, while the block runs; it ends with the process, however that ends.

    Raises:
        WriteError: Another process holds it.
        OSError: The file cannot be made, or its file system has no locks.
    """
    with path.open("ab") as file:
        if sys.platform == "win32":
            import msvcrt

            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except PermissionError as error:
                raise _held(path) from error
        else:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _held(path) from error
        yield


def file_digest(path: str | Path, kind: str = "sha256") -> str:
    """Digest of a file, SHA-256 unless another of hashlib's is named, in hexadecimal, as ``sha256sum`` prints it.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _held(path: Path) -> WriteError:
    return WriteError("another process is at work in this folder", path=path.parent, remedy="wait until it ends")
