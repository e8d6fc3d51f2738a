"""From a file to outlines of everything in it: what ``vesalius everything`` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vesalius.core.types import Prompt
from vesalius.predict.everything import EverythingConfig, coco_annotations, label_map, segment_everything
from vesalius.predict.segment import ImageJob, all_or_nothing, check_outputs, image_record, read_image, write_png


@dataclass(frozen=True, kw_only=True)
class EverythingJob(ImageJob):
    """One image, how everything in it is looked for, and where the results go; the best outline has the number 1.

    Attributes:
        config: The settings.
    """

    config: EverythingConfig


def outline_everything(job: EverythingJob, progress: Callable[[int, int], object] | None = None) -> dict[str, Any]:
    """Outlines everything in one image file and writes what the job asks for: all of it, or after an error nothing.

    Args:
        job: What to do.
        progress: Is told how many of all clicks are done.

    Returns:
        The record, which is a COCO file too: input, model and settings, and the annotations of one image in one
        category; plain JSON values.

    Raises:
        VesaliusError: Input, model or outputs make no sense; nothing was written.
    """
    from vesalius.io.write import write_mask
    from vesalius.predict.load import load_model
    from vesalius.predict.overlay import draw_overlay

    check_outputs([job.file], job.out, job.overlay, job.record)
    image = read_image(job)
    model = load_model(job.model, runtime=job.runtime)
    found = segment_everything(model, image, progress=progress, **job.config.model_dump())
    result = image_record(image, model, job.time)
    result["settings"] = job.config.model_dump()
    result["images"] = [{"id": 1, "file_name": job.file.name, "width": image.size[1], "height": image.size[0]}]
    result["categories"] = [{"id": 1, "name": "anything"}]
    result["annotations"] = coco_annotations(found)
    with all_or_nothing([path for path in (job.out, job.overlay, job.record) if path is not None]) as place:
        if job.out is not None:
            write_mask(place[job.out], label_map(found, image.size), like=image)
            result["mask"] = str(job.out)
        if job.overlay is not None:
            # Nothing was said about any of them by hand, so there are no prompts to draw.
            prompts = [Prompt(logits=proposal.logits) for proposal in found]
            write_png(place[job.overlay], draw_overlay(image, prompts, found, legend=False))
        if job.record is not None:
            place[job.record].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
