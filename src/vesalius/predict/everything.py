"""Everything mode: outlines of all that an image shows, from a grid of clicks.

The rules are those of Kirillov et al., "Segment Anything", 2023, section 5 and appendix B, and of the generator that
was published with it, down to its boxes, which end with the last pixel where boxes are compared. What differs is the
order of work: a mask is enlarged only after its predicted IoU and a bound of its stability have been looked at, and
then only where it may lie. COSMOS 1050K, section 3.2, calls it S1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits

from vesalius.core.config import Config
from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prediction, Slice
from vesalius.io.outlines import runs_of_mask
from vesalius.models.presets import Preset
from vesalius.models.runtime import ImageFeatures, PromptArrays
from vesalius.predict.predictor import Embedding, Predictor, whole_frame

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Box = tuple[int, int, int, int]

# Clicks decoded at once.
_BATCH = 64
# Pixels of the image; a box that ends so near to the edge of a crop belongs to an object that the crop cuts.
_EDGE = 20


class EverythingConfig(Config):
    """How everything is looked for; the defaults are the published ones. Thresholds of None are the network's own.

    Attributes:
        side: Clicks along each side of the image.
        min_quality: Predicted IoU that a mask must exceed; 0 takes all.
        min_stability: Least stability, the ratio of the areas above ``offset`` and above ``-offset``; 0 takes all.
        offset: In logits.
        max_overlap: Two masks whose boxes have a larger IoU count as one.
        min_area: Holes and parts of fewer pixels are filled and removed; 0 leaves them.
        crop_layers: Layers of crops that are looked at besides the whole image, each by itself: 2 x 2 in the first,
            4 x 4 in the second, and so on.
        crop_overlap: How much crops of the first layer overlap, as a share of the image's shorter side; those of each
            further layer overlap half as much.
        crop_shrink: Each layer has that many times fewer clicks along a side of a crop than the one before.
    """

    side: int = Field(default=32, ge=1, le=1024)
    min_quality: float | None = Field(default=None, ge=0, le=1)
    min_stability: float | None = Field(default=None, ge=0, le=1)
    offset: float | None = Field(default=None, ge=0)
    max_overlap: float = Field(default=0.7, ge=0, le=1)
    min_area: int = Field(default=0, ge=0)
    crop_layers: int = Field(default=0, ge=0, le=4)
    crop_overlap: float = Field(default=512 / 1500, ge=0, lt=1)
    crop_shrink: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class Thresholds:
    """What a mask must pass; see `EverythingConfig`."""

    quality: float
    stability: float
    offset: float


def thresholds(config: EverythingConfig, preset: Preset) -> Thresholds:
    """The thresholds that are given, and for the others those of the network."""
    given = config.min_quality, config.min_stability, config.offset
    own = preset.min_quality, preset.min_stability, preset.stability_offset
    return Thresholds(*(mine if value is None else value for value, mine in zip(given, own, strict=True)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Proposal(Prediction):
    """The outline of something that everything mode has found.

    Attributes:
        box: (x0, y0, x1, y1), half-open, around the mask.
        stability: Ratio of the areas above and below the threshold, 0 to 1.
        point: The click that led to it, (x, y), pixel centres at whole numbers.
        crop: (x0, y0, x1, y1), half-open, the part of the image that the network saw.
    """

    box: Box
    stability: float
    point: tuple[float, float]
    crop: Box


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A mask that is sure and stable, before it is compared with others; ``last`` is the box's far corner, inside."""

    logits: Floats
    zoom: Zoom
    quality: float
    stability: float
    point: tuple[float, float]
    box: Box


def segment_everything(
    predictor: Predictor,
    image: Embedding | Slice | NDArray[Any],
    *,
    progress: Callable[[int, int], object] | None = None,
    **settings: float | None,
) -> list[Proposal]:
    """Outlines of everything, best first; they may overlap.

    Every click of a grid gives the masks of its three levels (one, of a network that gives one). Those of low predicted
    IoU go, those whose area hangs on the threshold, those that a crop cuts, and then those whose box is nearly that of
    a better one; of masks from several crops, the one from the smaller crop stays.

    With a network's own weights the masks are those of the published generator. Its area and box are measured on masks
    of full size; so they are here, but a mask whose stability cannot suffice by its low-resolution logits is not
    enlarged. Masks are enlarged by two bilinear steps, to the network's input and to the image; empty ones are left
    out.

    Args:
        predictor: The model; it answers in the frame of the whole image, and of crops.
        image: The image, or what `Predictor.encode` made of it.
        progress: Is told how many of all clicks are done; what it raises stops the search.
        settings: The fields of `EverythingConfig`.

    Raises:
        ConfigError: A setting is unknown or out of range.
        ReadError: The array is no image.
    """
    config = EverythingConfig.from_dict(dict(settings))
    embedding = image if isinstance(image, Embedding) else predictor.encode(image)
    crops = crop_boxes(embedding.image.size, config.crop_layers, config.crop_overlap)
    sides = [max(1, config.side // config.crop_shrink**layer) for layer, _ in crops]
    done, total = 0, sum(side**2 for side in sides)
    limits = thresholds(config, predictor.preset)
    found: list[_Candidate] = []
    for (_, crop), side in zip(crops, sides, strict=True):
        frame = crop_frame(crop, embedding, predictor)
        features = embedding.features if frame == embedding.frame else _features(frame, embedding, predictor)
        zoom = Zoom(frame, predictor.preset.mask_side)
        points = grid_points(frame, side)
        here: list[_Candidate] = []
        batches = [points[start : start + _BATCH] for start in range(0, len(points), _BATCH)]
        with _one_thread(), closing(_decoded(predictor, features, batches)) as decoded:
            for batch, answers in zip(batches, decoded, strict=True):
                here += _candidates(batch, *answers, zoom, limits)
                done += len(batch)
                if progress:
                    progress(done, total)
        kept = distinct(_boxes(here), np.array([entry.quality for entry in here], np.float32), config.max_overlap)
        found += [here[i] for i in kept]
    if len(crops) > 1:
        smallness = np.array([1 / _area(entry.zoom.frame.window) for entry in found], np.float32)
        found = [found[i] for i in distinct(_boxes(found), smallness, config.max_overlap)]
    proposals = [_proposal(entry) for entry in found]
    if config.min_area:
        proposals = without_small_regions(proposals, config.min_area, config.max_overlap)
    return sorted(proposals, key=lambda proposal: -proposal.quality)


_limiting = threading.Lock()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Gives BLAS one thread while the block runs, and then its own number again.

    Threads of BLAS wait actively for more to do, and would take the processor from the decoder. Their number is the
    whole process's, so of several blocks at a time only the first changes it: one that began within another would put
    back one, and for good.
    """
    if not _limiting.acquire(blocking=False):
        yield
        return
    try:
        with threadpool_limits(1, "blas"):
            yield
    finally:
        _limiting.release()


def coco_annotations(proposals: Sequence[Proposal]) -> list[dict[str, Any]]:
    """The proposals as annotations of a COCO file, numbered from 1, as plain JSON values.

    Boxes are COCO's x, y, width, height; their far edge is that of the last pixel, where the published generator gives
    a width and height of one pixel less.

    Returns:
        Per proposal: id, image_id, category_id and iscrowd; compressed run lengths, area in pixels, box; predicted IoU,
        stability score, the click and the crop's box, under the published names.
    """
    return [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": runs_of_mask(proposal.mask),
            "area": int(proposal.mask.sum()),
            "bbox": _x_y_width_height(proposal.box),
            "predicted_iou": proposal.quality,
            "stability_score": proposal.stability,
            "point_coords": [list(proposal.point)],
            "crop_box": _x_y_width_height(proposal.crop),
        }
        for number, proposal in enumerate(proposals, 1)
    ]


def label_map(proposals: Sequence[Proposal], size: tuple[int, int]) -> NDArray[np.uint16]:
    """(H, W) proposals numbered from 1 in their order; where several overlap, the smallest is seen."""
    numbers = np.zeros(size, np.uint16)
    areas = [int(proposal.mask.sum()) for proposal in proposals]
    for i in sorted(range(len(proposals)), key=lambda i: -areas[i]):
        numbers[proposals[i].mask] = i + 1
    return numbers


def crop_boxes(size: tuple[int, int], layers: int, overlap: float) -> list[tuple[int, Box]]:
    """The crops of an image of (height, width), each with its layer; the first is the whole image, layer 0.

    Args:
        size: (height, width).
        layers: Layer i has 2^i crops along each side.
        overlap: Of the crops of layer 1, as a share of the shorter side.

    Returns:
        Layer and half-open box (x0, y0, x1, y1), in pixels of the image.
    """
    height, width = size
    crops = [(0, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * 2 / count)
        long_x, long_y = (-(-(shared * (count - 1) + length) // count) for length in (width, height))
        for column in range(count):
            for row in range(count):
                x, y = column * (long_x - shared), row * (long_y - shared)
                crops.append((layer, (x, y, min(x + long_x, width), min(y + long_y, height))))
    # Crops of a small image may be empty.
    return [(layer, crop) for layer, crop in crops if crop[0] < crop[2] and crop[1] < crop[3]]


def crop_frame(crop: Box, embedding: Embedding, predictor: Predictor) -> Frame:
    """The frame of a crop of an image, which the network sees as an image of its own."""
    alone = whole_frame((crop[3] - crop[1], crop[2] - crop[0]), predictor.preset)
    return replace(alone, size=embedding.image.size, window=crop)


def _features(frame: Frame, embedding: Embedding, predictor: Predictor) -> ImageFeatures:
    content = np.array([frame.content], np.int64)
    return predictor.runtime.encode(frame.image(embedding.rgb)[None], content)[0]


def grid_points(frame: Frame, side: int) -> Floats:
    """(side², 2) model pixels: the centres of a grid of cells over a frame's content, row by row.

    They are the published ones, which lie half a model pixel right of and below the centres proper.
    """
    x0, y0, x1, y1 = frame.content
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(x0 + centres * (x1 - x0), y0 + centres * (y1 - y0))
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)


def _decoded(
    predictor: Predictor, features: ImageFeatures, batches: Sequence[Floats]
) -> Generator[tuple[Floats, Floats]]:
    """The answers to batches of clicks; each next batch is decoded while the caller is busy with the one before."""

    def decode(points: Floats) -> tuple[Floats, Floats]:
        count = len(points)
        prompts = PromptArrays(points[:, None], np.ones((count, 1), np.int64), np.zeros(count, np.int64))
        return predictor.runtime.decode([features], prompts, predictor.preset.multimask)

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(decode, batches[0])
        for batch in batches[1:]:
            answers, coming = coming.result(), thread.submit(decode, batch)
            yield answers
        yield coming.result()


def _candidates(
    points: Floats, logits: Floats, quality: Floats, zoom: Zoom, limits: Thresholds
) -> Iterator[_Candidate]:
    """The masks of clicks that are sure, stable, not cut by a crop and not empty."""
    size = zoom.frame.size
    # The published half pixel leads the last clicks out of an image that is thin or drawn small.
    places = np.minimum(zoom.frame.inverse_points(points), (size[1] - 1, size[0] - 1))
    whole = (0, 0, size[1], size[0])
    scores = quality.reshape(-1)
    sure = np.flatnonzero(scores > limits.quality) if limits.quality else np.arange(len(scores))
    low = logits.reshape(-1, *logits.shape[2:])
    for i in sure:
        if zoom.stability_bound(low[i], limits.offset) < limits.stability:
            continue
        stability, box = zoom.measure(low[i], limits.offset)
        if stability < limits.stability or box is None or cut_by(box, zoom.frame.window, whole):
            continue
        x, y = places[i // quality.shape[1]]
        yield _Candidate(low[i].copy(), zoom, float(scores[i]), stability, (float(x), float(y)), box)


class Zoom:
    """Enlarges a frame's low-resolution logits to the image, bilinearly to the network's input and from there.

    Both steps are one linear map per axis, so any part of a mask can be enlarged by itself.

    Args:
        frame: The part of the image that the logits are drawn in.
        low: Side of the low-resolution logits.
    """

    def __init__(self, frame: Frame, low: int) -> None:
        self.frame = frame
        x0, y0, x1, y1 = frame.window
        cx0, cy0, cx1, cy1 = frame.content
        self.columns = Axis(_bilinear(x1 - x0, cx1 - cx0) @ _bilinear(frame.side, low)[cx0:cx1])
        self.rows = Axis(_bilinear(y1 - y0, cy1 - cy0) @ _bilinear(frame.side, low)[cy0:cy1])

    def stability_bound(self, low: Floats, offset: float) -> float:
        """What the stability of the enlarged mask is at most, by the (h, w) logits alone.

        An enlarged pixel lies between the least and the largest of the few logits that it is made of: it may be above
        ``offset`` only if one of them is, and is above ``-offset`` if all of them are.
        """
        firm = self._spread(low > offset)
        loose = firm | ~self._spread(low <= -offset)
        return self._area(firm) / max(self._area(loose), 1)

    def measure(self, low: Floats, offset: float) -> tuple[float, Box | None]:
        """Stability of the enlarged mask, and its box, whose far corner is its last pixel; None if it is empty."""
        part, x, y = self.enlarged(low, -offset)
        stability = int(np.count_nonzero(part > offset)) / max(int(np.count_nonzero(part > -offset)), 1)
        mask = part > 0
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if not len(columns):
            return stability, None
        return stability, (int(x + columns[0]), int(y + rows[0]), int(x + columns[-1]), int(y + rows[-1]))

    def mask(self, low: Floats) -> Bools:
        """(H, W) the mask of (h, w) logits in the whole image."""
        out = np.zeros(self.frame.size, np.bool_)
        part, x, y = self.enlarged(low, 0)
        out[y : y + part.shape[0], x : x + part.shape[1]] = part > 0
        return out

    def enlarged(self, low: Floats, floor: float) -> tuple[Floats, int, int]:
        """The part of the enlarged logits outside of which none is above ``floor``, and where in the image it begins.

        Returns:
            (H', W') logits, and x and y of their first pixel.
        """
        above = low > floor
        (y0, y1), (r0, r1) = self.rows.reach(np.asarray(above.any(1)))
        (x0, x1), (c0, c1) = self.columns.reach(np.asarray(above.any(0)))
        part = self.rows.weights[y0:y1, r0:r1] @ low[r0:r1, c0:c1] @ self.columns.weights[x0:x1, c0:c1].T
        return np.asarray(part, np.float32), self.frame.window[0] + x0, self.frame.window[1] + y0

    def _spread(self, low: Bools) -> Bools:
        """For enlarged pixels that are made of the same logits, (h', w'): whether any of these is true."""
        rows, columns = len(self.rows.counts), len(self.columns.counts)
        low = np.logical_or.reduce([low[i : i + rows] for i in range(self.rows.taps)])
        spread: Bools = np.logical_or.reduce([low[:, i : i + columns] for i in range(self.columns.taps)])
        return spread

    def _area(self, pixels: Bools) -> float:
        """Number of enlarged pixels."""
        return float(self.rows.counts @ (pixels @ self.columns.counts))


class Axis:
    """One axis of a `Zoom`.

    Args:
        weights: (length, low) what each low-resolution logit adds to each enlarged pixel.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights: Floats = weights.astype(np.float32)
        used = self.weights > 0
        self.first = used.argmax(1)
        self.beyond = used.shape[1] - used[:, ::-1].argmax(1)
        # Enlarged pixels are counted by the group of neighbouring logits that holds all that they are made of.
        self.taps = int((self.beyond - self.first).max())
        groups = used.shape[1] - self.taps + 1
        self.counts = np.bincount(np.minimum(self.first, groups - 1), minlength=groups).astype(np.float32)

    def reach(self, low: Bools) -> tuple[tuple[int, int], tuple[int, int]]:
        """The enlarged pixels that logits have a part in, and the logits that these are made of, both half-open."""
        where = np.flatnonzero(low)
        if not len(where):
            return (0, 0), (0, 0)
        start = int(np.searchsorted(self.beyond, where[0], "right"))
        end = int(np.searchsorted(self.first, where[-1], "right"))
        if start >= end:
            return (0, 0), (0, 0)
        return (start, end), (int(self.first[start]), int(self.beyond[end - 1]))


def _bilinear(to: int, source: int) -> NDArray[np.float64]:
    """(to, source) weights of bilinear interpolation between pixel centres; at the ends the last pixel goes on."""
    at = ((np.arange(to) + 0.5) * source / to - 0.5).clip(0, source - 1)
    weights: NDArray[np.float64] = (1 - np.abs(at[:, None] - np.arange(source))).clip(0)
    return weights


def cut_by(box: Box, crop: Box, whole: Box) -> bool:
    """Whether a box ends near an edge of the crop that is not an edge of the image.

    Args:
        box: With its last pixel as far corner.
        crop: Half-open.
        whole: Half-open, the image.
    """
    return any(abs(b - c) <= _EDGE < abs(b - w) for b, c, w in zip(box, crop, whole, strict=True))


def distinct(boxes: Integers, scores: Floats, max_overlap: float) -> list[int]:
    """Numbers of the boxes that remain when each takes away those of lower score that overlap it.

    Args:
        boxes: (N, 4) with the last pixel as far corner; width and height are differences, as published.
        scores: (N,).
        max_overlap: Largest IoU of two boxes that both remain.

    Returns:
        Best first.
    """
    x0, y0, x1, y1 = boxes.astype(np.float32).T
    area = (x1 - x0) * (y1 - y0)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        width = np.minimum(x1[order], x1[best]) - np.maximum(x0[order], x0[best])
        height = np.minimum(y1[order], y1[best]) - np.maximum(y0[order], y0[best])
        common = width.clip(0) * height.clip(0)
        union = area[order] + area[best] - common
        share = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
        order = order[share <= np.float64(max_overlap)]
    return kept


def without_small_regions(proposals: Sequence[Proposal], min_area: int, max_overlap: float) -> list[Proposal]:
    """The proposals without small holes and parts; of those that look alike then, one that was not changed stays.

    Args:
        proposals: Of one image.
        min_area: Holes and parts of fewer pixels go; of a mask that has only such parts the largest stays.
        max_overlap: As in `distinct`.
    """
    masks = [clean_mask(proposal.mask, min_area) for proposal in proposals]
    unchanged = np.array([mask is proposal.mask for mask, proposal in zip(masks, proposals, strict=True)], np.float32)
    cleaned = [
        proposal if mask is proposal.mask else replace(proposal, mask=mask, box=_half_open(_last_pixels(mask)))
        for mask, proposal in zip(masks, proposals, strict=True)
    ]
    boxes = np.array([proposal.box for proposal in cleaned], np.int64).reshape(-1, 4) - (0, 0, 1, 1)
    return [cleaned[i] for i in distinct(boxes, unchanged, max_overlap)]


def clean_mask(mask: Bools, min_area: int) -> Bools:
    """A mask with small holes filled and then small parts removed, or the same mask if it has none.

    Pixels that touch in a corner belong together, in holes and in parts. The largest part always stays.

    Args:
        mask: (H, W).
        min_area: Holes and parts of fewer pixels are small.
    """
    numbers, areas = _parts(~mask)
    small = areas < min_area
    if small[1:].any():
        small[0] = False
        mask = mask | small[numbers]
    numbers, areas = _parts(mask)
    large = areas >= min_area
    large[0] = False
    if large[1:].all():
        return mask
    if not large.any():
        large[1 + areas[1:].argmax()] = True
    return large[numbers]


def _parts(mask: Bools) -> tuple[NDArray[np.int32], Integers]:
    """(H, W) numbers of a mask's parts from 1, and the area of each, that of the rest first."""
    count, numbers, table, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return numbers, table[:count, cv2.CC_STAT_AREA].astype(np.int64)


def _proposal(found: _Candidate) -> Proposal:
    return Proposal(
        mask=found.zoom.mask(found.logits),
        quality=min(max(found.quality, 0.0), 1.0),
        logits=Logits(found.logits, found.zoom.frame),
        box=_half_open(found.box),
        stability=found.stability,
        point=found.point,
        crop=found.zoom.frame.window,
    )


def _boxes(found: Sequence[_Candidate]) -> Integers:
    return np.array([entry.box for entry in found], np.int64).reshape(-1, 4)


def _last_pixels(mask: Bools) -> Box:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _half_open(box: Box) -> Box:
    return box[0], box[1], box[2] + 1, box[3] + 1


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _x_y_width_height(box: Box) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
