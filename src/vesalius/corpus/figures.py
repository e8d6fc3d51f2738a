"""What is in a corpus, as figures: the statistics that the papers show of theirs, and a sheet of samples.

Sources: SA-Med2D-20M, figures 2 to 5; COSMOS 1050K, figure 3; IMed-361M, figures 2 and 3.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.files import replacing
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.store import Corpus

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, 2008: told apart by colour-blind readers too.
_IMAGES, _MASKS = "#56b4e9", "#d55e00"
_COLOURS = [(86, 180, 233), (240, 228, 66), (204, 121, 167), (230, 159, 0), (0, 158, 115), (213, 94, 0)]
_TARGETS = 30


def write_figures(corpus: Corpus, folder: str | Path, rng: np.random.Generator) -> list[Path]:
    """Writes the figures of a corpus as PNG.

    Args:
        corpus: The corpus.
        folder: For the figures; made if absent.
        rng: Chooses the images of the contact sheet.

    Returns:
        The files: ``modalities.png``, ``groups.png``, ``targets.png``, ``masks.png``, ``resolutions.png``,
        ``contact_sheet.png``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = {name: corpus.images[name].to_pylist() for name in ("id", "modality", "height", "width", "masks")}
    table = corpus.masks(["id", "modality", "group", "target", "area", "height", "width"])
    masks = {name: table[name].to_pylist() for name in ("id", "modality", "group", "target")}
    area, height, width = (table[name].to_numpy() for name in ("area", "height", "width"))
    shares = area / (height * width)
    out = [
        _counts(images["modality"], masks["modality"], "modality", folder / "modalities.png"),
        _counts(_images_of(masks["id"], masks["group"]), masks["group"], "anatomical group", folder / "groups.png"),
        _counts(_images_of(masks["id"], masks["target"]), masks["target"], "target", folder / "targets.png"),
        _mask_figure(shares, images["masks"], folder / "masks.png"),
        _resolutions(images["height"], images["width"], folder / "resolutions.png"),
    ]
    sheet = contact_sheet([corpus.read(index) for index in samples(corpus.images["dataset"].to_pylist(), 24, rng)])
    path = folder / "contact_sheet.png"
    from PIL import Image

    with replacing(path) as part:
        Image.fromarray(sheet).save(part)
    return [*out, path]


def samples(datasets: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of images, drawn so that every data set is shown before any is shown twice; in order.

    Args:
        datasets: Of each image.
        count: How many, at most.
        rng: Source of the choice.
    """
    seen: Counter[str] = Counter()
    turns = []
    for index in rng.permutation(len(datasets)):
        turns.append((seen[datasets[index]], int(index)))
        seen[datasets[index]] += 1
    # The sort is stable, so that images of one turn stay in their random order.
    return sorted(index for _, index in sorted(turns, key=lambda turn: turn[0])[:count])


def _images_of(ids: Sequence[str], values: Sequence[Any]) -> list[Any]:
    """Each value once for each image that has it."""
    return [value for _, value in {(name, value) for name, value in zip(ids, values, strict=True)}]


def _counts(of_images: Sequence[Any], of_masks: Sequence[Any], what: str, path: Path) -> Path:
    """Bars of the number of images and masks, on a logarithmic axis."""
    images, masks = (Counter(value or "not stated" for value in values) for values in (of_images, of_masks))
    names = [name for name, _ in masks.most_common(_TARGETS)][::-1]
    height = 1.2 + 0.32 * len(names)
    figure, axes = _figure(8, height)
    places = np.arange(len(names))
    for shift, counter, colour, label in ((0.2, images, _IMAGES, "images"), (-0.2, masks, _MASKS, "masks")):
        values = [counter[name] for name in names]
        bars = axes.barh(places + shift, values, 0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=3, fontsize=7)
    axes.set_yticks(places, names)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 4 * max([1, *masks.values(), *images.values()]))
    axes.set_xlabel("number")
    rest = f" ({_TARGETS} most frequent of {len(masks)})" if len(masks) > _TARGETS else ""
    axes.set_title(f"Images and masks by {what}{rest}", fontsize=10)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    return _save(figure, path)


def _mask_figure(shares: NDArray[Any], per_image: Sequence[int], path: Path) -> Path:
    """Sizes of masks and their number per image."""
    figure, (left, right) = _figure(10, 3.6, columns=2)
    if len(shares):
        edges = np.logspace(math.log10(max(shares.min(), 1e-6)), 0, 40)
        left.hist(shares, edges, color=_MASKS)
    left.set_xscale("log")
    left.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    left.set_xlabel("share of the image")
    left.set_ylabel("masks")
    left.set_title("Size of masks", fontsize=10)
    most = max([1, *per_image])
    right.hist(per_image, np.arange(-0.5, min(most, 60) + 1), color=_IMAGES)
    right.set_yscale("log")
    right.set_xlabel("masks in an image" + (" (up to 60)" if most > 60 else ""))
    right.set_ylabel("images")
    right.set_title("Masks per image", fontsize=10)
    return _save(figure, path)


def _resolutions(heights: Sequence[int], widths: Sequence[int], path: Path) -> Path:
    """Number of images by area, in the intervals of COSMOS 1050K, figure 3d."""
    sides = [0, 128, 256, 384, 512, 768, 1024, 2048, 10**6]
    area = np.sqrt(np.array(heights, float) * np.array(widths, float))
    counts = np.histogram(area, sides)[0]
    figure, axes = _figure(7, 3.4)
    names = [f"up to {side}²" for side in sides[1:-1]] + [f"over {sides[-2]}²"]
    bars = axes.bar(names, counts, color=_IMAGES)
    axes.bar_label(bars, [f"{count:,}" if count else "" for count in counts], fontsize=7)
    axes.tick_params(axis="x", rotation=30)
    axes.set_ylabel("images")
    axes.set_title("Resolution (pixels)", fontsize=10)
    return _save(figure, path)


def contact_sheet(images: Sequence[LabelledImage], columns: int = 6, side: int = 200) -> NDArray[np.uint8]:
    """Images with their masks' outlines and names, as (H, W, 3) uint8."""
    import cv2

    rows = max(1, math.ceil(len(images) / columns))
    caption = 28
    sheet = np.full((rows * (side + caption), columns * side, 3), 24, np.uint8)
    for number, image in enumerate(images):
        tile = _tile(image, side - 4)
        top, left = number // columns * (side + caption) + 2, number % columns * side + 2
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        names = ", ".join(dict.fromkeys(entry.target for entry in image.masks))
        for line, text in enumerate((f"{image.modality}, {image.dataset}", names)):
            shown = text if len(text) <= 33 else text[:31] + ".."
            place = (left, top + side + 6 + 12 * line)
            cv2.putText(sheet, shown, place, cv2.FONT_HERSHEY_SIMPLEX, 0.33, (235, 235, 235), 1, cv2.LINE_AA)
    return sheet


def _tile(image: LabelledImage, side: int) -> NDArray[np.uint8]:
    import cv2

    height, width = image.image.size
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = cv2.resize(image.image.rgb(), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for number, entry in enumerate(image.masks):
        mask = cv2.resize(entry.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, _COLOURS[number % len(_COLOURS)], 1)
    return np.asarray(tile, np.uint8)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes: Axes | NDArray[Any] = figure.subplots(1, columns)
    for each in np.atleast_1d(np.asarray(axes, object)):
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as part:
        figure.savefig(part, dpi=130)
    return path
