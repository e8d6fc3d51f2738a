"""A corpus beside the same images and masks as PNG files.

    python benchmarks/corpus.py CORPUS [--samples 300] [--turns 5] [--masks 1000000]

Counted: files and bytes. Timed, taking turns in one process: a random training sample (an image and five of its masks),
and all samples in order. PNG is read as the published loader of SAM-Med2D does, by OpenCV, one file per mask. Opening a
corpus of a million masks and filtering it by modality and target is timed on a made-up one of masks alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from vesalius.corpus.schema import DESCRIPTION, CorpusInfo, mask_schema
from vesalius.corpus.store import Corpus, table_writer

PER_SAMPLE = 5


def write_pngs(corpus: Corpus, folder: Path) -> dict[str, list[str]]:
    """One PNG per image and per mask, and the JSON that joins them."""
    joined: dict[str, list[str]] = {}
    for number, image in enumerate(corpus.stream()):
        name = folder / "images" / f"{number:07d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        pixels = image.image.pixels
        cv2.imwrite(str(name), pixels if pixels.ndim == 2 else pixels[..., ::-1])
        own = joined[str(name)] = []
        for i, entry in enumerate(image.masks):
            path = folder / "masks" / f"{number:07d}_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), entry.mask.astype(np.uint8) * 255)
            own.append(str(path))
    (folder / "image2label.json").write_text(json.dumps(joined))
    return joined


def read_png(name: str, masks: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    return cv2.imread(name, cv2.IMREAD_UNCHANGED), [cv2.imread(path, cv2.IMREAD_GRAYSCALE) > 0 for path in masks]


def size_of(folder: Path, pattern: str) -> tuple[int, int]:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def many_masks(folder: Path, count: int) -> Corpus:
    """A corpus whose table of masks has ``count`` rows; there are no images."""
    rng = np.random.default_rng(0)
    shard = 50_000
    schema = mask_schema()
    (folder / "masks").mkdir(parents=True)
    targets = np.array([f"target {i}" for i in range(200)])
    modalities = np.array(["ct", "mr", "xray", "ultrasound", "fundus"])
    for number in range(count // shard):
        columns = {}
        for field in schema:
            if field.name == "rle":
                values: pa.Array = pa.array([rng.bytes(60) for _ in range(shard)], pa.binary())
            elif field.name == "target":
                values = pa.array(targets[np.minimum(rng.geometric(0.03, shard), 199)])
            elif field.name == "modality":
                values = pa.array(modalities[np.repeat(rng.integers(0, 5, shard // 500), 500)])
            elif field.name == "id":
                values = pa.array([f"set/case{i // 600}/z_{i // 6 % 100:04d}" for i in range(shard)])
            elif field.type == pa.string():
                values = pa.array(["same"] * shard)
            else:
                values = pa.array(rng.integers(0, 2, shard)).cast(field.type)
            columns[field.name] = values
        with table_writer("masks", folder / "masks" / f"{number:05d}.parquet") as writer:
            writer.write_table(pa.table(columns, schema=schema), row_group_size=100)
    info = CorpusInfo(
        name="many",
        recipe=None,
        made_by={},
        images=0,
        masks=count,
        rejects=0,
        left_out={},
        unknown_targets={},
        shards=count // shard,
    )
    (folder / DESCRIPTION).write_text(info.model_dump_json())
    return Corpus(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--masks", type=int, default=1_000_000)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    corpus = Corpus(arguments.corpus)
    place = Path(tempfile.mkdtemp())
    try:
        joined = write_pngs(corpus, place)
        names = list(joined)
        rng = np.random.default_rng(0)
        chosen = [int(i) for i in rng.integers(0, len(corpus), arguments.samples)]
        which = [list(rng.integers(0, len(joined[names[i]]), PER_SAMPLE)) for i in chosen]

        def random_png() -> None:
            for i, masks in zip(chosen, which, strict=True):
                read_png(names[i], [joined[names[i]][m] for m in masks])

        opened = Corpus(arguments.corpus)
        opening = seconds(lambda: opened.read(0))

        def random_corpus() -> None:
            for i, masks in zip(chosen, which, strict=True):
                opened.read(i, masks)

        def stream_png() -> None:
            for name, masks in joined.items():
                read_png(name, masks)

        def stream_corpus() -> None:
            for _ in Corpus(arguments.corpus).stream():
                pass

        calls = {"random": (random_png, random_corpus), "stream": (stream_png, stream_corpus)}
        times: dict[tuple[str, int], list[float]] = {(name, side): [] for name in calls for side in (0, 1)}
        for _ in range(arguments.turns + 1):
            for name, pair in calls.items():
                for side, call in enumerate(pair):
                    times[name, side].append(seconds(call))
        median = {key: statistics.median(values[1:]) for key, values in times.items()}
        table = Table("what", "PNG", "corpus", "ratio", box=box.MARKDOWN)
        files, ours = size_of(place, "*")[0], size_of(corpus.folder, "*")[0]
        table.add_row("files", str(files), str(ours), f"{files / ours:.0f}")
        for name in ("images", "masks"):
            png, own = size_of(place / name, "*.png")[1], size_of(corpus.folder / name, "*")[1]
            table.add_row(f"bytes of {name}", f"{png:,}", f"{own:,}", f"{png / own:.2f}")
        png, own = median["random", 0] / arguments.samples, median["random", 1] / arguments.samples
        table.add_row("random sample", f"{1e3 * png:.2f} ms", f"{1e3 * own:.2f} ms", f"{png / own:.2f}")
        png, own = median["stream", 0], median["stream", 1]
        table.add_row(
            "in order", f"{len(corpus) / png:.0f} images/s", f"{len(corpus) / own:.0f} images/s", f"{png / own:.2f}"
        )
        Console(width=120).print(table)
        print(f"random samples: of an open corpus; opening it and the first sample took {opening:.2f} s, once")
        if arguments.masks:
            many_masks(place / "many", arguments.masks)

            def open_and_filter() -> None:
                Corpus(place / "many").masks(["id", "area"], modality="ct", target="target 3")

            taken = statistics.median(seconds(open_and_filter) for _ in range(5))
            size = sum(pq.read_metadata(path).serialized_size for path in (place / "many" / "masks").iterdir())
            print(f"{arguments.masks:,} masks, {size / 1e6:.1f} MB of footers: opened and filtered in {taken:.2f} s")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
