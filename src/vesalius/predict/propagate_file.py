"""From a volume's file and prompts on some of its slices to a label volume: what ``vesalius propagate`` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesalius import __version__
from vesalius.core.errors import GeometryError, PromptError, WriteError
from vesalius.core.types import AXES, Prompt, Volume
from vesalius.predict.propagate import Propagation, accept, assemble, propagate_slices
from vesalius.predict.propagation_rules import PropagationRules
from vesalius.predict.segment import (
    COORDINATES,
    Box,
    Click,
    all_or_nothing,
    check_outputs,
    combine_prompts,
    prompt_record,
)

if TYPE_CHECKING:
    from vesalius.predict.load import RuntimeName
    from vesalius.predict.predictor import Predictor


@dataclass(frozen=True)
class PropagateJob:
    """One volume, the prompts of one object on some slices, and where the results go.

    Attributes:
        file: The volume: any file or folder that ``read_volume`` takes.
        boxes: Slice -> (x0, y0, x1, y1), half-open.
        clicks: Slice -> (x, y, label), label 1 on the object, 0 on the background.
        absent: Slices that the object is not on.
        axis: Axis along which the object is carried.
        rules: How slices are asked and when propagation stops.
        time: Which time point; needed if there are several.
        window: Name, or level/width.
        modality: What the file does not say.
        model: Name or path of the model; None for the bundled one.
        runtime: What runs it; see `load_model`.
        out: Label volume, 1 on the object.
        record: JSON file for the record.
    """

    file: Path
    boxes: Mapping[int, Box] = field(default_factory=dict)
    clicks: Mapping[int, Sequence[Click]] = field(default_factory=dict)
    absent: Sequence[int] = ()
    axis: str = "z"
    rules: PropagationRules = field(default_factory=PropagationRules)
    time: int | None = None
    window: str | None = None
    modality: str | None = None
    model: str | None = None
    runtime: RuntimeName = "auto"
    out: Path | None = None
    record: Path | None = None


def propagate_file(job: PropagateJob, progress: Callable[[int, int], object] | None = None) -> dict[str, Any]:
    """Outlines one object in a volume's file and writes what the job asks for: all of it, or after an error nothing.

    Args:
        job: What to do.
        progress: Is told how many slices of how many at most are done.

    Returns:
        The record: input, model, rules, and per slice where its outline came from; plain JSON values.

    Raises:
        VesaliusError: Input, prompts, model or outputs make no sense; nothing was written.
    """
    from vesalius.io.read import read_volume, suffix_of
    from vesalius.io.write import GRIDS, write_mask
    from vesalius.predict.load import load_model

    volume = read_volume(job.file, window=job.window, modality=job.modality, time=job.time)
    prompts = {}
    for index in sorted({*job.boxes, *job.clicks}):
        boxes = [job.boxes[index]] if index in job.boxes else []
        (prompts[index],) = combine_prompts(boxes, job.clicks.get(index, ()), None)
        prompts[index].check(volume.slice(job.axis, index).size, job.file)
    nowhere = {index: np.zeros(volume.slice(job.axis, index).size, np.bool_) for index in job.absent}
    if both := prompts.keys() & nowhere.keys():
        raise PromptError(
            f"slice {min(both)} has a prompt, and the object is said not to be on it",
            path=job.file,
            remedy="say one of them",
        )
    if not prompts:
        raise PromptError("no slice has a prompt", path=job.file, remedy="give --slice and a box or points on it")
    count = volume.voxels.shape[2 - AXES.index(job.axis)]
    if count == 1:
        raise GeometryError(f"has one slice along {job.axis}", path=job.file, remedy="use vesalius segment")
    check_outputs([job.file], job.out, None, job.record)
    if job.out is not None and suffix_of(job.out) == ".png":
        raise WriteError("a PNG cannot hold a volume", path=job.out, remedy=f"use {', '.join(GRIDS)}")

    model = load_model(job.model, runtime=job.runtime)
    keys = accept(model, volume, {**prompts, **nowhere}, axis=job.axis)
    found = []
    for outline in propagate_slices(model, volume, keys, axis=job.axis, rules=job.rules):
        found.append(outline)
        if progress:
            progress(len({one.index for one in found}), count)
    result = assemble(volume, job.axis, keys, found, job.rules)
    told = record(volume, prompts, result, model, time=job.time)
    with all_or_nothing([path for path in (job.out, job.record) if path is not None]) as place:
        if job.out is not None:
            write_mask(place[job.out], result.mask, like=volume)
            told["mask"] = str(job.out)
        if job.record is not None:
            place[job.record].write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return told


def record(
    volume: Volume, prompts: Mapping[int, Prompt], result: Propagation, model: Predictor, time: int | None
) -> dict[str, Any]:
    """What was done and found, as plain JSON values.

    Args:
        volume: The volume.
        prompts: By key slice.
        result: What was found.
        model: The model that found it.
        time: Time point of the volume, where it has several.

    Returns:
        Input, model, rules and coordinate convention; the object's voxels and, where the spacing is known, its mm³; the
        slices that the object was said not to be on; and per slice that was reached: the key slices it comes from (on a
        key slice its prompt), area in pixels, predicted IoU (None where the model was not asked), and the rule that
        stopped propagation there, with what was measured and its limit.
    """
    voxels = int(result.mask.sum())
    spacing = None if volume.geometry is None else volume.geometry.spacing
    slices = []
    for index, outline in result.slices.items():
        told: dict[str, Any] = {
            "slice": index,
            "keys": list(outline.keys),
            "area_px": int(outline.mask.sum()),
            "predicted_iou": outline.quality,
            "stop": None if outline.stop is None else asdict(outline.stop),
        }
        if index in prompts:
            told["prompt"] = prompt_record(prompts[index])
        slices.append(told)
    return {
        "vesalius": __version__,
        "model": {"name": model.name, "digest": model.digest, "runs_by": model.runs_by},
        "input": str(volume.source),
        "axis": result.axis,
        "time": time,
        "size": dict(zip(AXES, volume.voxels.shape[2::-1], strict=True)),
        "spacing_mm": None if spacing is None else dict(zip(AXES, spacing, strict=True)),
        "modality": volume.modality,
        "window": {"low": volume.window[0], "high": volume.window[1]},
        "coordinates": COORDINATES,
        "rules": asdict(result.rules),
        "voxels": voxels,
        "volume_mm3": None if spacing is None else voxels * float(np.prod(spacing)),
        "absent": [index for index in result.keys if index not in prompts],
        "slices": slices,
    }
