"""The report of an evaluation: the papers' tables and figures, and the statistics behind them, in one HTML file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vesalius.core.errors import WriteError
from vesalius.core.files import replacing
from vesalius.evaluation.rendering import Table, to_csv, to_html, to_latex, to_markdown
from vesalius.evaluation.sections import SECTIONS, Drawing, Evaluation, Item, Section, read_evaluation


def write_report(
    folder: Path, output: Path | None = None, tell: Callable[[str, int, int], None] = lambda *_: None
) -> Path:
    """Writes the report of a finished evaluation, and its tables as CSV, Markdown and LaTeX beside it.

    Args:
        folder: The evaluation.
        output: The HTML file; ``report.html`` in the folder if None. Beside it, ``report_tables``, or as the file is
            called, has the tables.
        tell: Is told the part that is made next, how many are done, and how many there are.

    Returns:
        The HTML file.

    Raises:
        ReadError: The folder is no finished evaluation.
        WriteError: The report cannot be written.
    """
    output = output or folder / "report.html"
    if not output.parent.is_dir():
        raise WriteError("its folder does not exist", path=output, remedy="name a file in a folder that exists")
    tell("tables", 0, len(SECTIONS) + 1)
    evaluation = read_evaluation(folder)
    sections = []
    for number, (name, make) in enumerate(SECTIONS.items(), 1):
        tell(name, number, len(SECTIONS) + 1)
        sections += [section for section in make(evaluation) if section.items or section.text]
    try:
        found = [item for section in sections for item in section.items if isinstance(item, Table)]
        _write_tables(output.with_name(f"{output.stem}_tables"), found)
        with replacing(output) as part:
            part.write_text(render(evaluation, sections), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot be written ({error.strerror})", path=output) from error
    tell("done", len(SECTIONS) + 1, len(SECTIONS) + 1)
    return output


def _write_tables(folder: Path, found: Sequence[Table]) -> None:
    """Writes a folder of tables anew."""
    part = folder.with_name(f".part-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    writers = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
    for table in found:
        for suffix, text in writers.items():
            (part / f"{table.name}.{suffix}").write_text(text(table), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def render(evaluation: Evaluation, sections: Sequence[Section]) -> str:
    """The report as one HTML file that refers to nothing outside it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    rows = evaluation.rows
    objects = rows.drop_duplicates("object")
    about = [
        f"{len(objects)} objects in {objects['image'].nunique()} images of "
        f"{len(objects.drop_duplicates(['dataset', 'case']))} cases from {objects['dataset'].nunique()} data sets. "
        f"Models: {', '.join(evaluation.models)}.",
        "Means are over the objects of a data set, then over data sets with equal weight. Their 95 % confidence "
        "intervals, in square brackets, are percentiles of 2000 bootstrap resamples of the cases within each data set; "
        "there is none where no data set has two cases. Medians have their quartiles in round brackets. Tests take "
        "objects for independent, though those of a case are alike: with few cases of many objects p-values are too "
        "small.",
        "Undefined values: where neither the outline nor the truth has a pixel, metrics are undefined, are left out of "
        "means and are counted. Where one of them is empty, overlaps are 0 and distances are the image's diagonal, and "
        "the object is counted as missed. A cell that a model cannot fill is empty and has its reason under the table. "
        "Every table says from which rows of scores.parquet it is computed, and what was undefined or missed there.",
    ]
    numbers = {"table": 0, "figure": 0}
    shown = []
    for section in sections:
        items = []
        for item in section.items:
            kind = "table" if isinstance(item, Table) else "figure"
            numbers[kind] += 1
            items.append(_item(item, f"{kind.capitalize()} {numbers[kind]}. {item.title}"))
        anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower())
        shown.append({"title": section.title, "anchor": anchor, "text": section.text, "items": items})
    return template.render(title="Evaluation", about=about, sections=shown)


def _item(item: Item, heading: str) -> dict[str, Any]:
    if isinstance(item, Table):
        return {"kind": "table", "heading": heading, "html": to_html(item)}
    if isinstance(item, Drawing):
        return {"kind": "drawing", "heading": heading, "uri": item.uri, "alt": item.alt, "notes": item.notes}
    return {"kind": "gallery", "heading": heading, "heads": item.heads, "rows": item.rows, "notes": item.notes}
