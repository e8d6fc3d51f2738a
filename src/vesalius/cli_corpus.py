"""The ``vesalius curate`` and ``vesalius corpus`` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def curate(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="What to curate, and how.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the corpus.")],
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="What the recipe's folders are relative to.", show_default="the recipe's own folder"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes on this machine.", show_default="one per core"),
    ] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine's processes, or a Ray cluster.")] = (
        "local"
    ),
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Of the Ray cluster.")] = "auto",
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with 0 although some files could not be used.")
    ] = False,
) -> None:
    """Turn scans and label maps into one corpus of images and masks.

    Interrupted, the same command goes on where it was. Files that cannot be used are listed with the reason in
    rejects.parquet; if there are any, the exit code is 1.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vesalius.corpus.curate import curate as run
    from vesalius.corpus.curate import default_workers
    from vesalius.corpus.recipe import Recipe

    chosen = Recipe.from_toml(recipe)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("curating", total=None)
        info = run(
            chosen,
            output,
            root=root or recipe.parent,
            workers=workers or default_workers(),
            engine=engine,
            address=address,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{output}: {info.images} images, {info.masks} masks in {info.shards} shards")
    for reason, count in info.left_out.items():
        print(f"left out, {reason}: {count}")
    for name, count in info.unknown_targets.items():
        print(f"not in the vocabulary, kept as it is: {name} ({count} masks)")
    if info.rejects:
        print(f"{info.rejects} entries could not be used: {output / 'rejects.parquet'}")
        if not allow_rejects:
            raise typer.Exit(1)
