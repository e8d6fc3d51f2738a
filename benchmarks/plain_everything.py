"""Everything mode written the plain way: the steps of the generator that was published with Segment Anything, in order.

Every mask of a batch of clicks is enlarged to the network's input and to the image before any is looked at, then come
the filters, one after another, and run lengths of each mask that passed; boxes are compared one by one. It is the peer
that `everything.py` measures against, and what the tests compare Vesalius's own everything mode with.

Source: Kirillov et al., "Segment Anything", 2023, appendix B, and what the published generator gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

import plain_sam
from vesalius.core.frame import Frame
from vesalius.models.base import PromptBatch
from vesalius.models.sam.model import Sam
from vesalius.models.torch_runtime import prepare
from vesalius.predict.everything import EverythingConfig

BATCH = 64
EDGE = 20


@dataclass
class Found:
    """A mask: column by column the lengths of its runs, that of the background first; its box ends with a pixel."""

    runs: list[int]
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    quality: float
    stability: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]

    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        values = np.repeat(np.arange(len(self.runs)) % 2 == 1, self.runs)
        return values.reshape(self.size[1], self.size[0]).T


@torch.inference_mode()
def generate(sam: Sam, decoder: nn.Module, rgb: np.ndarray, config: EverythingConfig) -> list[Found]:
    """Everything in an (H, W, 3) uint8 image, in the order in which the comparison of boxes leaves it."""
    height, width = rgb.shape[:2]
    found: list[Found] = []
    crops = list_crops(height, width, config)
    for layer, crop in crops:
        here = in_crop(sam, decoder, rgb, layer, crop, config)
        kept = suppress([f.box for f in here], [f.quality for f in here], config.max_overlap)
        found += [here[i] for i in kept]
    if len(crops) > 1:
        scores = [1 / ((f.crop[2] - f.crop[0]) * (f.crop[3] - f.crop[1])) for f in found]
        found = [found[i] for i in suppress([f.box for f in found], scores, config.max_overlap)]
    if config.min_area:
        found = tidy(found, config)
    return found


def list_crops(height: int, width: int, config: EverythingConfig) -> list[tuple[int, tuple[int, int, int, int]]]:
    crops = [(0, (0, 0, width, height))]
    for layer in range(1, config.crop_layers + 1):
        n = 2**layer
        overlap = int(config.crop_overlap * min(height, width) * (2 / n))
        w = int(np.ceil((overlap * (n - 1) + width) / n))
        h = int(np.ceil((overlap * (n - 1) + height) / n))
        for i in range(n):
            for j in range(n):
                x, y = (w - overlap) * i, (h - overlap) * j
                crops.append((layer, (x, y, min(x + w, width), min(y + h, height))))
    return crops


def in_crop(
    sam: Sam, decoder: nn.Module, rgb: np.ndarray, layer: int, crop: tuple[int, int, int, int], config: EverythingConfig
) -> list[Found]:
    x0, y0, x1, y1 = crop
    frame = Frame.longest_side((y1 - y0, x1 - x0), sam.config.side)
    pixels = torch.from_numpy(frame.image(rgb[y0:y1, x0:x1]))[None]
    embedding = plain_sam.encode(sam, prepare(pixels, torch.tensor([frame.content]), sam.preset))
    n = int(config.side / config.crop_shrink**layer)
    along = np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n)
    shown = frame.content[2:]
    points = np.array([(x * shown[0], y * shown[1]) for y in along for x in along])
    found = []
    for start in range(0, len(points), BATCH):
        found += in_batch(sam, decoder, embedding, points[start : start + BATCH], frame, crop, rgb.shape[:2], config)
    return found


def in_batch(
    sam: Sam,
    decoder: nn.Module,
    embedding: Tensor,
    points: np.ndarray,
    frame: Frame,
    crop: tuple[int, int, int, int],
    size: tuple[int, int],
    config: EverythingConfig,
) -> list[Found]:
    clicks = torch.from_numpy(points.astype(np.float32))[:, None]
    labels = torch.ones(len(points), 1, dtype=torch.long)
    low, quality = plain_sam.decode(sam, decoder, embedding, PromptBatch(clicks, labels))
    masks = enlarge(low, frame, sam.config.side).flatten(0, 1)
    quality = quality.flatten()
    places = torch.from_numpy(frame.inverse_points(points)).repeat_interleave(3, 0)
    if config.min_quality > 0:
        keep = quality > config.min_quality
        masks, quality, places = masks[keep], quality[keep], places[keep]
    stability = (masks > config.offset).sum((1, 2)) / (masks > -config.offset).sum((1, 2))
    if config.min_stability > 0:
        keep = stability >= config.min_stability
        masks, quality, places, stability = masks[keep], quality[keep], places[keep], stability[keep]
    drawn = masks > 0
    keep = torch.tensor([bool(mask.any()) for mask in drawn], dtype=torch.bool)
    boxes = [box_of(mask, crop) if there else None for mask, there in zip(drawn, keep, strict=True)]
    for i, box in enumerate(boxes):
        if box is not None and near_edge(box, crop, size):
            keep[i] = False
    whole = torch.zeros(len(drawn), *size, dtype=torch.bool)
    whole[:, crop[1] : crop[3], crop[0] : crop[2]] = drawn
    return [
        Found(
            runs_of(whole[i]),
            size,
            boxes[i],
            float(quality[i]),
            float(stability[i]),
            (float(places[i, 0]) + crop[0], float(places[i, 1]) + crop[1]),
            crop,
        )
        for i in torch.nonzero(keep).flatten().tolist()
    ]


def enlarge(low: Tensor, frame: Frame, side: int) -> Tensor:
    """(N, M, h, w) logits at the network's input, and from its content at the crop's own size."""
    full = F.interpolate(low, (side, side), mode="bilinear", align_corners=False)
    shown = full[..., : frame.content[3], : frame.content[2]]
    return F.interpolate(shown, frame.size, mode="bilinear", align_corners=False)


def box_of(mask: Tensor, crop: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    y, x = torch.nonzero(mask, as_tuple=True)
    return int(x.min()) + crop[0], int(y.min()) + crop[1], int(x.max()) + crop[0], int(y.max()) + crop[1]


def near_edge(box: tuple[int, ...], crop: tuple[int, ...], size: tuple[int, int]) -> bool:
    image = (0, 0, size[1], size[0])
    for side in range(4):
        by_crop = abs(box[side] - crop[side]) <= EDGE
        by_image = abs(box[side] - image[side]) <= EDGE
        if by_crop and not by_image:
            return True
    return False


def runs_of(mask: Tensor) -> list[int]:
    values = mask.T.flatten()
    changes = (torch.nonzero(values[1:] != values[:-1]).flatten() + 1).tolist()
    edges = [0, *changes, len(values)]
    runs = [end - start for start, end in pairwise(edges)]
    return [0, *runs] if values[0] else runs


def suppress(boxes: list[tuple[int, ...]], scores: list[float], limit: float) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: -np.float32(scores[i]))
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    gone = [False] * len(boxes)
    kept = []
    for place, i in enumerate(order):
        if gone[i]:
            continue
        kept.append(i)
        rest = [j for j in order[place + 1 :] if not gone[j]]
        for j, share in zip(rest, overlap(corners[i], corners[rest]), strict=True):
            gone[j] = share > limit
    return kept


def overlap(box: np.ndarray, others: np.ndarray) -> list[float]:
    width = np.clip(np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]), 0, None)
    height = np.clip(np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]), 0, None)
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    with np.errstate(invalid="ignore"):
        shares = width * height / ((box[2] - box[0]) * (box[3] - box[1]) + areas - width * height)
    return shares.tolist()


def tidy(found: list[Found], config: EverythingConfig) -> list[Found]:
    cleaned, scores = [], []
    for f in found:
        mask, holes = without_small(f.mask(), config.min_area, holes=True)
        mask, parts = without_small(mask, config.min_area, holes=False)
        scores.append(0.0 if holes or parts else 1.0)
        tensor = torch.from_numpy(np.ascontiguousarray(mask))
        cleaned.append(
            Found(runs_of(tensor), f.size, box_of(tensor, (0, 0, 0, 0)), f.quality, f.stability, f.point, f.crop)
        )
    return [cleaned[i] for i in suppress([f.box for f in cleaned], scores, config.max_overlap)]


def without_small(mask: np.ndarray, least: int, holes: bool) -> tuple[np.ndarray, bool]:
    """The mask with small holes filled, or with small parts removed but the largest, and whether there were any."""
    numbers, count = ndimage.label(mask != holes, np.ones((3, 3)))
    areas = [int((numbers == i + 1).sum()) for i in range(count)]
    small = [i + 1 for i, area in enumerate(areas) if area < least]
    if not small:
        return mask, False
    if holes:
        return mask | np.isin(numbers, small), True
    large = [i + 1 for i in range(count) if i + 1 not in small] or [1 + int(np.argmax(areas))]
    return np.isin(numbers, large), True


def to_coco(found: list[Found]) -> list[dict[str, Any]]:
    """Compressed run lengths of each."""
    from pycocotools import mask as coco

    plain = [{"size": list(f.size), "counts": f.runs} for f in found]
    return [coco.frPyObjects(runs, *f.size) for runs, f in zip(plain, found, strict=True)]
