"""Looks for what spoils a corpus: leakage, near-duplicates, blank images, masks at the border, wrong pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.store import Corpus

# Bits of two images' digests that may differ before they count as different images.
NEAR = 4
# The three criteria by which COSMOS (section 2) leaves out targets; the paper judges them by eye, the numbers are ours.
SMALL_SHARE, PIECES, SCATTERED_SHARE = 100 / (256 * 256), 3, 0.5


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: ``"leakage"``, ``"duplicate"``, ``"blank"``, ``"border"``, ``"mismatch"``, ``"target"``.
        where: Image, case or target.
        what: In one clause.
        serious: Whether it makes the corpus unfit for training and testing; otherwise it is worth a look.
    """

    kind: str
    where: str
    what: str
    serious: bool


def check_corpus(corpus: Corpus, progress: Callable[[int, int], object] | None = None) -> Iterator[Finding]:
    """All findings of a corpus; its images are read once, in order.

    Args:
        corpus: The corpus.
        progress: Is told how many of all images are done.
    """
    yield from leakage(corpus)
    digests: list[int] = []
    statistics = _TargetStatistics()
    for number, image in enumerate(corpus.stream(), 1):
        yield from _image_findings(image)
        digests.append(difference_hash(image.image.pixels))
        statistics.add(image)
        if progress:
            progress(number, len(corpus))
    yield from _duplicates(corpus, digests)
    yield from statistics.findings()


def leakage(corpus: Corpus) -> Iterator[Finding]:
    """Cases, and source files, that lie in more than one split.

    Cases are compared across data sets: a patient who appears in two sets under one name must not be on both sides.
    """
    table = corpus.images.select(["case", "source_digest", "split"])
    columns = [table[name].to_pylist() for name in table.column_names]
    for column, what in ((0, "case"), (1, "source file")):
        splits: dict[str, set[str]] = defaultdict(set)
        for row in zip(*columns, strict=True):
            if row[2] is not None:
                splits[row[column]].add(row[2])
        for name, found in sorted(splits.items()):
            if len(found) > 1:
                yield Finding("leakage", name, f"this {what} is in {' and '.join(sorted(found))}", True)


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits that stay nearly the same when an image is scaled, compressed or brightened.

    Each bit says whether one of 8 x 8 cells is brighter than the one to its left (Krawetz's dHash).
    """
    import cv2

    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (cells[:, 1:] > cells[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(digests: list[int], near: int = NEAR) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose digests differ in at most ``near`` bits, each pair once.

    Two digests that differ in at most ``near`` bits agree in one of ``near + 1`` parts, so only those that share a part
    are compared.
    """
    parts = near + 1
    edges = np.linspace(0, 64, parts + 1).astype(int)
    seen: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        buckets: dict[int, list[int]] = defaultdict(list)
        for position, digest in enumerate(digests):
            buckets[digest >> int(low) & ((1 << int(high - low)) - 1)].append(position)
        for bucket in buckets.values():
            values = np.array([digests[position] for position in bucket], np.uint64)
            for i in range(len(bucket) - 1):
                distance = np.bitwise_count(values[i + 1 :] ^ values[i])
                for j in np.flatnonzero(distance <= near):
                    pair = bucket[i], bucket[i + 1 + int(j)]
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _duplicates(corpus: Corpus, digests: list[int]) -> Iterator[Finding]:
    about = {name: corpus.images[name].to_pylist() for name in ("id", "dataset", "case", "split")}
    for a, b in near_pairs(digests):
        if about["case"][a] == about["case"][b]:
            continue  # neighbouring slices look alike
        crossing = about["split"][a] != about["split"][b] and None not in (about["split"][a], about["split"][b])
        where = "in another split" if crossing else "in the same split"
        yield Finding("duplicate", about["id"][a], f"looks like {about['id'][b]}, {where}", False)


def _image_findings(image: LabelledImage) -> Iterator[Finding]:
    pixels = image.image.pixels
    if pixels.min() == pixels.max():
        yield Finding("blank", image.name, f"every pixel is {pixels.flat[0]}", True)
    for entry in image.masks:
        if entry.mask.shape != pixels.shape[:2]:
            yield Finding("mismatch", image.name, f"a mask of {entry.target} has another size", True)
            continue
        if pixels.min() != pixels.max() and (pixels[entry.mask] == 0).mean() > 0.95:
            yield Finding("mismatch", image.name, f"more than 95 % of {entry.target} lies on black", False)


class _TargetStatistics:
    """What the exclusion criteria of COSMOS look at, by data set and target."""

    def __init__(self) -> None:
        self.shares: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.pieces: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.at_border: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, image: LabelledImage) -> None:
        import cc3d

        by_target: dict[str, NDArray[np.bool_]] = {}
        for entry in image.masks:
            whole = by_target.get(entry.target)
            by_target[entry.target] = entry.mask if whole is None else whole | entry.mask
        for target, mask in by_target.items():
            key = image.dataset, target
            parts = cc3d.connected_components(mask.astype(np.uint8), connectivity=8)
            self.shares[key].append(float(mask.mean()))
            self.pieces[key].append(int(parts.max()))
            self.at_border[key] += bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())

    def findings(self) -> Iterator[Finding]:
        for key in sorted(self.shares):
            shares, pieces = np.array(self.shares[key]), np.array(self.pieces[key])
            where = "/".join(key)
            if self.at_border[key]:
                what = f"touches the border of {self.at_border[key]} of {len(shares)} images"
                yield Finding("border", where, what, False)
            if np.median(shares) < SMALL_SHARE:
                what = f"COSMOS, criterion 1: its median size is {np.median(shares):.3%} of the image"
                yield Finding("target", where, what, False)
            if (pieces > 1).mean() > SCATTERED_SHARE:
                criterion = 3 if np.median(pieces) > PIECES else 2
                what = f"COSMOS, criterion {criterion}: it is in {np.median(pieces):.0f} pieces (median over images)"
                yield Finding("target", where, what, False)
