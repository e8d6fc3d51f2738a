"""A small corpus that tests write: image ``number`` and its masks are a function of the number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vesalius.corpus.schema import DESCRIPTION, CorpusInfo, reject_schema
from vesalius.corpus.store import Corpus, ShardWriter, encode_png, mask_row


def picture(number: int) -> np.ndarray:
    shape = (20 + number, 30) if number % 3 else (20, 30, 3)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def masks_of(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    found = []
    for _ in range(number % 4):
        mask = rng.random(picture(number).shape[:2]) > 0.7
        mask[3, 4] = True
        found.append(mask)
    return found


def write(folder: Path, shards: list[list[int]]) -> Corpus:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, images in enumerate(shards):
        writer = ShardWriter(folder / "images" / f"{number:05d}.parquet", folder / "masks" / f"{number:05d}.parquet")
        for i in images:
            shared = {
                "id": f"set/{i}/2d_none",
                "modality": "ct" if i % 2 else None,
                "dataset": "set",
                "split": "test" if i % 5 == 0 else "train",
            }
            image = shared | {
                "image": {"bytes": encode_png(picture(i)), "path": f"{i}.png"},
                "height": picture(i).shape[0],
                "width": 30,
                "case": f"case{i // 2}",
                "name": str(i),
                "axis": "2d",
                "index": 0,
                "row_spacing": 0.5,
                "column_spacing": 0.25,
                "source": f"raw/{i}.png",
                "source_digest": f"{i:064d}",
                "masks": len(masks_of(i)),
            }
            about = {"target": f"target {i % 3}", "label": "x", "group": None, "organ": None, "instance": 1}
            rows = [mask_row(mask, shared | about | {"pseudo": False, "model": None}) for mask in masks_of(i)]
            writer.add(image, rows)
        writer.close()
    everything = [i for images in shards for i in images]
    info = CorpusInfo(
        name="made up",
        recipe=None,
        made_by={},
        images=len(everything),
        masks=sum(len(masks_of(i)) for i in everything),
        rejects=0,
        left_out={},
        unknown_targets={},
        shards=len(shards),
    )
    pq.write_table(pa.Table.from_pylist([], schema=reject_schema()), folder / "rejects.parquet")
    (folder / DESCRIPTION).write_text(info.model_dump_json())
    return Corpus(folder)
