"""Runs the server: a socket, a lock on the folders of annotations, a model, and a browser that is opened."""

from __future__ import annotations

import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvicorn

from vesalius.core.errors import ConfigError, WriteError
from vesalius.core.files import locked
from vesalius.predict.load import RuntimeName, load_model
from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.security import Rules, is_loopback
from vesalius.server.workspace import Workspace, find_label_maps


def serve(
    paths: Sequence[Path],
    *,
    output: Path | None = None,
    model: str | None = None,
    runtime: RuntimeName = "auto",
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    open_browser: bool = True,
) -> None:
    """Serves images until it is stopped; prints the address.

    Args:
        paths: See `Workspace`.
        output: See `Workspace`.
        model: See `load_model`.
        runtime: See `load_model`.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        token: What requests have to know; where None, a random one unless the address is this machine's own.
        open_browser: Whether the page is opened.

    Raises:
        ReadError: There are no images.
        ModelError: The model cannot be loaded.
        WriteError: A folder of annotations cannot be written, or another server has it.
        ConfigError: The address cannot be listened on, or the token makes no sense.
    """
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise ConfigError(
            "the token is empty, or has other characters than letters, digits and . _ ~ -",
            remedy="leave --token out for a random one",
        )
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(18)
    workspace = Workspace(paths, output)
    with ExitStack() as stack:
        for folder in workspace.folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / ".lock"))
            except OSError as error:
                raise WriteError(
                    f"cannot be written ({error.strerror or error})", path=folder, remedy="give another by --output"
                ) from error
        listening = _listen(host, port, stack)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
        if token is not None:
            address += f"?token={token}"
        annotator = Annotator(workspace, load_model(model, runtime=runtime))
        app = create_app(annotator, Rules(token=token))
        print(f"{len(workspace.items)} images at {address} (Ctrl+C stops)", flush=True)
        label_maps = sum(1 for path in paths for _ in find_label_maps(path, output))
        if label_maps:
            print(f"{label_maps} label maps are left out; to open them, name their folders", flush=True)
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, limit_concurrency=256, timeout_keep_alive=30
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int, stack: ExitStack) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror or error})", remedy="give another --port or --host"
        ) from error
    return listening
