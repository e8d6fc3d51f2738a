"""Dense pseudo masks for the images of a corpus: proposals of a model or of an over-segmentation, cleaned.

Source: IMed-361M, section 3: masks of everything mode, objects under 0.05 % of the image dropped, opened and closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.files import replacing
from vesalius.core.types import Slice
from vesalius.corpus.store import PSEUDO, Corpus, as_table, decode_png, file_metadata, mask_row, table_writer

Mask = NDArray[np.bool_]
# Masks of everything that an image shows, in any order; they may overlap.
Propose = Callable[[Slice], Iterable[Mask]]

MIN_SHARE = 0.0005
TARGET = "unnamed region"


def over_segmentation(image: Slice) -> Iterator[Mask]:
    """Regions of an image by Felzenszwalb and Huttenlocher's graph-based method, at three scales.

    Source: Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", 2004; scikit-image's version.
    """
    from skimage.segmentation import felzenszwalb

    pixels = image.rgb()
    least = max(20, int(MIN_SHARE * pixels.shape[0] * pixels.shape[1]))
    for scale in (50, 200, 800):
        regions = felzenszwalb(pixels, scale=scale, sigma=0.8, min_size=least)
        for region in range(int(regions.max()) + 1):
            yield regions == region


def cleaned(masks: Iterable[Mask]) -> Iterator[Mask]:
    """Opens and closes masks and drops what is small, most of the image, or there already.

    Args:
        masks: (H, W) bool, of one image.

    Yields:
        Those that remain, each once.
    """
    import cv2

    kernel = np.ones((3, 3), np.uint8)
    kept: list[Mask] = []
    for mask in masks:
        opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
        clean = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, kernel).astype(bool)
        if not MIN_SHARE <= clean.mean() <= 0.9 or any(_iou(clean, other) > 0.9 for other in kept):
            continue
        kept.append(clean)
        yield clean


def add_interactive_masks(
    corpus: Corpus,
    propose: Propose,
    model: str | None,
    progress: Callable[[int, int], object] | None = None,
    settings: str = "",
) -> int:
    """Draws pseudo masks for every image of a corpus, in place of earlier ones.

    They lie apart from the true masks, in the table ``pseudo``, have no target of the vocabulary, and carry the model's
    digest. Shards that the same model and settings have done are passed over, so an interrupted run goes on where it
    was.

    Args:
        corpus: The corpus.
        propose: Draws masks of everything.
        model: Digest of the weights that draw them; None for a method without weights.
        progress: Is told how many of all images are done.
        settings: With which the model draws, for the record.

    Returns:
        Number of pseudo masks in the corpus.

    Raises:
        OSError: The corpus cannot be written.
    """
    import pyarrow.parquet as pq

    about = {"model": model or "", "settings": settings}
    (corpus.folder / PSEUDO).mkdir(exist_ok=True)
    done = total = 0
    for images, path in zip(corpus.shards("images"), corpus.shards(PSEUDO), strict=True):
        source = pq.ParquetFile(images)
        if path.is_file() and about.items() <= file_metadata(path).items():
            done += source.metadata.num_rows
        else:
            with replacing(path) as part, table_writer(PSEUDO, part, about) as writer:
                for group in range(source.metadata.num_row_groups):
                    rows: list[dict[str, Any]] = []
                    for image in source.read_row_group(group).to_pylist():
                        rows += _rows(image, propose, model)
                        done += 1
                        if progress:
                            progress(done, len(corpus))
                    writer.write_table(as_table(PSEUDO, rows))
        total += pq.read_metadata(path).num_rows
    return total


def _rows(image: dict[str, Any], propose: Propose, model: str | None) -> list[dict[str, Any]]:
    shared = {name: image[name] for name in ("id", "modality", "dataset", "split")}
    about = {"target": TARGET, "label": TARGET, "group": None, "organ": None, "pseudo": True, "model": model}
    picture = Slice(decode_png(image["image"]["bytes"]), modality=image["modality"])
    return [
        mask_row(mask, shared | about | {"instance": number})
        for number, mask in enumerate(cleaned(propose(picture)), 1)
    ]


def _iou(a: Mask, b: Mask) -> float:
    either = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / either) if either else 0.0
