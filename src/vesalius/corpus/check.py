"""Looks for what spoils a corpus: leakage, near-duplicates, blank images, masks at the border, wrong pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.store import Corpus

# Bits of two images' digests, of 128, that may differ before they count as different images.
NEAR = 6
# Images that look exactly alike of which so many are compared with each other.
_COMPARED = 100
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

    Cases of one name in different data sets may be one patient or two: that is to be looked at.
    """
    names = ("dataset", "case", "source_digest", "split")
    rows = [row for row in zip(*(corpus.images[name].to_pylist() for name in names), strict=True) if row[3] is not None]
    for what, serious, key in (
        ("case", True, lambda row: f"{row[0]}/{row[1]}"),
        ("source file", True, lambda row: row[2]),
        ("name of cases in different data sets", False, lambda row: row[1]),
    ):
        splits: dict[str, set[str]] = defaultdict(set)
        datasets: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            splits[key(row)].add(row[3])
            datasets[key(row)].add(row[0])
        for name, found in sorted(splits.items()):
            if len(found) > 1 and (serious or len(datasets[name]) > 1):
                yield Finding("leakage", name, f"this {what} is in {' and '.join(sorted(found))}", serious)


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """128 bits that stay nearly the same when an image is scaled, compressed or brightened.

    Each bit says whether one of 8 x 8 cells is brighter than the one to its left, and the one above (Krawetz's dHash,
    along both axes).
    """
    import cv2

    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    wide, high = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.int16) for size in ((9, 8), (8, 9)))
    bits = np.stack([wide[:, 1:] > wide[:, :-1], high[1:] > high[:-1]])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(digests: Sequence[int], near: int = NEAR) -> Iterator[tuple[int, int]]:
    """Pairs of positions whose digests differ in at most ``near`` bits, each pair once.

    Two digests that differ in at most ``near`` bits agree in one of ``near + 1`` parts, so only those that share a part
    are compared; a pair is given where the first part is that it shares.

    Args:
        digests: 128 bits each, all different.
        near: Bits that may differ.
    """
    edges = [int(edge) for edge in np.linspace(0, 128, near + 2)]
    masks = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in pairwise(edges)]
    words = np.array([(digest >> 64, digest & (2**64 - 1)) for digest in digests], np.uint64).reshape(-1, 2)
    for part, mask in enumerate(masks):
        buckets: dict[int, list[int]] = defaultdict(list)
        for position, digest in enumerate(digests):
            buckets[digest & mask].append(position)
        for bucket in buckets.values():
            values = words[bucket]
            for i in range(len(bucket) - 1):
                distance = np.bitwise_count(values[i + 1 :] ^ values[i]).sum(1)
                for j in np.flatnonzero(distance <= near):
                    a, b = bucket[i], bucket[i + 1 + int(j)]
                    different = digests[a] ^ digests[b]
                    if all(different & earlier for earlier in masks[:part]):
                        yield a, b


def _duplicates(corpus: Corpus, digests: list[int]) -> Iterator[Finding]:
    """One finding for each two pictures that look alike, however many images show them."""
    about = {name: corpus.images[name].to_pylist() for name in ("id", "case", "split")}
    groups: dict[int, list[int]] = defaultdict(list)
    for position, digest in enumerate(digests):
        groups[digest].append(position)
    different = list(groups)
    pairs = ((different[a], different[b]) for a, b in near_pairs(different))
    for one, other in chain(((digest, digest) for digest in different), pairs):
        # Neighbouring slices of a case look alike. Two splits weigh more than one, so they are looked for first.
        found = _apart(groups[one], groups[other], about["case"], about["split"])
        if found is not None:
            a, b, crossing = found
            where = "in another split" if crossing else "in the same split"
            yield Finding("duplicate", about["id"][a], f"looks like {about['id'][b]}, {where}", False)


def _apart(
    ones: Sequence[int], others: Sequence[int], cases: Sequence[str], splits: Sequence[str | None]
) -> tuple[int, int, bool] | None:
    """An image of each group, of different cases and if possible of different splits; None if there are none."""
    # One image of each case and split stands for all of them.
    first = list({(cases[i], splits[i]): i for i in reversed(ones)}.values())
    second = list({(cases[i], splits[i]): i for i in reversed(others)}.values())
    same: tuple[int, int, bool] | None = None
    for a in first[:_COMPARED]:
        for b in second[:_COMPARED]:
            if cases[a] != cases[b]:
                if splits[a] != splits[b] and None not in (splits[a], splits[b]):
                    return min(a, b), max(a, b), True
                same = same or (min(a, b), max(a, b), False)
    return same


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
