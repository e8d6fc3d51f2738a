"""What travels through Vesalius: volumes, slices, prompts and predictions.

Coordinates of points and boxes are always those of the original slice: a point is (x, y) with whole numbers at
pixel centres; a box is (x0, y0, x1, y1), half-open, so that a box around one pixel (x, y) is (x, y, x + 1, y + 1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vesalius.core.errors import GeometryError, PromptError
from vesalius.core.frame import Frame
from vesalius.core.geometry import Geometry

AXES = ("x", "y", "z")

# What a prompt may give, by the names of its fields; previous logits count as a mask.
Part = Literal["points", "box", "mask", "text"]


@dataclass(frozen=True, eq=False)
class Volume:
    """A grid of voxels with its place in the patient.

    Attributes:
        voxels: (Z, Y, X) grey values, or (Z, Y, X, 3) uint8 RGB, in the file's own dtype and units (HU for CT).
        geometry: Size, spacing, origin and direction of the grid; None for plain pictures, which have none.
        window: Grey values (low, high) that are shown as black and white; (0, 255) for 8-bit pictures.
        modality: Lower-case name such as ``"ct"`` or ``"mr"`` where the file states it or the caller did.
        source: The file or folder that was read.
    """

    voxels: NDArray[Any]
    geometry: Geometry | None
    window: tuple[float, float]
    modality: str | None = None
    source: Path | None = None

    def slice(self, axis: str = "z", index: int | None = None) -> Slice:
        """The 2-D image at ``index`` along the array axis ``axis``.

        Rows and columns of the slice are (y, x) for axis z, (z, x) for axis y and (z, y) for axis x.

        Raises:
            GeometryError: The axis is not x, y or z, the index is outside, or there are several and none is given.
        """
        if axis not in AXES:
            raise GeometryError(f"there is no axis {axis!r}", path=self.source, remedy="use x, y or z")
        array_axis = 2 - AXES.index(axis)
        count = self.voxels.shape[array_axis]
        if index is None:
            if count > 1:
                raise GeometryError(
                    f"it has {count} slices along {axis} and none was chosen",
                    path=self.source,
                    remedy=f"give a slice index from 0 to {count - 1}",
                )
            index = 0
        if not 0 <= index < count:
            raise GeometryError(
                f"slice {index} along {axis} is outside 0 to {count - 1}", path=self.source, remedy="choose one inside"
            )
        spacing = None
        if self.geometry is not None:
            column, row = (value for name, value in zip(AXES, self.geometry.spacing, strict=True) if name != axis)
            spacing = (row, column)
        return Slice(
            pixels=np.ascontiguousarray(np.take(self.voxels, index, axis=array_axis)),
            window=self.window,
            spacing=spacing,
            modality=self.modality,
            source=self.source,
            geometry=self.geometry,
            axis=axis,
            index=index,
        )


@dataclass(frozen=True, eq=False)
class Slice:
    """One 2-D image, as models and people see it.

    Attributes:
        pixels: (H, W) grey values in the file's dtype, or (H, W, 3) uint8 RGB.
        window: Grey values (low, high) that are shown as black and white.
        spacing: Distance between pixel centres along (rows, columns), in mm; None where unknown.
        modality: Lower-case modality where known.
        source: The file or folder it was read from.
        geometry: Geometry of the volume it was cut from; None for plain pictures.
        axis: Array axis of the volume it was cut along: ``"x"``, ``"y"`` or ``"z"``.
        index: Position along that axis.
    """

    pixels: NDArray[Any]
    window: tuple[float, float] = (0.0, 255.0)
    spacing: tuple[float, float] | None = None
    modality: str | None = None
    source: Path | None = None
    geometry: Geometry | None = None
    axis: str = "z"
    index: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8: the pixels with ``window`` mapped linearly to 0..255 and clipped; RGB as it is."""
        if self.pixels.ndim == 3:
            return self.pixels
        if self.pixels.dtype == np.uint8 and self.window == (0.0, 255.0):
            grey = self.pixels
        else:
            grey = to_8_bits(self.pixels, self.window)
        return np.repeat(grey[:, :, None], 3, axis=2)


@dataclass(frozen=True, eq=False)
class Logits:
    """Low-resolution mask logits of one object and the frame they are drawn in.

    Attributes:
        values: (h, w) float32; positive inside the object.
        frame: The part of the original image that the grid covers.
    """

    values: NDArray[np.float32]
    frame: Frame


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a person says about one object; any combination of its parts.

    Attributes:
        points: (K, 2) clicks as (x, y), pixel centres at whole numbers.
        labels: (K,) 1 for a click on the object, 0 for a click on the background; all 1 if left out.
        box: (x0, y0, x1, y1), half-open, around the object.
        mask: (H, W) bool, a rough outline in the image's own pixels.
        logits: Low-resolution logits of an earlier prediction, to be corrected.
        text: Name of the target, such as ``"liver"``, for models that take words.

    Raises:
        PromptError: The parts do not fit together, or there are none.
    """

    points: ArrayLike = ()
    labels: ArrayLike | None = None
    box: Sequence[float] | None = None
    mask: NDArray[np.bool_] | None = None
    logits: Logits | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        try:
            points = np.asarray(self.points, dtype=np.float64)
        except ValueError:
            raise PromptError("a point is not two numbers", remedy="give points as [(x, y), ...]") from None
        if not points.size:
            points = points.reshape(0, 2)
        if points.ndim != 2 or points.shape[1] != 2:
            raise PromptError(f"points have the shape {points.shape}", remedy="give points as [(x, y), ...]")
        labels = np.ones(len(points), np.int64) if self.labels is None else np.asarray(self.labels).reshape(-1)
        if len(labels) != len(points):
            raise PromptError(f"{len(points)} points but {len(labels)} labels", remedy="give one label per point")
        if not np.isin(labels, (0, 1)).all():
            raise PromptError("a point label is neither 1 (object) nor 0 (background)")
        if not np.isfinite(points).all():
            raise PromptError("a point coordinate is not a finite number")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels.astype(np.int64))
        if self.box is not None:
            box = tuple(float(value) for value in self.box)
            if len(box) != 4 or not np.isfinite(box).all():
                raise PromptError("a box is four finite numbers x0, y0, x1, y1")
            if box[2] <= box[0] or box[3] <= box[1]:
                raise PromptError(
                    f"box {_plain(box)} is inverted or empty", remedy="give x0,y0,x1,y1 with x0 < x1 and y0 < y1"
                )
            object.__setattr__(self, "box", box)
        if self.mask is not None:
            if self.mask.dtype != np.bool_:
                raise PromptError(
                    f"the mask prompt has dtype {self.mask.dtype}", remedy="give a boolean array (mask > 0)"
                )
            if self.logits is not None:
                raise PromptError("both a mask and previous logits are given", remedy="give one of them")
            if not self.mask.any():
                raise PromptError("the mask prompt is empty", remedy="mark at least one pixel")
        if self.text is not None and not self.text.strip():
            raise PromptError("the text prompt is empty", remedy="name the target, such as liver")
        if self.box is None and self.mask is None and self.logits is None and self.text is None:
            if not len(points):
                raise PromptError("the prompt is empty", remedy="give a box, points or a mask")
            if not labels.any():
                raise PromptError(
                    "there are background points alone", remedy="add a point on the object, a box or a mask"
                )

    @property
    def parts(self) -> frozenset[Part]:
        """What it gives."""
        given: dict[Part, bool] = {
            "points": len(np.asarray(self.points)) > 0,
            "box": self.box is not None,
            "mask": self.mask is not None or self.logits is not None,
            "text": self.text is not None,
        }
        return frozenset(part for part, there in given.items() if there)

    def check(self, size: tuple[int, int], source: Path | None = None) -> None:
        """Raises PromptError unless every part lies on an image of ``size`` (height, width)."""
        height, width = size
        for x, y in np.asarray(self.points):
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                raise PromptError(
                    f"point {_plain((x, y))} lies outside the image of {width} x {height} pixels",
                    path=source,
                    remedy=f"give x from 0 to {width - 1} and y from 0 to {height - 1}",
                )
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                raise PromptError(
                    f"box {_plain(self.box)} reaches outside the image of {width} x {height} pixels",
                    path=source,
                    remedy=f"keep it within 0,0,{width},{height}",
                )
        if self.mask is not None and self.mask.shape != size:
            raise PromptError(
                f"the mask prompt is {self.mask.shape[1]} x {self.mask.shape[0]} pixels, the image {width} x {height}",
                path=source,
                remedy="give a mask of the same size",
            )


@dataclass(frozen=True, eq=False)
class Prediction:
    """The outline of one object.

    Attributes:
        mask: (H, W) bool in the original slice's pixels.
        quality: The model's own estimate of the IoU between its mask and the truth, 0 to 1; NaN where it makes none.
        logits: Low-resolution logits, to be given back as ``Prompt.logits`` with corrections; None if it has none.
    """

    mask: NDArray[np.bool_]
    quality: float
    logits: Logits | None = None


def listed(parts: Collection[Part]) -> str:
    """Parts of prompts in words, such as ``"a box or points"``."""
    words: dict[Part, str] = {"box": "a box", "points": "points", "mask": "a mask", "text": "a name"}
    *most, last = (word for part, word in words.items() if part in parts)
    return f"{', '.join(most)} or {last}" if most else last


def to_8_bits(values: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """``values`` with ``window`` mapped linearly to 0..255, rounded and clipped."""
    low, high = window
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.asarray(np.clip(scaled + 0.5, 0, 255), np.uint8)


def _plain(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
