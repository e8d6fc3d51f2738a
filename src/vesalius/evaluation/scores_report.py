"""The tables of an evaluation, in Markdown, from its scores alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vesalius.evaluation.baselines import BASELINES
from vesalius.evaluation.comparison import NONE, average, grouped, interval, object_of, table
from vesalius.evaluation.evaluate import Score, read_run, read_scores
from vesalius.evaluation.statistics import SIZES, Estimate
from vesalius.evaluation.strategies import STRATEGIES

Column = tuple[str, str]  # model, strategy
Key = Callable[[Score], str]


def write_report(folder: Path) -> Path:
    """Writes ``report.md`` beside the ``scores.csv`` and ``run.json`` of a finished evaluation.

    Raises:
        ReadError: They are missing, or the evaluation is not finished.
    """
    scores = read_scores(folder / "scores.csv")
    path = folder / "report.md"
    path.write_text(report(scores, read_run(folder / "run.json")), encoding="utf-8")
    return path


def report(scores: Sequence[Score], run: Mapping[str, Any]) -> str:
    """The report of one evaluation.

    Args:
        scores: Its rows.
        run: The content of its ``run.json``.

    Returns:
        Markdown: all data sets together; by modality, object size and data set; where each model is worse than a
        baseline.
    """
    models = list(dict.fromkeys(score.model for score in scores))
    learnt = [model for model in models if model not in BASELINES]
    return (
        "\n\n".join(
            [
                "# Evaluation" + "".join(f" of {model}" for model in learnt[:1]),
                _about(scores, run),
                "## All data sets",
                _overall(scores, models, run["seed"]),
                "## Each prompt in detail",
                _detail(scores, run["seed"]),
                "## By modality",
                _groups(scores, "modality", lambda score: score.modality, run["seed"]),
                "## By size of the object",
                "Share of the image's pixels.",
                _groups(scores, "size", size_of, run["seed"], order=list(SIZES)),
                "## By data set",
                _groups(scores, "data set", lambda score: score.dataset, run["seed"]),
                *(part for model in learnt for part in _defeats(scores, model, run["seed"])),
            ]
        )
        + "\n"
    )


def size_of(score: Score) -> str:
    """The class of `SIZES` that the object belongs to; an upper bound belongs to the class above."""
    return next((name for name, bound in SIZES.items() if score.area < bound), list(SIZES)[-1])


def _case(score: Score) -> tuple[str, str]:
    return score.dataset, score.case


def _about(scores: Sequence[Score], run: Mapping[str, Any]) -> str:
    objects, cases = {object_of(s) for s in scores}, {_case(s) for s in scores}
    images = {(s.dataset, s.image) for s in scores}
    sets = {s.dataset for s in scores}
    model = run["model"]
    unseen = sorted(name for name, members in run["cases"].items() if not members)
    undefined = sum(math.isnan(s.dice) for s in scores)
    lines = [
        f"{len(objects)} objects in {len(images)} images of {len(cases)} cases from {len(sets)} data sets. "
        f"Split: {run['split']}, by case. Seed {run['seed']}. Vesalius {run['version']}, OpenCV {run['opencv']}."
        + (
            f" Model {model['name']}, weights {model['digest']}, run by {model.get('runs_by', 'torch fp32')}."
            if model
            else ""
        ),
        f"Objects under {run['min_area']:.3%} of the image are not counted. Of an image with more than "
        f"{run['max_objects']} objects that many are drawn: {run['objects_left_out']} objects were left out so.",
        "Prompts: the object's tight box; or clicks, one at a time, the first on a random pixel of the object, each "
        "further one on a random pixel of the error, with all clicks and the last low-resolution outline given "
        "(SAM-Med2D's protocol). The outline is the one that the model itself rates best.",
        "Numbers are Dice, averaged over objects within a data set, then over data sets with equal weight, in "
        "brackets the 95 % confidence interval (bootstrap over the cases within the data sets). An outline that misses "
        f"the object counts as 0; {undefined} undefined scores are left out. {NONE}: the baselines need a box.",
    ]
    if unseen:
        lines.append(f"No case of these sets falls into the split: {', '.join(unseen)}.")
    return "\n\n".join(lines)


def _overall(scores: Sequence[Score], models: Sequence[str], seed: int) -> str:
    columns = grouped(scores, _column)
    rows = [
        [model, *(interval(_dice(columns.get((model, strategy), ()), seed)) for strategy in STRATEGIES)]
        for model in models
    ]
    return table(["model", *STRATEGIES], rows)


def _detail(scores: Sequence[Score], seed: int) -> str:
    rows = []
    for (model, strategy), group in grouped(scores, _column).items():
        misses = sum(score.dice == 0 for score in group)
        gap = average([abs(score.quality - score.iou) for score in group], group, seed)
        rows.append(
            [
                model,
                strategy,
                interval(_dice(group, seed)),
                interval(average([score.iou for score in group], group, seed)),
                f"{misses} ({misses / len(group):.1%})",
                NONE if math.isnan(gap.mean) else f"{gap.mean:.3f}",
            ]
        )
    heads = ["model", "prompt", "Dice", "IoU", "objects missed (Dice 0)", "mean error of the predicted IoU"]
    return table(heads, rows)


def _groups(scores: Sequence[Score], title: str, key: Key, seed: int, order: Sequence[str] | None = None) -> str:
    columns = list(grouped(scores, _column))
    rows = []
    groups = grouped(scores, key)
    for name in order or sorted(groups):
        if name in groups:
            by_column = grouped(groups[name], _column)
            cells = [interval(_dice(by_column[column], seed)) for column in columns]
            rows.append([name, *_size(groups[name]), *cells])
    heads = [title, "objects", "cases", *(f"{model}, {strategy}" for model, strategy in columns)]
    return table(heads, rows)


def _defeats(scores: Sequence[Score], model: str, seed: int) -> list[str]:
    """Where the model's box outline is worse than a baseline's: paired differences, object by object."""
    box = {who: {object_of(s): s for s in scores if _column(s) == (who, "box")} for who in (model, *BASELINES)}
    kinds: dict[str, Key] = {
        "modality": lambda score: score.modality,
        "size": size_of,
        "data set": lambda score: score.dataset,
        "target": lambda score: f"{score.target} ({score.dataset})",
    }
    # A set with one target says the same as its target.
    several = {
        name
        for name, group in grouped(box[model].values(), kinds["data set"]).items()
        if len({s.target for s in group}) > 1
    }
    counts: list[str] = []
    rows: list[tuple[float, list[str]]] = []
    for baseline in BASELINES:
        gaps = {name: ours.dice - box[baseline][name].dice for name, ours in box[model].items()}
        worse = sum(gap < 0 for gap in gaps.values())
        counts.append(
            f"Given a box, {model} is worse than {baseline} on {worse} of {len(gaps)} objects "
            f"({worse / len(gaps):.1%})."
        )
        for kind, key in kinds.items():
            counted = [s for s in box[model].values() if kind != "target" or s.dataset in several]
            for name, ours in grouped(counted, key).items():
                gap = average([gaps[object_of(score)] for score in ours], ours, seed)
                if gap.mean < 0:
                    theirs = [box[baseline][object_of(score)] for score in ours]
                    means = [f"{_dice(side, seed).mean:.3f}" for side in (ours, theirs)]
                    rows.append((gap.mean, [kind, name, *_size(ours), *means, baseline, interval(gap)]))
    heads = ["by", "group", "objects", "cases", model, "the baseline", "which is", "difference"]
    worst = table(heads, [row for _, row in sorted(rows, key=lambda row: row[0])])
    return [
        f"## Where {model} is worse than a baseline",
        " ".join(counts),
        "Groups in which it is worse on average, the worst first (box prompt; differences of the same objects):"
        if rows
        else "There is no modality, size, data set or target on which it is worse on average.",
        *([worst] if rows else []),
    ]


def _column(score: Score) -> Column:
    return score.model, score.strategy


def _dice(group: Sequence[Score], seed: int) -> Estimate:
    return average([score.dice for score in group], group, seed)


def _size(group: Iterable[Score]) -> list[str]:
    """How many objects and cases."""
    return [str(len({key(s) for s in group})) for key in (object_of, _case)]
