"""``vesalius annotate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def annotate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH…", help="Images, volumes, DICOM folders, or folders that hold some.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for the annotations.",
            show_default="vesalius-annotations, beside the images",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|FOLDER", help="Model to use.", show_default="vesalius-tiny, bundled"),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(
            metavar="auto|torch|onnx|openvino",
            help="What runs the model; auto is the fastest that gives the same masks.",
        ),
    ] = "auto",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port to listen on; 0 takes a free one.")
    ] = 0,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What a request has to know.",
            show_default="none on this machine; elsewhere a random one, which is printed",
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Outline images, volumes and DICOM series in a browser, slice by slice.

    Every step is saved at once; what was begun is there when the page is opened again. The same address is a MONAI
    Label server for viewers such as 3D Slicer.
    """
    from vesalius.server.serve import serve

    serve(
        paths,
        output=output,
        model=model,
        runtime=runtime,  # type: ignore[arg-type]
        host=host,
        port=port,
        token=token,
        open_browser=browser,
    )
