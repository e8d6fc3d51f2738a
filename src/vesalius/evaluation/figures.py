"""The figures of a report: each a function from rows of an evaluation to a drawing, in colours that all can tell apart.

What colour says, a mark, a dash or a label says too.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vesalius.evaluation.tables import ATTRIBUTES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008), in an order that also differs in lightness.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999999")
_MARKS = "osD^vPX*"
_DASHES = ("-", "--", "-.", ":")
_MOST_POINTS = 4000


def as_uri(figure: Figure) -> str:
    """The figure as the address of an SVG that is written in the address itself; the same figure gives the same."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "vesalius"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, dpi=130)
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


def boxes_by_modality(rows: pd.DataFrame) -> Figure:
    """Dice by modality, a panel for each model; triangles and numbers are means (COSMOS, figure 10)."""
    return _boxes(rows, "model", "modality")


def boxes_by_model(rows: pd.DataFrame) -> Figure:
    """Dice by model, a panel for each modality; triangles and numbers are means (IMIS-Bench, supplement, figure 3)."""
    return _boxes(rows, "modality", "model")


def _boxes(rows: pd.DataFrame, panel: str, group: str) -> Figure:
    rows = rows.dropna(subset=["dice", panel, group])
    panels = [name for name in _names(rows[panel]) if (rows[panel] == name).any()]
    groups = [name for name in _names(rows[group]) if (rows[group] == name).any()]
    figure, axes = _panels(len(panels), 3.4, 0.7 + 0.27 * len(groups))
    for axis, name in zip(axes, panels, strict=True):
        chosen = rows[rows[panel] == name]
        values = [100 * chosen.loc[chosen[group] == one, "dice"].to_numpy() for one in groups]
        kept = [(place, found) for place, found in enumerate(values) if len(found)]
        for place, found in kept:
            colour = COLOURS[place % len(COLOURS)] if group == "model" else COLOURS[0]
            _box(axis, found, -place, colour)
            axis.text(102, -place, f"{found.mean():.1f}", va="center", fontsize=7)
        axis.set_yticks([-place for place in range(len(groups))], groups, fontsize=7)
        axis.set_xlim(0, 100)
        axis.set_ylim(-len(groups) + 0.4, 0.6)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("Dice (%)", fontsize=8)
    return figure


def _box(axis: Axes, values: NDArray[Any], place: float, colour: str, vertical: bool = False) -> None:
    axis.boxplot(
        [values],
        positions=[place],
        orientation="vertical" if vertical else "horizontal",
        widths=0.6,
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "alpha": 0.45, "linewidth": 0.8},
        medianprops={"color": "black", "linewidth": 1.4},
        meanprops={"marker": "^", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5},
        whiskerprops={"linewidth": 0.8},
    )


def curves(found: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> Figure:
    """Lines of a mean over rounds, one for each model (COSMOS, figure 16).

    Args:
        found: Model -> rounds and means.
        xlabel: What the rounds are.
        ylabel: What the means are of.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = _panels(1, 7, 3.8)
    for number, (name, (rounds, means)) in enumerate(found.items()):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": _MARKS[number % len(_MARKS)],
            "linestyle": _DASHES[number // len(COLOURS) % len(_DASHES)],
        }
        axis.plot(rounds, means, label=name, markersize=4, linewidth=1.4, **style)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 5, 10]))
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.grid(axis="y", linewidth=0.4, alpha=0.6)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def scatter(rows: pd.DataFrame) -> Figure:
    """Dice against each attribute of the objects; the line joins medians of ten equal parts (COSMOS, figure 13)."""
    from matplotlib.ticker import NullFormatter

    rows = rows.dropna(subset=["dice"])
    models = [name for name in _names(rows["model"]) if (rows["model"] == name).any()]
    names = [name for name in ATTRIBUTES if name != "modality"]
    figure, axes = _panels(len(models) * len(names), 1.9, 1.9, columns=len(names))
    for number, axis in enumerate(axes):
        model, name = models[number // len(names)], names[number % len(names)]
        chosen = rows[(rows["model"] == model) & rows[name].notna()]
        shown = chosen.iloc[:: max(1, math.ceil(len(chosen) / _MOST_POINTS))]
        axis.scatter(shown[name], 100 * shown["dice"], s=5, alpha=0.5, color=COLOURS[0], linewidths=0, rasterized=True)
        if len(chosen) >= 100:
            parts = pd.qcut(chosen[name].rank(method="first"), 10, labels=False)
            middles = chosen.groupby(parts)[[name, "dice"]].median()
            axis.plot(middles[name], 100 * middles["dice"], color="black", linewidth=1.3)
        if name == "area":
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(-2, 102)
        if number % len(names) == 0:
            axis.set_ylabel(f"{model}\nDice (%)", fontsize=7)
        axis.set_xlabel(f"{ATTRIBUTES[name]}{' (pixels)' if name == 'area' else ''}", fontsize=7)
    return figure


def complexity(rows: pd.DataFrame) -> Figure:
    """Fourier order of the objects by ten levels of Dice, a panel for each model (COSMOS, figure 14)."""
    rows = rows.dropna(subset=["dice", "fourier_order"])
    models = [name for name in _names(rows["model"]) if (rows["model"] == name).any()]
    figure, axes = _panels(len(models), 3.4, 2.4)
    for axis, model in zip(axes, models, strict=True):
        chosen = rows[rows["model"] == model]
        levels = np.clip((10 * chosen["dice"]).astype(int), 0, 9)
        for level in range(10):
            orders = chosen.loc[levels == level, "fourier_order"].to_numpy()
            if len(orders):
                _box(axis, orders, level + 1, COLOURS[2], vertical=True)
        axis.set_xticks(range(1, 11), [str(level) for level in range(1, 11)], fontsize=7)
        axis.set_xlim(0.4, 10.6)
        axis.set_ylim(0)
        axis.set_title(model, fontsize=9)
        axis.set_xlabel("Dice level (tenths)", fontsize=8)
        axis.set_ylabel("Fourier order", fontsize=8)
    return figure


def _names(column: pd.Series) -> list[str]:
    return [str(name) for name in column.astype("category").cat.categories]


def _panels(count: int, width: float, height: float, columns: int | None = None) -> tuple[Figure, list[Any]]:
    """A figure of panels in rows, sizes in inches."""
    from matplotlib.figure import Figure

    columns = columns or (count if count < 3 else 2 if count == 4 else 3)
    rows = math.ceil(count / columns)
    figure = Figure((columns * width, rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
    return figure, axes[:count]
