"""The ``vesalius report`` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a finished evaluation.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="File to write.", show_default="OUT/report.html"),
    ] = None,
) -> None:
    """Turn an evaluation into tables, figures and statistics: one HTML file.

    Every table is also written as CSV, Markdown and LaTeX into the folder report_tables beside it (named after FILE).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from vesalius.evaluation.report import write_report

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("report", total=None)
        written = write_report(
            folder,
            output,
            lambda name, done, total: bar.update(task, description=name, completed=done, total=total),
        )
    print(written)
