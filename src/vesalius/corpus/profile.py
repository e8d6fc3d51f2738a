"""Profiles: one paper's rules for turning scans into images and masks, as data."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError


class Profile(Config):
    """Rules of curation; docs/profiles.md states those of each paper beside where it gives them.

    Attributes:
        axes: Axes that volumes are cut along; ``"main"`` is the one with the largest spacing, z among equals.
        intensity: How grey values become 8 bits. ``min_max``: the least becomes 0, the largest 255; ``window``:
            MedSAM's windows and percentiles (`vesalius.io.intensity`).
        rounding: Of ``min_max``.
        intensity_over: What ``min_max`` looks for the least and the largest in.
        square_pixels: Whether slices with pixels that are not square are resampled to the finer spacing.
        max_aspect: A slice of a volume whose long side is more than this many times its short side is left out.
        size: Side in pixels that images are stretched to.
        components: Whether the 8-connected parts of a class are objects of their own.
        consolidate: Whether a class takes in what lies inside it (the kidney its tumour), which also stays a mask.
        min_area: Masks under this share of the image are left out.
        min_pixels: Images with no more labelled pixels than this, as they lie in the source, are left out.
        split: Shares of training, validation and test.
        split_by: What must not be split; ``image`` lets slices of one volume fall on both sides.
        max_test: Most test images of a data set; whole cases beyond it get no split.
    """

    axes: tuple[Literal["x", "y", "z"], ...] | Literal["main"] = "main"
    intensity: Literal["min_max", "window"] = "window"
    rounding: Literal["ceil", "nearest"] = "nearest"
    intensity_over: Literal["volume", "slice"] = "volume"
    square_pixels: bool = True
    max_aspect: float | None = None
    size: int | None = None
    components: bool = True
    consolidate: bool = False
    min_area: float = 0.0
    min_pixels: int = 0
    split: tuple[float, float, float] = (0.8, 0.0, 0.2)
    split_by: Literal["case", "image"] = "case"
    max_test: int | None = Field(default=None, ge=1)


def profile_names() -> list[str]:
    """The profiles that come with Vesalius."""
    return sorted(path.name.removesuffix(".toml") for path in files(__package__).joinpath("profiles").iterdir())


@cache
def find_profile(name: str) -> Profile:
    """A profile that comes with Vesalius, or one in a TOML file.

    Raises:
        ConfigError: There is none of that name, or the file is wrong.
    """
    if name in profile_names():
        return Profile.from_toml(Path(str(files(__package__).joinpath("profiles", f"{name}.toml"))))
    if name.endswith(".toml"):
        return Profile.from_toml(name)
    raise ConfigError(
        f"there is no profile {name!r}", remedy=f"use {', '.join(profile_names())}, or a TOML file of your own"
    )
