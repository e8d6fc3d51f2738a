"""Pictures of cases: the image with its prompt, the truth and what each model made of it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prediction, Prompt, Slice
from vesalius.corpus.layouts.pairs import find_sets, list_cases, read_pairs
from vesalius.corpus.store import Corpus, decode_mask, is_corpus
from vesalius.evaluation.images import name_of
from vesalius.evaluation.tables import Way, select, told
from vesalius.predict.overlay import View, draw_overlay

if TYPE_CHECKING:
    from PIL.Image import Image

# Longest side of a picture, in pixels, and what is seen around an object, in its longer sides.
_SIDE, _AROUND = 260, 0.6
# Of each of good, typical and bad.
_CASES = 3


@dataclass(frozen=True)
class Picture:
    """A picture, as the address that holds it, and what is said under it."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures under the same heads.

    Attributes:
        title: What is shown.
        heads: Of the columns of pictures.
        rows: Head of the row, and its pictures; None where there is none.
        notes: The rows that they show, and how they were chosen.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Picture | None]]]
    notes: tuple[str, ...] = ()


def read_images(corpus: Path, rows: pd.DataFrame) -> dict[str, Slice]:
    """The images that some rows are of.

    Args:
        corpus: A corpus, or a folder of sets of pairs.
        rows: With the columns ``image`` and ``dataset``.

    Returns:
        Name of the image -> the image; images that are not there any more are left out.

    Raises:
        ReadError: The folder is neither, or a file in it is damaged.
    """
    wanted = set(rows["image"])
    if is_corpus(corpus):
        opened = Corpus(corpus)
        places = {name: place for place, name in enumerate(opened.images["id"].to_pylist()) if name in wanted}
        return {name: opened.read(place, ()).image for name, place in places.items()}
    found: dict[str, Slice] = {}
    for folder in find_sets(corpus):
        names = (
            [f"{folder.name}/{path.stem}" for path in list_cases(folder)] if folder.name in set(rows["dataset"]) else []
        )
        chosen = [place for place, name in enumerate(names) if name in wanted]
        found |= {name_of(image): image.image for image in read_pairs(folder, rows=chosen)} if chosen else {}
    return found


def read_outlines(folder: Path, way: Way, objects: Collection[str]) -> dict[tuple[str, str], bytes]:
    """(object, model) -> the outline that the model gave under a prompt."""
    import pyarrow.parquet as pq

    filters = [("object", "in", list(objects)), *((column, "=", value) for column, value in way.items())]
    table = pq.read_table(folder / "scores.parquet", columns=["object", "model", "rle"], filters=filters)
    return {(row["object"], row["model"]): row["rle"] for row in table.to_pylist() if row["rle"] is not None}


def read_prompts(prompts: pd.DataFrame, way: Way) -> dict[str, Prompt]:
    """Object -> its first prompt."""
    shown = {column: way[column] for column in ("protocol", "strategy", "variant", "repeat")}
    found = {}
    for row in select(prompts, **shown).to_dict("records"):
        points = np.asarray(row["points"], float).reshape(-1, 2) if _given(row["points"]) else ()
        box = tuple(row["box"]) if _given(row["box"]) else None
        if len(points) or box:
            found[str(row["object"])] = Prompt(points=points, labels=row["labels"] if len(points) else None, box=box)
    return found


def _given(value: Any) -> bool:
    return value is not None and not isinstance(value, float) and len(value) > 0


def choose_cases(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(good, typical or bad, object) of rows of one model and prompt, of as many modalities as there are.

    Good are the best tenth, typical those nearest the median, bad the worst tenth.
    """
    ranked = rows.dropna(subset=["dice"]).sort_values(["dice", "object"], ascending=[False, True])
    tenth = max(1, len(ranked) // 10)
    middle = len(ranked) // 2
    near = sorted(range(len(ranked)), key=lambda place: abs(place - middle))[: max(tenth, _CASES)]
    parts = {"good": ranked[:tenth], "typical": ranked.iloc[near], "bad": ranked[::-1][:tenth]}
    found: dict[str, str] = {}
    for name, part in parts.items():
        part = part[~part["object"].isin(list(found))]
        # The first of each modality, then the second, and so on.
        turn = part.groupby("modality", observed=True).cumcount()
        for chosen in part.loc[turn.sort_values(kind="stable").index, "object"][:_CASES]:
            found[str(chosen)] = name
    return [(name, chosen) for chosen, name in found.items()]


def cases(
    folder: Path, rows: pd.DataFrame, prompts: pd.DataFrame, images: Mapping[str, Slice], way: Way, name: str
) -> Gallery | None:
    """Good, typical and bad cases of the first model under a prompt, and what the others made of them."""
    rows = select(rows, **way)
    rows = rows[rows["reason"].isna()]
    models = [model for model in rows["model"].cat.categories if (rows["model"] == model).any()]
    if not models:
        return None
    chosen = choose_cases(rows[rows["model"] == models[0]])
    about = rows.drop_duplicates("object").set_index("object")
    dice = rows.set_index(["object", "model"])["dice"].to_dict()
    shown = [(kind, one) for kind, one in chosen if about.loc[one, "image"] in images]
    outlines = read_outlines(folder, way, [one for _, one in shown])
    given = read_prompts(prompts, way)
    lines = []
    for kind, one in shown:
        image = images[about.loc[one, "image"]]
        truth = decode_mask(about.loc[one, "truth"], *image.size)
        view = _view(about.loc[one], image.size)
        prompt = _all_or_none(given, [one])
        target = str(about.loc[one, "target"])
        pictures: list[Picture | None] = [_picture(image, prompt, [truth], view, "truth", f"{target}, truth")]
        for model in models:
            if (one, model) in outlines:
                mask = decode_mask(outlines[one, model], *image.size)
                caption = f"Dice {100 * dice[one, model]:.1f}"
                pictures.append(_picture(image, prompt, [mask], view, caption, f"{target} by {model}, {caption}"))
            else:
                pictures.append(None)
        lines.append((f"{kind}: {target}, {about.loc[one, 'modality']}, {about.loc[one, 'image']}", pictures))
    return Gallery(
        f"Good, typical and bad cases: {name}",
        ["truth", *models],
        lines,
        (
            _source(rows, told(way), [one for _, one in shown]),
            f"Chosen by the Dice of {models[0]}: of the best tenth, nearest the median, of the worst tenth, "
            "of different modalities where there are.",
            "Dashed: the box given; plus and minus: the clicks given; line: the outline.",
        ),
    )


def fused(
    folder: Path,
    rows: pd.DataFrame,
    prompts: pd.DataFrame,
    images: Mapping[str, Slice],
    ways: Mapping[str, Way],
    chosen: Sequence[str],
) -> Gallery | None:
    """All objects of an image in one picture, for each prompt and model (SAM-Med2D, figure 7)."""
    models: list[str] = []
    lines: list[tuple[str, dict[str, Picture]]] = []
    for name in chosen:
        if name not in images:
            continue
        image = images[name]
        for prompt_name, way in ways.items():
            mine = select(rows, **way, image=name)
            mine = mine[mine["reason"].isna()]
            objects = list(dict.fromkeys(mine["object"]))
            outlines = read_outlines(folder, way, objects)
            given = read_prompts(prompts, way)
            truths = [decode_mask(truth, *image.size) for truth in mine.drop_duplicates("object")["truth"]]
            drawn = _all_or_none(given, objects)
            row = {"truth": _picture(image, drawn, truths, None, "truth", f"objects of {name}, truth")}
            for model in [model for model in mine["model"].cat.categories if (mine["model"] == model).any()]:
                if model not in models:
                    models.append(model)
                answered = [one for one in objects if (one, model) in outlines]
                masks = [decode_mask(outlines[one, model], *image.size) for one in answered]
                drawn = _all_or_none(given, answered)
                mean = 100 * mine.loc[mine["model"] == model, "dice"].mean()
                caption = f"mean Dice {mean:.1f}"
                row[model] = _picture(image, drawn, masks, None, caption, f"{name} by {model}, {caption}")
            lines.append((f"{name}, {prompt_name}", row))
    if not models:
        return None
    shown = [name for name in chosen if name in images]
    rows = rows[rows["reason"].isna()]
    sources = [_source(select(rows, **way), told(way), shown, "image") for way in ways.values()]
    heads = ["truth", *models]
    return Gallery(
        "Several objects of one image",
        heads,
        [(name, [row.get(head) for head in heads]) for name, row in lines],
        (
            *sources,
            "Images with the most objects that were measured, of different modalities; each object has its colour.",
        ),
    )


def complex_cases(
    folder: Path, rows: pd.DataFrame, images: Mapping[str, Slice], way: Way, chosen: Sequence[str]
) -> Gallery | None:
    """Objects of rising Fourier order, and what the first model made of them (COSMOS, figure 15)."""
    rows = select(rows, **way)
    rows = rows[rows["reason"].isna() & rows["object"].isin(list(chosen))]
    models = [model for model in rows["model"].cat.categories if (rows["model"] == model).any()]
    if not models:
        return None
    about = rows[rows["model"] == models[0]].set_index("object")
    outlines = read_outlines(folder, way, chosen)
    pictures: dict[str, list[Picture | None]] = {"truth": [], models[0]: []}
    heads: list[str] = []
    shown: list[str] = []
    for one in chosen:
        if one not in about.index or about.loc[one, "image"] not in images or (one, models[0]) not in outlines:
            continue
        image, target = images[about.loc[one, "image"]], str(about.loc[one, "target"])
        view = _view(about.loc[one], image.size)
        mask = decode_mask(outlines[one, models[0]], *image.size)
        heads.append(f"order {about.loc[one, 'fourier_order']:.1f}")
        shown.append(one)
        caption = f"Dice {100 * about.loc[one, 'dice']:.1f}"
        truth = decode_mask(about.loc[one, "truth"], *image.size)
        pictures["truth"].append(_picture(image, [], [truth], view, target, f"{target}, truth"))
        alt = f"{target} by {models[0]}, {caption}"
        pictures[models[0]].append(_picture(image, [], [mask], view, caption, alt))
    if not heads:
        return None
    used = _source(rows[rows["model"] == models[0]], f"{told(way)}, model {models[0]}", shown)
    return Gallery("Objects of rising Fourier order", heads, list(pictures.items()), (used,))


def choose_complex(rows: pd.DataFrame, count: int = 6) -> list[str]:
    """Objects at equal steps of the ranks of their Fourier order."""
    objects = rows.drop_duplicates("object").dropna(subset=["fourier_order"])
    ranked = objects.sort_values(["fourier_order", "object"])["object"].tolist()
    return [ranked[round(place)] for place in np.linspace(0, len(ranked) - 1, min(count, len(ranked)))]


def choose_crowded(rows: pd.DataFrame, count: int = 4) -> list[str]:
    """Images with the most objects, of as many modalities as there are; none with a single one."""
    grouped = rows.drop_duplicates("object").groupby(["image", "modality"], observed=True).size()
    counts = grouped[grouped > 1].reset_index(name="objects").sort_values(["objects", "image"], ascending=[False, True])
    turn = counts.groupby("modality", observed=True).cumcount()
    return list(counts.loc[turn.sort_values(kind="stable").index, "image"][:count])


def saliency(maps: pd.DataFrame, images: Mapping[str, Slice]) -> Gallery:
    """How strongly each model's embedding answers to the places of an image (MedSAM, supplement, figure 11)."""
    from matplotlib import colormaps
    from PIL import Image

    models = list(dict.fromkeys(maps["model"]))
    lines = []
    for name, group in maps.groupby("image", sort=False):
        row: dict[str, Picture] = {}
        pixels = None
        if name in images:
            pixels = images[name].rgb()
            row["image"] = Picture(_jpeg(_small(Image.fromarray(pixels))), "", f"image {name}")
        for one in group.to_dict("records"):
            values = np.frombuffer(one["values"], np.float16).reshape(one["height"], one["width"]).astype(np.float32)
            drawn = Image.fromarray((255 * colormaps["cividis"](values)[:, :, :3]).astype(np.uint8))
            if pixels is not None:
                whole = Image.fromarray(pixels)
                drawn = Image.blend(whole, drawn.resize(whole.size, Image.Resampling.BILINEAR), 0.65)
            else:
                drawn = drawn.resize((_SIDE, _SIDE * one["height"] // one["width"]), Image.Resampling.BILINEAR)
            row[one["model"]] = Picture(_jpeg(_small(drawn)), "", f"saliency of {one['model']} on {name}")
        lines.append((str(name), row))
    heads = (["image"] if any("image" in row for _, row in lines) else []) + models
    return Gallery(
        "Saliency of the image embeddings",
        heads,
        [(name, [row.get(head) for head in heads]) for name, row in lines],
        (
            f"From saliency.parquet: {len(maps)} rows of the images {', '.join(name for name, _ in lines)}.",
            "Mean size of the embedding's channels, from 0 (dark blue) to 1 (yellow) over each image.",
        ),
    )


def _source(rows: pd.DataFrame, what: str, shown: Sequence[str], column: str = "object") -> str:
    """The rows of some objects or images that are shown."""
    count = len(select(rows, **{column: list(shown)}))
    return f"From scores.parquet, {what}: {count} rows of the {column}s {', '.join(shown)}."


def _view(about: pd.Series, size: tuple[int, int]) -> View:
    """The part of the image around an object."""
    x0, y0, x1, y1 = (int(about[side]) for side in ("x0", "y0", "x1", "y1"))
    reach = max(16, _AROUND * max(x1 - x0, y1 - y0))
    left, top = max(0, math.floor(x0 - reach)), max(0, math.floor(y0 - reach))
    return left, top, min(size[1], math.ceil(x1 + reach)), min(size[0], math.ceil(y1 + reach))


def _picture(
    image: Slice,
    prompts: Sequence[Prompt],
    masks: Sequence[NDArray[np.bool_]],
    view: View | None,
    caption: str,
    alt: str,
) -> Picture:
    from PIL import Image

    logits = Logits(np.zeros((1, 1), np.float32), Frame.stretch(image.size, 1))
    answers = [Prediction(mask, math.nan, logits) for mask in masks]
    drawn = draw_overlay(image, prompts, answers, longest=_SIDE, view=view, legend=False)
    return Picture(_jpeg(Image.fromarray(drawn)), caption, alt)


def _all_or_none(given: Mapping[str, Prompt], objects: Sequence[str]) -> list[Prompt]:
    """The prompts of some objects; none where one is not known."""
    return [given[one] for one in objects] if all(one in given for one in objects) else []


def _small(picture: Image) -> Image:
    from PIL import Image

    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _jpeg(picture: Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
