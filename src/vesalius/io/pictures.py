"""PNG, JPEG and TIFF.

Pixels are upright: the EXIF or TIFF orientation is applied, as browsers, viewers and OpenCV do, so points, boxes and
masks belong to the image that a person sees (not to the stored order that a bare ``PIL.Image.open`` gives).
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ReadError
from vesalius.io.grid import Grid, check_shape, choose_time, decoding

_ORIENTATION = 0x0112


def read_picture(path: Path, kind: str) -> Grid:
    """Reads a PNG or JPEG: palettes become RGB, an alpha channel is kept, 16 bits stay 16 bits.

    Args:
        path: The file.
        kind: ``"PNG"`` or ``"JPEG"``.

    Raises:
        ReadError: It is not such a file, is damaged, or is larger than Pillow's limit for decompression bombs.
    """
    with decoding(path, f"{kind} image"), _open(path, ("JPEG", "MPO") if kind == "JPEG" else (kind,)) as image:
        check_shape(image.size, path)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if kind == "PNG" and path.read_bytes()[24] == 16:
            import imagecodecs  # Pillow reduces 16-bit colour to 8 bits

            values = imagecodecs.png_decode(path.read_bytes())
        else:
            values = _pixels(image, path)
    return Grid(_upright(values, orientation)[None], picture=True)


def _open(path: Path, formats: tuple[str, ...]) -> Any:
    from PIL import Image

    try:
        return Image.open(path, formats=formats)
    except Image.DecompressionBombError as error:
        raise ReadError(
            "claims more pixels than are read, as a decompression bomb does",
            path=path,
            remedy="if the size is right, cut or downsample it first",
        ) from error


def _pixels(image: Any, path: Path) -> NDArray[Any]:
    if image.mode in ("P", "PA", "L", "RGB") and image.has_transparency_data:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "CMYK", "YCbCr"):
        image = image.convert("RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        raise ReadError(f"has pixels of the kind {image.mode}, which is not read", path=path, remedy="save it as RGB")
    return np.asarray(image)


def read_tiff(path: Path, time: int | None) -> Grid:
    """Reads a TIFF: one page is an image, several pages of one size are a volume without geometry.

    No other file is opened, whatever the header names: OME-TIFF may name any file.

    Raises:
        ReadError: It is damaged, is one of several files of an image, has pages of several sizes, has channels, or is
            of a colour kind that is not read.
    """
    with decoding(path, "TIFF image"), _heard("tifffile") as heard, _tiff(path) as file:
        count = len(file.series)
        # tifffile goes on without the pages that it cannot find, and only logs it.
        complaints = [record.getMessage() for record in heard if record.levelno >= logging.ERROR]
        if complaints or not count:
            raise ValueError(complaints[0] if complaints else "no page found")
        if any("missing" in record.getMessage().lower() for record in heard):
            raise ReadError(
                "is one of several files of an image, and the others are not read",
                path=path,
                remedy="save the image as a single file",
            )
        if count != 1:
            raise ReadError(
                f"holds {count} images of different sizes or kinds",
                path=path,
                remedy="save the one you want as a file of its own",
            )
        series, page = file.series[0], file.pages.first
        check_shape(series.shape, path)
        axes, values = series.axes, series.asarray()
        if "T" in axes:
            place = axes.index("T")
            values = values.take(choose_time(values.shape[place], time, path), axis=place)
            axes = axes.replace("T", "")
        else:
            choose_time(1, time, path)
        values = _arranged(values, axes, path)
        values = _coloured(values, page, path)
        orientation = page.tags.valueof(274, 1)
    return Grid(np.stack([_upright(plane, orientation) for plane in values]), picture=True)


def tiff_times(path: Path) -> int:
    """Number of time points of a TIFF, from its header; ReadError if it is missing or damaged."""
    with decoding(path, "TIFF image"), _heard("tifffile"), _tiff(path) as file:
        if len(file.series) != 1:
            return 1
        series = file.series[0]
        return int(series.shape[series.axes.index("T")]) if "T" in series.axes else 1


class _Stream(io.FileIO):
    """A file that does not say which one it is: tifffile looks for others only beside a file that it knows."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    import tifffile

    with io.BufferedReader(_Stream(path)) as stream, tifffile.TiffFile(stream, name=path.name) as file:
        yield file


@contextmanager
def _heard(name: str) -> Iterator[list[logging.LogRecord]]:
    """The warnings and errors that a library logs meanwhile in this thread, growing as they come."""
    records: list[logging.LogRecord] = []
    thread = threading.get_ident()
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    handler.addFilter(lambda record: record.thread == thread)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def _arranged(values: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """(Z, Y, X) or (Z, Y, X, S) of tifffile's axes."""
    for place in range(len(axes) - 1, -1, -1):
        if values.shape[place] == 1 and axes[place] not in "YX":
            values, axes = values.squeeze(place), axes[:place] + axes[place + 1 :]
    samples = axes.find("S")
    if samples >= 0:
        values, axes = np.moveaxis(values, samples, -1), axes.replace("S", "")
    if len(axes) == 2:
        values = values[None]
    elif "C" in axes or len(axes) != 3 or axes[1:] != "YX":
        raise ReadError(
            f"has axes {axes} of size {' x '.join(map(str, values.shape))}, not one stack of images",
            path=path,
            remedy="save the channel or stack you want as a file of its own",
        )
    return values


def _coloured(values: NDArray[Any], page: Any, path: Path) -> NDArray[Any]:
    """Grey or RGB, with alpha if it is unassociated, of what TIFF's photometric interpretation says."""
    name = page.photometric.name
    if name == "MINISWHITE" and values.dtype.kind in "bu":
        return np.asarray(np.invert(values))
    if name == "PALETTE":
        table = page.colormap
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        return np.asarray(np.moveaxis(table[:, values], 0, -1))
    # tifffile turns YCbCr into RGB where it decodes JPEG, and nowhere else.
    if name not in ("MINISBLACK", "RGB", "YCBCR") or (name == "YCBCR" and "JPEG" not in page.compression.name):
        raise ReadError(f"has colours of the kind {name}, which is not read", path=path, remedy="save it as RGB")
    colours = 3 if name in ("RGB", "YCBCR") else 1
    if values.ndim == 3:
        return values
    # Only unassociated alpha (2) still has to be multiplied in; associated alpha already is.
    keep = colours + (1 if page.extrasamples[:1] == (2,) else 0)
    return values[..., 0] if keep == 1 else values[..., :keep]


def _upright(plane: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The (H, W[, C]) plane turned as EXIF's orientation 1..8 says; other numbers mean nothing."""
    if orientation in (2, 3, 7, 8):
        plane = plane[:, ::-1]
    if orientation in (3, 4, 6, 7):
        plane = plane[::-1]
    if orientation in (5, 6, 7, 8):
        plane = plane.swapaxes(0, 1)
    return np.ascontiguousarray(plane)
