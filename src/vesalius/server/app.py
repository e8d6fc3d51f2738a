"""The routes of the server. What they do is in `annotator`; what they take is in `messages`."""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import quote

import anyio.to_thread
import numpy as np
from fastapi import Body, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from vesalius import __version__
from vesalius.core.errors import VesaliusError
from vesalius.core.types import to_8_bits
from vesalius.io.intensity import WINDOWS
from vesalius.server import messages
from vesalius.server.annotator import COLOURS, Annotator, names_like, sent_type
from vesalius.server.exports import FORMATS, export_image
from vesalius.server.monai_label import Uploads, add_monai_label
from vesalius.server.refusals import Refusal, refusal_of, trace_of
from vesalius.server.security import Guard, Rules, is_loopback

_log = logging.getLogger("vesalius.server")

# Seconds between two looks at whether a document has changed.
_LOOK = 0.2

STATIC = Path(__file__).parent / "static"

Session = Annotated[str, Header(alias="X-Vesalius-Session", min_length=1, max_length=64)]


def create_app(annotator: Annotator, rules: Rules | None = None) -> FastAPI:
    """The server as an ASGI application, which owns the annotator and closes it when it ends.

    Args:
        annotator: What does the work.
        rules: Who is let in.
    """
    rules = rules or Rules()
    uploads = Uploads()

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        # A thread for everyone who waits for an answer, and some for what is answered at once.
        anyio.to_thread.current_default_thread_limiter().total_tokens = annotator.engine.asking.limit + 32
        try:
            yield
        finally:
            annotator.close()
            uploads.close()

    # The pages for the API's documentation load scripts from elsewhere, so there are none.
    app = FastAPI(title="Vesalius", version=__version__, lifespan=living, docs_url=None, redoc_url=None)
    _answer_errors(app)
    _add_general(app, annotator, rules)
    _add_images(app, annotator)
    _add_documents(app, annotator)
    add_monai_label(app, annotator, uploads)
    _add_page(app)
    app.add_middleware(Guard, rules=rules)
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    def refused(_: Request, error: Refusal) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(VesaliusError)
    def failed(request: Request, error: VesaliusError) -> JSONResponse:
        return refused(request, refusal_of(error))

    @app.exception_handler(OSError)
    def no_room(request: Request, error: OSError) -> JSONResponse:
        _log.error("a file cannot be read or written: %s", trace_of(error))
        reason = f"a file cannot be read or written ({error.strerror or type(error).__name__})"
        return refused(request, Refusal(500, "failed", reason, remedy="make room, or look at the permissions"))

    @app.exception_handler(RequestValidationError)
    def misunderstood(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return refused(request, Refusal(400, "bad_request", f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    def unknown(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 408: "slow", 413: "too_large"}.get(error.status_code, "bad_request")
        return refused(request, Refusal(error.status_code, code, str(error.detail)))


def _add_general(app: FastAPI, annotator: Annotator, rules: Rules) -> None:
    @app.get("/api/info")
    def info() -> dict[str, Any]:
        """What the server is and can do."""
        asking, runtime = annotator.engine.asking, annotator.engine.runtime
        return {
            "name": "vesalius",
            "version": __version__,
            "model": {
                "name": annotator.engine.name,
                "runs_by": runtime.label,
                "takes_text": "text" in runtime.takes,
                "candidates": 3 if runtime.preset.multimask else 1,
            },
            "windows": {name: {"level": level, "width": width} for name, (level, width) in WINDOWS.items()},
            "colours": list(COLOURS),
            "formats": list(FORMATS),
            "collections": list(get_args(messages.Collection)),
            "limits": {
                "upload_bytes": rules.upload_bytes,
                "body_bytes": rules.body_bytes,
                "queue": asking.limit,
                "session_queue": asking.session_limit,
            },
        }

    @app.post("/api/sessions")
    def create_session() -> dict[str, Any]:
        """Makes a session."""
        return {"session": annotator.sessions.create(), "lease_s": annotator.sessions.lease}

    @app.get("/api/sessions/{session}")
    def renew_session(session: str) -> dict[str, Any]:
        """Renews a session's lease."""
        annotator.sessions.renew(session)
        return {"session": session, "lease_s": annotator.sessions.lease}

    @app.delete("/api/sessions/{session}", status_code=204)
    def end_session(session: str) -> None:
        """Ends a session."""
        annotator.sessions.end(session)

    @app.get("/api/vocabulary")
    def vocabulary(
        q: Annotated[str, Query(max_length=100)] = "", limit: Annotated[int, Query(ge=1, le=100)] = 12
    ) -> dict[str, Any]:
        """Names of targets that begin like a text."""
        return {"targets": names_like(q, limit)}

    @app.post("/api/export")
    def export_all(wish: messages.Export, session: Session) -> dict[str, Any]:
        """Writes the annotations of all images of some states to a folder."""
        annotator.sessions.renew(session)
        return annotator.export(wish)

    @app.get("/api/jobs/{job}")
    def job(job: str) -> dict[str, Any]:
        """How far a job is."""
        return annotator.job(job).told()

    @app.delete("/api/jobs/{job}")
    def cancel_job(job: str) -> dict[str, Any]:
        """Stops a job."""
        found = annotator.job(job)
        found.cancelled.set()
        return found.told()


def _add_images(app: FastAPI, annotator: Annotator) -> None:
    @app.get("/api/images")
    def images() -> dict[str, Any]:
        """The list of images."""
        return {"images": annotator.images()}

    @app.post("/api/images/refresh")
    def refresh() -> dict[str, Any]:
        """Looks for new images."""
        annotator.workspace.refresh()
        return {"images": annotator.images()}

    @app.get("/api/images/{image}")
    def about(image: str) -> dict[str, Any]:
        """What there is to know about an image."""
        return annotator.about(image)

    @app.get("/api/images/{image}/pixels")
    def pixels(
        request: Request,
        image: str,
        axis: messages.Axis = "z",
        index: messages.Index = 0,
        accept_encoding: Annotated[str, Header()] = "",
    ) -> Response:
        """The values of a slice, little endian, row by row."""
        cut = annotator.cut(image, axis, index)
        kind = sent_type(annotator.workspace.volume(image))
        content = np.ascontiguousarray(cut.pixels, kind.newbyteorder("<")).tobytes()
        headers = {"X-Shape": ",".join(map(str, cut.pixels.shape)), "X-Dtype": kind.name}
        # On this machine itself packing takes longer than sending.
        near = request.client is not None and is_loopback(request.client.host)
        if "gzip" in accept_encoding and not near:
            content = gzip.compress(content, 1)
            headers["Content-Encoding"] = "gzip"
        return Response(content, media_type="application/octet-stream", headers=headers)

    @app.get("/api/images/{image}/slice.png")
    def picture(
        image: str,
        axis: messages.Axis = "z",
        index: messages.Index = 0,
        low: messages.Grey | None = None,
        high: messages.Grey | None = None,
    ) -> Response:
        """A slice as an 8-bit picture."""
        from PIL import Image

        cut = annotator.cut(image, axis, index)
        shown = cut.window[0] if low is None else low, cut.window[1] if high is None else high
        if not shown[0] < shown[1]:
            raise Refusal(400, "bad_request", "low is not below high")
        grey = cut.pixels if cut.pixels.ndim == 3 else to_8_bits(cut.pixels, shown)
        file = io.BytesIO()
        Image.fromarray(grey).save(file, "PNG", compress_level=1)
        return Response(file.getvalue(), media_type="image/png")

    @app.post("/api/images/{image}/prepare", status_code=202)
    def prepare(image: str, wish: messages.Prepare) -> dict[str, Any]:
        """Encodes a slice in the background."""
        window = None if wish.window is None else (wish.window.low, wish.window.high)
        annotator.prepare(image, wish.axis, wish.index, window)
        return {}

    @app.post("/api/images/{image}/everything")
    async def everything(request: Request, image: str, wish: messages.Everything, session: Session) -> dict[str, Any]:
        """Proposals of all that a slice shows."""
        stop = threading.Event()
        work = asyncio.ensure_future(run_in_threadpool(annotator.everything, image, wish, session, stop))
        while not work.done() and not await request.is_disconnected():
            await asyncio.wait({work}, timeout=_LOOK)
        stop.set()  # if it is not done, nobody waits for it
        return await work

    @app.post("/api/images/{image}/propagate", status_code=202)
    def propagate(image: str, wish: messages.Propagate, session: Session) -> dict[str, Any]:
        """Carries an object through a volume."""
        return annotator.propagate(image, wish, session).told()

    @app.get("/api/images/{image}/export")
    def export(
        image: str, format: str, axis: messages.Axis | None = None, index: messages.Index | None = None
    ) -> Response:
        """The annotations of an image as a file."""
        if format not in FORMATS:
            raise Refusal(400, "bad_request", f"there is no format {format!r}", remedy=f"use {', '.join(FORMATS)}")
        with annotator.heavy():
            one = annotator.annotated(image)
            content = export_image(one, format, axis, index)
        suffix, kind = FORMATS[format]
        name = quote(f"{one.stem}{suffix}")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(content, media_type=kind, headers=headers)


def _add_documents(app: FastAPI, annotator: Annotator) -> None:
    @app.get("/api/images/{image}/document", response_model=None)
    async def document(
        image: str,
        after: Annotated[int | None, Query(ge=0)] = None,
        wait: Annotated[float, Query(ge=0, le=25)] = 0,
    ) -> dict[str, Any] | Response:
        """The annotations of an image, without masks; or 204 where they are not newer than ``after``."""
        found = await run_in_threadpool(annotator.document, image)
        until = time.monotonic() + wait
        while after is not None and annotator.workspace.document(image).revision <= after:
            if time.monotonic() >= until:
                return Response(status_code=204)
            await asyncio.sleep(_LOOK)
        return found if after is None else await run_in_threadpool(annotator.document, image)

    @app.get("/api/images/{image}/planes")
    def planes(image: str, axis: messages.Axis = "z", index: messages.Index = 0) -> dict[str, Any]:
        """The masks and prompts on a slice."""
        return annotator.planes(image, axis, index)

    @app.post("/api/images/{image}/actions")
    def act(image: str, action: Annotated[messages.Action, Body()], session: Session) -> dict[str, Any]:
        """Changes the annotations of an image."""
        return annotator.act(image, action, session)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page(token: str | None = None) -> Response:
        if token is not None:  # it is in the cookie now, and should not stay in the address
            return RedirectResponse("/", 303)
        index = STATIC / "index.html"
        if not index.is_file():
            raise Refusal(404, "not_found", "this installation has no page")
        return FileResponse(index)

    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), name="static")
