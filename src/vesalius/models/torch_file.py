"""Reads PyTorch's files without running anything that is in them.

Such a file is a pickle, that is a small program. ``torch.load(weights_only=True)`` refuses every program but those that
build tensors and plain containers. Some published files also hold objects, such as a whole optimizer; `read_inert`
reads their tensors and lets a placeholder stand for each object.
"""

from __future__ import annotations

import logging
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vesalius.core.errors import ModelError

_log = logging.getLogger(__name__)

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_torch_file(path: str | Path) -> object:
    """Reads a PyTorch file: tensors and plain containers; nothing in it is ever executed.

    Objects of other kinds become placeholders, which the log names.

    Raises:
        ModelError: The file is missing or damaged, or it is older than PyTorch 1.6 and holds objects.
    """
    try:
        with warnings.catch_warnings():  # of odd pickle protocols, which the error below tells well enough
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", path=path) from error
    except Exception as error:  # arbitrary bytes make the reader fail in arbitrary ways
        try:
            whole = zipfile.is_zipfile(path)
        except OSError:
            whole = False
        if not whole:
            raise ModelError(
                "is damaged, truncated, or a pickle from before PyTorch 1.6 that holds more than tensors, which could "
                "be code; nothing in it was run",
                path=path,
                remedy="get the file again from its authors, as a plain state dict",
            ) from error
    try:
        content, objects = read_inert(path)
    except Exception as error:
        raise ModelError(
            "is damaged, or no PyTorch file; nothing in it was run", path=path, remedy="get the file again"
        ) from error
    _log.warning(
        "%s: holds objects that are no tensors; not read, and nothing of them run: %s", path, ", ".join(objects)
    )
    return content


def read_inert(path: str | Path) -> tuple[object, list[str]]:
    """Reads the tensors and plain containers of a PyTorch file, whatever else it holds.

    The pickle can name nothing but the functions that build tensors, which are ours, and `Placeholder`. Only tensors
    that are reached through dicts, lists and tuples are read from the disk.

    Args:
        path: A file in PyTorch's zip format (1.6 and later).

    Returns:
        The content, with a `Placeholder` for each object, and the names of the objects' classes and functions.
    """
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("the file is big-endian")
        with archive.open(pickled) as file:
            unpickler = _Unpickler(file)
            content = unpickler.load()
        return _Reader(archive, root).read(content), sorted(unpickler.objects)


class Placeholder:
    """Stands for anything that is no tensor: whatever a pickle does with it, nothing happens."""

    def __new__(cls, *_: object, **__: object) -> Placeholder:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> Placeholder:  # noqa: D102
        return self

    def __setstate__(self, *_: object) -> None:
        pass

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, *_: object) -> None:  # noqa: D102
        pass

    extend = add = append


class _Dict(dict[Any, Any]):
    """An OrderedDict's content; attributes that the pickle would set on it are dropped."""

    def __setstate__(self, *_: object) -> None:
        pass


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str


class _Stored(NamedTuple):
    """A tensor that is still on the disk."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.objects: set[str] = set()
        # Made anew for each file, so that a pickle that writes to them reaches no other file.
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): type("OrderedDict", (_Dict,), {}),
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: _Stored(
                storage, offset, size, stride
            ),
            ("torch._utils", "_rebuild_parameter"): lambda stored, *_: stored,
        }
        self._placeholder = type("Placeholder", (Placeholder,), {})

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in self._known:
            return self._known[module, name]
        self.objects.add(f"{module}.{name}")
        return self._placeholder

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, _length = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return _Storage(dtype, str(key))


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        self._storages: dict[_Storage, Tensor] = {}

    def read(self, value: Any) -> Any:
        if isinstance(value, _Stored):
            return torch.as_strided(self._storage(value.storage), value.size, value.stride, value.offset)
        if isinstance(value, dict):
            return {key: self.read(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.read(item) for item in value)
        return value

    def _storage(self, storage: _Storage) -> Tensor:
        if storage not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}data/{storage.key}"))
            self._storages[storage] = (
                torch.frombuffer(content, dtype=storage.dtype) if content else torch.empty(0, dtype=storage.dtype)
            )
        return self._storages[storage]
