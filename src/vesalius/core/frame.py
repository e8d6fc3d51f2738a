"""Frame: the one place where original pixels become model pixels, and back.

Both grids are measured at pixel edges: pixel i covers [i, i + 1), its centre is i + 0.5. A frame is a scale and a
shift per axis of these edge coordinates, so points (pixel centres at whole numbers) map as
``(x + 0.5) * scale + shift - 0.5`` and boxes (edges) as ``x * scale + shift``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """A rectangle of the original image placed on a square model input.

    Attributes:
        size: (height, width) of the original image.
        window: (x0, y0, x1, y1), half-open, whole original pixels: the part that is shown to the model.
        content: (x0, y0, x1, y1), half-open, whole model pixels: where the window lies; the rest is padding.
        side: Side of the square model input in pixels.
    """

    size: tuple[int, int]
    window: tuple[int, int, int, int]
    content: tuple[int, int, int, int]
    side: int

    @classmethod
    def stretch(cls, size: tuple[int, int], side: int, window: tuple[int, int, int, int] | None = None) -> Frame:
        """The window (the whole image if None) stretched to the square, each axis by its own scale."""
        return cls(size, window or (0, 0, size[1], size[0]), (0, 0, side, side), side)

    @classmethod
    def longest_side(cls, size: tuple[int, int], side: int) -> Frame:
        """Longest side scaled to ``side``, padded at the right and bottom (SAM)."""
        scale = side / max(size)
        height, width = (max(1, int(length * scale + 0.5)) for length in size)
        return cls(size, (0, 0, size[1], size[0]), (0, 0, width, height), side)

    @classmethod
    def pad(cls, size: tuple[int, int], side: int) -> Frame:
        """Images with both sides below ``side`` centred and padded unscaled, others stretched (SAM-Med2D's trainer)."""
        height, width = size
        if height >= side or width >= side:
            return cls.stretch(size, side)
        x, y = (side - width) // 2, (side - height) // 2
        return cls(size, (0, 0, width, height), (x, y, x + width, y + height), side)

    @property
    def is_whole(self) -> bool:
        """Whether the window is the whole image."""
        return self.window == (0, 0, self.size[1], self.size[0])

    @property
    def scale(self) -> Floats:
        """(2,) model pixels per original pixel along (x, y)."""
        wx0, wy0, wx1, wy1 = self.window
        cx0, cy0, cx1, cy1 = self.content
        return np.array([(cx1 - cx0) / (wx1 - wx0), (cy1 - cy0) / (wy1 - wy0)])

    @property
    def shift(self) -> Floats:
        """(2,) model edge coordinate of the original edge 0 along (x, y)."""
        return np.array(self.content[:2]) - np.array(self.window[:2]) * self.scale

    def points(self, points: ArrayLike) -> Floats:
        """(..., 2) original points (pixel centres at whole numbers) in model pixels, same convention."""
        return (np.asarray(points, np.float64) + 0.5) * self.scale + self.shift - 0.5

    def inverse_points(self, points: ArrayLike) -> Floats:
        """(..., 2) model points back in original pixels."""
        return (np.asarray(points, np.float64) + 0.5 - self.shift) / self.scale - 0.5

    def boxes(self, boxes: ArrayLike) -> Floats:
        """(..., 4) original half-open boxes in model pixels, half-open."""
        array = np.asarray(boxes, np.float64)
        return (array.reshape(*array.shape[:-1], 2, 2) * self.scale + self.shift).reshape(array.shape)

    def inverse_boxes(self, boxes: ArrayLike) -> Floats:
        """(..., 4) model boxes back in original pixels."""
        array = np.asarray(boxes, np.float64)
        return ((array.reshape(*array.shape[:-1], 2, 2) - self.shift) / self.scale).reshape(array.shape)

    def image(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """(side, side[, C]) model input of an (H, W[, C]) image: area average down, bilinear up, zeros as padding."""
        import cv2

        x0, y0, x1, y1 = self.window
        cx0, cy0, cx1, cy1 = self.content
        shown = pixels[y0:y1, x0:x1]
        target = (cx1 - cx0, cy1 - cy0)
        # OpenCV averages areas only where no axis grows, so axes that shrink go first.
        small = (min(target[0], x1 - x0), min(target[1], y1 - y0))
        if small != (x1 - x0, y1 - y0):
            shown = cv2.resize(np.ascontiguousarray(shown), small, interpolation=cv2.INTER_AREA)
        if small != target:
            shown = cv2.resize(np.ascontiguousarray(shown), target, interpolation=cv2.INTER_LINEAR)
        if target == (self.side, self.side):
            return np.ascontiguousarray(shown)
        out = np.zeros((self.side, self.side, *pixels.shape[2:]), shown.dtype)
        out[cy0:cy1, cx0:cx1] = shown
        return out

    def mask(self, mask: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
        """(side, side) share of each low-resolution pixel that an (H, W) boolean mask covers, 0 to 1."""
        import cv2

        full = self.image(mask.astype(np.float32))
        return full if side == self.side else cv2.resize(full, (side, side), interpolation=cv2.INTER_AREA)

    def inverse_logits(self, logits: NDArray[np.float32], outside: float = -32.0) -> NDArray[np.float32]:
        """(H, W) logits in original pixels of a (h, w) grid over the model square, bilinear.

        Pixels outside the window get ``outside``.
        """
        import cv2

        x0, y0, x1, y1 = self.window
        low = logits.shape[0] / self.side
        # Maps each original pixel centre of the window to its place on the low-resolution grid.
        scale, shift = self.scale * low, self.shift * low
        matrix = np.array(
            [
                [scale[0], 0, (x0 + 0.5) * scale[0] + shift[0] - 0.5],
                [0, scale[1], (y0 + 0.5) * scale[1] + shift[1] - 0.5],
            ]
        )
        inside: NDArray[np.float32] = cv2.warpAffine(
            np.ascontiguousarray(logits, np.float32),
            matrix,
            (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        if self.is_whole:
            return inside
        out = np.full(self.size, outside, np.float32)
        out[y0:y1, x0:x1] = inside
        return out
