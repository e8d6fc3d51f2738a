"""The tables of a report: each a function from rows of an evaluation to a frame of cells (see `rendering`).

Means are over the objects of a data set and then over data sets with equal weight (`macro_average`). Overlaps are in
percent, as in the papers. A row with a reason has no answer: where all rows of a cell have one, the cell is `Absent`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vesalius.evaluation.rendering import Absent, Gain, Marked, Noted
from vesalius.evaluation.results import read_table
from vesalius.evaluation.statistics import (
    SIZES,
    Estimate,
    Quartiles,
    area_under_curve,
    clicks_needed,
    holm,
    macro_average,
    partial_correlation,
    quartiles,
    signed_rank,
)
from vesalius.vocabulary.modalities import find_modality

# What names a prompt: the columns of results.WHO but the model.
Way = Mapping[str, Any]
Cell = Callable[[pd.DataFrame], Any]

# Metrics that are shares, which are printed in percent.
_SHARES = ("dice", "iou", "nsd", "boundary_iou")
# Of the reasons why objects of a cell have no answer, so many are told.
_REASONS = 3
_DISTANCES = ("hd", "hd95", "assd")
METRIC_NAMES = {
    "dice": "Dice (%)",
    "iou": "IoU (%)",
    "nsd": "NSD (%)",
    "hd": "HD",
    "hd95": "HD95",
    "assd": "ASSD",
    "boundary_iou": "boundary IoU (%)",
    "hce": "HCE",
}
# What COSMOS correlates with Dice (table 6): column of the objects -> its name.
ATTRIBUTES = {
    "area": "size",
    "intensity_difference": "intensity difference",
    "fourier_order": "Fourier order",
    "modality": "modality",
    "aspect": "aspect ratio",
}
# The prompts that most tables are about: the first of these that the evaluation has.
_OWN = {"variant": "", "repeat": 0, "round": 1, "choice": "own"}
_PREFERRED: dict[str, list[Way]] = {
    "box": [
        {**_OWN, "protocol": "sam-med2d", "strategy": "box"},
        {**_OWN, "protocol": "cosmos", "strategy": "S5"},
        {**_OWN, "protocol": "medsam", "strategy": "box", "variant": "0-20"},
        {**_OWN, "protocol": "imis", "strategy": "box"},
    ],
    "1 point": [
        {**_OWN, "protocol": "sam-med2d", "strategy": "points"},
        {**_OWN, "protocol": "cosmos", "strategy": "S2"},
        {**_OWN, "protocol": "imis", "strategy": "point"},
        {**_OWN, "protocol": "interactive", "strategy": "clicks"},
    ],
}
SAM_MED2D: dict[str, Way] = {
    "box": {**_OWN, "protocol": "sam-med2d", "strategy": "box"},
    "1 pt": {**_OWN, "protocol": "sam-med2d", "strategy": "points", "round": 1},
    "3 pts": {**_OWN, "protocol": "sam-med2d", "strategy": "points", "round": 3},
    "5 pts": {**_OWN, "protocol": "sam-med2d", "strategy": "points", "round": 5},
}
# The papers' kinds of pictures (MedSAM, supplement, tables 5 to 11), by the top of the modality's lineage.
_KINDS = {
    "ct": "CT",
    "mr": "MR",
    **dict.fromkeys(("xray", "oct", "ultrasound"), "grey"),
    **dict.fromkeys(("dermoscopy", "endoscopy", "fundus", "histopathology", "microscopy"), "RGB"),
}


def read_rows(folder: Path, models: Sequence[str] = ()) -> pd.DataFrame:
    """The scores of an evaluation, each with what is known of its object; outlines are left out.

    Args:
        folder: The evaluation.
        models: Order of the models; others follow.

    Raises:
        ReadError: A table is missing or damaged.
    """
    scores = read_table(folder, "scores").drop_columns(["rle"]).to_pandas()
    objects = read_table(folder, "objects").to_pandas()
    objects["unit"] = np.where(objects["row_spacing"].notna(), "mm", "px")
    objects["size"] = size_of(objects["share"])
    found = [*models, *(name for name in scores["model"].unique() if name not in models)]
    scores["model"] = pd.Categorical(scores["model"], [name for name in found if (scores["model"] == name).any()])
    for column in ("protocol", "strategy", "variant", "choice", "reason"):
        scores[column] = scores[column].astype("category")
    for column in ("dataset", "modality", "case", "split", "origin", "target", "group", "organ"):
        if objects[column].notna().any():
            objects[column] = objects[column].fillna("not stated")
        objects[column] = objects[column].astype("category")
    return scores.merge(objects, on="object", how="left", validate="many_to_one")


def size_of(shares: pd.Series) -> pd.Series:
    """The class of `SIZES` that each share of an image belongs to."""
    bounds = [0.0, *list(SIZES.values())[:-1], np.inf]
    return pd.cut(shares, bounds, right=False, labels=list(SIZES))


def select(rows: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Rows that have the given value, or one of a list of values, in each column."""
    chosen = np.ones(len(rows), np.bool_)
    for column, value in wanted.items():
        chosen &= (rows[column].isin(value) if isinstance(value, list) else rows[column] == value).to_numpy()
    return rows[chosen]


def headlines(rows: pd.DataFrame) -> dict[str, Way]:
    """The prompts that most tables are about, as far as they were given: a box and one click."""
    found = {}
    for name, ways in _PREFERRED.items():
        for way in ways:
            if name not in found and len(select(rows, **way)):
                found[name] = way
    return found


def told(way: Way) -> str:
    """A prompt in words."""
    parts = [f"protocol {way['protocol']}", f"strategy {way['strategy']}", f"choice {way['choice']}"]
    parts += [f"variant {way['variant']}"] if way["variant"] else []
    return ", ".join([*parts, f"round {way['round']}"])


def with_prompt(rows: pd.DataFrame, ways: Mapping[str, Way]) -> pd.DataFrame:
    """The rows of some prompts, with a column ``prompt`` of their names."""
    parts = [select(rows, **way).assign(prompt=name) for name, way in ways.items()]
    found = pd.concat(parts) if parts else rows.iloc[:0].assign(prompt="")
    return found.assign(prompt=pd.Categorical(found["prompt"], list(ways)))


def with_choice(rows: pd.DataFrame, choice: str) -> pd.DataFrame:
    """The rows of a choice, and those without an answer that it could have been made from."""
    # Who gives no answer leaves no masks to choose from: such rows are the model's own choice alone.
    silent = rows["reason"].notna() & (rows["choice"] == "own")
    return rows[(rows["choice"] == choice) | silent]


def pivot(
    rows: pd.DataFrame, index: Sequence[str], columns: Sequence[str], cell: Cell, what: str = "object"
) -> pd.DataFrame:
    """A cell for each group of rows: groups in the order of their categories, `Absent` where no row has an answer.

    A cell of which some objects, or whatever the column ``what`` names, have no answer is `Noted`, with how many have
    one.
    """
    cells = {}
    for key, group in rows.groupby([*index, *columns], observed=True):
        answered = group[group["reason"].isna()]
        found, asked = answered[what].nunique(), group[what].nunique()
        reasons = list(dict.fromkeys(group["reason"].dropna().astype(str)))
        why = "; ".join(reasons[:_REASONS]) + ("; and others" if len(reasons) > _REASONS else "")
        cells[key] = _of(cell(answered), found, asked, why, what) if found else Absent(reasons[0])
    places = [_places(rows, names) for names in (index, columns)]
    values = np.full([len(place) for place in places], None, object)
    for key, value in cells.items():
        names = key[: len(index)], key[len(index) :]
        row, column = (
            place.get_loc(name if len(name) > 1 else name[0]) for place, name in zip(places, names, strict=True)
        )
        values[row, column] = value
    return pd.DataFrame(values, places[0], places[1])


def _of(value: Any, answered: int, asked: int, reason: str, what: str = "object") -> Any:
    """A value of the objects that have an answer, with how many they are where some have none."""
    if not answered:
        return Absent(reason)
    return value if answered == asked else Noted(value, f"{answered} of {asked} {what}s; the others: {reason}")


def _places(rows: pd.DataFrame, names: Sequence[str]) -> pd.Index:
    """All combinations of values that rows have, in order."""
    found = rows[list(names)].dropna().drop_duplicates().sort_values(list(names))
    if len(names) == 1:
        return pd.Index(found[names[0]].astype(object), name=names[0])
    return pd.MultiIndex.from_frame(found.astype(object))


def estimate(metric: str = "dice") -> Cell:
    """A cell with the mean and its interval."""
    scale = 100.0 if metric in _SHARES else 1.0

    def cell(group: pd.DataFrame) -> Estimate:
        # A generator per number, so that no table depends on what was computed before it.
        return macro_average(
            group[metric].to_numpy() * scale,
            group["dataset"].tolist(),
            group["case"].tolist(),
            np.random.default_rng(0),
        )

    return cell


def mean(metric: str = "dice") -> Cell:
    """A cell with the mean alone."""
    scale = 100.0 if metric in _SHARES else 1.0
    return lambda group: float(scale * group.groupby("dataset", observed=True)[metric].mean().mean())


def _in_unit(cell: Cell, unit: str) -> Cell:
    """A cell of the distances that are in a unit."""
    return lambda group: cell(group[group["unit"] == unit])


def median(metric: str = "dice") -> Cell:
    """A cell with the median and the quartiles of the objects."""
    scale = 100.0 if metric in _SHARES else 1.0
    return lambda group: quartiles(scale * group[metric].to_numpy())


def overall(rows: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Dice of all data sets by model and prompt, and frames per second (SAM-Med2D, table 2)."""
    ways = {name: way for name, way in SAM_MED2D.items() if len(select(rows, **way))} or headlines(rows)
    frame = pivot(with_prompt(rows, ways), ["model"], ["prompt"], estimate())
    fps = frames_per_second(times)
    return frame.assign(FPS=[fps.get(name, Absent("no answer to a box was timed")) for name in frame.index])


def over_objects(rows: pd.DataFrame, ways: Mapping[str, Way]) -> pd.DataFrame:
    """Dice by model and prompt over the objects of all data sets together: the papers' mean, and the quartiles."""
    # Cases of two data sets may have one name.
    cases = rows["dataset"].astype(str) + "/" + rows["case"].astype(str)
    rows = with_prompt(rows.assign(dataset="", case=cases), ways)
    cells = {"mean": estimate(), "median": median()}
    parts = [pivot(rows.assign(of=name), ["model"], ["prompt", "of"], cell) for name, cell in cells.items()]
    frame = pd.concat(parts, axis=1)
    return frame[[name for name in itertools.product(ways, cells) if name in frame.columns]]


def frames_per_second(times: pd.DataFrame) -> dict[str, float]:
    """Images that each model encodes and outlines one object of, by a box, in a second."""
    found = {}
    for model, group in times.groupby("model", observed=True):
        encode = group[group["stage"] == "encode"]
        # A model that keeps nothing of an image has no time to encode one.
        seconds = 0.0 if encode.empty else float(encode["seconds"].mean())
        boxes = group[group["stage"].isin(["box", "S5"])]
        if len(boxes):
            found[str(model)] = 1 / max(seconds + boxes["seconds"].sum() / boxes["prompts"].sum(), 1e-9)
    return found


def detail(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of all metrics of every prompt, with what was missed."""
    shown = [*METRIC_NAMES] if rows["hce"].notna().any() else [name for name in METRIC_NAMES if name != "hce"]
    units = sorted(set(rows["unit"]))
    cells: dict[str, Cell] = {}
    for name in shown:
        if name in _DISTANCES:
            cells |= {f"{METRIC_NAMES[name]} ({unit})": _in_unit(mean(name), unit) for unit in units}
        else:
            cells[METRIC_NAMES[name]] = estimate(name) if name == "dice" else mean(name)
    cells["objects"] = len
    cells["missed"] = lambda group: int((group["dice"] == 0).sum())
    cells["undefined"] = lambda group: int(group["dice"].isna().sum())
    cells["error of predicted IoU"] = lambda group: float((group["quality"] - group["iou"]).abs().mean() * 100)
    return _by_prompt(rows, cells)


def detailed_quartiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Medians and quartiles of the main metrics of every prompt."""
    cells: dict[str, Cell] = {METRIC_NAMES[name]: median(name) for name in ("dice", "iou", "nsd")}
    cells |= {f"HD ({unit})": _in_unit(median("hd"), unit) for unit in sorted(set(rows["unit"]))}
    return _by_prompt(rows, {**cells, "objects": len})


def _by_prompt(rows: pd.DataFrame, cells: Mapping[str, Cell]) -> pd.DataFrame:
    """A row for every prompt and model, a column for each cell; of several rounds the first and the last."""
    ends = rows.groupby(["protocol", "strategy"], observed=True)["round"].transform("max")
    rows = rows[(rows["round"] == 1) | (rows["round"] == ends)].assign(all="")
    index = ["protocol", "strategy", "variant", "round", "choice", "model"]
    columns = {name: pivot(rows, index, ["all"], cell).iloc[:, 0] for name, cell in cells.items()}
    # What is left out is the same for all cells of a row, and is noted once.
    columns |= {name: column.map(_without_note) for name, column in columns.items() if name != "objects"}
    return pd.DataFrame(columns)


def _without_note(cell: Any) -> Any:
    return cell.cell if isinstance(cell, Noted) else cell


def comparisons(rows: pd.DataFrame, ways: Mapping[str, Way], metric: str = "dice") -> pd.DataFrame:
    """Every two models on the same objects: Wilcoxon's test, corrected over the table, and the effect."""
    found: dict[tuple[str, str, str], Any] = {}
    for prompt, way in ways.items():
        wide = _wide(select(rows, **way), metric)
        for first, second in itertools.combinations(wide.columns, 2):
            found[prompt, first, second] = signed_rank(wide[first], wide[second])
    names = ["prompt", "model", "and"]
    corrected = holm([one.p for one in found.values()])
    scale = 100.0 if metric in _SHARES else 1.0
    none = Absent("there is no object that both have an answer to")
    data = [
        (one.objects, one.difference * scale, one.effect, "< 0.001" if p < 0.001 else f"{p:.3f}")
        if one.objects
        else (0, none, none, none)
        for one, p in zip(found.values(), corrected, strict=True)
    ]
    heads = ["objects", "median difference", "effect", "p (Holm)"]
    return pd.DataFrame(data, pd.MultiIndex.from_tuples(list(found) or [("", "", "")][:0], names=names), heads)


def _wide(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """(objects, models) of a metric; a model without any answer is left out."""
    wide = rows.pivot_table(metric, "object", "model", observed=True, dropna=True)
    return wide.rename(columns=str)


def increments(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice with one point and what four more add, on the objects answered both times (SAM-Med2D, table 3)."""
    first, last = (_points(rows, number) for number in (1, 5))
    answered = first.loc[first["reason"].isna(), ["object", "model", "dice"]]
    both = last.merge(answered, on=["object", "model"], suffixes=("", "_first"))
    added = both.assign(gain=100 * (both["dice"] - both["dice_first"]))
    values = pivot(first, ["modality"], ["model"], mean())
    gains = pivot(added, ["modality"], ["model"], mean("gain")).reindex_like(values)
    cells = [
        [_with_gain(*pair) for pair in zip(*line, strict=True)]
        for line in zip(values.to_numpy(), gains.to_numpy(), strict=True)
    ]
    return pd.DataFrame(cells, values.index, values.columns)


def _with_gain(value: Any, gain: Any) -> Any:
    """A mean and what was gained after it, with the notes of both."""
    if value is None or isinstance(value, Absent):
        return value
    notes = []
    if isinstance(value, Noted):
        value, notes = value.cell, [value.note]
    match gain:
        case Noted(cell, note):
            gain, notes = cell, [*notes, f"gain: {note}"]
        case Absent(reason):
            gain, notes = None, [*notes, f"no gain: {reason}"]
    found = Gain(value, float("nan") if gain is None else gain)
    return Noted(found, "; ".join(notes)) if notes else found


def _points(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    return select(rows, **{**SAM_MED2D["1 pt"], "round": number})


def generalisation(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice by data set under a box and one point, and weighted by the objects (SAM-Med2D, table 4).

    Of a model that was also run without its adapters, a column with a star has the scores without them. Where data sets
    are named as internal and external, only the external ones are listed.
    """
    if (rows["origin"] == "external").any():
        rows = select(rows, origin="external")
    models = list(rows["model"].cat.categories)
    off = select(rows, protocol="adapter-off", variant="off")
    off = off[off["model"].isin(off.loc[off["reason"].isna(), "model"])]
    starred = off.assign(model=off["model"].astype(str) + "*", protocol="sam-med2d", variant="")
    names = [name for model in models for name in (model, f"{model}*")]
    both = pd.concat([rows.assign(model=rows["model"].astype(str)), starred])
    both["model"] = pd.Categorical(both["model"], names)
    both = with_prompt(both, {name: SAM_MED2D[name] for name in ("box", "1 pt")})
    frame = pivot(both, ["dataset"], ["prompt", "model"], mean())
    weighted = pivot(both.assign(dataset="weighted average"), ["dataset"], ["prompt", "model"], mean())
    return pd.concat([frame, weighted.reindex(columns=frame.columns)])


def adapters_off(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice with the adapters on and off (SAM-Med2D, section 4.2E)."""
    rows = select(rows, protocol="adapter-off")
    last = rows.groupby("strategy", observed=True)["round"].transform("max")
    rows = rows[(rows["round"] == 1) | (rows["round"] == last)]
    points = rows["round"].astype(str) + np.where(rows["round"] == 1, " point", " points")
    rows = rows.assign(prompt=np.where(rows["strategy"] == "box", "box", points))
    rows = rows.assign(adapters=pd.Categorical(rows["variant"].astype(str), ["on", "off"]))
    return pivot(rows, ["model"], ["prompt", "adapters"], estimate())


def by_strategy(rows: pd.DataFrame, metric: str, choice: str) -> pd.DataFrame:
    """A mean by object and modality, model and strategy (COSMOS, tables 2 and 3)."""
    rows = _with_object(with_choice(select(rows, protocol="cosmos"), choice))
    # Distances of two units have no mean.
    index = ["object and modality"] if metric in _SHARES else ["object and modality", "unit"]
    return pivot(rows, index, ["model", "strategy"], mean(metric))


def _with_object(rows: pd.DataFrame) -> pd.DataFrame:
    names = rows["target"].astype(str) + ", " + rows["modality"].astype(str)
    return rows.assign(**{"object and modality": names})


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Partial rank correlation of Dice with each attribute, the others held fixed (COSMOS, table 6)."""
    rows = rows[rows["reason"].isna()]

    def row(group: pd.DataFrame) -> list[Any]:
        columns = {name: _column(group[name]) for name in ATTRIBUTES}
        return [
            partial_correlation(group["dice"], columns[name], [columns[other] for other in columns if other != name])
            for name in ATTRIBUTES
        ]

    found = {key: row(group) for key, group in rows.groupby(["strategy", "choice", "model"], observed=True)}
    names = ["strategy", "choice", "model"]
    return pd.DataFrame(
        list(found.values()), pd.MultiIndex.from_tuples(list(found), names=names), list(ATTRIBUTES.values())
    )


def _column(column: pd.Series) -> Any:
    return column.astype(str).to_numpy(object) if column.dtype == "category" else column.to_numpy()


def drops(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the protocol jitter that moved their prompts, with the Dice that moving took (``drop``, in %)."""
    rows = select(rows, protocol="jitter")
    keys = ["object", "model", "strategy"]
    still = select(rows, variant="0").groupby(keys, observed=True)["dice"].mean().rename("still").reset_index()
    moved = rows[rows["variant"] != "0"].merge(still, on=keys, how="left")
    moved["strategy"] = moved["strategy"].astype(str)
    order = sorted(moved["variant"].astype(str).unique(), key=lambda variant: int(variant.split("-")[0]))
    return moved.assign(
        drop=100 * (moved["still"] - moved["dice"]),
        shift=pd.Categorical(moved["variant"].astype(str), order),
        model=pd.Categorical(moved["model"], rows["model"].cat.categories),
    )


def jitter(rows: pd.DataFrame) -> pd.DataFrame:
    """The Dice that moved prompts lose, draw by draw and on average (COSMOS, table 8)."""
    moved = drops(rows)
    moved = moved.assign(draw="random " + (moved["repeat"] + 1).astype(str))
    draws = pivot(moved, ["draw", "shift"], ["model", "strategy"], mean("drop"))
    average = pivot(moved.assign(draw="mean"), ["draw", "shift"], ["model", "strategy"], estimate("drop"))
    return pd.concat([draws, average.reindex(columns=draws.columns)])


def robustness(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of objects that lose over ten points of Dice when their prompt is moved, by model, strategy and shift."""
    moved = drops(rows)
    moved["lost"] = np.where(moved["drop"].isna(), np.nan, 100.0 * (moved["drop"] > 10))
    return pivot(moved, ["model", "strategy"], ["shift"], estimate("lost"))


def grid(rows: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Dice by the number of points of everything mode, and seconds per image (COSMOS, table 5)."""
    rows = select(rows, protocol="grid", choice=_only_choice(select(rows, protocol="grid")))
    sides = sorted(rows["variant"].astype(str).unique(), key=int)
    heads = {side: f"{side}²" for side in sides}
    names = pd.Categorical(rows["variant"].astype(str).map(heads), list(heads.values()))
    rows = _with_object(rows).assign(points=names)
    frame = pivot(rows, ["model", "object and modality", "dataset"], ["points"], estimate())
    timed = times[(times["stage"] == "S1") & times["variant"].isin(sides)]
    if len(timed):
        seconds = timed.groupby(["model", "variant"], observed=True)["seconds"].mean()
        untimed = Absent(f"times were taken of up to {timed['variant'].astype(int).max()}² points alone")
        for model in [name for name in dict.fromkeys(frame.index.get_level_values(0)) if name in seconds.index]:
            frame.loc[(model, "seconds per image", ""), :] = [seconds.get((model, side), untimed) for side in sides]
    return frame


def _only_choice(rows: pd.DataFrame) -> str:
    """How masks of everything mode are chosen: by the truth, where that was done."""
    return "matched" if (rows["choice"] == "matched").any() else "own"


def kind_of(modality: str) -> str:
    """CT, MR, grey, RGB or other: MedSAM's kinds of pictures."""
    found = find_modality(modality)
    return _KINDS.get(found.lineage[-1] if found else modality, "other")


def validation(
    rows: pd.DataFrame, references: Mapping[str, str], metrics: Sequence[str] = ("dice", "nsd")
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Median and quartiles by target and modality (MedSAM, supplement, tables 5 to 11).

    Wilcoxon's test on the same objects, corrected over the table.

    Args:
        rows: Of one prompt.
        references: Sign for being better -> the model than which.
        metrics: Of which larger is better.

    Returns:
        The table, and the references that a model was compared with.
    """
    index = ["target", "modality"]
    parts = {METRIC_NAMES[name]: pivot(rows, index, ["model"], median(name)) for name in metrics}
    frame = pd.concat(parts, axis=1)
    tests = {}
    for key, group in rows.groupby(index, observed=True):
        for metric in metrics:
            wide = _wide(group, metric)
            for (sign, reference), model in itertools.product(references.items(), wide.columns):
                if reference in wide.columns and model != reference:
                    tests[key, METRIC_NAMES[metric], model, sign] = signed_rank(wide[reference], wide[model])
    corrected = holm([found.p for found in tests.values()])
    better = {name for (name, found), p in zip(tests.items(), corrected, strict=True) if p < 0.05 and found.effect > 0}
    cells = [
        [
            _marked(cell, "".join(sign for sign in references if (key, *column, sign) in better))
            for column, cell in zip(frame.columns, row, strict=True)
        ]
        for key, row in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    used = {name[-1] for name, found in tests.items() if found.objects}
    compared = {sign: model for sign, model in references.items() if sign in used}
    return pd.DataFrame(cells, frame.index, frame.columns), compared


def _marked(cell: Any, marks: str) -> Any:
    match cell:
        case Quartiles():
            return Marked(cell, marks)
        case Noted(found, note):
            return Noted(_marked(found, marks), note)
    return cell


def breakdown(rows: pd.DataFrame, by: str, ways: Mapping[str, Way]) -> pd.DataFrame:
    """Dice by a property of the objects, beside how many objects and cases have it."""
    rows = with_prompt(rows, ways).dropna(subset=[by])
    frame = pivot(rows, [by], ["prompt", "model"], estimate())
    grouped = rows.groupby(by, observed=True)
    cases = rows.drop_duplicates(["dataset", "case", by]).groupby(by, observed=True).size()
    counts = {"objects": grouped["object"].nunique(), "cases": cases}
    for name, count in reversed(counts.items()):
        frame.insert(0, ("all", name), [int(count[key]) for key in frame.index])
    return frame


def interactive(rows: pd.DataFrame, metric: str = "iou", targets: Sequence[float] = (0.8, 0.85, 0.9)) -> pd.DataFrame:
    """Clicks to reach a score, failures, the area under the curve and the score after some clicks.

    What takes all clicks to know is of the objects that have an answer to each.
    """
    reasons = _first_reasons(rows)
    columns: dict[str, dict[str, Any]] = {}
    for model, curves in click_curves(rows, metric).items():
        asked, most = curves.shape
        whole = curves[~np.isnan(curves).any(1)]
        reason = reasons.get(model, "")
        needed = {f"{target:.0%}"[:-1]: pd.Series(clicks_needed(whole, target)) for target in targets}
        found = {
            "objects": _of(len(whole), len(whole), asked, reason),
            **{f"NoC@{name}": float(clicks.fillna(most).mean()) for name, clicks in needed.items()},
            **{f"failures@{name}": int(clicks.isna().sum()) for name, clicks in needed.items()},
            "area under curve": 100 * float(pd.Series(area_under_curve(whole)).mean()),
        }
        found = found if len(whole) else dict.fromkeys(found, Absent(reason))
        columns[model] = found | {f"after {n}": _after(curves, n, reason) for n in (1, 3, 5, 10, 20) if n <= most}
    return _by_model(columns)


def _first_reasons(rows: pd.DataFrame) -> dict[str, str]:
    """Model -> why its first row without an answer has none."""
    silent = rows[rows["reason"].notna()].drop_duplicates("model")
    return {str(model): str(reason) for model, reason in zip(silent["model"], silent["reason"], strict=True)}


def _after(curves: NDArray[np.float64], clicks: int, reason: str) -> Any:
    """The mean in percent after some clicks, of the objects that have an answer to them."""
    scores = pd.Series(curves[:, clicks - 1])
    return _of(100 * float(scores.mean()), int(scores.notna().sum()), len(scores), reason)


def _by_model(columns: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(columns, orient="index", dtype=object)
    frame.index.name = "model"
    return frame


def click_curves(rows: pd.DataFrame, metric: str) -> dict[str, NDArray[np.float64]]:
    """(objects, clicks) of each model; NaN where there is no answer.

    An object that was given no more clicks, as none was wrong or the annotator was content, keeps its last score, or
    none where it had none.
    """
    curves = {}
    rounds = range(1, int(rows["round"].max()) + 1) if len(rows) else []
    for model, group in rows.groupby("model", observed=True):
        scores, silent = (
            table.unstack().reindex(columns=rounds)
            for table in (
                group.set_index(["object", "round"])[metric],
                group.set_index(["object", "round"])["reason"].notna().astype(float),
            )
        )
        curves[str(model)] = scores.ffill(axis=1).mask(silent.ffill(axis=1) == 1).to_numpy(np.float64)
    return curves


def annotator(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice after some prompts of an annotator; an object that was given no more keeps its last score."""
    reasons = _first_reasons(rows)
    columns: dict[str, dict[str, Any]] = {}
    given = rows.groupby("object", observed=True)["round"].max()
    for model, curves in click_curves(rows, "dice").items():
        reason = reasons.get(model, "")
        answered = rows[(rows["model"] == model) & rows["reason"].isna()]["object"].unique()
        columns[model] = {
            "objects": _of(len(answered), len(answered), len(curves), reason),
            "prompts": float(given[answered].mean()) if len(answered) else Absent(reason),
            **{f"after {n}": _after(curves, n, reason) for n in (1, 2, 3, 5, 10, 20) if n <= curves.shape[1]},
            "in the end": _after(curves, curves.shape[1], reason),
        }
    return _by_model(columns)


def corrections(rows: pd.DataFrame) -> pd.DataFrame:
    """Dice after a first prompt and each correction (IMIS-Net's protocol)."""
    rows = select(rows, protocol="imis")
    names = {number: "first" if number == 1 else f"+{number - 1}" for number in sorted(rows["round"].unique())}
    rows = rows.assign(clicks=pd.Categorical(rows["round"].map(names), list(names.values())))
    return pivot(rows, ["strategy", "model"], ["clicks"], estimate())


def inference_times(times: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds to encode an image and to answer a prompt (COSMOS, table 4).

    Args:
        times: The table of times.
        rows: Scores, which tell why a model has no time, and the order of the models.
    """
    times = times[times["variant"].isna() | ~times["variant"].astype(str).str.isdigit()]
    grouped = times.groupby(["model", "stage"], observed=True)
    seconds = grouped["seconds"].sum() / grouped["prompts"].sum().where(grouped["prompts"].sum() > 0)
    # Encoding and everything mode are counted by images.
    images = grouped["seconds"].mean()
    # The protocol adapter-off, which is not timed, has reasons of its own under the same names.
    silent = rows[rows["reason"].notna() & (rows["protocol"] != "adapter-off")].drop_duplicates(["model", "strategy"])
    reasons = silent.set_index(["model", "strategy"])["reason"].to_dict()

    def cell(model: str, stage: str) -> float | Absent:
        found = (images if stage in ("encode", "S1") else seconds).get((model, stage))
        return Absent(str(reasons.get((model, stage), "not timed"))) if found is None else float(found)

    stages = sorted(times["stage"].unique(), key=lambda stage: (stage != "encode", stage))
    models = [model for model in rows["model"].cat.categories if (times["model"] == model).any()]
    data = {
        "embedding" if stage == "encode" else stage: pd.Series([cell(model, stage) for model in models], dtype=object)
        for stage in stages
    }
    return pd.DataFrame(data).set_axis(pd.Index(models, name="model"))


def volumes(rows: pd.DataFrame, objects: pd.DataFrame) -> pd.DataFrame:
    """Metrics of the structures of whole volumes, whose slices were outlined one by one.

    Args:
        rows: Of volumes.
        objects: Rows of what is on their slices, which tell their spacing.
    """
    last = rows.groupby(["protocol", "strategy"], observed=True)["round"].transform("max")
    rows = rows[(rows["round"] == 1) | (rows["round"] == last)].assign(all="")
    rows["structure"] = rows["volume"] + "/" + rows["axis"] + "/" + rows["target"]
    known = objects.dropna(subset=["volume", "row_spacing", "column_spacing", "slice_spacing"])["volume"]
    rows["unmeasured"] = np.where(
        rows["volume"].isin(known),
        "distances and NSD are of volumes of which all slices were measured",
        "distances and NSD are of volumes whose spacing is known along all axes",
    )
    cells: dict[str, tuple[str, Cell]] = {
        "volumes": ("dice", lambda group: int(group["volume"].nunique())),
        "median Dice (%)": ("dice", median()),
        **{METRIC_NAMES[name]: (name, estimate(name)) for name in ("dice", "iou", "nsd", "hd", "hd95", "assd")},
    }
    index = ["protocol", "strategy", "variant", "round", "choice", "model"]
    columns = {}
    for name, (metric, cell) in cells.items():
        unmeasured = rows["unmeasured"].where(rows[metric].isna(), None)
        given = rows.assign(reason=rows["reason"].where(rows["reason"].notna(), unmeasured))
        columns[name] = pivot(given, index, ["all"], cell, "structure").iloc[:, 0]
    return pd.DataFrame(columns)
