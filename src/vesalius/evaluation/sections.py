"""The sections of a report: tables and figures, each with the rows that it is computed from.

What each table is and where it comes from: ``docs/reports.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vesalius.core.errors import ReadError
from vesalius.evaluation import figures, galleries, tables
from vesalius.evaluation.galleries import Gallery
from vesalius.evaluation.protocols import ANNOTATOR
from vesalius.evaluation.rendering import Table, without_empty
from vesalius.evaluation.results import METRICS, RUN, read_table
from vesalius.evaluation.tables import METRIC_NAMES, Way, select, told

if TYPE_CHECKING:
    from vesalius.core.types import Slice

_MEANS = "Means over objects, then over data sets, with 95 % confidence intervals over cases."
_MEAN_ALONE = "Means over objects, then over data sets."
# What becomes of values that are not there, which every table says.
_UNDEFINED = (
    "Undefined values, where neither the outline nor the truth has a pixel, are left out; where one of them has none, "
    "overlaps are 0 and distances the image's diagonal. What has no answer is left out, and is no zero."
)
_UNTIMED = "What has no answer was not timed and is left out, and is no zero. There are no undefined times."
_WRITTEN = "Nothing is left out; what is not known is said to be none."
_TEST = "Wilcoxon signed-rank test, two-sided, on the same objects; p-values corrected by Holm over the table."


@dataclass(frozen=True)
class Drawing:
    """A figure of a report.

    Attributes:
        title: What it shows.
        uri: The picture, as an address that holds it.
        alt: What it shows, for those who do not see it.
        notes: How to read it, and the rows that it is drawn from.
    """

    title: str
    uri: str
    alt: str
    notes: tuple[str, ...] = ()


Item = Table | Drawing | Gallery


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    items: Sequence[Item]
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The tables of a finished evaluation.

    Attributes:
        folder: Where it lies.
        run: What was measured.
        rows: Scores with what is known of their objects; see `tables.read_rows`.
        prompts: The first prompts.
        volumes: Scores of whole volumes.
        times: How long images and prompts took.
        saliency: Maps of the image embeddings.
    """

    folder: Path
    run: Mapping[str, Any]
    rows: pd.DataFrame
    prompts: pd.DataFrame
    volumes: pd.DataFrame
    times: pd.DataFrame
    saliency: pd.DataFrame

    @property
    def models(self) -> list[str]:
        """Names of the models, in order."""
        return [str(name) for name in self.rows["model"].cat.categories]

    @cached_property
    def headlines(self) -> dict[str, Way]:
        """See `tables.headlines`."""
        return tables.headlines(self.rows)

    def has(self, **wanted: Any) -> bool:
        """Whether there are rows of these values that have an answer."""
        return bool(select(self.rows, **wanted)["reason"].isna().any())


def read_evaluation(folder: Path) -> Evaluation:
    """Reads the tables of a finished evaluation.

    Raises:
        ReadError: The folder is none.
    """
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(
            f"is no finished evaluation: {RUN} cannot be read ({error})",
            path=folder,
            remedy="give the folder that `vesalius evaluate` wrote, or run the same `vesalius evaluate` to its end",
        ) from error
    if not run.get("finished"):
        raise ReadError(
            "is no finished evaluation", path=folder, remedy="run the same `vesalius evaluate` again, to its end"
        )
    rows = tables.read_rows(folder, [model["name"] for model in run.get("models", [])])
    if rows.empty:
        raise ReadError("holds no scores", path=folder, remedy="evaluate a corpus that has objects")
    others = {name: read_table(folder, name).to_pandas() for name in ("prompts", "volumes", "times", "saliency")}
    order = list(rows["model"].cat.categories)
    for name in ("volumes", "times", "saliency"):
        found = [*order, *(model for model in others[name]["model"].unique() if model not in order)]
        others[name]["model"] = pd.Categorical(others[name]["model"], found)
    return Evaluation(folder, run, rows, **others)


def _table(
    name: str,
    title: str,
    frame: pd.DataFrame,
    used: str,
    notes: tuple[str, ...] = (),
    digits: int = 1,
    undefined: str = _UNDEFINED,
) -> Table:
    """A table; models that have no answer in a row or column of their own are named under it instead."""
    frame, left_out = without_empty(frame)
    return Table(name, title, frame, used, (*notes, undefined, *left_out), digits)


def source(rows: pd.DataFrame, what: str, metrics: Sequence[str] = ("dice",)) -> str:
    """The rows that something is computed from, with what is undefined or missed in them."""
    answered = rows[rows["reason"].isna()]
    undefined = {name: int(answered[name].isna().sum()) for name in metrics}
    several = ", ".join(f"{count} of {METRIC_NAMES[name].removesuffix(' (%)')}" for name, count in undefined.items())
    return (
        f"From {what}: {len(answered)} rows of {answered['object'].nunique()} objects. "
        f"Undefined and left out: {several if any(undefined.values()) else 'none'}. "
        f"Missed, without a pixel in common with the truth: {int((answered['dice'] == 0).sum())}. "
        f"Without an answer: {len(rows) - len(answered)}."
    )


def _told(ways: Mapping[str, Way]) -> str:
    return "; ".join(f"{name}: {told(way)}" for name, way in ways.items())


def _overall(evaluation: Evaluation) -> Iterator[Section]:
    rows, ways = evaluation.rows, evaluation.headlines
    shown = {name: way for name, way in tables.SAM_MED2D.items() if evaluation.has(**way)} or ways
    items: list[Item] = []
    if shown:
        used = source(tables.with_prompt(rows, shown), _told(shown))
        items.append(
            _table(
                "overall",
                "Dice (%) by model and prompt, and frames per second",
                tables.overall(rows, evaluation.times),
                used,
                (
                    _MEANS,
                    "FPS: images per second, each encoded and asked for one object by a box. Form of SAM-Med2D, "
                    "table 2.",
                ),
            )
        )
        items.append(
            _table(
                "overall_objects",
                "Dice (%) by model and prompt, over the objects of all data sets together",
                tables.over_objects(rows, shown),
                used,
                (
                    "Means over all objects, as the papers state them, with 95 % confidence intervals over cases; "
                    "medians (first, third quartile) over all objects.",
                ),
            )
        )
    if len(evaluation.models) > 1 and ways:
        items.append(
            _table(
                "comparisons",
                "Every two models on the same objects",
                tables.comparisons(rows, ways),
                source(tables.with_prompt(rows, ways), _told(ways)),
                (
                    _TEST,
                    "Median difference: Dice of the second less that of the first, in points. Effect: matched-pairs "
                    "rank-biserial correlation, 1 where the second is better on every object, -1 where the first is.",
                ),
                2,
            )
        )
    yield Section("All data sets", items)


def _increments(evaluation: Evaluation) -> Iterator[Section]:
    if evaluation.has(**tables.SAM_MED2D["1 pt"]) and evaluation.has(**tables.SAM_MED2D["5 pts"]):
        rows = select(evaluation.rows, protocol="sam-med2d", strategy="points", round=[1, 5])
        table = _table(
            "point_increments",
            "Dice (%) with one point and, in brackets, what four more add, by modality",
            tables.increments(evaluation.rows),
            source(rows, "protocol sam-med2d, strategy points, choice own, rounds 1 and 5"),
            (_MEAN_ALONE, "Form of SAM-Med2D, table 3."),
        )
        yield Section("More points", [table])


def _generalisation(evaluation: Evaluation) -> Iterator[Section]:
    items: list[Item] = []
    rows = evaluation.rows
    ways = {name: tables.SAM_MED2D[name] for name in ("box", "1 pt")}
    if any(evaluation.has(**way) for way in ways.values()):
        external = bool((rows["origin"] == "external").any())
        used = tables.with_prompt(select(rows, origin="external") if external else rows, ways)
        items.append(
            _table(
                "generalisation",
                f"Dice (%) by {'external ' if external else ''}data set",
                tables.generalisation(rows),
                source(used, _told(ways)),
                (
                    "Means over objects; the weighted average is that of all objects. A star: the model without its "
                    "adapters (protocol adapter-off). Form of SAM-Med2D, table 4."
                    + ("" if external else " No data set is named as external, so all are listed."),
                ),
            )
        )
    if evaluation.has(protocol="adapter-off"):
        items.append(
            _table(
                "adapters",
                "Dice (%) with the adapters on and off",
                tables.adapters_off(rows),
                source(select(rows, protocol="adapter-off"), "protocol adapter-off, rounds 1 and last"),
                (_MEANS,),
            )
        )
    yield Section("Generalisation", items)


def _cosmos(evaluation: Evaluation) -> Iterator[Section]:
    items: list[Item] = []
    how = {"matched": "the mask nearest the truth (mask matching)", "own": "the mask that the model rates best"}
    for choice, words in how.items():
        rows = tables.with_choice(select(evaluation.rows, protocol="cosmos"), choice)
        used = f"protocol cosmos, choice {choice}{', or own without an answer' if choice == 'matched' else ''}"
        if not rows["reason"].isna().any():
            continue
        for metric, number in (("dice", 2), ("hd", 3)):
            items.append(
                _table(
                    f"objects_{metric}_{choice}",
                    f"{METRIC_NAMES[metric]} by object and modality, {words}",
                    tables.by_strategy(evaluation.rows, metric, choice),
                    source(rows, used, (metric,)),
                    (
                        _MEAN_ALONE,
                        *(["HD is in the unit that is named."] if metric == "hd" else []),
                        "S1 everything; S2 one point; S3 five points; S4 five points on the object and five beside it; "
                        f"S5 box; S6 box and point. Form of COSMOS 1050K, table {number}.",
                    ),
                )
            )
    yield Section("Objects and strategies", items)


def _by_modality(evaluation: Evaluation) -> Iterator[Section]:
    items: list[Item] = []
    for name, way in evaluation.headlines.items():
        rows = select(evaluation.rows, **way)
        rows = rows[rows["reason"].isna()]
        if rows.empty:
            continue
        notes = (
            source(rows, told(way)),
            "Boxes from the first to the third quartile with the median; whiskers reach at most 1.5 times as far; the "
            "triangle and the number are the mean over the objects.",
        )
        pairs = (
            ("each model by modality", figures.boxes_by_modality, "COSMOS 1050K, figure 10"),
            ("each modality by model", figures.boxes_by_model, "IMIS-Bench, supplement, figure 3"),
        )
        for words, draw, paper in pairs:
            title = f"Dice with {name}: {words}"
            uri = figures.as_uri(draw(rows))
            alt = f"Box plots of {title}; the numbers are those of the tables by modality."
            items.append(Drawing(title, uri, alt, (*notes, f"Form of {paper}.")))
    yield Section("Modalities", items)


def _interactive(evaluation: Evaluation) -> Iterator[Section]:
    items: list[Item] = []
    rows = select(evaluation.rows, protocol="interactive")
    if rows["reason"].isna().any():
        for metric, words in (("iou", "IoU, as FocalClick and SimpleClick are scored"), ("dice", "Dice")):
            items.append(
                _table(
                    f"clicks_{metric}",
                    f"Clicks needed, by {words}",
                    tables.interactive(rows, metric),
                    source(rows, "protocol interactive, all rounds", (metric,)),
                    (
                        "NoC: mean number of clicks to reach the score; an object that never does counts as the last "
                        "click, and as a failure. Area under the curve of the mean score over the clicks, 100 if every "
                        "score were perfect. All three are of the objects that have an answer to every click; an "
                        "outline without an error gets no more clicks and keeps its score. Means over objects.",
                    ),
                )
            )
        for metric, words in (("dice", "Dice"), ("iou", "IoU")):
            notes = (source(rows, "protocol interactive, all rounds", (metric,)), "Form of COSMOS 1050K, figure 16.")
            items.append(_curve(rows, metric, f"{words} against the number of clicks", "clicks", notes))
    rows = select(evaluation.rows, protocol=ANNOTATOR)
    if rows["reason"].isna().any():
        counted = rows["reason"].value_counts()
        silent = "; ".join(f"{reason}: {count}" for reason, count in counted[counted > 0].items())
        notes = (
            source(rows, f"protocol {ANNOTATOR}, all rounds"),
            *((f"Rows without an answer: {silent}.",) if silent else ()),
            "The truth is what the annotator left, which was outlined with a model's help: it is nearer to that model "
            "than to others. A prompt counts when it is given and when it is taken back. An object that was given no "
            "more prompts keeps its last score. Means over objects.",
        )
        title = "Dice (%) after an annotator's prompts, given again"
        items.append(_table("annotator", title, tables.annotator(rows), notes[0], notes[1:]))
        items.append(_curve(rows, "dice", "Dice against the number of prompts of an annotator", "prompts", notes))
    rows = select(evaluation.rows, protocol="imis")
    if rows["reason"].isna().any():
        items.append(
            _table(
                "corrections",
                "Dice (%) after a first prompt and after each correction",
                tables.corrections(evaluation.rows),
                source(rows, "protocol imis, all rounds"),
                (_MEANS,),
            )
        )
    yield Section("Clicks and corrections", items)


def _curve(rows: pd.DataFrame, metric: str, title: str, what: str, notes: tuple[str, ...]) -> Drawing:
    """The mean of a metric after each round, a line for each model."""
    name = METRIC_NAMES[metric].removesuffix(" (%)")
    means = {
        model: (100 * pd.DataFrame(curve).mean()).dropna() for model, curve in tables.click_curves(rows, metric).items()
    }
    found = {model: ((line.index + 1).tolist(), line.tolist()) for model, line in means.items() if len(line)}
    alt = f"Lines of mean {name} over {what} for {', '.join(found)}; from " + ", ".join(
        f"{model} {line[0]:.1f} to {line[-1]:.1f}" for model, (_, line) in found.items()
    )
    each = f"Each mean is of the objects that have an answer after so many {what}; where none has, there is no point."
    return Drawing(title, figures.as_uri(figures.curves(found, what, f"mean {name} (%)")), alt, (*notes, each))


def _factors(evaluation: Evaluation) -> Iterator[Section]:
    items: list[Item] = []
    rows = select(evaluation.rows, protocol="cosmos")
    if rows["reason"].isna().any():
        items.append(
            _table(
                "correlations",
                "Spearman partial correlation of Dice with properties of the objects",
                tables.correlations(rows),
                source(rows, "protocol cosmos"),
                (
                    "Each is correlated with the others held fixed; p < 0.001, uncorrected, in bold. Modalities have "
                    "no order: theirs is a multiple correlation, which has no sign. Aspect ratio: short by long side "
                    "of the box. Form of COSMOS 1050K, table 6.",
                ),
                3,
            )
        )
    way = evaluation.headlines.get("box")
    if way is not None:
        rows = select(evaluation.rows, **way)
        rows = rows[rows["reason"].isna()]
        if len(rows):
            notes = source(rows, told(way))
            items += [
                Drawing(
                    "Dice with a box against properties of the objects",
                    figures.as_uri(figures.scatter(rows)),
                    "Scatter plots of Dice against size, intensity difference, Fourier order and aspect ratio; the "
                    "correlations are in the table above.",
                    (notes, "The line joins the medians of ten equal parts. Form of COSMOS 1050K, figure 13."),
                ),
                Drawing(
                    "Fourier order by level of Dice with a box",
                    figures.as_uri(figures.complexity(rows)),
                    "Box plots of the Fourier order of objects by ten levels of Dice for each model.",
                    (notes, "Form of COSMOS 1050K, figure 14."),
                ),
            ]
    yield Section("What Dice depends on", items)


def _jitter(evaluation: Evaluation) -> Iterator[Section]:
    rows = select(evaluation.rows, protocol="jitter")
    if rows["reason"].isna().any():
        used = source(rows, "protocol jitter, each object against itself with variant 0")
        notes = ("Boxes and points moved at random by so many pixels.", _MEANS)
        yield Section(
            "Robustness to the prompt",
            [
                _table(
                    "jitter",
                    "Dice lost (points) when prompts are moved",
                    tables.jitter(evaluation.rows),
                    used,
                    (*notes, "Form of COSMOS 1050K, table 8."),
                    2,
                ),
                _table(
                    "robustness",
                    "Objects (%) that lose over ten points of Dice",
                    tables.robustness(evaluation.rows),
                    used,
                    notes,
                ),
            ],
        )


def _grid(evaluation: Evaluation) -> Iterator[Section]:
    rows = select(evaluation.rows, protocol="grid")
    if rows["reason"].isna().any():
        table = _table(
            "grid",
            "Dice (%) of everything mode by its number of points",
            tables.grid(evaluation.rows, evaluation.times),
            source(rows, "protocol grid, strategy S1"),
            (_MEANS, "Form of COSMOS 1050K, table 5."),
        )
        yield Section("Everything mode", [table])


def _validation(evaluation: Evaluation) -> Iterator[Section]:
    way = next(
        (
            way
            for way in [
                {**tables.SAM_MED2D["box"], "protocol": "medsam", "variant": "0-20"},
                *evaluation.headlines.values(),
            ]
            if evaluation.has(**way)
        ),
        None,
    )
    if way is None:
        return
    rows = select(evaluation.rows, **way)
    rows = rows.assign(kind=[tables.kind_of(str(name)) for name in rows["modality"]])
    origins = rows["origin"].astype(object).fillna("")
    items: list[Item] = []
    for origin in sorted(origins.unique(), reverse=True):
        for kind in ("CT", "MR", "grey", "RGB", "other"):
            part = rows[(origins == origin) & (rows["kind"] == kind)]
            if not part["reason"].isna().any():
                continue
            answered = part[part["reason"].isna()]
            frame, compared = tables.validation(
                part, references_of([model for model in evaluation.models if (answered["model"] == model).any()])
            )
            marks = "; ".join(f"{sign} better than {model}" for sign, model in compared.items())
            title = f"{origin} validation, {kind}".strip()
            items.append(
                _table(
                    "_".join(filter(None, ("validation", origin.replace(" ", "_"), kind.lower()))),
                    title[0].upper() + title[1:],
                    frame,
                    source(part, told(way), ("dice", "nsd")),
                    (
                        "Medians (first, third quartile) over objects.",
                        *([f"{marks} (p < 0.05). {_TEST}"] if marks else []),
                        "Form of MedSAM, supplement, tables 5 to 11.",
                    ),
                )
            )
    yield Section("Internal and external validation", items)


def references_of(models: Sequence[str]) -> dict[str, str]:
    """Sign for being better -> the model than which: the first; and of the others the first specialist, or the first.

    Args:
        models: Those that have answers, in order.
    """
    named = [name for name in models[1:] if re.search(r"specialist|unet|u-net|deeplab", name.lower())]
    return dict(zip("*†", [*models[:1], *(named or models[1:])], strict=False))


def _breakdowns(evaluation: Evaluation) -> Iterator[Section]:
    ways = {name: way for name, way in evaluation.headlines.items() if evaluation.has(**way)}
    rows = tables.with_prompt(evaluation.rows, ways)
    properties = {
        "modality": "modality",
        "dataset": "data set",
        "group": "part of the body",
        "organ": "organ",
        "target": "target",
        "size": "size (share of the image)",
        "origin": "origin",
        "split": "split",
    }
    items: list[Item] = [
        _table(
            f"by_{column}",
            f"Dice (%) by {words}",
            tables.breakdown(evaluation.rows, column, ways),
            source(rows.dropna(subset=[column]), _told(ways)),
            (_MEANS,),
        )
        for column, words in properties.items()
        if rows[column].notna().any()
    ]
    yield Section("Breakdowns", items if ways else [])


def _times(evaluation: Evaluation) -> Iterator[Section]:
    if len(evaluation.times):
        timed = evaluation.times
        table = _table(
            "times",
            "Seconds to encode an image and to answer a prompt",
            tables.inference_times(timed, evaluation.rows),
            f"From times.parquet: {len(timed)} rows of {timed['image'].nunique()} images.",
            (
                "Means; everything mode (S1) is per image. The machine is named at the end. Form of COSMOS 1050K, "
                "table 4.",
            ),
            4,
            _UNTIMED,
        )
        yield Section("Inference time", [table])


def _volumes(evaluation: Evaluation) -> Iterator[Section]:
    rows = evaluation.volumes[~evaluation.volumes["protocol"].isin(["jitter", "grid"])]
    if len(rows):
        undefined = ", ".join(f"{rows[name].isna().sum()} of {METRIC_NAMES[name]}" for name in METRICS)
        table = _table(
            "volumes",
            "Metrics of whole volumes",
            tables.volumes(rows, evaluation.rows),
            f"From volumes.parquet, all protocols but jitter and grid: {len(rows)} rows of {rows['volume'].nunique()} "
            f"stacks of slices. Undefined and left out: {undefined}.",
            (
                "Slices are outlined one by one and put together. Distances, in mm, and NSD are of volumes whose "
                "spacing is known along all axes and of which no slice was left out.",
                _MEANS,
                "Medians (first, third quartile) over the structures of all volumes.",
            ),
        )
        yield Section("Volumes", [table])


def _galleries(evaluation: Evaluation) -> Iterator[Section]:
    rows, ways = evaluation.rows, evaluation.headlines
    ways = {name: way for name, way in ways.items() if evaluation.has(**way)}
    crowded = galleries.choose_crowded(tables.with_prompt(rows, ways))
    by_order = galleries.choose_complex(select(rows, **ways["box"])) if "box" in ways else []
    wanted = set(crowded) | set(rows.loc[rows["object"].isin(by_order), "image"]) | set(evaluation.saliency["image"])
    for way in ways.values():
        answered = select(rows, **way)
        answered = answered[answered["reason"].isna()]
        first = next(name for name in evaluation.models if (answered["model"] == name).any())
        chosen = [one for _, one in galleries.choose_cases(select(answered, model=first))]
        wanted |= set(rows.loc[rows["object"].isin(chosen), "image"])
    objects = rows.drop_duplicates("image")
    text: tuple[str, ...] = ()
    images: dict[str, Slice] = {}
    corpus = _corpus(evaluation.run)
    try:
        if corpus is None:
            raise ReadError("the run names no corpus")
        images = galleries.read_images(corpus, objects[objects["image"].isin(wanted)])
        if not images:
            raise ReadError("holds none of the images any more", path=corpus)
    except ReadError as error:
        text = (f"There are no pictures of cases, as the corpus cannot be read: {error}.",)
    found: list[Gallery | None] = []
    if images:
        found += [
            galleries.cases(evaluation.folder, rows, evaluation.prompts, images, way, name)
            for name, way in ways.items()
        ]
        found.append(galleries.fused(evaluation.folder, rows, evaluation.prompts, images, ways, crowded))
        if "box" in ways:
            found.append(galleries.complex_cases(evaluation.folder, rows, images, ways["box"], by_order))
    if len(evaluation.saliency):
        found.append(galleries.saliency(evaluation.saliency, images))
    yield Section("Pictures", [one for one in found if one is not None and one.rows], text)


def _corpus(run: Mapping[str, Any]) -> Path | None:
    path = (run.get("corpus") or {}).get("path")
    return Path(path) if path else None


def _detail(evaluation: Evaluation) -> Iterator[Section]:
    rows = evaluation.rows[~evaluation.rows["protocol"].isin(["jitter", "grid", ANNOTATOR])]
    if rows["reason"].isna().any():
        used = source(rows, f"all protocols but jitter, grid and {ANNOTATOR}", ("dice", "nsd", "hd"))
        units = "Distances in mm are of the images that state their spacing, in pixels of the others."
        ends = "Of several rounds the first and the last."
        counted = (
            f"{ends} Missed and undefined: objects by Dice. Error of predicted IoU: mean distance of the model's own "
            "estimate from the IoU, in points."
        )
        means, medians = tables.detail(rows), tables.detailed_quartiles(rows)
        about = "Medians (first, third quartile) over objects."
        yield Section(
            "Every prompt in detail",
            [
                _table("detail", "All metrics of every prompt", means, used, (_MEANS, units, counted)),
                _table("detail_medians", "Medians of every prompt", medians, used, (about, units, ends)),
            ],
        )


def _manifest(evaluation: Evaluation) -> Iterator[Section]:
    entries = dict(_entries(evaluation.run))
    frame = pd.DataFrame({"value": list(entries.values())}, pd.Index(list(entries), name="entry"))
    table = _table("manifest", "What was measured, with what, on what", frame, f"From {RUN}.", undefined=_WRITTEN)
    yield Section("The run", [table])


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The entries of JSON, each with its path; lists of plain values in one."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _entries(inner, f"{name}.{key}".strip("."))
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value):
            yield from _entries(inner, f"{name}[{number}]")
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value)) or "none"
    else:
        yield name, "none" if value in (None, {}) else str(value)


# Name for the progress -> what makes the section.
SECTIONS: dict[str, Callable[[Evaluation], Iterator[Section]]] = {
    "all data sets": _overall,
    "points": _increments,
    "generalisation": _generalisation,
    "objects and strategies": _cosmos,
    "modalities": _by_modality,
    "clicks": _interactive,
    "correlations": _factors,
    "jitter": _jitter,
    "grid": _grid,
    "validation": _validation,
    "breakdowns": _breakdowns,
    "times": _times,
    "volumes": _volumes,
    "pictures": _galleries,
    "detail": _detail,
    "manifest": _manifest,
}
