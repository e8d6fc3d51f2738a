"""Annotations as a corpus, with the prompts that they were made by."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import vesalius
from vesalius.core.types import AXES, Slice
from vesalius.corpus.block import source_digest
from vesalius.corpus.layouts.support import dataset_name, eight_bits, writing
from vesalius.corpus.schema import DESCRIPTION, CorpusInfo, reject_schema
from vesalius.corpus.store import ShardWriter, encode_png, mask_row
from vesalius.evaluation.prompts import Turn, turn_rows
from vesalius.evaluation.results import write_table
from vesalius.server.documents import State, states_of
from vesalius.server.exports import Annotated, main_axis
from vesalius.server.inference import prompt_of
from vesalius.server.masks import Bools, block_of, mask_in_block, slice_shape
from vesalius.vocabulary.targets import target_of

DRAWN = "its mask was drawn by hand, carried there or read from a file, which cannot be replayed"
SILENT = "nothing was said about it on this slice: it was drawn, carried there, proposed or read from a file"
BACKGROUND = "the background alone was clicked on"

Said = tuple[Mapping[str, Any], ...]
Window = tuple[float, float]


def write_corpus(images: Sequence[Annotated], folder: Path) -> tuple[int, int]:
    """Writes a corpus as `vesalius finetune` and `vesalius evaluate` take it, and beside it what was said.

    An image of the corpus is a slice with objects, in its own pixels and in the grey window in which its objects were
    prompted last; objects that were prompted in several windows are on several images. Of a volume, an object is on
    the slices along the axis on which most was said about it, and of the other axes on those on which it was prompted.
    The masks are what the annotator left. ``prompts.parquet`` has each object's prompts (`evaluation.prompts.Turn`).

    Args:
        images: What to write.
        folder: The new folder.

    Returns:
        How many images and masks there are.

    Raises:
        ReadError: A log or an image is damaged.
        WriteError: The folder is there already or cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    unknown: Counter[str] = Counter()
    said: list[dict[str, Any]] = []
    names = Counter(one.item.name for one in images)
    cases: dict[str, str] = {}
    digest = hashlib.sha256()
    with writing(folder) as part:
        for table in ("images", "masks"):
            (part / table).mkdir()
        writer = ShardWriter(*(part / table / "00000.parquet" for table in ("images", "masks")))
        try:
            for one in images:
                scan = one.item.name if names[one.item.name] == 1 else f"{one.item.name}-{one.item.id}"
                # What must not be split where a corpus is divided: a patient's images, or else all of a file. It is
                # called by the first of them, which tells nothing of the patient, and has the same name where the
                # folder has moved.
                first = hashlib.blake2b(scan.encode(), digest_size=8).hexdigest()
                case = cases.setdefault(one.item.patient or str(one.item.path), first)
                for image, masks, turns in _rows(one, scan, case):
                    writer.add(image, masks)
                    digest.update(image["image"]["bytes"] + b"".join(row["rle"] for row in masks))
                    digest.update(repr([image["id"], *((row["target"], row["area"]) for row in masks)]).encode())
                    unknown.update(row["target"] for row in masks if not target_of(row["target"]).known)
                    for place, of_object in enumerate(turns):
                        said += turn_rows(f"{image['id']}#{place}", of_object)
        finally:
            writer.close()
        info = CorpusInfo(
            name=folder.name,
            recipe=None,
            made_by={"vesalius": vesalius.__version__},
            entries=digest.hexdigest(),
            images=writer.count["images"],
            masks=writer.count["masks"],
            rejects=0,
            left_out={},
            unknown_targets=dict(sorted(unknown.items())),
            shards=1,
        )
        write_table(part, "prompts", said)
        pq.write_table(pa.Table.from_pylist([], schema=reject_schema()), part / "rejects.parquet")
        (part / DESCRIPTION).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info.images, info.masks


def _rows(
    one: Annotated, scan: str, case: str
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], list[list[Turn]]]]:
    """The rows of each image of the corpus and of its masks, and what was said about each of them."""
    volume, shape = one.volume, one.shape
    # Exports of several folders can be merged.
    dataset = dataset_name(one.item.base)
    said, state = turns_of_log(one.log)
    main = {number: main_axis([thing]) for number, thing in state.objects.items()}
    blocks = {number: block_of(thing, shape) for number, thing in state.objects.items()}
    digest = source_digest(one.item.path, [file.name for file in one.item.files] if one.item.files else None)
    along = [(axis, index) for axis in set(main.values()) for index in range(shape[2 - AXES.index(axis)])]
    for axis, index in sorted({*along, *((axis, index) for _, axis, index in said)}):
        size = slice_shape(shape, axis)
        of_windows: dict[Window, list[tuple[str, Bools]]] = {}
        for number, thing in state.objects.items():
            prompted = (number, axis, index) in said
            mask = mask_in_block(blocks[number], axis, index, shape)
            # Across the slices on which it was outlined, an object may be a line.
            if mask.any() and (prompted or axis == main[number]):
                plane = thing.planes.get((axis, index))
                # Colours are shown as they are.
                window = (plane.window if plane and volume.voxels.ndim == 3 else None) or volume.window
                of_windows.setdefault(window, []).append((number, mask))
        for window, objects in of_windows.items():
            flat = shape[0] == 1
            place = "2d_none" if flat else f"{axis}_{index:04d}"
            shown = "" if window == volume.window else f"_{window[0]}_{window[1]}"
            cut = replace(volume.slice(axis, index), window=window)
            shared = {
                "id": f"{dataset}/{scan}/{place}{shown}",
                "modality": volume.modality,
                "dataset": dataset,
                "split": None,
            }
            image = shared | _about(one, cut, "2d" if flat else axis, scan, case) | {"source_digest": digest}
            if all(axis != main[number] for number, _ in objects):
                # Single slices, which make no volume.
                image["slice_spacing"] = None
            instances: Counter[str] = Counter()
            masks, turns = [], []
            for number, mask in objects:
                label = state.objects[number].name or "object"
                target = target_of(label)
                instances[target.name] += 1
                about: dict[str, Any] = {"target": target.name, "label": label}
                about |= {"group": target.group, "organ": target.organ, "instance": instances[target.name]}
                about |= {"pseudo": False, "model": None}
                masks.append(mask_row(mask, shared | about))
                history = said.get((number, axis, index), [])
                turns.append([_turn(asked, size) for asked in history] or [Turn((), SILENT)])
            yield image | {"masks": len(masks)}, masks, turns


def _about(one: Annotated, cut: Slice, axis: str, scan: str, case: str) -> dict[str, Any]:
    """What the row of an image says of its slice."""
    pixels = eight_bits(cut)
    steps = None if cut.geometry is None else dict(zip(AXES, cut.geometry.spacing, strict=True))
    return {
        "image": {"bytes": encode_png(pixels), "path": f"{scan}_{cut.axis}_{cut.index:04d}.png"},
        "height": cut.size[0],
        "width": cut.size[1],
        "case": case,
        "name": scan,
        "axis": axis,
        "index": cut.index,
        "row_spacing": cut.spacing[0] if cut.spacing else None,
        "column_spacing": cut.spacing[1] if cut.spacing else None,
        "slice_spacing": steps[axis] if steps and axis in steps else None,
        "source": one.item.name,
    }


def turns_of_log(log: Path) -> tuple[dict[tuple[str, str, int], list[Said]], State]:
    """What had been said about an object on a slice whenever that changed, and the state in the end.

    Each new prompt, each deletion, and each of these that was undone or done again makes a turn; where nothing is left
    of what was said, there is none.

    Returns:
        Object, axis and index -> the prompts that held, in order; and the state after the last action.

    Raises:
        ReadError: The log is damaged.
    """
    turns: dict[tuple[str, str, int], list[Said]] = {}
    state = State()
    for following in states_of(log):
        before, state = state, following
        for number, thing in state.objects.items():
            known = before.objects.get(number)
            if known is not None and known.planes is thing.planes:
                continue
            for axis, index in {**(known.planes if known else {}), **thing.planes}:
                key, plane = (number, axis, index), thing.planes.get((axis, index))
                said = plane.prompts if plane else ()
                if said and said != turns.get(key, [()])[-1]:
                    turns.setdefault(key, []).append(said)
    return turns, state


def _turn(said: Said, size: tuple[int, int]) -> Turn:
    """What a model is asked of what was said, step by step."""
    if any(one["kind"] == "mask" for one in said):
        return Turn((), DRAWN)
    steps = dict.fromkeys(one["step"] for one in said)
    asked = [prompt_of([one for one in said if one["step"] <= step], None, size) for step in steps]
    found = tuple(prompt for prompt in asked if prompt is not None)
    return Turn(found, None if found else BACKGROUND)
