"""How the server says no: a status, a code for programs, and a sentence for people."""

from __future__ import annotations

import os
import traceback

from vesalius.core.errors import (
    ConfigError,
    GeometryError,
    ModelError,
    PromptError,
    ReadError,
    VesaliusError,
    WriteError,
)

_CODES: dict[type[VesaliusError], str] = {
    ReadError: "read",
    GeometryError: "geometry",
    PromptError: "prompt",
    WriteError: "write",
    ConfigError: "config",
    ModelError: "model",
}


class Refusal(Exception):  # noqa: N818  (it tells a client what it did, not us what went wrong)
    """A request that is not answered as asked.

    Args:
        status: Of HTTP.
        code: What it is, for programs; the table in docs/server.md has them all.
        message: What it is, for people.
        remedy: What to do about it.
        retry_after: Seconds after which to ask again.
    """

    def __init__(
        self, status: int, code: str, message: str, *, remedy: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.remedy = remedy
        self.retry_after = retry_after

    def body(self) -> dict[str, dict[str, str | None]]:
        """What is answered, as plain JSON values."""
        return {"error": {"code": self.code, "message": self.message, "remedy": self.remedy}}

    def headers(self) -> dict[str, str]:
        """What is answered beside the body."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def refusal_of(error: VesaliusError) -> Refusal:
    """The refusal that tells one of our errors; it names the file, but not the folders that lead to it."""
    reason = error.reason
    if error.path is not None:  # which a reader's own words may hold too
        reason = f"{error.path.name}: {reason.replace(f'{error.path.parent}{os.sep}', '')}"
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "read")
    return Refusal(422, code, reason, remedy=error.remedy)


def trace_of(error: BaseException) -> str:
    """Where an error of ours happened, for the log: without its message, in which there may be names of files."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
