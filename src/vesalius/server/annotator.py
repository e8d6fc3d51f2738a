"""What can be done with the images of a workspace: every request to the server ends here."""

from __future__ import annotations

import logging
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import VesaliusError
from vesalius.core.types import AXES, Slice, Volume
from vesalius.io.intensity import WINDOWS, window_range
from vesalius.io.outlines import mask_of_runs
from vesalius.predict.cache import Bounded
from vesalius.predict.predictor import Predictor
from vesalius.prompts.sample import tight_box
from vesalius.server import messages
from vesalius.server.documents import Annotation, Document, Plane, State
from vesalius.server.exports import Annotated, export_all, formats_of
from vesalius.server.inference import Engine
from vesalius.server.masks import Block, block_of, crosses, mask_in_block, runs, slice_shape
from vesalius.server.refusals import Refusal, refusal_of, trace_of
from vesalius.server.sessions import Sessions
from vesalius.server.workspace import Workspace, find_items
from vesalius.vocabulary.targets import targets

_log = logging.getLogger(__name__)

# Colours that differ to most eyes (Okabe and Ito, Color universal design, 2008), lightened where dark on dark.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#4c8dff", "#b2df8a")
# A prompt that finds its slice changed by another one is asked again so many times.
_TRIES = 3
# Most jobs that run or wait.
_JOBS = 8
# Most requests at a time that take long.
_HEAVY = 4


@dataclass(eq=False)
class Job:
    """Work that goes on after the request is answered.

    Attributes:
        id: What requests call it.
        kind: What it does.
        state: running, done, failed or cancelled.
        done: Steps so far.
        total: Of so many.
        error: What is answered about a failure.
        revision: Of the document, once it is done.
        cancelled: Set to stop it.
    """

    id: str
    kind: str
    state: str = "running"
    done: int = 0
    total: int = 0
    error: dict[str, str | None] | None = None
    revision: int | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def told(self) -> dict[str, Any]:
        """The job as plain JSON values."""
        names = ("kind", "state", "done", "total", "error", "revision")
        return {"job": self.id, **{name: getattr(self, name) for name in names}}


class Annotator:
    """A workspace, a model and the people at work.

    Args:
        workspace: The images.
        predictor: The model.
        lease: Seconds that a session lives without a request.
        limit: Most unanswered prompts.
        session_limit: Most unanswered prompts of one session.
        memory: Bytes of embeddings to keep.
    """

    def __init__(
        self,
        workspace: Workspace,
        predictor: Predictor,
        *,
        lease: float = 900,
        limit: int = 32,
        session_limit: int = 4,
        memory: int = 2**29,
    ) -> None:
        self.workspace = workspace
        self.engine = Engine(predictor, memory=memory, limit=limit, session_limit=session_limit)
        self.sessions = Sessions(lease, self.engine.asking.drop)
        self.jobs: dict[str, Job] = {}
        self._jobs = threading.Lock()
        self._looking: dict[str, threading.Event] = {}
        self._carried: Bounded[tuple[Any, ...], Any] = Bounded(2**28)
        self._heavy = threading.BoundedSemaphore(_HEAVY)
        self._blocks: Bounded[tuple[str, str], tuple[Annotation, Block | None]] = Bounded(2**28)

    def close(self) -> None:
        """Stops what runs."""
        for job in self.jobs.values():
            job.cancelled.set()
        self.engine.close()

    @contextmanager
    def heavy(self) -> Iterator[None]:
        """Work that takes long in the thread of its request; Refusal where too much of it goes on already."""
        if not self._heavy.acquire(blocking=False):
            raise Refusal(503, "busy", f"{_HEAVY} long requests are at work already", retry_after=5)
        try:
            yield
        finally:
            self._heavy.release()

    # Images

    def images(self) -> list[dict[str, Any]]:
        """The list of images, as plain JSON values."""
        rows = []
        for image, item in self.workspace.items.items():
            row: dict[str, Any] = {"id": image, "name": item.name, "kind": "series" if item.files else "file"}
            try:
                state = self.workspace.state(image)
                row |= {"state": state_of(state), "objects": len(state.objects)}
            except VesaliusError as error:
                row |= {"state": "damaged", "objects": 0, "error": error.reason}
            if item.error is not None:
                row |= {"state": "damaged", "error": item.error}
            rows.append(row)
        return rows

    def about(self, image: str) -> dict[str, Any]:
        """What there is to know about an image, as plain JSON values; prepares it and its neighbours."""
        volume, document = self.workspace.volume(image), self.workspace.document(image)
        previous, following = self.workspace.neighbours(image)
        depth, height, width = volume.voxels.shape[:3]
        spacing = volume.geometry.spacing if volume.geometry is not None else None
        flat = depth == 1
        axes = {}
        for axis in ("z",) if flat else ("z", "y", "x"):
            rows, columns = (name for name in AXES[::-1] if name != axis)
            high, wide = slice_shape(volume.voxels.shape[:3], axis)
            pixel = None if spacing is None else [spacing[AXES.index(rows)], spacing[AXES.index(columns)]]
            axes[axis] = {
                "count": volume.voxels.shape[2 - AXES.index(axis)],
                "rows": rows,
                "columns": columns,
                "height": high,
                "width": wide,
                "pixel_mm": pixel,
            }
        low, high_value = float(volume.voxels.min()), float(volume.voxels.max())
        colour = volume.voxels.ndim == 4
        windows = {"default": volume.window}
        if not colour:
            windows["full"] = (low, high_value)
        if volume.modality == "ct" or (low < -200 and not colour):
            windows |= {name: window_range(name) for name in WINDOWS}
        self.prepare(image, "z", depth // 2)
        for other in (previous, following):
            if other is not None:
                self.prepare(other, "z", None)
        return {
            "id": image,
            "name": self.workspace.item(image).name,
            "state": state_of(document.state),
            "previous": previous,
            "next": following,
            "modality": volume.modality,
            "colour": colour,
            "dtype": sent_type(volume).name,
            "size": {"x": width, "y": height, "z": depth},
            "spacing_mm": None if spacing is None else dict(zip(AXES, spacing, strict=True)),
            "directions": (
                dict(zip(AXES, volume.geometry.nearest_directions(), strict=True)) if volume.geometry else None
            ),
            "axes": axes,
            "window": _span(volume.window),
            "range": _span((low, high_value)),
            "windows": {name: _span(window) for name, window in windows.items()},
            "formats": formats_of(self.workspace.item(image)),
        }

    def cut(self, image: str, axis: str, index: int) -> Slice:
        """A slice of an image; errors as `read_volume`, Refusal if there is no such slice."""
        volume = self.workspace.volume(image)
        return volume.slice(axis, index)

    def prepare(self, image: str, axis: str, index: int | None, window: tuple[float, float] | None = None) -> None:
        """Encodes a slice in the background; the middle one if none is named."""
        self.workspace.item(image)

        def encode() -> None:
            volume = self.workspace.volume(image)
            middle = volume.voxels.shape[2 - AXES.index(axis)] // 2
            self._embedding(volume, image, axis, middle if index is None else index, window, ahead=True)

        self.engine.preparing.add((image, axis, index, window), encode)

    def _embedding(
        self,
        volume: Volume,
        image: str,
        axis: str,
        index: int,
        window: tuple[float, float] | None,
        *,
        ahead: bool = False,
    ) -> Any:
        key = (image, axis, index, window or volume.window)
        return self.engine.embedding(key, lambda: volume.slice(axis, index), ahead=ahead)

    # Documents

    def document(self, image: str) -> dict[str, Any]:
        """The document of an image, as plain JSON values."""
        document = self.workspace.document(image)
        with document.lock:
            return told_document(image, document)

    def planes(self, image: str, axis: str, index: int) -> dict[str, Any]:
        """What is on a slice, as plain JSON values."""
        shape = self.workspace.volume(image).voxels.shape[:3]
        self._check_slice(shape, axis, index)
        document = self.workspace.document(image)
        with document.lock:
            state, revision = document.state, document.revision
        planes = [self._told_plane(image, number, thing, axis, index, shape) for number, thing in state.objects.items()]
        found = [plane for plane in planes if plane["mask"] is not None or plane["prompts"]]
        return {"revision": revision, "axis": axis, "index": index, "planes": found}

    def _check_slice(self, shape: Sequence[int], axis: str, index: int) -> None:
        count = shape[2 - AXES.index(axis)]
        if not 0 <= index < count:
            raise Refusal(
                422, "geometry", f"slice {index} along {axis} is outside 0 to {count - 1}", remedy="choose one inside"
            )

    def _told_plane(
        self, image: str, number: str, thing: Annotation, axis: str, index: int, shape: Sequence[int]
    ) -> dict[str, Any]:
        plane = thing.planes.get((axis, index))
        if not crosses(thing, axis):
            return told_plane(number, plane)
        known = self._blocks.get((image, number))
        if known is None or known[0].planes is not thing.planes:
            block = block_of(thing, shape)
            known = thing, block
            self._blocks.put((image, number), known, 0 if block is None else block.voxels.nbytes)
        told = runs(mask_in_block(known[1], axis, index, shape))
        if plane is not None and told["area"] == plane.area and told["mask"] == plane.mask:
            return told_plane(number, plane)
        # Slices of other axes have changed it since, or made it.
        told["mask"] = told["mask"] if told["area"] else None
        return {**told_plane(number, None), **told}

    # Actions

    def act(self, image: str, action: messages.Action, session: str) -> dict[str, Any]:
        """Does what was asked, and answers with what has changed, as plain JSON values.

        Raises:
            Refusal: It makes no sense now.
            VesaliusError: The image, the prompt or the log is at fault.
        """
        self.sessions.renew(session)
        volume = self.workspace.volume(image)
        document = self.workspace.document(image)
        if isinstance(action, messages.PromptAction):
            made = self._prompt(image, volume, document, action, session)
        else:
            with document.lock:
                logged = self._logged(volume, document.state, action, document.revision + 1)
                made = _append(document, logged, session)
        return self._answer(image, document, action, made)

    def _answer(
        self, image: str, document: Document, action: messages.Action, made: Mapping[str, Any]
    ) -> dict[str, Any]:
        with document.lock:
            answer: dict[str, Any] = {
                "revision": document.revision,
                "action": made["kind"],
                "object": made.get("object"),
                "document": told_document(image, document),
            }
        if "objects" in made:
            answer["objects"] = [one["object"] for one in made["objects"]]
        view = action.view
        if view is None and isinstance(action, messages.OnSlice):
            view = messages.View(axis=action.axis, index=action.index)
        if view is not None:
            found = self.planes(image, view.axis, view.index)
            everything = made["kind"] in ("undo", "redo", "delete", "accept")
            if not everything:
                number = made.get("object")
                own = [plane for plane in found["planes"] if plane["object"] == number]
                found["planes"] = own or ([told_plane(number, None)] if number is not None else [])
            answer["view"] = {"axis": view.axis, "index": view.index, "all": everything, "planes": found["planes"]}
        return answer

    def _prompt(
        self, image: str, volume: Volume, document: Document, action: messages.PromptAction, session: str
    ) -> dict[str, Any]:
        shape = volume.voxels.shape[:3]
        self._check_slice(shape, action.axis, action.index)
        size = slice_shape(shape, action.axis)
        place = (action.axis, action.index)
        topic = None if action.object is None else (image, action.object, *place)

        for part in action.add:
            if isinstance(part, messages.RoughMask):
                _checked_mask(part.mask, size)

        def work(said: list[Any]) -> dict[str, Any]:
            added = [part for kind, part in said if kind == "add"]
            removed = {part for kind, part in said if kind == "remove"}
            for _ in range(_TRIES):
                with document.lock:
                    state, number = document.state, document.revision + 1
                thing = None if action.object is None else unlocked(state, action.object)
                plane = None if thing is None else self._plane_now(image, action.object, thing, place, shape)
                window = None if action.window is None else (action.window.low, action.window.high)
                if window is None and plane is not None:
                    window = plane.window
                prompts = said_so_far(plane, added, removed, number)
                found = self._asked(volume, image, place, window, prompts, {} if plane is None else plane.choices)
                logged = {
                    "kind": "prompt",
                    "object": action.object or f"o{number}",
                    "axis": place[0],
                    "index": place[1],
                }
                logged |= {"prompts": prompts, "window": window, **found}
                # Nobody waits for the model with the lock in hand, so the object may have changed meanwhile.
                with document.lock:
                    if action.object is None:
                        if document.revision + 1 != number:
                            continue
                        colour = action.colour or next_colour(document.state)
                        logged["made"] = {"name": action.name, "colour": colour}
                    elif document.state.objects.get(action.object) is not thing:
                        continue
                    return _append(document, logged, session)
            raise Refusal(409, "conflict", "the object is being changed elsewhere", remedy="try again")

        said = [("add", part) for part in action.add] + [("remove", part) for part in action.remove]
        return self.engine.asking.ask(work, session=session, topic=topic, said=said)

    def _asked(
        self,
        volume: Volume,
        image: str,
        place: tuple[str, int],
        window: tuple[float, float] | None,
        prompts: Sequence[Mapping[str, Any]],
        choices: Mapping[int, int],
    ) -> dict[str, Any]:
        """The model's candidates for prompts; where it is not asked, the mask that was drawn, or an empty one."""
        candidates = []
        if any(one["kind"] != "mask" or one.get("asked") for one in prompts):
            embedding = self._embedding(volume, image, *place, window)
            candidates = [
                {**runs(found.mask), "quality": round(found.quality, 4)}
                for found in self.engine.answer(embedding, prompts, choices)
            ]
        if candidates:
            return {"candidates": candidates}
        size = slice_shape(volume.voxels.shape[:3], place[0])
        drawn = next((one["mask"] for one in reversed(prompts) if one["kind"] == "mask"), None)
        return {"candidates": [], **runs(np.zeros(size, np.bool_) if drawn is None else mask_of_runs(drawn, size))}

    def _plane_now(
        self, image: str, number: str | None, thing: Annotation, place: tuple[str, int], shape: Sequence[int]
    ) -> Plane | None:
        """What is on a slice of an object, also where slices of other axes made it."""
        plane = thing.planes.get(place)
        if not crosses(thing, place[0]) or number is None:
            return plane
        told = self._told_plane(image, number, thing, *place, shape)
        if told["by"] is not None or told["mask"] is None:
            return plane
        said = {"id": "p0", "step": 0, "kind": "mask", "mask": told["mask"]}
        return Plane("drawn", told["mask"], told["area"], prompts=(said,))

    def _logged(self, volume: Volume, state: State, action: messages.Action, number: int) -> dict[str, Any]:
        """An action as the log has it."""
        shape = volume.voxels.shape[:3]
        said = action.model_dump(exclude={"view", "revision"}, exclude_none=True)
        if isinstance(action, messages.Create):
            return {**said, "object": f"o{number}", "colour": action.colour or next_colour(state)}
        if isinstance(action, messages.Update):
            _known(state, action.object)
            return said
        if isinstance(action, messages.Delete):
            unlocked(state, action.object)
            return said
        if isinstance(action, messages.Choose | messages.Draw | messages.Clear):
            self._check_slice(shape, action.axis, action.index)
            thing = unlocked(state, action.object)
            size = slice_shape(shape, action.axis)
            if isinstance(action, messages.Draw):
                if action.revision is not None and action.revision != number - 1:
                    raise Refusal(409, "conflict", "the image was changed meanwhile", remedy="fetch the slice again")
                return {**said, **_checked_mask(action.mask, size)}
            if isinstance(action, messages.Clear):
                return {**said, **runs(np.zeros(size, np.bool_))}
            plane = thing.planes.get((action.axis, action.index))
            if plane is None or action.candidate >= len(plane.candidates):
                raise Refusal(409, "conflict", "there is no such candidate", remedy="ask the model first")
            return said
        if isinstance(action, messages.Accept):
            self._check_slice(shape, action.axis, action.index)
            size = slice_shape(shape, action.axis)
            used = len(state.objects)
            objects = [
                {
                    "object": f"o{number}.{i}",
                    "name": one.name,
                    "colour": one.colour or COLOURS[(used + i) % len(COLOURS)],
                    "quality": one.quality,
                    **_checked_mask(one.mask, size),
                }
                for i, one in enumerate(action.proposals)
            ]
            return {"kind": "accept", "axis": action.axis, "index": action.index, "objects": objects}
        return said

    def replace_objects(
        self, image: str, objects: Iterable[tuple[str, NDArray[np.bool_]]], session: str, done: bool | None = None
    ) -> None:
        """Takes objects that were drawn elsewhere in the place of those of an image; one undo takes that back.

        Args:
            image: Its id.
            objects: The name and the (Z, Y, X) mask of each.
            session: Who did it.
            done: Whether the annotator is done with the image; None leaves that.
        """
        document = self.workspace.document(image)
        drawn = [
            (name, [{"index": int(z), **runs(mask[z])} for z in np.flatnonzero(mask.any((1, 2)))])
            for name, mask in objects
        ]
        with document.lock:
            number = document.revision + 1
            made = [
                {
                    "object": f"o{number}.{place}",
                    "name": name,
                    "colour": COLOURS[place % len(COLOURS)],
                    "planes": planes,
                }
                for place, (name, planes) in enumerate(drawn)
            ]
            logged: dict[str, Any] = {"kind": "replace", "axis": "z", "objects": made}
            if done is not None:
                logged["done"] = done
            _append(document, logged, session)

    def add_image(self, name: str, write: Callable[[Path, str], Path]) -> str:
        """Adds an image to the first of the given folders; returns its id.

        Args:
            name: What it is to be called; only its letters, digits, dots and dashes are taken.
            write: Writes it to a folder under a stem, and returns the path.

        Raises:
            Refusal: There is such an image already.
            VesaliusError: It cannot be read; then it is not kept.
        """
        folder = self.workspace.uploads
        if folder is None:
            raise Refusal(403, "origin", "only single files are shown here", remedy="serve a folder")
        stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name.split(".")[0])[:80]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            written = write(Path(temporary), stem or "image")
            next(find_items(written)).read()
            path = folder / written.name
            try:
                path.touch(exist_ok=False)  # so that of two at a time, one is refused
            except FileExistsError:
                raise Refusal(
                    409, "conflict", "there is an image of this name already", remedy="give another name"
                ) from None
            written.replace(path)
        self.workspace.refresh()
        for number, item in self.workspace.items.items():
            if path in (item.path, *(item.files or ())):
                return number
        path.unlink()
        raise Refusal(415, "kind", "it is no image that is shown", remedy="send a picture or a scan")

    # Everything, and volumes

    def everything(self, image: str, wish: messages.Everything, session: str, stop: threading.Event) -> dict[str, Any]:
        """Proposals of all that a slice shows, as plain JSON values.

        Args:
            image: Its id.
            wish: What is asked for.
            session: Who asks; a newer request of the same session ends this one.
            stop: Ends it, once set, before the next clicks.

        Raises:
            Refusal: It was ended, or the session has.
        """

        def go_on(*_: int) -> None:
            self.sessions.renew(session)
            if stop.is_set():
                raise Refusal(409, "superseded", "nobody waits for this any more")

        go_on()
        with self._jobs:
            if older := self._looking.get(session):
                older.set()
            self._looking[session] = stop
        try:
            return self._everything(image, wish, go_on)
        finally:
            with self._jobs:
                if self._looking.get(session) is stop:
                    del self._looking[session]

    def _everything(self, image: str, wish: messages.Everything, go_on: Callable[..., None]) -> dict[str, Any]:
        from vesalius.predict.everything import segment_everything

        volume = self.workspace.volume(image)
        self._check_slice(volume.voxels.shape[:3], wish.axis, wish.index)
        window = None if wish.window is None else (wish.window.low, wish.window.high)
        with self.heavy():
            embedding = self._embedding(volume, image, wish.axis, wish.index, window)
            go_on()
            found = segment_everything(
                self.engine.waiting,
                embedding,
                progress=go_on,
                side=wish.side,
                min_quality=wish.quality,
                min_stability=wish.stability,
            )
        return {
            "proposals": [
                {**runs(one.mask), "quality": round(one.quality, 4), "box": list(tight_box(one.mask))} for one in found
            ]
        }

    def propagate(self, image: str, wish: messages.Propagate, session: str) -> Job:
        """Begins to carry an object from the slices that were prompted or drawn through the others of its axis.

        What was carried before and is carried no longer is taken away; it becomes one action when it is finished.

        Raises:
            Refusal: There is no such object or slice, it is locked, or it has no slice to begin with.
        """
        self.sessions.renew(session)
        volume, document = self.workspace.volume(image), self.workspace.document(image)
        count = volume.voxels.shape[2 - AXES.index(wish.axis)]
        first, last = wish.first or 0, count - 1 if wish.last is None else wish.last
        for index in (first, last):
            self._check_slice(volume.voxels.shape[:3], wish.axis, index)
        with document.lock:
            thing = unlocked(document.state, wish.object)
        keys = key_slices(thing, wish.axis, volume.voxels.shape[:3])
        if not any(mask.any() for mask in keys.values()):
            raise Refusal(422, "prompt", f"the object has no outline along {wish.axis}", remedy="outline a slice first")
        job = Job(secrets.token_hex(6), "propagate", total=last - first + 1 - sum(first <= key <= last for key in keys))
        with self._jobs:
            if sum(job.state == "running" for job in self.jobs.values()) >= _JOBS:
                raise Refusal(503, "busy", f"{_JOBS} jobs are running already", retry_after=10)
            self.jobs[job.id] = job
            while len(self.jobs) > 100:
                self.jobs.pop(next(number for number, old in self.jobs.items() if old.state != "running"))
        # The model sees what the annotator sees.
        seen = volume if wish.window is None else replace(volume, window=(wish.window.low, wish.window.high))
        work = partial(self._carry, job, document, seen, wish, (first, last), thing, keys, session)
        self.engine.jobs.add(job.id, work)
        return job

    def _carry(
        self,
        job: Job,
        document: Document,
        volume: Volume,
        wish: messages.Propagate,
        span: tuple[int, int],
        asked: Annotation,
        keys: Mapping[int, NDArray[np.bool_]],
        session: str,
    ) -> None:
        try:
            from vesalius.predict.propagate import assemble, propagate_slices
            from vesalius.predict.propagation_rules import PropagationRules

            rules = PropagationRules(**wish.rules.model_dump(exclude_none=True))
            within = keys_within(keys, span, volume.voxels.shape[2 - AXES.index(wish.axis)])
            rows: dict[int, dict[str, Any]] = {}
            outlines = []
            name = (document.path, wish.object, wish.axis, span, volume.window, rules)
            before = self._carried.get(name)
            slices = propagate_slices(self.engine.waiting, volume, within, axis=wish.axis, rules=rules, before=before)
            with closing(slices) as found:  # type: ignore[type-var]
                for outline in found:
                    if job.cancelled.is_set():
                        break
                    outlines.append(outline)
                    if outline.index in keys or not span[0] <= outline.index <= span[1]:
                        continue
                    quality = None if outline.quality is None else round(outline.quality, 4)
                    rows[outline.index] = {"index": outline.index, "quality": quality, **runs(outline.mask)}
                    job.done = len(rows)
            if job.cancelled.is_set():
                job.state = "cancelled"
                return
            # So that after a correction only what lies between it and the next key slices is carried anew.
            carried = assemble(volume, wish.axis, within, outlines, rules)
            self._carried.put(name, carried, carried.mask.nbytes + sum(one.mask.nbytes for one in outlines))
            with document.lock:
                thing = unlocked(document.state, wish.object)
                if _key_planes(thing, wish.axis) != _key_planes(asked, wish.axis):
                    raise Refusal(409, "conflict", "the object was changed meanwhile", remedy="propagate again")
                logged = {
                    "kind": "propagate",
                    "object": wish.object,
                    "axis": wish.axis,
                    "first": span[0],
                    "last": span[1],
                    "planes": [row for _, row in sorted(rows.items()) if row["area"]],
                }
                _append(document, logged, session)
                job.revision = document.revision
            job.done = job.total
            job.state = "done"
        except Exception as error:
            refusal = refusal_of(error) if isinstance(error, VesaliusError) else error
            if not isinstance(refusal, Refusal):
                _log.error("a propagation failed: %s", trace_of(error))
                refusal = Refusal(500, "failed", f"it failed ({type(error).__name__})")
            job.error = refusal.body()["error"]
            job.state = "failed"

    # Exports

    def annotated(self, image: str) -> Annotated:
        """An image with its annotations as they are now."""
        document = self.workspace.document(image)
        item = self.workspace.item(image)
        item.check()  # DICOM is read again
        return Annotated(item, partial(self.workspace.volume, image), document.state, document.path)

    def export(self, wish: messages.Export) -> dict[str, Any]:
        """Writes the annotations of all images of some states to a folder; see `exports.export_all`."""
        states = {row["id"]: row["state"] for row in self.images()}
        now = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        folder = self.workspace.folders[0] / "exports" / f"{wish.format}-{now}"
        with self.heavy():
            chosen = [self.annotated(image) for image, state in states.items() if state in wish.states]
            return export_all(chosen, wish.format, folder)

    def job(self, number: str) -> Job:
        """The job of an id; a Refusal if there is none."""
        try:
            return self.jobs[number]
        except KeyError:
            raise Refusal(404, "no_job", "there is no such job") from None


def said_so_far(
    plane: Plane | None, added: Sequence[messages.PromptPart], removed: set[str], number: int
) -> list[dict[str, Any]]:
    """The prompts of a slice after some were added and others taken back.

    Args:
        plane: What is on the slice.
        added: Prompts; they make one step.
        removed: Their ids.
        number: Of the action, of which ids are made.

    Raises:
        Refusal: A prompt to be taken back is not there.
    """
    before = [dict(one) for one in (plane.prompts if plane is not None else ())]
    if plane is not None and not before and plane.area:
        # What was carried here, accepted or read from a file is corrected.
        before = [{"id": f"p{number}.0", "step": 0, "kind": "mask", "mask": plane.mask}]
    missing = removed - {one["id"] for one in before}
    if missing:
        raise Refusal(409, "conflict", f"there is no prompt {min(missing)}", remedy="fetch the slice again")
    kept = [one for one in before if one["id"] not in removed]
    step = max((one["step"] for one in before), default=0) + 1
    new: list[dict[str, Any]] = []
    for place, part in enumerate(added, 1):
        if part.kind in ("box", "text"):
            # A network takes one box and one name.
            kept = [one for one in kept if one["kind"] != part.kind]
            new = [one for one in new if one["kind"] != part.kind]
        said = part.model_dump()
        if part.kind == "mask":
            said["asked"] = True
        new.append({"id": f"p{number}.{place}", "step": step, **said})
    return [*kept, *new]


def key_slices(thing: Annotation, axis: str, shape: Sequence[int]) -> dict[int, NDArray[np.bool_]]:
    """Slices of an object that a person has answered for, with their masks: all that were not carried there.

    A slice that was emptied, or erased to nothing, says that the object is not there; one whose prompts were all taken
    back says nothing.
    """
    size = slice_shape(shape, axis)
    return {index: mask_of_runs(mask, size) for index, mask in _key_planes(thing, axis).items()}


def keys_within(
    keys: Mapping[int, NDArray[np.bool_]], span: tuple[int, int], count: int
) -> dict[int, NDArray[np.bool_]]:
    """Key slices that say what is on the slices of a span; empty ones around them, past which nothing is carried.

    Args:
        keys: All key slices with their masks, at least one.
        span: First and last slice.
        count: Slices of the volume.
    """
    first, last = span
    order = sorted(keys)
    # An outline is carried on from two key slices.
    near = [key for key in order if key < first][-2:]
    near += [key for key in order if first <= key <= last] + [key for key in order if key > last][:2]
    nothing = np.zeros_like(keys[order[0]])
    ends = (min(first, *near) - 1, max(last, *near) + 1)
    return {**{key: keys[key] for key in near}, **{end: nothing for end in ends if 0 <= end < count}}


def _key_planes(thing: Annotation, axis: str) -> dict[int, dict[str, Any]]:
    return {
        index: plane.mask
        for (own, index), plane in thing.planes.items()
        if own == axis and plane.by != "propagated" and (plane.area or plane.prompts or plane.by == "drawn")
    }


def names_like(text: str, limit: int) -> list[dict[str, Any]]:
    """Targets whose name or synonym has words that begin with those of a text, as plain JSON values."""
    words = text.casefold().split()
    found = []
    for target in targets().values():
        matches = []
        for name in (target.name, *target.synonyms):
            parts = name.casefold().split()
            if all(any(part.startswith(word) for part in parts) for word in words):
                begins = name.casefold().startswith(" ".join(words))
                matches.append((name != target.name, not begins, len(name), name))
        if matches:
            synonym, later, length, match = min(matches)
            told = {"name": target.name, "group": target.group, "organ": target.organ, "snomed": target.snomed}
            found.append(((later, synonym, length, target.name), {**told, "match": match}))
    return [told for _, told in sorted(found, key=lambda pair: pair[0])[:limit]]


def state_of(state: State) -> str:
    """How far an image is: todo, begun or done."""
    return "done" if state.done else "begun" if state.objects else "todo"


def next_colour(state: State) -> str:
    """The first colour that no object has, or else the least used one."""
    used = [thing.colour for thing in state.objects.values()]
    return min(COLOURS, key=used.count)


def unlocked(state: State, number: str) -> Annotation:
    """The object of an id; a Refusal if there is none, or it is locked."""
    thing = _known(state, number)
    if thing.locked:
        raise Refusal(409, "conflict", f"{thing.name or number} is locked", remedy="unlock it first")
    return thing


def _known(state: State, number: str) -> Annotation:
    try:
        return state.objects[number]
    except KeyError:
        raise Refusal(404, "no_object", f"there is no object {number}", remedy="fetch the document") from None


def _append(document: Document, logged: dict[str, Any], session: str) -> dict[str, Any]:
    try:
        document.append(logged, session)
    except ValueError as error:
        raise Refusal(409, "conflict", str(error)) from error
    return logged


def _checked_mask(mask: messages.Mask, size: tuple[int, int]) -> dict[str, Any]:
    try:
        return runs(mask_of_runs(mask.model_dump(), size))
    except ValueError as error:
        raise Refusal(422, "prompt", f"the mask is not one of this slice: {error}") from error


def told_document(image: str, document: Document) -> dict[str, Any]:
    """A document as plain JSON values, without masks."""
    state = document.state
    return {
        "image": image,
        "revision": document.revision,
        "state": state_of(state),
        "can_undo": document.undo_kind is not None,
        "can_redo": document.redo_kind is not None,
        "undo": document.undo_kind,
        "redo": document.redo_kind,
        "warnings": document.warnings,
        "objects": [
            {
                "id": number,
                "name": thing.name,
                "colour": thing.colour,
                "locked": thing.locked,
                "hidden": thing.hidden,
                "planes": [
                    {"axis": axis, "index": index, "by": plane.by, "quality": plane.quality}
                    for (axis, index), plane in sorted(thing.planes.items())
                    if plane.area or plane.prompts
                ],
            }
            for number, thing in state.objects.items()
        ],
    }


def told_plane(number: str, plane: Plane | None) -> dict[str, Any]:
    """A plane as plain JSON values."""
    if plane is None:
        nothing = {"mask": None, "area": 0, "by": None, "quality": None}
        return {"object": number, **nothing, "prompts": [], "candidates": [], "chosen": None}
    return {
        "object": number,
        "mask": plane.mask if plane.area else None,
        "area": plane.area,
        "by": plane.by,
        "quality": plane.quality,
        "prompts": [{k: v for k, v in one.items() if k not in ("step", "mask", "asked")} for one in plane.prompts],
        "candidates": list(plane.candidates),
        "chosen": plane.chosen,
    }


def sent_type(volume: Volume) -> np.dtype[Any]:
    """In what type an image's values are sent: its own, or float32 where a page has no such type."""
    kind = volume.voxels.dtype
    return kind if kind.kind in "iu" and kind.itemsize <= 4 else np.dtype(np.float32)


def _span(window: tuple[float, float]) -> dict[str, float]:
    return {"low": float(window[0]), "high": float(window[1])}
