"""What a format reader hands over, and the checks that hold for every format."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ReadError, VesaliusError
from vesalius.core.geometry import Geometry

# A scan of 1024 x 1024 x 1024 fits; what claims to be larger is damaged, or an attack on the memory.
MAX_VALUES = 2**30


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of a file, before the grey window is chosen.

    Attributes:
        values: (Z, Y, X) grey values, or (Z, Y, X, C) with C = 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        geometry: Where the grid lies; None for plain pictures.
        modality: As the file states it.
        picture: Whether 8-bit values are meant to be shown as they are.
    """

    values: NDArray[Any]
    geometry: Geometry | None = None
    modality: str | None = None
    picture: bool = False


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a bad file into one ReadError, and keeps its warnings quiet.

    Decoders answer damaged bytes with nearly any exception, so all of them are caught here; the cause stays chained.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "nibabel.global", "PIL")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except VesaliusError:
        raise
    except FileNotFoundError as error:
        raise ReadError("there is no such file", path=path) from error
    except PermissionError as error:
        raise ReadError("may not be read (permission denied)", path=path) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ReadError(
            f"is not a {kind}, or is damaged or cut short ({_short(reason)})",
            path=path,
            remedy="open it in another program to check it, or copy it again",
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check_shape(shape: Sequence[int], path: Path) -> None:
    """Raises ReadError if an array of ``shape`` is empty or larger than ``MAX_VALUES``."""
    sizes = " x ".join(str(int(length)) for length in shape)
    if min(shape, default=0) < 1:
        raise ReadError(f"holds no pixels (its size is {sizes or 'nothing'})", path=path)
    if math.prod(int(length) for length in shape) > MAX_VALUES:
        raise ReadError(
            f"claims {sizes} values, more than the {MAX_VALUES} that are read",
            path=path,
            remedy="if the size is right, cut or downsample it first",
        )


def choose_time(count: int, time: int | None, path: Path) -> int:
    """The chosen time point of ``count``; ReadError if none was chosen of several, or there is no such one."""
    if time is None:
        if count > 1:
            raise ReadError(
                f"holds {count} time points and none was chosen",
                path=path,
                remedy=f"give a time point from 0 to {count - 1}",
            )
        return 0
    if not 0 <= time < count:
        raise ReadError(
            f"has no time point {time}: it holds {count}", path=path, remedy=f"give one from 0 to {count - 1}"
        )
    return time


def check_values(values: NDArray[Any], path: Path) -> NDArray[Any]:
    """The values in native byte order; ReadError if they are empty, complex or not all finite.

    Files with some NaN or infinite voxels are refused too: every filling value would be a guess.
    """
    check_shape(values.shape, path)
    kind = values.dtype.kind
    if kind not in "buif":
        raise ReadError(f"holds values of type {values.dtype}, which are not grey values", path=path)
    if kind == "f":
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if bad == values.size:
            raise ReadError("holds only NaN or infinite values", path=path)
        if bad:
            raise ReadError(
                f"holds {bad} NaN or infinite values ({100 * bad / values.size:.2g} %)",
                path=path,
                remedy="replace them, for example by the value of the background, and save it again",
            )
        if values.dtype.itemsize > 8:
            values = values.astype(np.float64)
    elif kind == "b":
        values = values.astype(np.uint8) * np.uint8(255)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_contrast(values: NDArray[Any], path: Path) -> None:
    """Raises ReadError if all pixels of (Z, Y, X[, C]) are the same."""
    first = values[0, 0, 0]
    if (values == first).all():
        shown = ", ".join(f"{value:g}" for value in np.atleast_1d(first))
        raise ReadError(f"is constant: every pixel is {shown}, so there is nothing to outline", path=path)


def _short(text: str, length: int = 110) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
