"""``vesalius annotate``."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

# The browser keeps the place, selection and flips of an image for one address.
PORTS = range(1543, 1563)


def usual_port(host: str) -> int:
    """The first of the usual ports that is free, or 0."""
    for port in PORTS:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((host, port))
                return port
        except OSError:
            continue
    return 0


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
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="N",
            help="Port to listen on; 0 takes a free one.",
            show_default=f"{PORTS[0]}, or the next free one",
        ),
    ] = None,
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
        port=usual_port(host) if port is None else port,
        token=token,
        open_browser=browser,
    )
