"""Pictures of discs in COCO's layout, to be curated."""

import hashlib
from pathlib import Path

import numpy as np
from skimage import data

from vesalius.core.types import Slice
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.recipe import Recipe

COUNT = 24
RECIPE = """
name = "all"
[[datasets]]
name = "discs"
layout = "coco"
root = "discs"  # root
modality = "ct"
"""


def images() -> list[LabelledImage]:
    """Pieces of a photograph with one or two discs each."""
    photograph, out = data.camera(), []
    y, x = np.indices((64, 72))
    for number in range(COUNT):
        row, column = divmod(number, 6)
        pixels = photograph[row * 64 : row * 64 + 64, column * 72 : column * 72 + 72]
        masks = [ObjectMask((y - 20) ** 2 + (x - 20 - number) ** 2 < 100, "liver", 1)]
        if number % 3:
            masks.append(ObjectMask((y - 45) ** 2 + (x - 50) ** 2 < 30 + number, "gremlin", 1))
        out.append(
            LabelledImage(
                Slice(pixels),
                "ct",
                "discs",
                f"patient{number // 2}",
                Path(f"{number}.png"),
                masks,
                f"discs/{number:02d}/2d",
            )
        )
    return out


def recipe(**about: object) -> Recipe:
    dataset = {"name": "discs", "layout": "coco", "root": "discs", "modality": "ct", **about}
    return Recipe.from_dict({"name": "all", "datasets": [dataset]})


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
