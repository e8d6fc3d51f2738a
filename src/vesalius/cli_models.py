"""The ``vesalius models`` commands: published checkpoints listed, fetched and converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vesalius.models.convert import Conversion

app = typer.Typer(
    name="models",
    help="Models: list, show, fetch, convert, export.",
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
        how = "" if entry.url else "by hand" if entry.preset or entry.file else "by transformers"
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
        str,
        typer.Argument(
            metavar="MODEL", help="Published .pth or .safetensors, folder of transformers or ours, or a model's name."
        ),
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
    in a file is ever run. For a folder that is called as a model is, give ./NAME.
    """
    from vesalius.models.convert import convert as convert_weights
    from vesalius.models.registry import entries
    from vesalius.predict.load import find_model

    name = source if source in entries() else None
    _tell(convert_weights(find_model(source), output, preset=preset, side=side, adapters=adapters, name=name))


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name, checkpoint folder or published file.")],
    format_: Annotated[str, typer.Option("--format", metavar="onnx|openvino", help="What shall run it.")],
    precision: Annotated[
        str, typer.Option(metavar="fp32|bf16|int8", help="What it computes in; bf16 is for openvino alone.")
    ] = "fp32",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder of the export.",
            show_default="in the checkpoint's folder, where load_model finds it",
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Images to compare it on; repeat it.", show_default="those of the demonstration"
        ),
    ] = None,
) -> None:
    """Write a model as graphs that ONNX Runtime or OpenVINO runs without torch, and measure them beside torch."""
    from typing import get_args

    from vesalius.core.errors import ConfigError, ModelError
    from vesalius.demo import CASES, read_case
    from vesalius.io.read import read_slice
    from vesalius.models.convert import load_network
    from vesalius.models.export import check_exportable, export_model
    from vesalius.models.exported import Format, Precision, read_origin
    from vesalius.predict.load import find_model

    for value, known in ((format_, get_args(Format)), (precision, get_args(Precision))):
        if value not in known:
            raise ConfigError(f"there is no {value!r}", remedy=f"give one of {', '.join(known)}")
    path = find_model(model)
    network = load_network(path)
    check_exportable(network, format_, precision)  # type: ignore[arg-type]
    if output is None and read_origin(path) is None:
        raise ModelError(
            "is not a checkpoint of ours, beside which an export could lie",
            path=path,
            remedy=f"name a folder with -o, or convert it first: vesalius models convert {path} -o FOLDER",
        )
    images = [read_slice(file) for file in image] if image else [read_case(case) for case in CASES]

    folder = output or path / f"{format_}-{precision}"
    shown = [image.rgb() for image in images]
    done = export_model(network, folder, format_, precision, shown, path)  # type: ignore[arg-type]
    found = done.agreement
    print(f"{folder}: compared with torch on {found.images} images and {found.prompts} prompts,")
    dice = "all masks empty" if found.dice is None else f"Dice {found.dice:.4f} (least {found.worst_dice:.4f})"
    print(f"{dice}, logits within {found.logits:.2g},")
    print(f"encoding {found.encode_speedup:.1f} times and decoding {found.decode_speedup:.1f} times as fast")


def _tell(done: Conversion) -> None:
    print(f"{done.layout}{f' ({done.known_as})' if done.known_as else ''} -> {done.folder}")
    if done.dropped:
        print("left out:", ", ".join(done.dropped))
