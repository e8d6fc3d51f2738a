"""Tables for people and programs: cells, and their HTML, Markdown, LaTeX and CSV.

A frame holds cells: numbers, words, or one of the kinds below; its index are the heads of rows. What is printed is
rounded; CSV has the numbers as they are, a column for each, and what is noted of them.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vesalius.evaluation.statistics import Correlation, Estimate, Quartiles

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
# Letters that fit on a line of a page, and those that a column takes beside its text.
_LINE, _GAP = 150, 3
_LEVEL = 0.001


@dataclass(frozen=True)
class Absent:
    """What a model cannot do, and why."""

    reason: str


@dataclass(frozen=True)
class Noted:
    """A cell with what is to be known of it, which is printed under the table."""

    cell: Any
    note: str


@dataclass(frozen=True)
class Gain:
    """A value and what was gained after it; NaN if that is not known."""

    value: float
    gain: float


@dataclass(frozen=True)
class Marked:
    """Quartiles with signs, such as ``*``, of what they are better than."""

    quartiles: Quartiles
    marks: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: Stem of its files.
        title: What it shows.
        frame: Its cells.
        source: The rows that it is computed from.
        notes: How to read it.
        digits: Of numbers, after the point.
    """

    name: str
    title: str
    frame: pd.DataFrame
    source: str
    notes: tuple[str, ...] = ()
    digits: int = 1


def cell_text(cell: Any, digits: int = 1) -> str:
    """A cell as it is printed; `NONE` where there is no value."""

    def number(value: float, sign: str = "") -> str:
        return NONE if math.isnan(value) else f"{value:{sign}.{digits}f}"

    match cell:
        case None | Absent():
            return NONE
        case Noted(inner, _):
            return cell_text(inner, digits)
        case Estimate(mean, low, high):
            return number(mean) if math.isnan(low) else f"{number(mean)} [{number(low)}, {number(high)}]"
        case Quartiles(median, first, third):
            return NONE if math.isnan(median) else f"{number(median)} ({number(first)}, {number(third)})"
        case Marked(found, marks):
            return cell_text(found, digits) + marks
        case Gain(value, gain):
            return NONE if math.isnan(value) else f"{number(value)} ({number(gain, '+')})"
        case Correlation(value, _, _):
            return number(value)
        case float():
            return number(cell)
    return str(cell)


def without_empty(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The frame without the rows and columns of models that have no answer in them, and a note for each reason why."""
    told: dict[str, dict[str, None]] = {}
    kept = []
    cells = frame.to_numpy(object)
    for axis, lines in ((frame.index, cells), (frame.columns, cells.T)):
        reasons = [_reason(line) if "model" in axis.names else None for line in lines.tolist()]
        names = [name for name in ("protocol", "prompt", "strategy", "model") if name in axis.names]
        for place, reason in enumerate(reasons):
            if reason is not None:
                label = " ".join(str(axis.get_level_values(name)[place]) for name in names)
                told.setdefault(reason, {})[label] = None
        kept.append([reason is None for reason in reasons])
    notes = [f"Not listed, as there is no answer: {', '.join(labels)} ({reason})." for reason, labels in told.items()]
    return frame.loc[kept[0], kept[1]], tuple(notes)


def _reason(cells: list[Any]) -> str | None:
    """Why all cells that there are have no answer; None if one has."""
    found = [cell for cell in cells if cell is not None]
    return found[0].reason if found and all(isinstance(cell, Absent) for cell in found) else None


def to_html(table: Table) -> str:
    """The table, in parts of the same rows where its groups of columns are too many for a page, and its notes."""
    reasons: dict[str, str] = {}
    parts = "\n".join(_html_part(part, table.digits, reasons) for part in _parts(table.frame, table.digits))
    notes = [table.source, *table.notes]
    lines = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    feet = "".join(f"<p><sup>{sign}</sup> {html.escape(reason)}</p>" for reason, sign in reasons.items())
    return f"{parts}\n<div class='notes'>{lines}{feet}</div>"


def to_markdown(table: Table) -> str:
    """The table under its title, with its notes."""
    reasons: dict[str, str] = {}
    rows = [
        [_escape_markdown(text) for text in _texts(heads, cells, table.digits, reasons, "<sup>{}</sup>")]
        for heads, cells in _rows(table.frame)
    ]
    names = [_escape_markdown(name) for name in [*_head_names(table.frame), *_flat(table.frame)]]
    lines = [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)]
    notes = [_escape_markdown(note) for note in (table.source, *table.notes)]
    notes += [f"<sup>{sign}</sup> {_escape_markdown(reason)}" for reason, sign in reasons.items()]
    return f"# {table.title}\n\n" + "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def to_latex(table: Table) -> str:
    """The table as a ``tabular`` with the rules of booktabs, and its notes as comments."""
    reasons: dict[str, str] = {}
    heads = _head_names(table.frame)
    rows = []
    if table.frame.columns.nlevels > 1:
        groups = [(str(name), len(members)) for name, members in _groups(table.frame)]
        spans = [f"\\multicolumn{{{count}}}{{c}}{{{_escape_latex(name)}}}" for name, count in groups]
        rows.append(" & ".join([*[""] * len(heads), *spans]) + r" \\")
    names = [str(column[-1] if isinstance(column, tuple) else column) for column in table.frame.columns]
    rows.append(" & ".join(map(_escape_latex, [*heads, *names])) + r" \\ \midrule")
    for labels, cells in _rows(table.frame):
        # Signs of footnotes are put in after the rest is escaped.
        texts = _texts(labels, cells, table.digits, reasons, "\0{}\0")
        rows.append(" & ".join(_footnote_latex(_escape_latex(text)) for text in texts) + r" \\")
    body = "\n".join(rows)
    notes = [table.title, table.source, *table.notes, *(f"{sign}: {reason}" for reason, sign in reasons.items())]
    comments = "\n".join(f"% {line}" for note in notes for line in note.splitlines())
    layout = "l" * len(heads) + "r" * len(names)
    return f"{comments}\n\\begin{{tabular}}{{{layout}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def to_csv(table: Table) -> str:
    """The numbers, unrounded, a column for each: means with their intervals, medians with their quartiles.

    The last column has in its first row what stands under the table.
    """
    import pandas as pd

    labels = [labels for labels, _ in _rows(table.frame)]
    data: dict[str, list[Any]] = {
        name: [row[place] for row in labels] for place, name in enumerate(_head_names(table.frame))
    }
    for place, name in enumerate(_flat(table.frame)):
        numbers = [_numbers(cell) for cell in table.frame.iloc[:, place]]
        parts = dict.fromkeys(part for found in numbers for part in found)
        noted = [part for part in parts if part == "note"]
        for part in ([part for part in parts if part != "note"] or [""]) + noted:
            data[f"{name} {part}".strip()] = [found.get(part) for found in numbers]
    # A line of comment would have to be told to every program that reads the file.
    data["notes"] = [" ".join((table.source, *table.notes)) if place == 0 else None for place in range(len(labels))]
    text: str = pd.DataFrame(data).to_csv(index=False)
    return text


def _numbers(cell: Any) -> dict[str, Any]:
    match cell:
        case Noted(inner, note):
            return {**_numbers(inner), "note": note}
        case Absent(reason):
            return {"note": reason}
        case Estimate(mean, low, high):
            return {"": mean, "low": low, "high": high}
        case Quartiles(median, first, third):
            return {"median": median, "first quartile": first, "third quartile": third}
        case Marked(found, marks):
            return {**_numbers(found), "marks": marks}
        case Gain(value, gain):
            return {"": value, "gain": gain}
        case Correlation(value, p, objects):
            return {"": value, "p": p, "objects": objects}
        case None:
            return {}
        case float() if math.isnan(cell):
            return {}
    return {"": cell}


def _rows(frame: pd.DataFrame) -> Iterator[tuple[list[str], list[Any]]]:
    """The heads and the cells of each row."""
    for label, cells in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        yield [str(part) for part in (label if isinstance(label, tuple) else (label,))], list(cells)


def _texts(heads: list[str], cells: list[Any], digits: int, reasons: dict[str, str], sign: str) -> list[str]:
    return heads + [
        cell_text(cell, digits) + "".join(sign.format(_sign(reasons, remark)) for remark in _remarks(cell))
        for cell in cells
    ]


def _remarks(cell: Any) -> list[str]:
    """What is printed of a cell under the table."""
    match cell:
        case Absent(reason):
            return [reason]
        case Noted(_, note):
            return [note]
    return []


def _sign(reasons: dict[str, str], reason: str) -> str:
    """The letter of a footnote: a to z, then aa ..."""
    if reason not in reasons:
        number = len(reasons)
        reasons[reason] = "abcdefghijklmnopqrstuvwxyz"[number % 26] * (1 + number // 26)
    return reasons[reason]


def _head_names(frame: pd.DataFrame) -> list[str]:
    return [str(name or "") for name in frame.index.names]


def _flat(frame: pd.DataFrame) -> list[str]:
    """Names of columns in one line."""
    return [", ".join(map(str, column)) if isinstance(column, tuple) else str(column) for column in frame.columns]


def _groups(frame: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """The first heads of columns, each with the places of its columns."""
    groups: list[tuple[str, list[int]]] = []
    for place, column in enumerate(frame.columns):
        if not groups or groups[-1][0] != column[0]:
            groups.append((column[0], []))
        groups[-1][1].append(place)
    return groups


def _parts(frame: pd.DataFrame, digits: int) -> list[pd.DataFrame]:
    """The frame, or parts of it: as many of the groups of its columns together as fit on a line."""
    if frame.columns.nlevels == 1:
        return [frame]
    widths = _widths(frame, digits)
    heads = sum(widths[: frame.index.nlevels])
    parts: list[list[int]] = [[]]
    for _, places in _groups(frame):
        if parts[-1] and heads + sum(widths[frame.index.nlevels + place] for place in parts[-1] + places) > _LINE:
            parts.append([])
        parts[-1] += places
    return [frame.iloc[:, places] for places in parts]


def _widths(frame: pd.DataFrame, digits: int) -> list[int]:
    """Letters that each column takes, the heads of rows first."""
    names = [column[-1] if isinstance(column, tuple) else column for column in frame.columns]
    rows = [[*heads, *(cell_text(cell, digits) for cell in cells)] for heads, cells in _rows(frame)]
    lines = [[*_head_names(frame), *map(str, names)], *rows]
    return [max(map(len, texts)) + _GAP for texts in zip(*lines, strict=True)]


def _html_part(frame: pd.DataFrame, digits: int, reasons: dict[str, str]) -> str:
    heads = _head_names(frame)
    lines = []
    if frame.columns.nlevels > 1:
        spans = [f"<th scope='colgroup' colspan='{len(p)}'>{html.escape(str(n))}</th>" for n, p in _groups(frame)]
        lines.append(f"<tr><td colspan='{len(heads)}'></td>{''.join(spans)}</tr>")
    names = [str(column[-1] if isinstance(column, tuple) else column) for column in frame.columns]
    columns = [f"<th scope='col' class='head'>{html.escape(name)}</th>" for name in heads]
    for place, name in enumerate(names):
        words = all(isinstance(cell, str) for cell in frame.iloc[:, place])
        columns.append(f"<th scope='col'{' class=head' if words else ''}>{html.escape(name)}</th>")
    lines.append(f"<tr>{''.join(columns)}</tr>")
    body = []
    for labels, cells in _rows(frame):
        texts = [f"<th scope='row'>{html.escape(label)}</th>" for label in labels]
        for cell in cells:
            text = html.escape(cell_text(cell, digits))
            text += "".join(f"<sup>{_sign(reasons, remark)}</sup>" for remark in _remarks(cell))
            if isinstance(cell, Correlation) and cell.p < _LEVEL:
                text = f"<strong>{text}</strong>"
            kind = " class='words'" if isinstance(cell, str) else ""
            texts.append(f"<td{kind}>{text}</td>")
        body.append(f"<tr>{''.join(texts)}</tr>")
    wide = " class='wide'" if sum(_widths(frame, digits)) > _LINE else ""
    return (
        f"<div class='scroll'><table{wide}><thead>{''.join(lines)}</thead>\n<tbody>"
        + "\n".join(body)
        + "</tbody></table></div>"
    )


def _escape_markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _escape_latex(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    text = re.sub(r"([&%$#_{}])", r"\\\1", text).replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")
    for sign, command in {"†": r"$\dagger$", "±": r"$\pm$", "≥": r"$\ge$", "<": r"$<$", ">": r"$>$"}.items():
        text = text.replace(sign, command)
    return text.replace("–", "--").replace("²", "\\textsuperscript{2}")


def _footnote_latex(text: str) -> str:
    return re.sub("\0(.*?)\0", r"\\textsuperscript{\1}", text)
