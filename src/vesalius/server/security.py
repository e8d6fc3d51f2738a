"""Who is let in, how much may be sent, and what is logged.

A page of another site can make a browser send requests to this machine. It cannot read the answers (there are no CORS
headers); its requests are told by ``Origin`` and ``Sec-Fetch-Site`` and refused; and a name of its own that it points
at this machine (DNS rebinding) is refused by ``Host``.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import time
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.exceptions import HTTPException

from vesalius.server.refusals import Refusal, trace_of

_log = logging.getLogger("vesalius.server")

COOKIE = "vesalius_token"
# Seconds that a body may take, and bytes that must come in each further second: so one that trickles ends, too.
PATIENCE = 30.0
SLOWEST = 2**14
# What every answer carries: nothing is fetched from elsewhere, framed, guessed at or kept in a cache.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Rules:
    """What is let in.

    Attributes:
        token: What a request has to know; None on the loopback address.
        body_bytes: Largest body of JSON.
        upload_bytes: Largest body of files.
    """

    token: str | None = None
    body_bytes: int = 2**25
    upload_bytes: int = 2**29


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware that holds to the rules.

    Args:
        app: What answers.
        rules: Who and what is let in.
    """

    def __init__(self, app: Any, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        cookie: str | None = None
        reading = scope["method"] in ("POST", "PUT", "PATCH")
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        status, began_answer = 500, False
        sent = 0
        # Files go to the disk; what the API takes is held in memory, whatever it is said to be.
        files = "multipart" in headers.get("content-type", "") and not scope["path"].startswith("/api/")
        limit = self._rules.upload_bytes if files else self._rules.body_bytes

        async def answer(message: Any) -> None:
            nonlocal status, began_answer
            if message["type"] == "http.response.start":
                began_answer = True
                status = message["status"]
                own = {key.lower() for key, _ in message["headers"]}
                more = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items() if k.lower().encode() not in own]
                if cookie is not None:
                    more.append((b"set-cookie", cookie.encode()))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        async def piece() -> Any:
            nonlocal sent, reading
            try:
                left = began + PATIENCE + sent / SLOWEST - time.perf_counter()
                message = await asyncio.wait_for(receive(), max(left, 0) if reading else None)
            except TimeoutError:
                raise HTTPException(408, "the body did not come in time") from None
            reading = bool(message.get("more_body"))
            sent += len(message.get("body", b""))
            if sent > limit:  # FastAPI makes 400 of any other exception
                raise HTTPException(413, _too_large(limit).message)
            return message

        try:
            if self._rules.token is None:  # with a token, a page of another name knows neither it nor the cookie
                check_host(headers)
            check_origin(headers)
            cookie = check_token(headers, scope["query_string"].decode("latin-1"), self._rules.token)
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > limit:
                raise _too_large(limit)
            await self._app(scope, piece, answer)
        except Exception as error:
            if began_answer:  # it breaks off; raised further, it would be logged with its message
                _log.error("%s %s broke off: %s", scope["method"], _route(scope), trace_of(error))
                return
            refusal = error if isinstance(error, Refusal) else Refusal(500, "failed", "the server has failed at this")
            if refusal is not error:
                _log.error("%s %s failed: %s", scope["method"], _route(scope), trace_of(error))
            if "text/html" in headers.get("accept", ""):  # a person with a browser, not the page
                kind, body = "text/html; charset=utf-8", _page_of(refusal).encode()
            else:
                kind, body = "application/json", json.dumps(refusal.body()).encode()
            own = {"content-type": kind, "content-length": str(len(body)), **refusal.headers()}
            start = [(key.lower().encode(), value.encode()) for key, value in own.items()]
            await answer({"type": "http.response.start", "status": refusal.status, "headers": start})
            await send({"type": "http.response.body", "body": body})
        finally:
            milliseconds = 1000 * (time.perf_counter() - began)
            _log.info("%s %s %d %.0f ms", scope["method"], _route(scope), status, milliseconds)


def _page_of(refusal: Refusal) -> str:
    """A refusal for people, as a page."""
    message, remedy = (escape(text[:1].upper() + text[1:]) for text in (refusal.message, refusal.remedy or ""))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Vesalius</title>
<style>body {{ margin: 15vh auto; max-width: 30em; padding: 0 1em; font: 1.1em sans-serif; }}
:root {{ color-scheme: dark light; }}</style>
<h1>{message}.</h1>
<p>{remedy and f"{remedy}."}</p>
</html>
"""


def _route(scope: Any) -> str:
    """The route, not the path: the names of files are often those of patients."""
    return getattr(scope.get("route"), "path", "-")


def check_host(headers: dict[str, str]) -> None:
    """Refuses requests under another name than this machine's own."""
    if not is_loopback(_split(f"//{headers.get('host', '')}").hostname or ""):
        raise Refusal(403, "host", "this is not the host that was asked for", remedy="use the address that was printed")


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # brackets that do not match
        return urlsplit("")


def check_origin(headers: dict[str, str]) -> None:
    """Refuses requests that a page of another site makes."""
    origin = headers.get("origin")
    if origin is not None and _split(origin).netloc != headers.get("host"):
        raise Refusal(403, "origin", "pages of other sites may not ask")
    if headers.get("sec-fetch-site", "none") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        raise Refusal(403, "origin", "pages of other sites may not ask")


def check_token(headers: dict[str, str], query: str, token: str | None) -> str | None:
    """Refuses requests without the token; the cookie to set, if it came in the address."""
    if token is None:
        return None
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return None
    try:
        known = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        known = None
    if known is not None and hmac.compare_digest(known.value.encode(), token.encode()):
        return None
    named = parse_qs(query).get("token", [""])[0]
    if hmac.compare_digest(named.encode(), token.encode()):
        return f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    raise Refusal(401, "token", "a token is needed", remedy="open the address that the server has printed")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {limit} bytes")
