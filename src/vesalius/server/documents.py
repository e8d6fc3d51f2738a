"""The annotations of one image: a log of actions, and the state that it folds to.

A log is a file of JSON lines. The first describes the image; each further one is an action with its number ``n``, the
time and the session. A line is on the disk before its action is answered, so a killed server loses nothing that it has
confirmed. ``undo`` and ``redo`` are lines like others: the state is the fold (`apply`) of the actions that are in
effect, which two passes over the file find out. Nothing but the last states is kept in memory, so that undo need not
read the file each time.

Masks are COCO's compressed RLE. The kinds of actions and what they carry are those of `apply`.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vesalius import __version__
from vesalius.core.errors import ReadError, WriteError

FORMAT = 1
# States that are kept; they share what did not change between them.
_STATES = 64

# One COCO RLE: ``size`` (rows, columns) and ``counts``.
Rle = dict[str, Any]
# Axis and index of a slice.
Place = tuple[str, int]


@dataclass(frozen=True)
class Plane:
    """What was said about one object on one slice.

    Attributes:
        by: What made it: prompts, drawn, propagated, proposal or file.
        mask: The mask, which may be empty.
        area: Its pixels.
        quality: Predicted IoU; None where nothing predicted it.
        prompts: What was said, in order: ``id``, ``step``, ``kind`` and its values. What was said in one request is
            one step.
        candidates: The model's masks, best first, each with ``mask``, ``area`` and ``quality``.
        chosen: Which of them is the mask.
        choices: Step -> the candidate that was chosen before the next step.
        window: Grey values (low, high) in which the model saw the slice; None for those of the image.
    """

    by: str
    mask: Rle
    area: int
    quality: float | None = None
    prompts: tuple[Mapping[str, Any], ...] = ()
    candidates: tuple[Mapping[str, Any], ...] = ()
    chosen: int | None = None
    choices: Mapping[int, int] = field(default_factory=dict)
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Annotation:
    """An object that was outlined.

    Attributes:
        name: As the annotator wrote it; may be empty.
        colour: ``#rrggbb``.
        locked: Whether it refuses changes.
        hidden: Whether it is not drawn.
        planes: What was said about it, in the order in which it was said.
    """

    name: str
    colour: str
    locked: bool = False
    hidden: bool = False
    planes: Mapping[Place, Plane] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a log says.

    Attributes:
        objects: The objects by their ids, in the order in which they were made.
        done: Whether the annotator is done with the image.
    """

    objects: Mapping[str, Annotation] = field(default_factory=dict)
    done: bool = False


def apply(state: State, action: Mapping[str, Any]) -> State:
    """The state after an action as it stands in the log.

    Raises:
        KeyError, TypeError, ValueError: The action is not of a known form.
    """
    kind = action["kind"]
    objects = dict(state.objects)
    if kind == "state":
        return replace(state, done=bool(action["done"]))
    if kind == "create":
        objects[action["object"]] = Annotation(action["name"], action["colour"])
    elif kind == "accept":
        for made in action["objects"]:
            plane = Plane("proposal", made["mask"], made["area"], made["quality"])
            place = (action["axis"], action["index"])
            objects[made["object"]] = Annotation(made["name"], made["colour"], planes={place: plane})
    elif kind == "replace":
        objects = {
            made["object"]: Annotation(
                made["name"],
                made["colour"],
                planes={
                    (action["axis"], int(row["index"])): Plane("file", row["mask"], row["area"])
                    for row in made["planes"]
                },
            )
            for made in action["objects"]
        }
        state = replace(state, done=bool(action.get("done", state.done)))
    elif kind == "delete":
        del objects[action["object"]]
    elif kind == "update":
        values = {key: action[key] for key in ("name", "colour", "locked", "hidden") if key in action}
        objects[action["object"]] = replace(objects[action["object"]], **values)
    elif kind in ("prompt", "mask", "choose", "clear", "propagate"):
        number = action["object"]
        if number not in objects and "made" in action:
            objects[number] = Annotation(action["made"]["name"], action["made"]["colour"])
        objects[number] = _with_planes(objects[number], action)
    else:
        raise ValueError(f"there is no action {kind!r}")
    return replace(state, objects=objects)


def _with_planes(thing: Annotation, action: Mapping[str, Any]) -> Annotation:
    planes = dict(thing.planes)
    kind = action["kind"]
    if kind == "propagate":
        span = range(action["first"], action["last"] + 1)
        # What was carried before and is carried no longer goes.
        planes = {
            place: plane
            for place, plane in planes.items()
            if plane.by != "propagated" or place[0] != action["axis"] or place[1] not in span
        }
        for row in action["planes"]:
            planes[action["axis"], int(row["index"])] = Plane("propagated", row["mask"], row["area"], row["quality"])
        return replace(thing, planes=planes)
    place = (action["axis"], int(action["index"]))
    # What is said last stands last, since where slices of two axes cross, the last word counts.
    before = planes.pop(place, None)
    if kind == "clear":
        # An empty mask, so that what other axes say about the slice is gone as well.
        planes[place] = Plane("drawn", action["mask"], 0)
    elif kind == "mask":
        said = {"id": f"p{action['n']}", "step": 1, "kind": "mask", "mask": action["mask"]}
        planes[place] = Plane("drawn", action["mask"], action["area"], prompts=(said,) if action["area"] else ())
    elif kind == "choose":
        if before is None:
            raise ValueError("no candidate can be chosen where nothing was asked")
        taken = before.candidates[action["candidate"]]
        planes[place] = replace(
            before,
            mask=taken["mask"],
            area=taken["area"],
            quality=taken["quality"],
            chosen=action["candidate"],
            choices={**before.choices, before.prompts[-1]["step"]: action["candidate"]},
        )
    else:
        candidates = tuple(action["candidates"])
        best = candidates[0] if candidates else {"mask": action["mask"], "area": action["area"], "quality": None}
        steps = {said["step"] for said in action["prompts"]}
        choices = {} if before is None else {step: taken for step, taken in before.choices.items() if step in steps}
        if action["prompts"]:
            choices.pop(action["prompts"][-1]["step"], None)
        planes[place] = Plane(
            "prompts" if candidates or not action["prompts"] else "drawn",
            best["mask"],
            best["area"],
            best["quality"],
            tuple(action["prompts"]),
            candidates,
            0 if candidates else None,
            choices,
            None if action["window"] is None else (action["window"][0], action["window"][1]),
        )
    return replace(thing, planes=planes)


class Document:
    """The log of one image and its state.

    `lock` is held while the state is looked at and an action is appended that depends on it; see `sessions` for the
    order of locks.

    Args:
        path: The log; it is made with the first action.
        about: What the first line says of the image: ``image`` (its name), ``shape`` (Z, Y, X) and ``digest``. None to
            look at a log alone: it is not compared with its image, nor changed.

    Raises:
        ReadError: The log is damaged before its last line, or belongs to another image.
    """

    def __init__(self, path: Path, about: Mapping[str, Any] | None) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.warnings: list[str] = []
        self._about = about
        self._states = deque([State()], _STATES)  # the last ones, the present one at the end
        self._end = 0  # bytes of the log that are in the state
        self._kinds: list[str] = []  # of action n at n - 1
        self._applied: list[int] = []
        self._undone: list[int] = []
        if path.exists():
            self._load()

    @property
    def state(self) -> State:
        """What the log says now."""
        return self._states[-1]

    @property
    def revision(self) -> int:
        """Number of the last action."""
        return len(self._kinds)

    @property
    def undo_kind(self) -> str | None:
        """Kind of the action that would be undone."""
        return self._kinds[self._applied[-1] - 1] if self._applied else None

    @property
    def redo_kind(self) -> str | None:
        """Kind of the action that would be done again."""
        return self._kinds[self._undone[-1] - 1] if self._undone else None

    def append(self, action: Mapping[str, Any], session: str) -> State:
        """Appends an action, and returns the state after it.

        Args:
            action: As `apply` takes it, or of the kind ``undo`` or ``redo``; plain JSON values.
            session: Who did it.

        Raises:
            WriteError: It cannot be written; then the log and the state are as they were.
            ValueError: There is nothing to undo or to do again, or the action makes no sense.
        """
        with self.lock:
            number = self.revision + 1
            line = {
                "n": number,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "session": session,
                **action,
            }
            kind = action["kind"]
            applied, undone = _order(self._applied, self._undone, number, kind)
            states = self._states.copy()
            if kind == "undo":
                states.pop()
                states = states or self._folded(applied)
            else:
                _follow(states, next(self._actions({applied[-1]})) if kind == "redo" else line)
            self._write(line)
            self._kinds.append(kind)
            self._applied, self._undone, self._states = applied, undone, states
            return self.state

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._about is not None
        new = not self._end
        lines = [{"vesalius": __version__, "format": FORMAT, **self._about}, line] if new else [line]
        content = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in lines).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if file.tell() != self._end:
                    raise WriteError(
                        "was changed by another program meanwhile", path=self.path, remedy="start the server anew"
                    )
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                    if new:
                        _keep_name(self.path)
                except OSError:
                    file.truncate(self._end)
                    raise
        except OSError as error:
            raise WriteError(
                f"cannot be written ({error.strerror or error})", path=self.path, remedy="make room, then go on"
            ) from error
        self._end += len(content)

    def _load(self) -> None:
        try:
            self._read()
        except OSError as error:
            raise ReadError(f"cannot be read ({error.strerror or error})", path=self.path) from error

    def _read(self) -> None:
        with self.path.open("rb") as file:
            head = file.readline()
            good = file.tell()
            if not head.endswith(b"\n"):
                self._drop_after(0)
                return
            self._check(_parsed(head))
            for raw in file:
                line = _parsed(raw) if raw.endswith(b"\n") else None
                if line is None and not file.read(1):
                    self._drop_after(good)
                    break
                if line is None or line.get("n") != self.revision + 1 or not isinstance(line.get("kind"), str):
                    raise ReadError(
                        f"line {self.revision + 2} is damaged",
                        path=self.path,
                        remedy="restore the file, or delete that line and all after it",
                    )
                good = file.tell()
                kind = line["kind"]
                try:
                    self._applied, self._undone = _order(self._applied, self._undone, line["n"], kind)
                except ValueError as error:
                    raise ReadError(f"line {self.revision + 2} makes no sense: {error}", path=self.path) from error
                self._kinds.append(kind)
        self._end = good
        self._states = self._folded(self._applied)

    def _drop_after(self, end: int) -> None:
        if self._about is None:
            return
        with self.path.open("rb+") as file:
            lost = file.seek(0, os.SEEK_END) - end
            file.truncate(end)
            os.fsync(file.fileno())
        if not end:
            self.path.unlink()
        self.warnings.append(f"the last line of the log was cut short ({lost} bytes) and was left out")

    def _check(self, head: Mapping[str, Any] | None) -> None:
        if head is None or head.get("format") != FORMAT:
            raise ReadError("is not a log of annotations of this version", path=self.path, remedy="move it away")
        if self._about is None:
            return
        for key, what in (("shape", "size"), ("digest", "content")):
            if head.get(key) != self._about[key]:
                raise ReadError(
                    f"belongs to an image of another {what}: {head.get('image')} has changed since it was annotated",
                    path=self.path,
                    remedy="restore the image, or move the log away",
                )

    def _folded(self, numbers: list[int]) -> deque[State]:
        states = deque([State()], _STATES)
        for line in self._actions(set(numbers)):
            try:
                _follow(states, line)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ReadError(f"action {line['n']} makes no sense ({error!r})", path=self.path) from error
        return states

    def _actions(self, numbers: set[int]) -> Iterator[dict[str, Any]]:
        """The actions of these numbers, in the order of the log."""
        if not numbers:
            return
        with self.path.open("rb") as file:
            for number, raw in enumerate(file):
                if number in numbers:
                    line: dict[str, Any] = json.loads(raw)
                    yield line


def _follow(states: deque[State], action: Mapping[str, Any]) -> None:
    """Puts the state after an action behind those before it."""
    state = apply(states[-1], action)
    if action["kind"] == "replace":  # shares nothing with what was before, and may be large
        states.clear()
    states.append(state)


def states_of(path: Path) -> Iterator[State]:
    """The state after each action of a log, in order, also of those that were undone; a line cut short is left out.

    All are kept in memory until the last was given, for actions that are undone; they share what did not change.

    Raises:
        ReadError: The log is damaged, or cannot be read.
    """
    before, undone = [State()], list[State]()
    number = 1
    try:
        with path.open("rb") as file:
            file.readline()
            for raw in file:
                number += 1
                if not raw.endswith(b"\n"):
                    return
                line = json.loads(raw)
                if line["kind"] == "undo":
                    undone.append(before.pop())
                elif line["kind"] == "redo":
                    before.append(undone.pop())
                else:
                    before.append(apply(before[-1], line))
                    undone.clear()
                yield before[-1]
    except OSError as error:
        raise ReadError(f"cannot be read ({error.strerror or error})", path=path) from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ReadError(f"line {number} is damaged ({error!r})", path=path, remedy="restore the file") from error


def _order(applied: list[int], undone: list[int], number: int, kind: str) -> tuple[list[int], list[int]]:
    """Which actions are in effect and which are undone, the next to be done again last, after one more action."""
    if kind == "undo":
        if not applied:
            raise ValueError("there is nothing to undo")
        return applied[:-1], [*undone, applied[-1]]
    if kind == "redo":
        if not undone:
            raise ValueError("there is nothing to do again")
        return [*applied, undone[-1]], undone[:-1]
    return [*applied, number], []


def _keep_name(path: Path) -> None:
    """Has the disk keep the name of a new file too."""
    if os.name != "posix":
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
