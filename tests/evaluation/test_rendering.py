from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd
import pytest

from vesalius.evaluation.rendering import (
    Absent,
    Gain,
    Marked,
    Noted,
    Table,
    cell_text,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    without_empty,
)
from vesalius.evaluation.statistics import Correlation, Estimate, Quartiles

NAN = float("nan")


def table(columns: pd.Index | None = None) -> Table:
    cells = [
        [Estimate(81.26, 79.91, 82.449), Absent("takes no words"), 3],
        [Estimate(50, NAN, NAN), Absent("takes a box alone"), 1],
        [Estimate(NAN, NAN, NAN), Gain(20.87, -0.2), 2],
    ]
    index = pd.MultiIndex.from_tuples([("a_1", "x"), ("b", "<y>"), ("c", "z & w")], names=["model", "target"])
    frame = pd.DataFrame(cells, index, pd.Index(["box", "text", "n"]) if columns is None else columns, dtype=object)
    return Table("name", "Dice | all", frame, "From 3 rows.", ("50 % of *",))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Estimate(81.26, 79.91, 82.449), "81.3 [79.9, 82.4]"),
        (Estimate(81.26, NAN, NAN), "81.3"),
        (Estimate(NAN, NAN, NAN), "–"),
        (Quartiles(95.61, 95.1, 96.1), "95.6 (95.1, 96.1)"),
        (Marked(Quartiles(95.61, 95.1, 96.1), "*†"), "95.6 (95.1, 96.1)*†"),
        (Gain(20.87, 18.62), "20.9 (+18.6)"),
        (Gain(79.96, -0.2), "80.0 (-0.2)"),
        (Correlation(-0.537, 0.01, 30), "-0.5"),
        (np.float64(2.25), "2.2"),
        (NAN, "–"),
        (None, "–"),
        (Absent("why"), "–"),
        (3, "3"),
        ("word", "word"),
    ],
)
def test_what_is_printed(cell: object, text: str) -> None:
    assert cell_text(cell) == text


def test_html_escapes_and_gives_reasons() -> None:
    text = to_html(table())
    assert "<th scope='row'>&lt;y&gt;</th>" in text
    assert "<td>81.3 [79.9, 82.4]</td>" in text
    assert "<td>–<sup>a</sup></td>" in text
    assert "<p><sup>b</sup> takes a box alone</p>" in text
    assert "<p>From 3 rows.</p>" in text
    bold = Table("n", "t", pd.DataFrame({"r": [Correlation(0.5, 0.0009, 9), Correlation(0.4, 0.001, 9)]}), "")
    assert to_html(bold).count("<strong>") == 1
    assert "<strong>0.5</strong>" in to_html(bold)


def test_wide_tables_are_printed_in_parts_of_whole_groups() -> None:
    columns = pd.MultiIndex.from_product([["first", "second", "third"], [f"S{number}" for number in range(10)]])
    frame = pd.DataFrame(np.full((2, 30), 12.34), pd.Index(["r", "s"], name="head"), columns)
    text = to_html(Table("n", "t", frame, ""))
    assert text.count("<table") == 2
    assert text.count("<td>12.3</td>") == 60
    assert text.count("<th scope='row'>r</th>") == 2
    assert text.count("colspan='10'>first</th>") == 1


def test_markdown_and_latex() -> None:
    text = to_markdown(table())
    assert text.startswith("# Dice | all\n\n| model | target | box | text | n |\n| --- |")
    assert "| a_1 | x | 81.3 [79.9, 82.4] | –<sup>a</sup> | 3 |" in text
    assert r"50 % of \*" in text
    groups = pd.MultiIndex.from_tuples([("Dice", "box"), ("Dice", "text"), ("of", "n")])
    text = to_latex(table(groups))
    assert r"a\_1 & x & 81.3 [79.9, 82.4] & --\textsuperscript{a} & 3 \\" in text
    assert r"z \& w" in text
    assert r" &  & \multicolumn{2}{c}{Dice} & \multicolumn{1}{c}{of} \\" in text
    assert r"b & $<$y$>$" in text
    assert "% b: takes a box alone\n" in text


def test_csv_has_numbers_unrounded() -> None:
    heads, *rows = csv.reader(io.StringIO(to_csv(table())))
    assert heads == ["model", "target", "box", "box low", "box high", "text", "text gain", "text note", "n", "notes"]
    assert rows[0] == ["a_1", "x", "81.26", "79.91", "82.449", "", "", "takes no words", "3", "From 3 rows. 50 % of *"]
    assert rows[2] == ["c", "z & w", "", "", "", "20.87", "-0.2", "", "2", ""]


def test_what_is_noted_of_a_cell_is_told_everywhere() -> None:
    cells = [Noted(Quartiles(1.0, 0.0, 2.0), "2 of 3 objects"), Quartiles(3.0, 2.0, 4.0)]
    noted = Table("n", "t", pd.DataFrame({"Dice": cells}, pd.Index(["x", "y"], name="model")), "")
    html = to_html(noted)
    assert "<td>1.0 (0.0, 2.0)<sup>a</sup></td>" in html
    assert "<p><sup>a</sup> 2 of 3 objects</p>" in html
    assert "| x | 1.0 (0.0, 2.0)<sup>a</sup> |" in to_markdown(noted)
    assert "<sup>a</sup> 2 of 3 objects" in to_markdown(noted)
    assert "x & 1.0 (0.0, 2.0)\\textsuperscript{a} \\\\" in to_latex(noted)
    assert "% a: 2 of 3 objects\n" in to_latex(noted)
    heads, *rows = csv.reader(io.StringIO(to_csv(noted)))
    assert heads == ["model", "Dice median", "Dice first quartile", "Dice third quartile", "Dice note", "notes"]
    assert [row[-2] for row in rows] == ["2 of 3 objects", ""]


def test_columns_of_models_without_an_answer_are_named() -> None:
    names = [("box", "a"), ("box", "b"), ("point", "a"), ("point", "b")]
    cells = [[1.0, Absent("no"), None, Absent("never")], [2.0, 3.0, None, Absent("never")]]
    columns = pd.MultiIndex.from_tuples(names, names=["prompt", "model"])
    frame, notes = without_empty(pd.DataFrame(cells, pd.Index(["x", "y"], name="target"), columns, dtype=object))
    # What was not asked is not what could not be answered.
    assert list(frame.columns) == names[:3]
    assert notes == ("Not listed, as there is no answer: point b (never).",)


def test_rows_without_an_answer_are_named() -> None:
    index = pd.MultiIndex.from_tuples([("a", "S1"), ("b", "S1"), ("b", "S2")], names=["model", "strategy"])
    cells = [[1.0, Absent("no")], [Absent("no"), Absent("no")], [Absent("never"), Absent("never")]]
    frame, notes = without_empty(pd.DataFrame(cells, index, ["x", "y"], dtype=object))
    assert list(frame.index) == [("a", "S1")]
    assert notes == (
        "Not listed, as there is no answer: S1 b (no).",
        "Not listed, as there is no answer: S2 b (never).",
    )
