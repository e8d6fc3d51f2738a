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
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vesalius.core.errors import ConfigError, WriteError
from vesalius.core.files import locked
from vesalius.predict.load import RuntimeName, load_model
from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.security import PATIENCE, Rules, is_loopback
from vesalius.server.workspace import Workspace, find_label_maps

# Most connections at a time; uvicorn answers 503 beyond. Idle ones are closed (`Connection`), and bodies have to come
# in time (`security.PATIENCE`), so that nobody holds them all by doing nothing.
CONNECTIONS = 256


class Connection(H11Protocol):
    """A connection that is closed when no request has come for a while.

    uvicorn's own limit holds between two requests alone, not before the first, nor while a head trickles.
    """

    idle = PATIENCE

    def connection_made(self, transport: Any) -> None:
        """Begins to look at what comes."""
        super().connection_made(transport)
        self.loop.call_later(self.idle, self._look, None)

    def _look(self, before: object) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is before and (before is None or self.cycle.response_complete):
            self.transport.abort()
        else:
            self.loop.call_later(self.idle, self._look, self.cycle)


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
        damaged = sum(item.error is not None for item in workspace.items.values())
        if damaged:
            print(f"{damaged} of them are damaged; the list of images says how", flush=True)
        label_maps = sum(1 for path in paths for _ in find_label_maps(path, output))
        if label_maps:
            print(f"{label_maps} label maps are left out; to open them, name their folders", flush=True)
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=30,
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
