"""A mask to any file, on the grid of the image it was drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import GeometryError, WriteError
from vesalius.core.files import replacing
from vesalius.core.geometry import Geometry
from vesalius.core.types import AXES, Slice, Volume
from vesalius.io.read import suffix_of

PICTURES = (".png", ".tif", ".tiff")
GRIDS = (".nii", ".nii.gz", ".nrrd", ".mha")
SUFFIXES = (*PICTURES, *GRIDS, ".dcm")

# Black, then colours that differ to most eyes (Okabe and Ito, Color universal design, 2008), repeated.
_COLOURS = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)]


def write_mask(path: str | Path, mask: NDArray[Any], *, like: Slice | Volume) -> None:
    """Writes a mask, or a map of numbered objects, in the format that the suffix of ``path`` names.

    Pictures (.png, .tif) get the slice alone: a boolean mask as 0 and 255, a map of objects as a palette picture whose
    indices are the numbers and whose colours can be told apart (at most 255 objects). A volume of several slices
    becomes a TIFF of several pages.

    Scans (.nii, .nii.gz, .nrrd, .mha) and DICOM segmentations (.dcm) get the whole grid of the volume that the slice
    was cut from, with its geometry, and this slice filled in: 1 for a boolean mask, else the objects' numbers. A NIfTI
    written for a NIfTI has the same sform and qform. What has no geometry (a plain picture) is written with a spacing
    of 1 mm at the origin, alone.

    The file appears whole or not at all.

    Args:
        path: The output; its folder must exist. An existing file is replaced.
        mask: bool, or unsigned integers with 0 as background; (H, W) for a Slice, (Z, Y, X) for a Volume.
        like: The image that the mask belongs to.

    Raises:
        WriteError: Unknown suffix, missing folder, wrong dtype, too many objects for the format, or a DICOM source that
            lacks what a segmentation needs.
        GeometryError: The mask has another size than the image.
    """
    path = Path(path)
    mask = np.asarray(mask)
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        lossy = " (JPEG would blur the edge)" if suffix in (".jpg", ".jpeg") else ""
        raise WriteError(
            f"no mask can be written as {suffix or 'a file without suffix'}{lossy}",
            path=path,
            remedy=f"use {', '.join(SUFFIXES)}",
        )
    if not path.parent.is_dir():
        raise WriteError("its folder does not exist", path=path, remedy=f"create {path.parent} first")
    if path.is_dir():
        raise WriteError("is a folder", path=path, remedy="name a file in it")
    if mask.dtype != np.bool_ and mask.dtype.kind != "u":
        raise WriteError(
            f"the mask has dtype {mask.dtype}",
            path=path,
            remedy="give a boolean array (mask > 0), or object numbers as uint8 or uint16",
        )
    if mask.dtype.kind == "u":
        most = int(mask.max(initial=0))
        if most > 65535:
            raise WriteError(f"the map has object number {most}", path=path, remedy="number at most 65535 objects")
        mask = mask.astype(np.uint8 if most < 256 else np.uint16)
    shape = like.size if isinstance(like, Slice) else like.voxels.shape[:3]
    if mask.shape != tuple(shape):
        raise GeometryError(
            f"the mask is {' x '.join(map(str, mask.shape))}, its image {' x '.join(map(str, shape))} (rows first)",
            path=path,
            remedy="write it with the image that it was drawn on",
        )
    if suffix in PICTURES:
        with _replacing(path) as temporary:
            _write_picture(temporary, path, mask)
        return
    labels, geometry = _on_grid(mask, like)
    with _replacing(path) as temporary:
        if suffix == ".dcm":
            from vesalius.io.dicom_seg import write_segmentation

            write_segmentation(temporary, labels, like.source, path)
        elif suffix in (".nii", ".nii.gz"):
            _write_nifti(temporary, labels, geometry, like.source)
        else:
            _write_itk(temporary, labels, geometry)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`replacing`, whose failure is told as ours."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise WriteError(f"cannot be written ({error.strerror or error})", path=path) from error


def _write_picture(temporary: Path, path: Path, mask: NDArray[Any]) -> None:
    from PIL import Image

    planes = mask if mask.ndim == 3 else mask[None]
    if len(planes) > 1 and suffix_of(path) == ".png":
        raise WriteError(f"a PNG cannot hold {len(planes)} slices", path=path, remedy=f"use {', '.join(GRIDS)} or .tif")
    if mask.dtype == np.uint16:
        raise WriteError("a picture holds at most 255 objects", path=path, remedy=f"use {', '.join(GRIDS)}")
    images = []
    for plane in planes:
        if mask.dtype == np.bool_:
            images.append(Image.fromarray(plane.astype(np.uint8) * np.uint8(255)))
        else:
            image = Image.frombytes("P", (plane.shape[1], plane.shape[0]), plane.tobytes())
            colours = [(0, 0, 0)] + [_COLOURS[i % len(_COLOURS)] for i in range(255)]
            image.putpalette([part for colour in colours for part in colour])
            images.append(image)
    if suffix_of(path) == ".png":
        images[0].save(temporary)
    else:
        images[0].save(temporary, compression="tiff_adobe_deflate", save_all=True, append_images=images[1:])


def _on_grid(mask: NDArray[Any], like: Slice | Volume) -> tuple[NDArray[Any], Geometry]:
    """(Z, Y, X) object numbers on the whole grid of ``like``, and its geometry."""
    labels = mask.astype(np.uint8) if mask.dtype == np.bool_ else mask
    if isinstance(like, Slice):
        plane = labels
        if like.geometry is None:
            labels = plane[None]
        else:
            labels = np.zeros(like.geometry.size[::-1], plane.dtype)
            where: list[Any] = [slice(None)] * 3
            where[2 - AXES.index(like.axis)] = like.index
            labels[tuple(where)] = plane
    depth, height, width = labels.shape
    return labels, like.geometry or Geometry(size=(width, height, depth))


def _write_nifti(temporary: Path, labels: NDArray[Any], geometry: Geometry, source: Path | None) -> None:
    import nibabel

    header = None
    if source is not None and suffix_of(source) in (".nii", ".nii.gz") and source.is_file():
        header = nibabel.load(source).header
    affine = geometry.affine("RAS")
    # NIfTI-2 holds the affine in float64, NIfTI-1 in float32.
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(labels.swapaxes(0, 2), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    axes = np.reshape(geometry.direction, (3, 3))
    # A qform holds rotations only; a sheared grid (a tilted gantry) is told by the sform alone.
    image.set_qform(affine, 1 if np.allclose(axes.T @ axes, np.eye(3), atol=1e-4) else 0)
    if header is not None and np.allclose(header.get_best_affine(), affine, rtol=1e-5, atol=1e-5):
        for name in header:
            if name.startswith(("sform", "srow", "qform", "quatern", "qoffset")):
                image.header[name] = header[name]
        image.header["pixdim"][:4] = header["pixdim"][:4]
        image.header["xyzt_units"] = header["xyzt_units"]
    nibabel.save(image, temporary)


def _write_itk(temporary: Path, labels: NDArray[Any], geometry: Geometry) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(temporary), useCompression=True)
