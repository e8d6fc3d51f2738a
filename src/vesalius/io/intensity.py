"""Which grey values are shown as black and white: one rule for every kind of input.

1. A window that the caller asks for: a name in ``WINDOWS``, or a level and a width.
2. 8-bit pictures are shown as they are, 0 to 255; so is colour.
3. CT (as the DICOM file or the caller says): the soft-tissue window, on Hounsfield units.
4. All else: the 0.5th to the 99.5th percentile of the non-zero values of the whole volume; where these two are
   the same value, the whole range.

Windows and percentiles are those of MedSAM (Ma et al., Segment anything in medical images, Nature Communications
15:654, 2024, Methods, "Data preprocessing"). Windows that a DICOM file suggests (Window Center and Width) are not
used: they differ from file to file, and a model wants the same tissue at the same grey.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError

# Name -> (level, width) in Hounsfield units.
WINDOWS: dict[str, tuple[float, float]] = {
    "soft_tissue": (40.0, 400.0),
    "lung": (-160.0, 1500.0),
    "brain": (40.0, 80.0),
    "bone": (400.0, 1800.0),
}

Window = str | tuple[float, float]


def window_range(window: Window) -> tuple[float, float]:
    """The grey values (low, high) of a window.

    Args:
        window: A name in ``WINDOWS``, ``"LEVEL/WIDTH"`` such as ``"40/400"``, or (level, width).

    Raises:
        ConfigError: The name is unknown, or the width is not above 0.
    """
    if isinstance(window, str) and window in WINDOWS:
        level, width = WINDOWS[window]
    else:
        try:
            level, width = (float(part) for part in (window.split("/") if isinstance(window, str) else window))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"there is no window {window!r}", remedy=f"use {', '.join(WINDOWS)}, or LEVEL/WIDTH such as 40/400"
            ) from error
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        raise ConfigError(f"window {window!r} has no positive width", remedy="give LEVEL/WIDTH such as 40/400")
    return level - width / 2, level + width / 2


def grey_window(
    values: NDArray[Any], *, window: Window | None = None, modality: str | None = None, picture: bool = False
) -> tuple[float, float]:
    """Grey values (low, high) to show as black and white, by the rule of this module.

    Args:
        values: All values of the volume, any shape, finite and not all the same.
        window: What the caller asks for.
        modality: Lower-case modality.
        picture: Whether 8-bit values are meant to be shown as they are.

    Raises:
        ConfigError: The window asked for makes no sense.
    """
    if window is not None:
        return window_range(window)
    if picture and values.dtype == np.uint8:
        return 0.0, 255.0
    if modality == "ct":
        return window_range("soft_tissue")
    low, high = _percentiles(values[values != 0])
    if low == high:
        low, high = float(values.min()), float(values.max())
    return low, high


def _percentiles(values: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(values, (0.5, 99.5), overwrite_input=True)
    return float(low), float(high)
