"""One network, many people who ask: the queue, the turns, and what a list of prompts is answered with.

Prompts of people are answered one after the other by one thread (`Asking`). Propagation and the embeddings of what may
be asked about next run in threads of their own (`Background`), everything mode in that of its request. All use the same
network call by call (`Turns`): a person's call goes first, so a click waits for one encoding at most; then everything
mode and propagation; and what is only prepared goes last.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vesalius.core.types import Logits, Prediction, Prompt, Slice
from vesalius.io.outlines import mask_of_runs
from vesalius.models.runtime import ImageFeatures, PromptArrays, Runtime
from vesalius.predict.cache import Bounded, EmbeddingCache, pixel_digest
from vesalius.predict.predictor import Embedding, Predictor
from vesalius.server.refusals import Refusal

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Rank(IntEnum):
    """Who goes first: a person who has clicked, one who waits for something long, or nobody yet."""

    NOW = 0
    LONG = 1
    AHEAD = 2


class Turns:
    """A lock that is given by rank, and in the order of coming within a rank."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy = False
        self._numbers = count()
        self._waiting: list[tuple[Rank, int]] = []

    @contextmanager
    def turn(self, rank: Rank) -> Iterator[None]:
        """Holds the lock while the block runs."""
        with self._condition:
            own = rank, next(self._numbers)
            self._waiting.append(own)
            while self._busy or own != min(self._waiting):
                self._condition.wait()
            self._waiting.remove(own)
            self._busy = True
        try:
            yield
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()


class SharedRuntime:
    """A network that several threads call in turns; see `vesalius.models.runtime.Runtime`.

    Args:
        runtime: The network.
        turns: Whose turn it is.
        rank: Of calls by this object.
        latest: What was encoded last and what came of it, for all objects that take turns: who waited while another
            encoded the same, as a click on a slice that is just being prepared does, need not do it again.
    """

    def __init__(
        self, runtime: Runtime, turns: Turns, rank: Rank, latest: dict[tuple[str, bytes], list[ImageFeatures]]
    ) -> None:
        self._runtime = runtime
        self._latest = latest
        self._turns = turns
        self._rank = rank
        self.preset = runtime.preset
        self.digest = runtime.digest
        self.label = runtime.label
        self.takes = runtime.takes
        self.words = runtime.words

    def encode(self, images: NDArray[np.uint8], content: NDArray[np.int64]) -> list[ImageFeatures]:
        """Features of images."""
        key = pixel_digest(images), content.tobytes()
        with self._turns.turn(self._rank):
            found = self._latest.get(key)
            if found is None:
                found = self._runtime.encode(images, content)
                self._latest.clear()
                self._latest[key] = found
            return found

    def decode(
        self, features: Sequence[ImageFeatures], prompts: PromptArrays, multimask: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Masks of prompts."""
        with self._turns.turn(self._rank):
            return self._runtime.decode(features, prompts, multimask)


@dataclass(eq=False)
class _Asked(Generic[T]):
    session: str
    topic: tuple[Any, ...] | None
    said: list[Any]
    work: Callable[[list[Any]], T]
    answer: Future[T] = field(default_factory=Future)


class Asking:
    """A queue of what people ask, answered one after the other by one thread.

    Args:
        limit: Most unanswered requests.
        session_limit: Most unanswered requests of one session.
    """

    def __init__(self, limit: int = 32, session_limit: int = 4) -> None:
        self.limit = limit
        self.session_limit = session_limit
        self._condition = threading.Condition()
        self._waiting: deque[_Asked[Any]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="vesalius-asking", daemon=True)
        self._thread.start()

    def ask(
        self, work: Callable[[list[Any]], T], *, session: str, topic: tuple[Any, ...] | None = None, said: list[Any]
    ) -> T:
        """The answer, when it is there.

        Args:
            work: Makes the answer of ``said``.
            session: Who asks.
            topic: What it is about. A request of the same session about the same thing that waits is superseded: what
                was said in it is put before ``said``. None for what supersedes nothing.
            said: What is said.

        Raises:
            Refusal: The queue is full, or the request was superseded.
            Exception: What ``work`` raises.
        """
        asked = _Asked(session, topic, said, work)
        with self._condition:
            older = [one for one in self._waiting if topic is not None and (one.session, one.topic) == (session, topic)]
            waiting = len(self._waiting) - len(older)
            own = sum(one.session == session for one in self._waiting) - len(older)
            if self._closed:
                raise Refusal(503, "busy", "the server is stopping", retry_after=5)
            if own >= self.session_limit:
                raise Refusal(429, "session_busy", f"this session has {own} unanswered requests already", retry_after=1)
            if waiting >= self.limit:
                raise Refusal(503, "busy", f"{waiting} requests are waiting already", retry_after=2)
            for one in older:
                self._waiting.remove(one)
                asked.said = [*one.said, *asked.said]
                one.answer.set_exception(
                    Refusal(409, "superseded", "a newer request about the same object has taken this one's prompts")
                )
            self._waiting.append(asked)
            self._condition.notify()
        return asked.answer.result()

    def drop(self, session: str) -> None:
        """Refuses what a session still waits for."""
        with self._condition:
            for one in [one for one in self._waiting if one.session == session]:
                self._waiting.remove(one)
                one.answer.set_exception(Refusal(410, "session", "the session has ended"))

    def close(self) -> None:
        """Refuses what waits and ends the thread."""
        with self._condition:
            self._closed = True
            for one in self._waiting:
                one.answer.set_exception(Refusal(503, "busy", "the server is stopping", retry_after=5))
            self._waiting.clear()
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                asked = self._waiting.popleft()
            try:
                asked.answer.set_result(asked.work(asked.said))
            except BaseException as error:  # the one who asked gets it
                asked.answer.set_exception(error)


class Background:
    """Does what can wait in one thread.

    Args:
        name: Of the thread.
        limit: Most tasks that wait: the newest is done first, and the oldest, which nobody wants any more, falls out.
            If None, all are done in the order of coming.
    """

    def __init__(self, name: str, limit: int | None = None) -> None:
        self.limit = limit
        self._condition = threading.Condition()
        self._tasks: OrderedDict[Any, Callable[[], None]] = OrderedDict()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, key: Any, task: Callable[[], None]) -> None:
        """Adds a task, in the place of one with the same key."""
        with self._condition:
            self._tasks.pop(key, None)
            self._tasks[key] = task
            while self.limit is not None and len(self._tasks) > self.limit:
                self._tasks.popitem(last=False)
            self._condition.notify()

    def close(self) -> None:
        """Drops what waits and ends the thread after what it is at."""
        with self._condition:
            self._closed = True
            self._tasks.clear()
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._tasks and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return
                _, task = self._tasks.popitem(last=self.limit is not None)
            try:
                task()
            except Exception as error:  # whoever opens the image is told what is wrong with it
                _log.info("a task in the background failed (%s)", type(error).__name__)


# What a slice is known by: image, axis, index and grey window.
Key = tuple[str, str, int, tuple[float, float]]


class Engine:
    """The network, for people and in the background, and what is kept of images and answers.

    Args:
        predictor: The model.
        memory: Bytes of embeddings to keep: half of them for whole images, half for windows around objects.
        limit: Most unanswered requests.
        session_limit: Most unanswered requests of one session.
    """

    def __init__(self, predictor: Predictor, *, memory: int = 2**29, limit: int = 32, session_limit: int = 4) -> None:
        turns, cache = Turns(), EmbeddingCache(memory // 2)
        latest: dict[tuple[str, bytes], list[ImageFeatures]] = {}
        self.name = predictor.name
        self.runtime = predictor.runtime
        self.people, self.waiting, self.ahead = (
            Predictor(SharedRuntime(predictor.runtime, turns, rank, latest), predictor.name, cache) for rank in Rank
        )
        self.asking = Asking(limit, session_limit)
        self.preparing = Background("vesalius-preparing", limit=16)
        self.jobs = Background("vesalius-jobs")
        self._embeddings: Bounded[Key, Embedding] = Bounded(memory // 2)
        self._answers: Bounded[Any, list[Prediction]] = Bounded(2**26)

    @property
    def held(self) -> int:
        """Bytes of embeddings that are kept."""
        return self._embeddings.held + self.people.cache.held

    def embedding(self, key: Key, cut: Callable[[], Slice], *, ahead: bool = False) -> Embedding:
        """The embedding of a slice.

        Args:
            key: What it is known by.
            cut: Makes the slice where it is not known.
            ahead: Whether nobody waits for it yet.
        """
        found = self._embeddings.get(key)
        if found is None:
            image = replace(cut(), window=key[3])
            found = (self.ahead if ahead else self.people).encode(image)
            size = found.rgb.nbytes + image.pixels.nbytes + sum(part.nbytes for part in found.features)
            self._embeddings.put(key, found, size)
        return found

    def answer(
        self, embedding: Embedding, prompts: Sequence[Mapping[str, Any]], choices: Mapping[int, int]
    ) -> list[Prediction]:
        """The model's masks for all that was said about an object on a slice, best first.

        Each step is asked with all points so far, the last box and text, and the logits of the mask that was chosen
        after the step before (SAM-Med2D, section 4.2A). A mask that was drawn is not asked about, but corrected by the
        steps after it.

        Args:
            embedding: The slice.
            prompts: In the order of their steps; see `documents.Plane.prompts`.
            choices: Step -> chosen candidate, where it is not the best.

        Returns:
            The answer to the last step; none where nothing positive was said.

        Raises:
            PromptError: A prompt does not fit the image or the model.
        """
        asked = [said for said in prompts if said["kind"] != "mask" or said.get("asked")]
        found: list[Prediction] = []
        before: Logits | None = None
        steps = list(dict.fromkeys(said["step"] for said in asked))
        for step in steps:
            said = [prompt for prompt in prompts if prompt["step"] <= step]
            chosen = {earlier: choices.get(earlier, 0) for earlier in steps if earlier < step}
            key = (embedding.digest, *map(_word, said), *chosen.items())
            known = self._answers.get(key)
            if known is None:
                prompt = prompt_of(said, before, embedding.image.size)
                known = [] if prompt is None else self.people.candidates(embedding, [prompt])[0]
                self._answers.put(key, known, 1000 + sum(2 * one.mask.nbytes for one in known))
            found = known
            before = found[min(choices.get(step, 0), len(found) - 1)].logits if found else None
        return found

    def close(self) -> None:
        """Ends the threads."""
        self.asking.close()
        self.preparing.close()
        self.jobs.close()


def prompt_of(said: Sequence[Mapping[str, Any]], before: Logits | None, size: tuple[int, int]) -> Prompt | None:
    """All that was said as one prompt; None if nothing of it is positive.

    Args:
        said: Prompts; see `documents.Plane.prompts`.
        before: Logits of the answer so far; a mask of an earlier step is in them already.
        size: (height, width) of the slice.
    """
    points = [(one["x"], one["y"]) for one in said if one["kind"] == "point"]
    labels = [int(one["positive"]) for one in said if one["kind"] == "point"]
    box = next((one["box"] for one in reversed(said) if one["kind"] == "box"), None)
    text = next((one["text"] for one in reversed(said) if one["kind"] == "text"), None)
    drawn = next((one for one in reversed(said) if one["kind"] == "mask"), None)
    mask = None
    if drawn is not None and (before is None or drawn["step"] == said[-1]["step"]):
        mask = mask_of_runs(drawn["mask"], size)
        mask, before = (mask, None) if mask.any() else (None, before)
    if box is None and text is None and mask is None and before is None and not any(labels):
        return None
    return Prompt(points=points, labels=labels, box=box, mask=mask, logits=before, text=text)


def _word(said: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a prompt says, to be compared: its number does not matter."""
    kind = said["kind"]
    if kind == "point":
        return (said["step"], kind, said["x"], said["y"], said["positive"])
    if kind == "box":
        return (said["step"], kind, *said["box"])
    if kind == "text":
        return (said["step"], kind, said["text"])
    return (said["step"], kind, said["mask"]["counts"], bool(said.get("asked")))
