"""From a file and prompts to masks, an overlay and a record: what ``vesalius segment`` does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesalius import __version__
from vesalius.core.errors import PromptError, ReadError, VesaliusError, WriteError
from vesalius.core.types import Prediction, Prompt, Slice
from vesalius.prompts.sample import tight_box

if TYPE_CHECKING:
    from vesalius.predict.load import RuntimeName
    from vesalius.predict.predictor import Predictor

Box = tuple[float, float, float, float]
Click = tuple[float, float, int]

COORDINATES = (
    "pixels of the slice in the file's own order: x to the right, y down, from 0; points at pixel centres (whole "
    "numbers); boxes x0, y0, x1, y1 at pixel edges, half-open"
)


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """One image, a model, and where the results go.

    Attributes:
        file: The image: any file or folder that ``read_slice`` takes.
        axis: Axis of a volume that the slice lies across.
        index: Which slice; needed if there are several.
        time: Which time point; needed if there are several.
        window: Name, or level/width.
        modality: What the file does not say.
        model: Name or path of the model; None for the bundled one.
        runtime: What runs it; see `load_model`.
        out: Mask file: one object as a mask, several as a map of numbered objects.
        overlay: PNG file for the picture.
        record: JSON file for the record.
    """

    file: Path
    axis: str = "z"
    index: int | None = None
    time: int | None = None
    window: str | None = None
    modality: str | None = None
    model: str | None = None
    runtime: RuntimeName = "auto"
    out: Path | None = None
    overlay: Path | None = None
    record: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentJob(ImageJob):
    """One image, its prompts and where the results go; several objects are numbered in the order of their boxes.

    Attributes:
        boxes: (x0, y0, x1, y1), half-open, one object each.
        clicks: (x, y, label), label 1 on the object, 0 on the background.
        mask: A rough outline of the one object: any file that ``read_mask`` takes.
        text: Name of the one object, such as ``"liver"``, for models that take words.
    """

    boxes: Sequence[Box] = ()
    clicks: Sequence[Click] = ()
    mask: Path | None = None
    text: str | None = None


def segment_file(job: SegmentJob) -> dict[str, Any]:
    """Segments one image file and writes what the job asks for: all of it, or after an error nothing.

    Returns:
        The record: input, model, and per object its prompt, box, area and predicted quality; plain JSON values.

    Raises:
        VesaliusError: Input, prompts, model or outputs make no sense; nothing was written.
    """
    from vesalius.io.masks import read_mask
    from vesalius.io.write import write_mask
    from vesalius.predict.load import load_model
    from vesalius.predict.overlay import draw_overlay

    image = read_image(job)
    rough = None if job.mask is None else read_mask(job.mask, like=image)
    prompts = combine_prompts(job.boxes, job.clicks, rough, job.text)
    for prompt in prompts:
        prompt.check(image.size, job.file)
    outputs = [path for path in (job.out, job.overlay, job.record) if path is not None]
    inputs = [path for path in (job.file, job.mask) if path is not None]
    check_outputs(inputs, job.out, job.overlay, job.record)

    model = load_model(job.model, runtime=job.runtime)
    predictions = model.predict(model.encode(image), prompts)
    result = record(image, prompts, predictions, model, time=job.time)
    if job.mask is not None:
        result["objects"][0]["prompt"]["mask"] = str(job.mask)
    with all_or_nothing(outputs) as place:
        if job.out is not None:
            write_mask(place[job.out], object_map(predictions), like=image)
            result["mask"] = str(job.out)
        if job.overlay is not None:
            write_png(place[job.overlay], draw_overlay(image, prompts, predictions))
        if job.record is not None:
            place[job.record].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def read_image(job: ImageJob) -> Slice:
    """The slice that a job is about.

    Raises:
        VesaliusError: It cannot be read, or is not one slice.
        ReadError: It is constant.
    """
    from vesalius.io.read import read_slice

    image = read_slice(
        job.file, axis=job.axis, index=job.index, window=job.window, modality=job.modality, time=job.time
    )
    if (image.pixels == image.pixels[0, 0]).all():
        raise ReadError(
            f"slice {image.index} along {image.axis} is constant, so there is nothing to outline",
            path=job.file,
            remedy="choose another slice",
        )
    return image


def combine_prompts(
    boxes: Sequence[Box], clicks: Sequence[Click], mask: NDArray[np.bool_] | None, text: str | None = None
) -> list[Prompt]:
    """One prompt per object.

    With at most one box, everything belongs to one object. With several boxes, each is an object, and a click
    belongs to the one box that it lies in.

    Args:
        boxes: (x0, y0, x1, y1), half-open.
        clicks: (x, y, label).
        mask: (H, W) bool, a rough outline.
        text: Name of the object.

    Raises:
        PromptError: There are several boxes and a mask or a name, or a click that lies in none or in several of them.
    """
    if len(boxes) <= 1:
        return [_prompt(boxes[0] if boxes else None, clicks, mask, text)]
    for name, part in (("mask", mask), ("text", text)):
        if part is not None:
            raise PromptError(
                f"a {name} and {len(boxes)} boxes: it is not clear which object the {name} belongs to",
                remedy="segment that object on its own",
            )
    prompts = [_prompt(box, (), None) for box in boxes]
    shares: list[list[Click]] = [[] for _ in boxes]
    for x, y, label in clicks:
        # A click at a whole number is a pixel centre; boxes are measured at pixel edges.
        inside = [i for i, (x0, y0, x1, y1) in enumerate(boxes) if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1]
        if len(inside) != 1:
            raise PromptError(
                f"point {x:g},{y:g} lies in {len(inside) or 'none'} of the {len(boxes)} boxes",
                remedy="with several boxes each point must lie in exactly one; segment the others on their own",
            )
        shares[inside[0]].append((x, y, label))
    return [_prompt(prompt.box, share, None) for prompt, share in zip(prompts, shares, strict=True)]


def _prompt(box: Any, clicks: Sequence[Click], mask: NDArray[np.bool_] | None, text: str | None = None) -> Prompt:
    points, labels = [(x, y) for x, y, _ in clicks], [label for _, _, label in clicks]
    return Prompt(points=points, labels=labels, box=box, mask=mask, text=text)


def record(
    image: Slice, prompts: Sequence[Prompt], predictions: Sequence[Prediction], model: Predictor, time: int | None
) -> dict[str, Any]:
    """What was done and found, as plain JSON values.

    Args:
        image: The slice.
        prompts: One per object.
        predictions: One per prompt.
        model: The model that made them.
        time: Time point of the image, where it has several.

    Returns:
        Input, model and coordinate convention, and per object its prompt, the mask's box (half-open; None if empty),
        area in pixels and, where the spacing is known, in mm², and the predicted IoU.
    """
    pixel = None if image.spacing is None else image.spacing[0] * image.spacing[1]
    objects = []
    for prompt, prediction in zip(prompts, predictions, strict=True):
        area = int(prediction.mask.sum())
        objects.append(
            {
                "prompt": prompt_record(prompt),
                "box": list(tight_box(prediction.mask)) if area else None,
                "area_px": area,
                "area_mm2": None if pixel is None else area * pixel,
                "predicted_iou": prediction.quality,
            }
        )
    return {**image_record(image, model, time), "objects": objects}


def prompt_record(prompt: Prompt) -> dict[str, Any]:
    """What was said, as plain JSON values in pixels of the image; a rough mask is not among them."""
    said: dict[str, Any] = {
        "box": None if prompt.box is None else list(prompt.box),
        "points": np.asarray(prompt.points).tolist(),
        "labels": np.asarray(prompt.labels).tolist(),
    }
    return said if prompt.text is None else {**said, "text": prompt.text}


def image_record(image: Slice, model: Predictor, time: int | None) -> dict[str, Any]:
    """What was done to which image by which model, as plain JSON values; see `record`."""
    return {
        "vesalius": __version__,
        "model": {"name": model.name, "digest": model.digest, "runs_by": model.runs_by},
        "input": str(image.source),
        "axis": image.axis,
        "slice": image.index,
        "time": time,
        "width": image.size[1],
        "height": image.size[0],
        "spacing_mm": None if image.spacing is None else {"x": image.spacing[1], "y": image.spacing[0]},
        "modality": image.modality,
        "window": {"low": image.window[0], "high": image.window[1]},
        "coordinates": COORDINATES,
    }


def object_map(predictions: Sequence[Prediction]) -> NDArray[Any]:
    """One array for all objects.

    Returns:
        (H, W) bool for one object; else (H, W) uint16, the objects numbered from 1 in the order of the predictions.
        A pixel that several outlines claim goes to the one with the highest predicted quality.
    """
    if len(predictions) == 1:
        return predictions[0].mask
    numbers = np.zeros(predictions[0].mask.shape, np.uint16)
    for i in sorted(range(len(predictions)), key=lambda i: predictions[i].quality):
        numbers[predictions[i].mask] = i + 1
    return numbers


def check_outputs(inputs: Sequence[Path], out: Path | None, overlay: Path | None, record: Path | None) -> None:
    """Raises WriteError unless every output can be written where it is named, as far as can be told beforehand."""
    from vesalius.io.read import suffix_of
    from vesalius.io.write import SUFFIXES

    if out is not None and suffix_of(out) not in SUFFIXES:
        raise WriteError("no mask can be written with this suffix", path=out, remedy=f"use {', '.join(SUFFIXES)}")
    if overlay is not None and suffix_of(overlay) != ".png":
        raise WriteError("the overlay is a PNG picture", path=overlay, remedy="give a name that ends in .png")
    read = {path.resolve() for path in inputs}
    seen: set[Path] = set()
    for path in (out, overlay, record):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise WriteError("its folder does not exist", path=path, remedy=f"create {path.parent} first")
        if path.is_dir():
            raise WriteError("is a folder", path=path, remedy="name a file in it")
        if path.resolve() in read:
            raise WriteError("is the input itself", path=path, remedy="choose another name")
        if path.resolve() in seen:
            raise WriteError("is named for two outputs", path=path, remedy="choose different names")
        seen.add(path.resolve())


@contextmanager
def all_or_nothing(outputs: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Stand-ins for ``outputs`` in hidden folders beside them, moved to their places together if nothing failed.

    Raises:
        WriteError: An output cannot be written; an error about a stand-in names the output that it stands for.
    """
    with ExitStack() as stack:
        place: dict[Path, Path] = {}
        current = None
        try:
            for current in outputs:
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=current.parent, prefix=".vesalius-"))
                place[current] = Path(folder) / current.name
            current = None
            yield place
            for current, temporary in place.items():
                temporary.replace(current)
        except OSError as error:
            raise WriteError(f"cannot be written ({error.strerror or error})", path=current) from error
        except VesaliusError as error:
            named = {temporary: path for path, temporary in place.items()}
            if error.path not in named:
                raise
            raise type(error)(error.reason, path=named[error.path], remedy=error.remedy) from error


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes (H, W, 3) uint8 RGB as PNG."""
    from PIL import Image

    Image.fromarray(picture).save(path)
