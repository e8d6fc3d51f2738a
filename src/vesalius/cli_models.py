"""The ``vesalius models`` commands: published checkpoints listed, fetched and converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vesalius.models.convert import Conversion

app = typer.Typer(
    name="models",
    help="Published models: list, show, fetch, convert.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name in the registry; see vesalius models list.")]


@app.command("list")
def list_() -> None:
    """List the published models, and which of them are here."""
    from rich.console import Console
    from rich.table import Table

    from vesalius.models.registry import entries, model_folder

    table = Table("name", "model", "licence", "size", "here", box=None)
    for name, entry in entries().items():
        size = f"{entry.size / 1e6:.0f} MB" if entry.size else ""
        how = "" if entry.url else "by hand" if entry.preset else "by transformers"
        here = "fetched" if (model_folder(name) / "config.json").is_file() else how
        table.add_row(name, entry.title, entry.licence or "not stated", size, here)
    Console().print(table)


@app.command()
def show(name: Name) -> None:
    """Show what is known of a published model."""
    from vesalius.models.registry import entry, model_folder

    for key, value in entry(name).model_dump(exclude_none=True).items():
        print(f"{key}: {value}")
    folder = model_folder(name)
    print(f"fetched: {folder if (folder / 'config.json').is_file() else 'no'}")


@app.command()
def fetch(
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where to put it.", show_default="where load_model finds it"
        ),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of a folder that holds the file, instead of its source.")
    ] = None,
) -> None:
    """Download a published model, verify it and convert it; a download that broke off goes on where it stopped.

    Proxies are taken from HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from vesalius.models.fetch import fetch as fetch_model

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress("{task.description}", *columns, transient=True) as progress:
        task = progress.add_task(name, total=None)
        done = fetch_model(name, output, mirror, lambda got, total: progress.update(task, completed=got, total=total))
    if done is None:
        print(f"{name} is here already")
    else:
        _tell(done)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="Published .pth or .safetensors, folder of transformers, or ours.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Checkpoint to write.")],
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How the network wants its input: sam, medsam, ft-sam, sam-med2d, ..."),
    ] = None,
    side: Annotated[
        int | None, typer.Option(metavar="N", help="Interpolate the positions to this side of the input in pixels.")
    ] = None,
    adapters: Annotated[bool, typer.Option("--adapters/--no-adapters", help="Keep SAM-Med2D's adapters.")] = True,
) -> None:
    """Convert a published checkpoint: safetensors, configuration and model card, bit for bit.

    SAM (Meta's files or transformers'), MedSAM, FT-SAM, SAM-Med2D and IMIS-Net are recognised by their keys. Nothing
    in a file is ever run.
    """
    from vesalius.models.convert import convert as convert_weights

    _tell(convert_weights(source, output, preset=preset, side=side, adapters=adapters))


def _tell(done: Conversion) -> None:
    print(f"{done.layout}{f' ({done.known_as})' if done.known_as else ''} -> {done.folder}")
    if done.dropped:
        print("left out:", ", ".join(done.dropped))
