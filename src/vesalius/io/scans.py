"""NIfTI by nibabel; NRRD and MetaImage by SimpleITK.

SimpleITK is not used for NIfTI: it gives uninitialised memory for a truncated file without saying so, and it takes
the qform where other tools take the sform.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vesalius.core.errors import GeometryError, ReadError
from vesalius.core.geometry import Geometry
from vesalius.io.grid import Grid, check_shape, choose_time, decoding


def read_nifti(path: Path, time: int | None) -> Grid:
    """Reads a NIfTI-1 or NIfTI-2 file, scaled by its slope and intercept.

    The affine is the sform if its code is set, else the qform, else the voxel sizes (the NIfTI standard's order).
    RGB and RGBA voxels are colour.

    Raises:
        ReadError: It is not NIfTI, is damaged or cut short, or has more than one value per voxel and time.
        GeometryError: Its affine is singular.
    """
    import nibabel

    with decoding(path, "NIfTI file"):
        image = nibabel.load(path, mmap=False)  # a mapped file that is replaced later would end the process
        if not isinstance(image, nibabel.Nifti1Pair):
            raise ReadError("is not a NIfTI file", path=path, remedy="convert it to .nii.gz")
        shape = image.shape
        if len(shape) > 4 and max(shape[4:]) > 1:
            raise ReadError(f"holds {shape[4]} values per voxel, not one grey value", path=path)
        shape = (*shape, 1, 1, 1)[:4]
        check_shape(shape, path)
        chosen = choose_time(shape[3], time, path)
        values = np.asanyarray(image.dataobj[..., chosen] if image.ndim == 4 else image.dataobj)
        values = values.reshape(shape[:3] if image.ndim != 4 else values.shape, order="F")
        affine = image.affine
    if values.dtype.names:
        values = np.stack([values[name] for name in values.dtype.names], axis=-1)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise GeometryError(
            "its affine is singular, so voxels have no size", path=path, remedy="correct the NIfTI header"
        )
    geometry = Geometry.from_affine(affine, (shape[0], shape[1], shape[2]), world="RAS")
    return Grid(np.ascontiguousarray(values.swapaxes(0, 2)), geometry)


def read_itk(path: Path, time: int | None) -> Grid:
    """Reads NRRD or MetaImage; a 2-D image lies in the plane z = 0 with a thickness of 1 mm.

    Raises:
        ReadError: It is damaged, cut short, has more than four axes, or voxels that are neither grey nor colour.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet_itk(path):
        reader.ReadImageInformation()
    axes, size = reader.GetDimension(), list(reader.GetSize())
    parts = reader.GetNumberOfComponents()
    check_shape((*size, parts), path)
    if axes > 4:
        raise ReadError(f"has {axes} axes; at most x, y, z and time are read", path=path)
    if parts not in (1, 3, 4):
        raise ReadError(f"holds {parts} values per voxel, neither grey nor colour", path=path)
    chosen = choose_time(size[3] if axes == 4 else 1, time, path)
    if axes == 4:
        reader.SetExtractIndex([0, 0, 0, chosen])
        reader.SetExtractSize([*size[:3], 0])
    with quiet_itk(path):
        values = sitk.GetArrayFromImage(reader.Execute())
    spacing, origin = reader.GetSpacing(), reader.GetOrigin()
    matrix = np.eye(3)
    matrix[: min(axes, 3), : min(axes, 3)] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    if axes == 2:
        values, size, spacing, origin = values[None], [*size, 1], (*spacing, 1.0), (*origin, 0.0)
    geometry = Geometry(
        size=(size[0], size[1], size[2]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        origin=(origin[0], origin[1], origin[2]),
        direction=tuple(float(v) for v in matrix.ravel()),
    )
    return Grid(values, geometry)


def nifti_shape(path: Path) -> tuple[int, ...]:
    """(X, Y, Z, ...) of a NIfTI file, from its header; ReadError if it is missing or damaged."""
    import nibabel

    with decoding(path, "NIfTI file"):
        shape: tuple[int, ...] = nibabel.load(path, mmap=False).shape
    return shape


def itk_shape(path: Path) -> tuple[int, ...]:
    """(X, Y, Z, ...) of a NRRD or MetaImage file, from its header; ReadError if it is missing or damaged."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet_itk(path):
        reader.ReadImageInformation()
    size: tuple[int, ...] = reader.GetSize()
    return size


def data_file(path: Path) -> Path | None:
    """The other file that holds the voxels of an image, as its header says; None if they are in the file itself.

    Raises:
        ReadError: They are in several files, or the header does not say it plainly.
    """
    suffix = path.suffix.lower()
    if suffix == ".hdr":
        return path.with_suffix(".IMG" if path.suffix.isupper() else ".img")
    if suffix not in (".nrrd", ".nhdr", ".mha", ".mhd"):
        return None
    with decoding(path, "NRRD or MetaImage file"), path.open("rb") as file:
        header = file.read(2**20)
    named: bytes | None = b"LOCAL"
    if suffix in (".nrrd", ".nhdr"):
        header, ended, _ = header.replace(b"\r\n", b"\n").partition(b"\n\n")
        found = re.findall(rb"(?:^|[\r\n])\s*data\s*file\s*:(?!=)([^\r\n]*)", header, re.IGNORECASE)
        # A header without an empty line after it has its data elsewhere.
        named = found[0].strip() if len(found) == 1 else None if found or not ended else named
    else:
        # It is the last key of a header; where the word stands elsewhere before, readers may differ.
        line = next((line for line in re.split(rb"[\r\n]+", header) if b"ElementDataFile" in line), b"")
        match = re.fullmatch(rb"\s*ElementDataFile\s*=\s*(.*?)\s*", line)
        named = match[1] if match else None
    if named is None or named.startswith(b"LIST") or b"%" in named:
        raise ReadError("does not name one file with its voxels", path=path, remedy="save it as a single file")
    return None if named.upper() == b"LOCAL" else path.parent / os.fsdecode(named)


@contextmanager
def quiet_itk(path: Path) -> Iterator[None]:
    """Keeps ITK's warnings off the terminal, and makes its errors a ReadError without ITK's addresses and wrong causes.

    MetaImage still prints a line of its own when data are cut short: it goes past ITK's switch.
    """
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        raise ReadError(
            "is not a NRRD or MetaImage file, or is damaged or cut short",
            path=path,
            remedy="open it in another program to check it, or copy it again",
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
