"""A small client of the annotation server, for scripts: no torch, no model, requests alone.

::

    from vesalius.server.client import Client

    client = Client("http://127.0.0.1:8000")
    image = client.images()[0]["id"]
    answer = client.prompt(image, points=[(210, 188)], name="liver")
    mask = client.masks(image)[answer["object"]]
    Path("liver.nii.gz").write_bytes(client.export(image, "nifti"))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import requests
from numpy.typing import NDArray

from vesalius.core.errors import VesaliusError
from vesalius.io.outlines import mask_of_runs, runs_of_mask


class ServerError(VesaliusError):
    """What the server refused.

    Attributes:
        status: Of HTTP.
        code: As in the table of docs/server.md.
    """

    def __init__(self, status: int, code: str, message: str, remedy: str | None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.code = code


class Client:
    """A session with a server; use it as a context, or `close` it.

    A session ends when nothing was asked in it for a while (15 minutes); the next request then opens a new one, by
    itself. Nothing is lost by that: objects belong to images, and a session only says who asks.

    Args:
        address: Such as ``http://127.0.0.1:8000``.
        token: What the server asks for, where it listens on another address than its own.
        timeout: Seconds to wait for an answer.

    Raises:
        ServerError: The server refuses.
        requests.ConnectionError: There is no server.
    """

    def __init__(self, address: str, token: str | None = None, timeout: float = 120) -> None:
        self._address = address.rstrip("/")
        self._timeout = timeout
        self._http = requests.Session()
        if token is not None:
            self._http.headers["Authorization"] = f"Bearer {token}"
        self.session = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session."""
        self._send("DELETE", f"/api/sessions/{self.session}")
        self._http.close()

    def request(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Any request of docs/server.md; what it answers.

        Raises:
            ServerError: The server refuses.
        """
        answer = self._send(method, path, body, **query)
        return answer.json() if answer.content else None

    def images(self) -> list[dict[str, Any]]:
        """The list of images."""
        found: list[dict[str, Any]] = self.request("GET", "/api/images")["images"]
        return found

    def pixels(self, image: str, axis: str = "z", index: int = 0) -> NDArray[Any]:
        """(H, W) grey values or (H, W, 3) RGB of a slice."""
        answer = self._send("GET", f"/api/images/{image}/pixels", axis=axis, index=index)
        shape = [int(length) for length in answer.headers["X-Shape"].split(",")]
        kind = np.dtype(answer.headers["X-Dtype"]).newbyteorder("<")
        return np.frombuffer(answer.content, kind).reshape(shape)

    def act(self, image: str, kind: str, **values: Any) -> dict[str, Any]:
        """Any action of docs/server.md; what it answers."""
        answer: dict[str, Any] = self.request("POST", f"/api/images/{image}/actions", {"kind": kind, **values})
        return answer

    def prompt(
        self,
        image: str,
        *,
        points: Sequence[tuple[float, float]] = (),
        negative: Sequence[tuple[float, float]] = (),
        box: Sequence[float] | None = None,
        text: str | None = None,
        object: str | None = None,
        name: str = "",
        axis: str = "z",
        index: int = 0,
    ) -> dict[str, Any]:
        """Says something about an object, or about a new one, and asks the model.

        Args:
            image: Its id.
            points: (x, y) on the object.
            negative: (x, y) on what it is not.
            box: (x0, y0, x1, y1) around it, half-open.
            text: What it is called, for models that take words.
            object: Its id; None for a new one.
            name: Of a new one.
            axis: Of the slice.
            index: Of the slice.
        """
        add: list[dict[str, Any]] = []
        for positive, clicks in ((True, points), (False, negative)):
            add += [{"kind": "point", "x": x, "y": y, "positive": positive} for x, y in clicks]
        if box is not None:
            add.append({"kind": "box", "box": list(box)})
        if text is not None:
            add.append({"kind": "text", "text": text})
        return self.act(image, "prompt", object=object, name=name, axis=axis, index=index, add=add)

    def draw(self, image: str, object: str, mask: NDArray[np.bool_], axis: str = "z", index: int = 0) -> dict[str, Any]:
        """Replaces the mask of an object on a slice by (H, W) ``mask``."""
        return self.act(image, "mask", object=object, axis=axis, index=index, mask=runs_of_mask(mask), tool="client")

    def masks(self, image: str, axis: str = "z", index: int = 0) -> dict[str, NDArray[np.bool_]]:
        """(H, W) masks of the objects on a slice, by their ids."""
        found = self.request("GET", f"/api/images/{image}/planes", axis=axis, index=index)["planes"]
        return {one["object"]: mask_of_runs(one["mask"], tuple(one["mask"]["size"])) for one in found if one["mask"]}

    def propagate(
        self,
        image: str,
        object: str,
        axis: str = "z",
        first: int | None = None,
        last: int | None = None,
        progress: Callable[[int, int], object] = lambda _done, _total: None,
    ) -> None:
        """Carries an object through a volume, and waits until that is done.

        Raises:
            ServerError: It cannot be carried.
        """
        body = {"object": object, "axis": axis, "first": first, "last": last}
        job = self.request("POST", f"/api/images/{image}/propagate", body)
        while job["state"] == "running":
            time.sleep(0.1)
            job = self.request("GET", f"/api/jobs/{job['job']}")
            self._send("GET", f"/api/sessions/{self.session}")  # it may take longer than the lease
            progress(job["done"], job["total"])
        if job["error"] is not None:
            raise ServerError(422, **job["error"])

    def export(self, image: str, format: str, axis: str | None = None, index: int | None = None) -> bytes:
        """The annotations of an image as a file of a format."""
        return self._send("GET", f"/api/images/{image}/export", format=format, axis=axis, index=index).content

    def _open(self) -> str:
        session: str = self.request("POST", "/api/sessions")["session"]
        self._http.headers["X-Vesalius-Session"] = session
        return session

    def _send(self, method: str, path: str, body: Any = None, **query: Any) -> requests.Response:
        asked = {key: value for key, value in query.items() if value is not None}
        ask = partial(
            self._http.request,
            method,
            f"{self._address}{path}",
            params=asked,
            json=body,
            timeout=self._timeout,
            allow_redirects=False,
        )
        answer = ask()
        if answer.status_code == 410 and not path.startswith("/api/sessions/"):  # it has ended, so nothing was done
            self.session = self._open()
            answer = ask()
        if answer.status_code >= 400:
            try:
                error = answer.json()["error"]
            except (ValueError, KeyError, TypeError):
                error = {"code": "unknown", "message": f"the answer was {answer.status_code}", "remedy": None}
            raise ServerError(answer.status_code, **error)
        return answer
