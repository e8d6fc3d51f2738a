"""MONAI Label's protocol, which plug-ins of viewers speak.

Images are named by their ids. A model answers clicks (``foreground``, ``background``: voxels x, y, z), a box (``roi``:
x0, x1, y0, y1 and perhaps z0, z1 in voxels, last ones included) and a name (``label``, for models that take words;
beside clicks or a box, one that the model does not know is only a name), on the one slice that the clicks or the box
lie in. What it answers is a label map on the image's grid. A label map that a viewer saves becomes an action of the
image's document, so it is in the page and in every export, and can be undone.

Source: the protocol of MONAI Label 0.8 (Diaz-Pinto et al., MONAI Label, Medical Image Analysis 95:103207, 2024), as its
clients speak it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, Query, Response, UploadFile
from numpy.typing import NDArray
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from vesalius import __version__
from vesalius.core.types import Prompt, Volume
from vesalius.io.read import read_grid, read_volume, suffix_of
from vesalius.io.scans import data_file
from vesalius.io.write import write_mask
from vesalius.models.words import is_known
from vesalius.prompts.sample import tight_box
from vesalius.server.annotator import Annotator, state_of
from vesalius.server.exports import export_image
from vesalius.server.refusals import Refusal
from vesalius.vocabulary.targets import targets

# Who acts where a viewer does.
_VIEWER = "monai-label"
_MEDIA = {".nrrd": "application/octet-stream", ".nii.gz": "application/gzip", ".nii": "application/octet-stream"}
_UPLOADED = (".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
FINAL = "final"
# Most objects that a label map may hold.
_MOST_OBJECTS = 1000


@dataclass(eq=False)
class Upload:
    """An image that a viewer sent for a while.

    Attributes:
        folder: Where it lies.
        path: The image.
        name: What the viewer called it.
        began: When, in seconds since 1970.
        expiry: Seconds that it is kept after it was last used.
        used: When it was last used, by the clock that does not jump.
    """

    folder: Path
    path: Path
    name: str
    began: float
    expiry: float
    used: float

    def told(self, session: str) -> dict[str, Any]:
        """The session as plain JSON values."""
        return {"id": session, "image": self.name, "ts": int(self.began), "expiry": int(self.expiry)}


class Uploads:
    """Images that viewers have sent for a while, each in a folder of its own below a temporary one.

    Args:
        expiry: Seconds that an image is kept after it was last used.
        limit: Most images at a time.
    """

    def __init__(self, expiry: float = 3600, limit: int = 20) -> None:
        self._root: Path | None = None
        self._expiry = expiry
        self._limit = limit
        self._lock = threading.Lock()
        self._found: dict[str, Upload] = {}

    def add(self, files: Sequence[UploadFile], expiry: float) -> tuple[str, Upload]:
        """Keeps files: one image, or the files of a DICOM series."""
        self._sweep()
        session = secrets.token_hex(8)
        with self._lock:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="vesalius-"))
            folder = self._root / session
            if len(self._found) >= self._limit:
                raise Refusal(503, "busy", f"{self._limit} images are kept already", retry_after=60)
        folder.mkdir()
        try:
            paths = [keep(file, folder, f"{place:05}") for place, file in enumerate(files)]
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        path = paths[0] if len(paths) == 1 else folder
        now = time.time()
        name = Path(files[0].filename or "image").name
        found = Upload(folder, path, name, now, min(expiry or self._expiry, self._expiry), time.monotonic())
        with self._lock:
            self._found[session] = found
        return session, found

    def get(self, session: str) -> Upload:
        """The image of a session; a Refusal if there is none."""
        self._sweep()
        with self._lock:
            found = self._found.get(session)
            if found is None:
                raise Refusal(404, "not_found", "there is no such session")
            found.used = time.monotonic()
            return found

    def remove(self, session: str) -> Upload:
        """Removes an image."""
        found = self.get(session)
        with self._lock:
            self._found.pop(session, None)
        shutil.rmtree(found.folder, ignore_errors=True)
        return found

    def close(self) -> None:
        """Removes everything."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _sweep(self) -> None:
        now = time.monotonic()
        with self._lock:
            over = [session for session, one in self._found.items() if now - one.used > one.expiry]
            gone = [self._found.pop(session) for session in over]
        for one in gone:
            shutil.rmtree(one.folder, ignore_errors=True)


def keep(file: UploadFile, folder: Path, stem: str) -> Path:
    """Writes an upload under a name of ours: only its suffix is taken from the sender.

    Raises:
        Refusal: The suffix is of no kind that is read.
    """
    suffix = suffix_of(Path(Path(file.filename or "").name))
    if suffix == ".gz" or suffix not in (*_UPLOADED, ""):
        raise Refusal(415, "kind", f"files that end in {suffix or 'nothing'} are not read")
    path = folder / f"{stem}{suffix or '.dcm'}"
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)
    if data_file(path) is not None:
        raise Refusal(415, "kind", "its voxels are in another file", remedy="send an image that is a single file")
    return path


def add_monai_label(app: FastAPI, annotator: Annotator, uploads: Uploads) -> None:
    """Adds the protocol's routes."""
    _add_info(app, annotator)
    _add_sessions(app, uploads)
    _add_inference(app, annotator, uploads)
    _add_datastore(app, annotator)
    _add_active_learning(app, annotator)


def _add_info(app: FastAPI, annotator: Annotator) -> None:
    @app.get("/info/", tags=["MONAI Label"])
    def server_info() -> dict[str, Any]:
        """What the server offers, to viewers."""
        runtime = annotator.engine.runtime
        names = sorted(runtime.words or targets()) if "text" in runtime.takes else []
        model = {
            "type": "deepgrow",
            "dimension": 2,
            "labels": names,
            "description": f"{annotator.engine.name}: clicks or a box on a slice",
            "config": {},
            "nd": True,
        }
        return {
            "name": "Vesalius",
            "description": "Promptable segmentation of medical images",
            "version": __version__,
            "labels": names,
            "models": {annotator.engine.name: model},
            "trainers": {},
            "strategies": {name: {"description": told} for name, (told, _) in STRATEGIES.items()},
            "scoring": {},
            "train_stats": {},
            "datastore": _counts(annotator),
        }


def _counts(annotator: Annotator) -> dict[str, Any]:
    images = annotator.images()
    done = sum(one["state"] == "done" for one in images)
    return {"total": len(images), "completed": done, "label_tags": {FINAL: done}, "train": []}


def _add_sessions(app: FastAPI, uploads: Uploads) -> None:
    @app.put("/session/", tags=["MONAI Label"])
    def create_upload(
        files: Annotated[list[UploadFile], File()],
        uncompress: bool = False,
        expiry: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Keeps an image that a viewer sends, for a while."""
        if uncompress:
            raise Refusal(415, "kind", "archives are not unpacked", remedy="send the files one by one")
        session, found = uploads.add(files, expiry)
        return {"session_id": session, "session_info": found.told(session)}

    @app.get("/session/{session_id}", tags=["MONAI Label"], response_model=None)
    def uploaded(session_id: str, image: bool = False) -> dict[str, Any] | Response:
        """What is known of an image that was sent, or the image."""
        found = uploads.get(session_id)
        if image:
            if found.path.is_dir():
                raise Refusal(415, "kind", "a series is several files")
            return FileResponse(found.path, filename=found.name)
        return found.told(session_id)

    @app.delete("/session/{session_id}", tags=["MONAI Label"])
    def remove_upload(session_id: str) -> dict[str, Any]:
        """Forgets an image that was sent."""
        return uploads.remove(session_id).told(session_id)


def _add_inference(app: FastAPI, annotator: Annotator, uploads: Uploads) -> None:
    @app.post("/infer/{model}", tags=["MONAI Label"], response_model=None)
    def infer(
        model: str,
        image: str = "",
        session_id: str = "",
        params: Annotated[str, Form()] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        output: str | None = None,
    ) -> dict[str, Any] | Response:
        """Outlines one object from clicks or a box."""
        if model != annotator.engine.name:
            raise Refusal(404, "not_found", f"there is no model {model}", remedy=f"ask for {annotator.engine.name}")
        asked = parsed(params)
        with tempfile.TemporaryDirectory(prefix="vesalius-") as name:
            if file is not None:
                with annotator.heavy():
                    volume, key = read_volume(keep(file, Path(name), "image")), secrets.token_hex(8)
            elif session_id:
                with annotator.heavy():
                    volume, key = read_volume(uploads.get(session_id).path), session_id
            elif image:
                key = image_id(annotator, image)
                volume = annotator.workspace.volume(key)
            else:
                raise Refusal(400, "bad_request", "neither an image nor a file nor a session is named")
            labels, told = outline(annotator, volume, key, asked)
            if output == "json":
                return told
            suffix = str(asked.get("result_extension") or ".nrrd")
            if suffix not in _MEDIA:
                raise Refusal(400, "bad_request", f"no result can be written as {suffix}")
            path = Path(name) / f"result{suffix}"
            write_mask(path, labels, like=volume)
            if suffix == ".nrrd" and asked.get("result_compress") is False:  # as OHIF's plug-in asks
                import SimpleITK as sitk

                sitk.WriteImage(sitk.ReadImage(str(path)), str(path), useCompression=False)
            content = path.read_bytes()
        if output == "image":
            return Response(content, media_type=_MEDIA[suffix])
        if output not in (None, "all"):
            raise Refusal(400, "bad_request", f"no result can be had as {output}")
        kind, body = multipart(told, f"result{suffix}", content, _MEDIA[suffix])
        return Response(body, media_type=kind)


def parsed(params: str) -> dict[str, Any]:
    """The parameters of a request, which are JSON in a form.

    Raises:
        Refusal: They are not.
    """
    try:
        asked = json.loads(params or "{}")
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise Refusal(400, "bad_request", "params is not a JSON object")
    return asked


def outline(
    annotator: Annotator, volume: Volume, key: str, asked: Mapping[str, Any]
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Answers the prompts of a request on the slice where they lie.

    Args:
        annotator: Whose model answers.
        volume: The image.
        key: What it is known by.
        asked: The request's parameters.

    Returns:
        (Z, Y, X) uint8 with 1 inside, and what is told beside it.

    Raises:
        Refusal: There are no prompts, or they lie on no slice or on several.
        PromptError: A prompt does not fit the image or the model.
    """
    positive, negative = (_voxels(asked.get(name)) for name in ("foreground", "background"))
    box, depth = _box_of(asked.get("roi"))
    label, runtime = str(asked.get("label") or ""), annotator.engine.runtime
    # 3D Slicer names the segment with every click; a name that the model does not know is then no prompt.
    alone = box is None and not len(positive) and not len(negative)
    text = label if "text" in runtime.takes and (alone or is_known(label, runtime.words)) else None
    heights = {round(float(z)) for z in (*positive[:, 2], *negative[:, 2])} | ({depth} if depth is not None else set())
    if asked.get("slice") is not None:
        try:
            heights = {int(asked["slice"])}
        except (ValueError, TypeError, OverflowError):
            raise Refusal(422, "prompt", "slice is not a whole number") from None
    count = volume.voxels.shape[0]
    if not heights and count == 1:
        heights = {0}
    if len(heights) != 1 or not heights <= set(range(count)):
        raise Refusal(
            422, "prompt", f"clicks lie on {len(heights) or 'no'} slices of the image", remedy="click on one slice"
        )
    (index,) = heights
    clicks = np.concatenate([positive, negative])[:, :2]
    kinds = [1] * len(positive) + [0] * len(negative)
    prompt = Prompt(points=clicks, labels=kinds, box=box, text=text or None)

    def work(_: list[Any]) -> Any:
        embedding = annotator.engine.embedding((key, "z", index, volume.window), lambda: volume.slice("z", index))
        return annotator.engine.people.predict(embedding, [prompt])[0]

    found = annotator.engine.asking.ask(work, session=_VIEWER + secrets.token_hex(4), said=[])
    labels = np.zeros(volume.voxels.shape[:3], np.uint8)
    labels[index] = found.mask
    told = {"label_names": {label or "object": 1}, "slice": index, "quality": found.quality}
    told["bbox"] = list(tight_box(found.mask)) if found.mask.any() else None
    return labels, told


def _voxels(said: Any) -> NDArray[np.float64]:
    """(N, 3) of lists of x, y, z; OHIF sends them as text."""
    try:
        points = np.asarray(json.loads(said) if isinstance(said, str) else said or [], np.float64)
        points = points.reshape(-1, 3) if points.size else np.zeros((0, 3))
    except (ValueError, TypeError, OverflowError):
        raise Refusal(422, "prompt", "a click is not three numbers x, y, z") from None
    if not np.isfinite(points).all():
        raise Refusal(422, "prompt", "a click is not three finite numbers")
    return points


def _box_of(said: Any) -> tuple[tuple[float, float, float, float] | None, int | None]:
    """A half-open box and its slice, of x0, x1, y0, y1[, z0, z1]."""
    if not said:
        return None, None
    try:
        values = [float(value) for value in (json.loads(said) if isinstance(said, str) else said)]
        x0, x1, y0, y1 = values[:4]
        depth = round(values[4]) if len(values) == 6 and values[4] == values[5] else None
    except (ValueError, TypeError, OverflowError):
        raise Refusal(422, "prompt", "roi is not x0, x1, y0, y1") from None
    return (x0, y0, x1 + 1, y1 + 1), depth


def multipart(told: Mapping[str, Any], name: str, content: bytes, kind: str) -> tuple[str, bytes]:
    """Media type and body of an answer with JSON and a file."""
    boundary = secrets.token_hex(16)
    parts = [
        ('form-data; name="params"', "application/json", json.dumps(told).encode()),
        (f'form-data; name="image"; filename="{name}"', kind, content),
    ]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: {head}\r\nContent-Type: {media}\r\n\r\n".encode() + value + b"\r\n"
        for head, media, value in parts
    )
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


def image_id(annotator: Annotator, image: str) -> str:
    """The id of an image, which may also be named by its name, with or without suffix, or its SeriesInstanceUID."""
    items = annotator.workspace.items
    if image in items:
        return image
    for number, item in items.items():
        if image in (
            item.series,
            item.name,
            Path(item.name).name,
            Path(item.name).name.removesuffix(suffix_of(Path(item.name))),
        ):
            return number
    raise Refusal(404, "no_image", "there is no such image")


def _add_datastore(app: FastAPI, annotator: Annotator) -> None:
    @app.get("/datastore/", tags=["MONAI Label"], response_model=None)
    def datastore(output: str = "stats") -> dict[str, Any] | list[dict[str, str]]:
        """The images: how many, all of them, or those that are done."""
        images = annotator.images()
        if output == "stats":
            return _counts(annotator)
        if output == "train":
            return [{"image": one["id"], "label": one["id"]} for one in images if one["state"] == "done"]
        if output != "all":
            raise Refusal(400, "bad_request", f"there is no output {output}")
        objects = {}
        for one in images:
            labels = {FINAL: {"ext": ".nii.gz", "info": {}}} if one["objects"] else {}
            info = {"name": one["name"], "state": one["state"]}
            objects[one["id"]] = {"image": {"ext": "", "info": info}, "labels": labels}
        return {"name": "vesalius", "description": "", "objects": objects}

    @app.put("/datastore/", tags=["MONAI Label"])
    def add_image(
        file: Annotated[UploadFile, File()], image: str | None = None, params: Annotated[str, Form()] = "{}"
    ) -> dict[str, Any]:
        """Adds an image to the first of the given folders."""
        parsed(params)
        name = image or Path(file.filename or "image").name
        with annotator.heavy():
            return {"image": annotator.add_image(name, lambda folder, stem: keep(file, folder, stem))}

    @app.delete("/datastore/", tags=["MONAI Label"])
    def remove(id: str, type: str = "label") -> dict[str, Any]:
        """Deletes the objects of an image; images stay, since they are not the server's."""
        if type not in ("label", "label_tag"):
            raise Refusal(403, "origin", "images are not deleted here", remedy="delete the file")
        image = image_id(annotator, id)
        annotator.replace_objects(image, [], _VIEWER)
        return {}

    @app.get("/datastore/image", tags=["MONAI Label"])
    def image_file(image: str) -> Response:
        """An image: its file, or a NIfTI made of a series."""
        number = image_id(annotator, image)
        item = annotator.workspace.item(number)
        volume = annotator.workspace.volume(number)
        item.check()
        if item.path.is_file() and item.time is None:
            return FileResponse(item.path, filename=item.path.name)
        folder = Path(tempfile.mkdtemp(prefix="vesalius-"))
        path = folder / f"{number}.nii.gz"
        write_scan(path, volume)
        done = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(path, filename=path.name, background=done)

    @app.get("/datastore/image/info", tags=["MONAI Label"])
    def image_info(image: str) -> dict[str, Any]:
        """What is known of an image."""
        return annotator.about(image_id(annotator, image))

    @app.get("/datastore/label", tags=["MONAI Label"])
    def label_file(label: str) -> Response:
        """The label map of an image."""
        number = image_id(annotator, label)
        content = export_image(annotator.annotated(number), "nifti")
        headers = {"Content-Disposition": f'attachment; filename="{number}.nii.gz"'}
        return Response(content, media_type="application/gzip", headers=headers)

    @app.get("/datastore/label/info", tags=["MONAI Label"])
    def label_info(label: str) -> dict[str, Any]:
        """What the numbers in the label map of an image mean."""
        state = annotator.annotated(image_id(annotator, label)).state
        names = {thing.name or f"object {n}": n for n, thing in enumerate(state.objects.values(), 1)}
        return {"params": {"label_names": names}, "state": state_of(state)}

    @app.put("/datastore/label", tags=["MONAI Label"])
    def save_label(
        image: str,
        label: Annotated[UploadFile, File()],
        tag: str = FINAL,
        params: Annotated[str, Form()] = "{}",
    ) -> dict[str, Any]:
        """Takes the label map that a viewer has drawn in the place of what was there."""
        number = image_id(annotator, image)
        names = label_names(parsed(params))
        volume = annotator.workspace.volume(number)
        with annotator.heavy():
            with tempfile.TemporaryDirectory(prefix="vesalius-") as folder:
                labels = read_labels(keep(label, Path(folder), "label"), volume)
            values = [int(value) for value in np.unique(labels) if value]
            if len(values) > _MOST_OBJECTS:
                raise Refusal(
                    422,
                    "geometry",
                    f"the label map has {len(values)} labels, more than the {_MOST_OBJECTS} that are taken",
                    remedy="send the labels, not the image",
                )
            objects = ((names.get(value, f"label {value}"), labels == value) for value in values)
            annotator.replace_objects(number, objects, _VIEWER, done=tag == FINAL)
        return {"image": number, "label": number}


def read_labels(path: Path, volume: Volume) -> NDArray[np.int64]:
    """(Z, Y, X) numbers of a label map on the grid of a volume.

    Raises:
        ReadError: It cannot be read.
        Refusal: It lies on another grid, or its values are no numbers of labels.
    """
    grid = read_grid(path, None)
    shape = volume.voxels.shape[:3]
    if grid.values.shape != shape:
        raise Refusal(422, "geometry", f"the label map is {grid.values.shape}, its image {shape}")
    if volume.geometry is not None and grid.geometry is not None and not grid.geometry.close_to(volume.geometry, 0.05):
        raise Refusal(422, "geometry", "the label map lies elsewhere in the patient than its image")
    values = np.asarray(grid.values)
    if not np.array_equal(values, np.rint(values)) or values.min() < 0 or values.max() > 65535:
        raise Refusal(422, "geometry", "the label map has values that are no numbers of labels")
    return values.astype(np.int64)


def label_names(params: Mapping[str, Any]) -> dict[int, str]:
    """Number -> name, of ``label_info`` (a list of names, or of name and number) or ``label_names`` in parameters."""
    names: dict[int, str] = {}
    stated = params.get("label_names")
    if isinstance(stated, dict):
        for name, number in stated.items():
            if isinstance(number, int):
                names[number] = _plain(name)
    rows = params.get("label_info")
    for place, row in enumerate(rows if isinstance(rows, list) else [], 1):
        if isinstance(row, dict) and row.get("name"):
            number = row.get("idx", row.get("value", place))
            names[number if isinstance(number, int) else place] = _plain(row["name"])
    return names


def _plain(name: object) -> str:
    """A name as a log can hold it: JSON may have halves of characters."""
    return str(name)[:200].encode(errors="replace").decode()


def write_scan(path: Path, volume: Volume) -> None:
    """Writes an image as NIfTI, on its own grid."""
    import nibabel

    affine = np.eye(4) if volume.geometry is None else volume.geometry.affine("RAS")
    voxels = volume.voxels if volume.voxels.ndim == 3 else volume.voxels[..., 0]
    nibabel.save(nibabel.Nifti1Image(voxels.swapaxes(0, 2), affine), path)


def _first(images: Sequence[Mapping[str, Any]], _: np.random.Generator) -> Mapping[str, Any]:
    return images[0]


def _any(images: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> Mapping[str, Any]:
    return images[int(rng.integers(len(images)))]


# How the next image is chosen of those that are not done.
STRATEGIES = {"first": ("The first image that is not done", _first), "random": ("Any image that is not done", _any)}


def _add_active_learning(app: FastAPI, annotator: Annotator) -> None:
    @app.post("/activelearning/{strategy}", tags=["MONAI Label"])
    def next_sample(strategy: str) -> dict[str, Any]:
        """The image to label next; nothing where all are done."""
        if strategy not in STRATEGIES:
            raise Refusal(404, "not_found", f"there is no strategy {strategy}", remedy=f"use {', '.join(STRATEGIES)}")
        left = [one for one in annotator.images() if one["state"] in ("todo", "begun")]
        if not left:
            return {}
        chosen = STRATEGIES[strategy][1](left, np.random.default_rng(secrets.randbits(64)))
        return {"id": chosen["id"], "name": Path(str(chosen["name"])).name, "ts": int(time.time())}
