"""The ``vesalius evaluate`` and ``vesalius report`` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the results; made if absent.")
    ],
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN.toml]", help="What is measured; options take precedence.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Corpus, or a folder of sets of image and label pairs.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Model, checkpoint, ellipse, GrabCut, random walker, package.module:Class, or NAME=FOLDER of masks. "
            "Repeatable.",
            show_default="vesalius-tiny, ellipse, GrabCut",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="cosmos, sam-med2d, medsam, imis, interactive, annotator, jitter, grid or adapter-off. Repeatable.",
            show_default="sam-med2d",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="train|val|test|all", help="Which cases.", show_default="test")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of all draws.", show_default="0")] = None,
    max_objects: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Of an image with more objects, this many are drawn; 0: all.", show_default="10"
        ),
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(metavar="N", help="Of more images, this many, evenly.", show_default="all")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(metavar="mm|px", help="Of distances: mm where the spacing is known, or px.", show_default="mm"),
    ] = None,
    internal: Annotated[
        list[str] | None, typer.Option(metavar="SET", help="Data set that the models were trained on. Repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Earlier evaluation whose prompts are given again."),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(metavar="auto|torch|onnx|openvino", help="What runs models.", show_default="auto")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Where they run.", show_default="cpu")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep embeddings there, for other evaluations of the images.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes of this machine.")] = 1,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="What runs the work.")] = "local",
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Of the Ray cluster.")] = "auto",
) -> None:
    """Measure models on a corpus under the papers' protocols, all with the same prompts.

    Writes Parquet tables with a row per object, model, strategy and round; `vesalius report OUT` makes the papers'
    tables and figures of them. Started again on the same folder, it goes on where it was stopped.
    """
    import tomllib

    from vesalius.core.errors import ConfigError, ReadError
    from vesalius.evaluation.run import EvaluationPlan, evaluate_corpus

    if engine not in ("local", "ray"):
        raise ConfigError(f"there is no engine {engine!r}", remedy="give local or ray")
    given: dict[str, Any] = {}
    if plan is not None:
        try:
            given = tomllib.loads(plan.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReadError(f"is not a plan in TOML ({error})", path=plan) from error
    options = {
        "corpus": corpus,
        "models": tuple(model) if model else None,
        "protocols": tuple(protocol) if protocol else None,
        "split": split,
        "seed": seed,
        "max_objects": max_objects,
        "max_images": max_images,
        "units": units,
        "internal": tuple(internal) if internal else None,
        "prompts": prompts,
        "runtime": runtime,
        "device": device,
        "embeddings": embeddings,
    }
    given |= {name: value for name, value in options.items() if value is not None}
    if "corpus" not in given:
        raise ConfigError("there is no corpus", remedy="give --corpus FOLDER")
    print(evaluate_corpus(EvaluationPlan.from_dict(given, plan), output, workers, engine, address))


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
