"""Dice by steps of training, on the cases that were trained on and on cases held out.

    vesalius evaluate --corpus DATA --split train --max-images 300 --max-objects 3 --model A --model B -o TRAINED
    vesalius evaluate --corpus DATA --split val --max-objects 3 --model A --model B -o HELD_OUT
    python benchmarks/learning_curve.py TRAINED HELD_OUT --steps A=5200 --steps B=9200 -o OUT

Models are named as in the evaluations. Where both curves run together, a network has not learnt its training cases
better than new ones: more cases of the same kind would change little, more steps or a larger network may. Where they
part, it is the cases that lack. Means over objects, then data sets, with 95 % intervals over cases; objects under
0.153 % of the image, and data sets that one of the two lacks, are left out. OUT gets learning_curve.png and
learning_curve.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vesalius.corpus.objects import MIN_AREA
from vesalius.evaluation.figures import COLOURS
from vesalius.evaluation.rendering import cell_text
from vesalius.evaluation.results import read_table
from vesalius.evaluation.statistics import Estimate, macro_average

PROMPTS = {"box": ("box", 1), "1 point": ("points", 1), "3 points": ("points", 3), "5 points": ("points", 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path, help="evaluation of cases that were trained on")
    parser.add_argument("held_out", type=Path, help="evaluation of cases held out")
    parser.add_argument("--steps", action="append", required=True, metavar="MODEL=N")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    steps = {name: int(number) for name, number in (text.rsplit("=", 1) for text in options.steps)}
    rows = {"trained on": answers(options.trained), "held out": answers(options.held_out)}
    shared = set.intersection(*(set(table["dataset"]) for table in rows.values()))
    found = {cases: means(table[table["dataset"].isin(shared)], cases, list(steps)) for cases, table in rows.items()}
    options.output.mkdir(parents=True, exist_ok=True)
    lines = [f"| steps | cases | {' | '.join(PROMPTS)} |", f"| --- | --- {'| --- ' * len(PROMPTS)}|"]
    for model in sorted(steps, key=steps.__getitem__):
        for cases, table in found.items():
            cells = " | ".join(cell_text(table[model, prompt]) for prompt in PROMPTS)
            lines.append(f"| {steps[model]:,} | {cases} | {cells} |")
    (options.output / "learning_curve.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    drawing(found, steps).savefig(options.output / "learning_curve.png", dpi=130)
    print("\n".join(lines))


def answers(folder: Path) -> pd.DataFrame:
    """The counted rows of an evaluation."""
    objects = read_table(folder, "objects").to_pandas().set_index("object")
    rows = read_table(folder, "scores").to_pandas().join(objects[["dataset", "modality", "case", "share"]], on="object")
    return rows[(rows["choice"] == "own") & (rows["share"] >= MIN_AREA)]


def means(rows: pd.DataFrame, cases: str, models: list[str]) -> dict[tuple[str, str], Estimate]:
    """Dice in percent by model and prompt."""
    found = {}
    for model in models:
        for prompt, (strategy, number) in PROMPTS.items():
            estimate = mean(rows[rows["model"] == model], strategy, number)
            if estimate is None:
                raise SystemExit(f"the cases {cases} have no answers of {model} to {prompt}")
            found[model, prompt] = estimate
    return found


def mean(rows: pd.DataFrame, strategy: str, number: int) -> Estimate | None:
    """Dice in percent after a round of a strategy; None if there is no answer."""
    mine = rows[(rows["strategy"] == strategy) & (rows["round"] == number)]
    if mine.empty:
        return None
    cases = (mine["dataset"] + "/" + mine["case"]).to_list()
    return macro_average(100 * mine["dice"].to_numpy(), mine["dataset"].to_list(), cases, np.random.default_rng(0))


def drawing(found: dict[str, dict[tuple[str, str], Estimate]], steps: dict[str, int]) -> Figure:
    """A panel for each prompt, a curve for each kind of cases."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    models = sorted(steps, key=steps.__getitem__)
    for axis, prompt in zip(figure.subplots(1, len(PROMPTS), sharey=True), PROMPTS, strict=True):
        for (cases, table), colour, mark, dash in zip(found.items(), COLOURS, "os", ("--", "-"), strict=False):
            shown = [table[model, prompt] for model in models]
            mean = np.array([one.mean for one in shown])
            reach = np.abs(np.array([[one.low, one.high] for one in shown]).T - mean)
            axis.errorbar([steps[m] for m in models], mean, reach, color=colour, marker=mark, ls=dash, label=cases)
        axis.set_title(prompt, fontsize=9)
        axis.set_xlabel("steps", fontsize=8)
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("Dice (%)", fontsize=8)
    figure.axes[0].legend(fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
