"""Curation beside the obvious pipeline: nibabel, scipy's label, Pillow, one PNG per image and per mask.

    python benchmarks/curation.py [--volumes 6] [--side 192] [--turns 3] [--data FOLDER]

Both apply SA-Med2D-20M's rules (three axes, min-max, narrow slices dropped, masks by class and connected part, small
ones dropped) to the same volumes in the layout of the Medical Segmentation Decathlon: made-up ones of smooth noise with
blobs of three classes, or those of FOLDER. They take turns; corpora are made by one process and by one per core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from vesalius.corpus.curate import curate, default_workers
from vesalius.corpus.recipe import DatasetRecipe, Recipe

LEAST = 100 / (256 * 256)


def made_up(folder: Path, volumes: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    training = []
    for number in range(volumes):
        shape = (side, side, side // 2)
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
        field = ndimage.gaussian_filter(rng.standard_normal(shape), side / 16)
        field /= field.std()
        labels = np.digitize(field, [1.0, 1.6, 2.2]).astype(np.uint8)
        image = (1000 * (field + noise / noise.std() / 4)).astype(np.int16)
        for values, name in ((image, "imagesTr"), (labels, "labelsTr")):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name / f"case{number}.nii.gz")
        training.append({"image": f"./imagesTr/case{number}.nii.gz", "label": f"./labelsTr/case{number}.nii.gz"})
    about = {
        "name": "made up",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "liver tumour", "3": "necrosis"},
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(about))


def obvious(folder: Path, out: Path) -> tuple[int, int]:
    """The serial pipeline; the number of images and masks."""
    about = json.loads((folder / "dataset.json").read_text())
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True)
    images = masks = 0
    for pair in about["training"]:
        image = np.asanyarray(nibabel.load(folder / pair["image"]).dataobj)
        labels = np.asanyarray(nibabel.load(folder / pair["label"]).dataobj)
        low, high = float(image.min()), float(image.max())
        image = np.ceil((image - low) / (high - low) * 255).astype(np.uint8)
        stem = Path(pair["image"]).name.removesuffix(".nii.gz")
        for axis in range(3):
            for index in range(image.shape[axis]):
                pixels, plane = np.take(image, index, axis), np.take(labels, index, axis)
                if min(pixels.shape) < max(pixels.shape) / 2 or not plane.any():
                    continue
                found = 0
                for value in np.unique(plane[plane > 0]):
                    parts, count = ndimage.label(plane == value, np.ones((3, 3)))
                    for part in range(1, count + 1):
                        mask = parts == part
                        if mask.sum() >= LEAST * mask.size:
                            name = f"{stem}--{'xyz'[axis]}_{index:04d}--{value:04d}_{part:03d}.png"
                            Image.fromarray(mask.astype(np.uint8) * 255).save(out / "masks" / name)
                            found += 1
                if found:
                    Image.fromarray(pixels).save(out / "images" / f"{stem}--{'xyz'[axis]}_{index:04d}.png")
                    images += 1
                    masks += found
    return images, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=6)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with a dataset.json")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    try:
        raw = arguments.data or place / "raw"
        if arguments.data is None:
            made_up(raw, arguments.volumes, arguments.side)
        recipe = Recipe(name="all", datasets=(DatasetRecipe(name="all", layout="msd", root=Path(), modality="ct"),))
        cores = default_workers()
        ways = {
            "nibabel, scipy, Pillow": lambda out: obvious(raw, out),
            "vesalius, one process": lambda out: curate(recipe, out, root=raw, workers=1),
            f"vesalius, {cores} processes": lambda out: curate(recipe, out, root=raw, workers=cores),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        made: dict[str, tuple[int, int, int, int]] = {}
        for turn in range(arguments.turns):
            for number, (name, way) in enumerate(ways.items()):
                out = place / f"{turn}-{number}"
                start = time.perf_counter()
                result = way(out)
                times[name].append(time.perf_counter() - start)
                images, masks = result if isinstance(result, tuple) else (result.images, result.masks)
                files = [path for path in out.rglob("*") if path.is_file()]
                made[name] = images, masks, len(files), sum(path.stat().st_size for path in files)
                shutil.rmtree(out)
        table = Table("way", "seconds", "times as fast", "images", "masks", "masks/s", "files", "MB", box=box.MARKDOWN)
        base = statistics.median(times["nibabel, scipy, Pillow"])
        for name, (images, masks, files, size) in made.items():
            taken = statistics.median(times[name])
            numbers = (f"{images}", f"{masks}", f"{masks / taken:.0f}", f"{files}", f"{size / 1e6:.1f}")
            table.add_row(name, f"{taken:.1f}", f"{base / taken:.2f}", *numbers)
        Console(width=140).print(table)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
