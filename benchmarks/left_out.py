"""Dice over the data sets that a network was trained on and over those left out of its training, by modality too.

    vesalius evaluate --corpus DATA --split val --max-objects 4 --internal SET ... --model ... -o OUT
    python benchmarks/left_out.py OUT

Means over objects, then data sets, with 95 % intervals over cases; objects under 0.153 % of the image are left out.
`--internal` names the sets that were trained on. Writes OUT/left_out.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from learning_curve import PROMPTS, answers, mean
from vesalius.evaluation.rendering import cell_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path)
    folder: Path = parser.parse_args().evaluation
    internal = set(json.loads((folder / "run.json").read_text(encoding="utf-8"))["plan"]["internal"])
    rows = answers(folder)
    rows = rows[rows["dice"].notna()]
    left_out = rows[~rows["dataset"].isin(internal)]
    groups = {"all": rows, "trained on": rows[rows["dataset"].isin(internal)], "left out": left_out}
    groups |= {f"left out, {name}": chosen for name, chosen in left_out.groupby("modality")}
    groups = {name: group for name, group in groups.items() if len(group)}
    lines = [f"| sets | number | objects | model | {' | '.join(PROMPTS)} |", "| --- " * (4 + len(PROMPTS)) + "|"]
    for name, group in groups.items():
        for model in rows["model"].unique():
            mine = group[group["model"] == model]
            cells = [cell_text(mean(mine, *asked)) for asked in PROMPTS.values()]
            counts = f"{group['dataset'].nunique()} | {group['object'].nunique()}"
            lines.append(f"| {name} | {counts} | {model} | {' | '.join(cells)} |")
    (folder / "left_out.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
