"""Any file to a Volume or a Slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ReadError
from vesalius.core.types import Slice, Volume, to_8_bits
from vesalius.io.grid import Grid, check_contrast, check_values, choose_time, decoding
from vesalius.io.intensity import Window, grey_window

# First bytes that name a kind of file better than its suffix does.
_SIGNATURES = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"II+\0": ".tif",
    b"MM\0+": ".tif",
    b"NRRD": ".nrrd",
}
_NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
_DICOM = (".dcm", ".dicom", ".ima", "")
_READ = "PNG, JPEG, TIFF, NIfTI, NRRD, MetaImage and DICOM are read"


def read_volume(
    path: str | Path, *, window: Window | None = None, modality: str | None = None, time: int | None = None
) -> Volume:
    """Reads a picture, a scan, a DICOM file or a folder with one DICOM series.

    PNG, JPEG, TIFF, NRRD and DICOM are recognised by their first bytes; NIfTI and MetaImage by their suffix. Voxels
    are in the file's own index order; pictures are upright (see ``io.pictures``). Transparent pixels are drawn on
    black. Colour deeper than 8 bits is reduced to 8 by the window rule over all three channels.

    Args:
        path: The file, or the folder of a DICOM series.
        window: Grey window: soft_tissue, lung, brain, bone, ``"LEVEL/WIDTH"`` or (level, width). If left out, the rule
            in ``io.intensity`` chooses.
        modality: What the file does not say or says wrongly, such as ``"ct"`` for a NIfTI file in Hounsfield units.
        time: Time point to take of a file with several, from 0.

    Raises:
        ReadError: The file is missing, damaged, not an image of a known kind, empty, constant, not finite, too large,
            or has several time points and none was chosen.
        GeometryError: A DICOM series does not make a regular volume, or an affine is singular.
        ConfigError: The window makes no sense.
    """
    path = Path(path)
    return volume_of(read_grid(path, time), path, window, modality)


def volume_of(grid: Grid, path: Path, window: Window | None = None, modality: str | None = None) -> Volume:
    """What ``read_volume`` makes of the values of a file; arguments and errors as there."""
    values = check_values(grid.values, path)
    if values.ndim == 4:
        values = _without_alpha(values)
    check_contrast(values, path)
    modality = modality.lower() if modality is not None else grid.modality
    if values.ndim == 4:
        if values.dtype != np.uint8:
            values = to_8_bits(values, grey_window(values, window=window))
        elif window is not None:
            raise ReadError("is an 8-bit colour image, which takes no grey window", path=path, remedy="leave it out")
        shown = (0.0, 255.0)
    else:
        shown = grey_window(values, window=window, modality=modality, picture=grid.picture)
    return Volume(voxels=values, geometry=grid.geometry, window=shown, modality=modality, source=path)


def read_slice(
    path: str | Path,
    *,
    axis: str = "z",
    index: int | None = None,
    window: Window | None = None,
    modality: str | None = None,
    time: int | None = None,
) -> Slice:
    """Reads one 2-D image: ``read_volume`` and then the slice at ``index`` along ``axis``.

    The grey window is that of the whole volume, so that neighbouring slices look alike.

    Raises:
        ReadError: As ``read_volume``.
        GeometryError: As ``read_volume``; or the axis or index does not exist, or several slices and no index.
        ConfigError: The window makes no sense.
    """
    return read_volume(path, window=window, modality=modality, time=time).slice(axis, index)


def suffix_of(path: Path) -> str:
    """The suffix in lower case, ``.nii.gz`` in one piece."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def read_grid(path: Path, time: int | None) -> Grid:
    """The values of a file before checks and grey window; the kind of file is decided here."""
    if path.is_dir():
        from vesalius.io.dicom import read_series

        return read_series(path, time)
    with decoding(path, "file"), path.open("rb") as file:
        start = file.read(132)
    if not start:
        raise ReadError("is an empty file", path=path, remedy="copy it again")
    kinds = [kind for signature, kind in _SIGNATURES.items() if start.startswith(signature)]
    suffix = kinds[0] if kinds else suffix_of(path)
    if start[128:] == b"DICM":
        from vesalius.io.dicom import read_file

        return read_file(path, time)
    if suffix in (".png", ".jpg", ".jpeg"):
        from vesalius.io.pictures import read_picture

        choose_time(1, time, path)
        return read_picture(path, "PNG" if suffix == ".png" else "JPEG")
    if suffix in (".tif", ".tiff"):
        from vesalius.io.pictures import read_tiff

        return read_tiff(path, time)
    if suffix in _NIFTI:
        from vesalius.io.scans import read_nifti

        return read_nifti(path, time)
    if suffix in _ITK:
        from vesalius.io.scans import read_itk

        return read_itk(path, time)
    if suffix in _DICOM:
        from vesalius.io.dicom import read_file

        return read_file(path, time)
    raise ReadError("is not an image of a known kind", path=path, remedy=_READ)


def count_times(path: Path) -> int:
    """Number of time points (or channels) of a NIfTI, NRRD, MetaImage or TIFF file, from its header; 1 for all else.

    Raises:
        ReadError: The file is missing or damaged.
    """
    if suffix_of(path) in (".tif", ".tiff"):
        from vesalius.io.pictures import tiff_times

        return tiff_times(path)
    shape = _stated_shape(path) or ()
    return shape[3] if len(shape) > 3 else 1


def count_slices(path: Path) -> int | None:
    """Number of slices of a NIfTI, NRRD or MetaImage file, from its header; None for all else.

    Raises:
        ReadError: The file is missing or damaged.
    """
    shape = _stated_shape(path)
    if shape is None:
        return None
    return shape[2] if len(shape) > 2 else 1


def _stated_shape(path: Path) -> tuple[int, ...] | None:
    """(X, Y, Z, ...) of a NIfTI, NRRD or MetaImage file, from its header; None for all else."""
    suffix = suffix_of(path)
    if suffix in _NIFTI:
        from vesalius.io.scans import nifti_shape

        return nifti_shape(path)
    if suffix in _ITK:
        from vesalius.io.scans import itk_shape

        return itk_shape(path)
    return None


def _without_alpha(values: NDArray[Any]) -> NDArray[Any]:
    """Grey or RGB of (Z, Y, X, C), C = 2, 3, 4: an alpha channel is composited over black."""
    if values.shape[-1] == 3:
        return values
    colour, alpha = values[..., :-1], values[..., -1:]
    full = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1.0
    over = colour * (alpha.astype(np.float64) / full)
    if values.dtype.kind in "ui":
        over = np.rint(over)
    over = over.astype(values.dtype)
    return over[..., 0] if over.shape[-1] == 1 else over
