"""Who is at work: sessions with leases.

Locks, in the order in which one thread may take them; none takes an earlier one while it holds a later one:

1. the lock of one image that is being read (`Workspace`), which is held while a file is read
2. the lock of a document (`Document.lock`), which is held while an action is written, and never while a model is asked
3. the locks inside of `Workspace`, `Sessions`, `Annotator`, `Asking`, `Background`, `Turns` and `Bounded`, each of
   which is held for some lookups and while nothing else is called
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from vesalius.server.refusals import Refusal


class Sessions:
    """The sessions whose lease has not ended.

    Args:
        lease: Seconds that a session lives without a request.
        ended: Called with each session that has ended.
        clock: Seconds.
        limit: Most sessions at a time.
    """

    def __init__(
        self,
        lease: float,
        ended: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        limit: int = 1000,
    ) -> None:
        self.lease = lease
        self.limit = limit
        self._ended = ended
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def create(self) -> str:
        """A new session; Refusal if there are too many."""
        self._sweep()
        session = secrets.token_hex(8)
        with self._lock:
            if len(self._until) >= self.limit:
                raise Refusal(503, "busy", f"there are {self.limit} sessions already", retry_after=60)
            self._until[session] = self._clock() + self.lease
        return session

    def renew(self, session: str) -> None:
        """Renews the lease; Refusal if it has ended."""
        self._sweep()
        with self._lock:
            if session not in self._until:
                raise Refusal(410, "session", "the session has ended", remedy="make a new one: POST /api/sessions")
            self._until[session] = self._clock() + self.lease

    def end(self, session: str) -> None:
        """Ends a session, if it is one."""
        with self._lock:
            known = self._until.pop(session, None) is not None
        if known:
            self._ended(session)

    def _sweep(self) -> None:
        now = self._clock()
        with self._lock:
            over = [session for session, until in self._until.items() if until < now]
        for session in over:
            self.end(session)
