"""Writes and reads the tables of a corpus."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, ReadError
from vesalius.core.types import Slice
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.schema import DESCRIPTION, GROUP, SCHEMA_VERSION, CorpusInfo, image_schema, mask_schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TABLES = ("images", "masks")
# Pseudo masks, where a corpus has them; the columns are those of the masks.
PSEUDO = "pseudo"
# Says how a corpus is being split anew; there while its shards do not agree.
SPLITTING = ".splitting.json"
# Open files and row groups that a corpus keeps.
_FILES, _GROUPS = 64, 4
# Columns that make an image and its masks, besides the picture.
_ABOUT = ["id", "height", "width", "modality", "dataset", "case", "axis", "index", "row_spacing", "column_spacing"]
_ABOUT += ["source", "split", "masks"]
_OF_MASKS = ["rle", "target", "instance", "pseudo"]


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W) or (H, W, 3) RGB uint8 as PNG, little compressed: it is written and read several times faster.

    The filter Up is the fastest to undo of those that compress; the file is a tenth larger than the smallest.
    """
    import cv2

    settings = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    settings += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    shown = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", shown, settings)[1].tobytes()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """Undoes `encode_png`.

    Raises:
        ReadError: It is damaged.
    """
    import cv2

    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ReadError("a picture of the corpus is damaged", remedy="curate again")
    return np.asarray(pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """The counts of a mask's compressed COCO RLE."""
    from pycocotools import mask as coco

    counts: bytes = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts


def decode_mask(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool of the counts of a compressed COCO RLE."""
    from pycocotools import mask as coco

    decoded: NDArray[np.uint8] = coco.decode({"size": [height, width], "counts": counts})
    return decoded.view(np.bool_)


class ShardWriter:
    """Writes one shard: a file of images and a file of their masks.

    Args:
        images: File of the images.
        masks: File of the masks.
    """

    def __init__(self, images: Path, masks: Path) -> None:
        self.count = {"images": 0, "masks": 0}
        self._rows: dict[str, list[dict[str, Any]]] = {"images": [], "masks": []}
        self._writers = {"images": table_writer("images", images), "masks": table_writer("masks", masks)}

    def add(self, image: dict[str, Any], masks: Sequence[dict[str, Any]]) -> None:
        """Adds an image and its masks, as rows of the two tables."""
        self._rows["images"].append(image)
        self._rows["masks"].extend(masks)
        if len(self._rows["images"]) == GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what is left and the footers."""
        if self._rows["images"]:
            self._flush()
        for writer in self._writers.values():
            writer.close()

    def _flush(self) -> None:
        for name, rows in self._rows.items():
            self._writers[name].write_table(as_table(name, rows))
            self.count[name] += len(rows)
            rows.clear()


def rewrite_groups(source: Path, target: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Writes a file of a corpus anew, each row group changed."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(source)
    with table_writer(source.parent.name, target, file_metadata(source)) as writer:
        for group in range(file.metadata.num_row_groups):
            writer.write_table(change(file.read_row_group(group)))


class Corpus:
    """A corpus, opened for reading; it can be sent to other processes.

    Args:
        folder: Where it lies.
        splitting: Whether it is opened to be split anew, which an interrupted split does not hinder.
        splits: (data set, case) -> split, which its images then have in place of their own; the files stay as they are.

    Raises:
        ReadError: It is not a whole corpus, or of another version; or a split of it was interrupted.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        splitting: bool = False,
        splits: Mapping[tuple[str, str], str | None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.splits = splits
        path = self.folder / DESCRIPTION
        if not path.is_file():
            raise ReadError(
                f"is not a whole corpus: it has no {DESCRIPTION}",
                path=self.folder,
                remedy="if it was interrupted, run the same `vesalius curate` again",
            )
        try:
            self.info = CorpusInfo.from_dict(json.loads(path.read_text(encoding="utf-8")), path)
        except (OSError, ValueError) as error:
            raise ReadError(f"cannot be read ({error})", path=path) from error
        except ConfigError as error:
            raise ReadError(error.reason, path=path, remedy="update vesalius, or curate again") from error
        if self.info.schema_version != SCHEMA_VERSION:
            raise ReadError(
                f"is of schema {self.info.schema_version}, and {SCHEMA_VERSION} is read here",
                path=path,
                remedy="update vesalius" if self.info.schema_version > SCHEMA_VERSION else "curate again",
            )
        if (self.folder / SPLITTING).is_file() and not splitting:
            begun = json.loads((self.folder / SPLITTING).read_text(encoding="utf-8"))
            shares = " ".join(map(str, begun["shares"]))
            raise ReadError(
                "its split was interrupted, or goes on",
                path=self.folder,
                remedy=f"run `vesalius corpus split {self.folder} --shares {shares} --seed {begun['seed']}` again",
            )
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], tuple[pa.ChunkedArray, pa.Table]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "splits": self.splits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], splits=state["splits"])  # type: ignore[misc]

    def __len__(self) -> int:
        return self.info.images

    def __repr__(self) -> str:
        return f"Corpus({str(self.folder)!r}: {self.info.images} images, {self.info.masks} masks)"

    @cached_property
    def images(self) -> pa.Table:
        """Every column of the images but the pictures; row i is image i."""
        return self._split(self.table("images", columns=[name for name in image_schema().names if name != "image"]))

    def _split(self, images: pa.Table) -> pa.Table:
        """Images with the splits that they have here."""
        import pyarrow as pa

        if self.splits is None:
            return images
        pairs = zip(images["dataset"].to_pylist(), images["case"].to_pylist(), strict=True)
        column = pa.array([self.splits.get(pair) for pair in pairs], pa.string())
        return images.set_column(images.schema.get_field_index("split"), "split", column)

    def masks(self, columns: Sequence[str] | None = None, **where: object) -> pa.Table:
        """The masks, or those that have given values: ``masks(["id", "area"], modality="ct", target="liver")``.

        Args:
            columns: Names of columns; all if left out.
            where: Column -> its value, or a list of values of which it has one.
        """
        return self.table("masks", columns, where)

    def table(
        self, name: str, columns: Sequence[str] | None = None, where: Mapping[str, object] | None = None
    ) -> pa.Table:
        """Columns of ``"images"``, ``"masks"`` or ``"pseudo"``; names that repeat come as dictionaries.

        Args:
            name: Of the table.
            columns: Names of columns; all if left out.
            where: See `masks`.
        """
        import pyarrow as pa

        # File by file: pyarrow's own scanner takes three times as long over many small row groups.
        tables = [self._read_shard(path, name, columns, where or {}) for path in self.shards(name)]
        if not tables:
            schema = _schema(name)
            return schema.empty_table() if columns is None else schema.empty_table().select(list(columns))
        return pa.concat_tables(tables).unify_dictionaries()

    def _read_shard(
        self, path: Path, name: str, columns: Sequence[str] | None, where: Mapping[str, object]
    ) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        file = self._file(path)
        wanted = _schema(name).names if columns is None else list(columns)
        table = file.read(columns=list(dict.fromkeys([*wanted, *where])))
        for column, value in where.items():
            values = value if isinstance(value, list | tuple | set) else [value]
            table = table.filter(pc.is_in(table[column], pa.array(list(values), table[column].type)))
        table = table.select(wanted)
        for column in set(_words(name)) & set(wanted):
            position = table.schema.get_field_index(column)
            table = table.set_column(position, column, table[column].dictionary_encode())
        return table.replace_schema_metadata(None)

    def shards(self, name: str) -> list[Path]:
        """The files of a table, in order."""
        return [self._shard(name, number) for number in range(self.info.shards)]

    def _shard(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.parquet"

    def read(self, index: int, which: Sequence[int] | None = None) -> LabelledImage:
        """Reads image ``index`` and its masks, or the chosen ones of them.

        Args:
            index: Row of ``images``.
            which: Numbers of the masks, from 0, in the order wanted; all if left out.

        Raises:
            IndexError: There is no such image.
            ReadError: A file is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index} among {len(self)}")
        shard, group, row = self._place(index)
        pictures, masks = self._group(shard, group)
        about = {name: self._index[name][index].as_py() for name in _ABOUT}
        first = int(self._first[index] - self._first[index - row])
        rows = range(about["masks"]) if which is None else which
        return _labelled(about, pictures[row].as_py()["bytes"], masks, [first + number for number in rows])

    def stream(self) -> Iterator[LabelledImage]:
        """All images with their masks, in order."""
        for shard, groups in enumerate(self._layout):
            for group in range(len(groups)):
                file = self._file(self._shard("images", shard))
                images = self._split(file.read_row_group(group, [*_ABOUT, "image.bytes"]))
                masks = self._file(self._shard("masks", shard)).read_row_group(group, _OF_MASKS)
                first = 0
                for about in images.to_pylist():
                    yield _labelled(about, about["image"]["bytes"], masks, range(first, first + about["masks"]))
                    first += about["masks"]

    def pseudo_masks(self, index: int) -> list[ObjectMask]:
        """The pseudo masks of image ``index``, which lie apart from the true ones; none where none were drawn.

        Raises:
            IndexError: There is no such image.
            ReadError: A file is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index} among {len(self)}")
        shard, group, _ = self._place(index)
        path = self._shard(PSEUDO, shard)
        if not path.is_file():
            return []
        about = {name: self._index[name][index].as_py() for name in _ABOUT}
        masks = self._file(path).read_row_group(group, ["id", *_OF_MASKS])
        return [_mask(about, masks, row) for row, name in enumerate(masks["id"].to_pylist()) if name == about["id"]]

    @cached_property
    def _index(self) -> pa.Table:
        """What `_ABOUT` names of every image, in one piece."""
        return self._split(self.table("images", _ABOUT)).combine_chunks()

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """Masks of all images before each."""
        counts = self._index["masks"].to_numpy()
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @cached_property
    def _layout(self) -> list[list[int]]:
        """Images in each row group of each shard."""
        layout = []
        for path in self.shards("images"):
            meta = self._file(path).metadata
            layout.append([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])
        return layout

    @cached_property
    def _ends(self) -> tuple[NDArray[np.int64], list[tuple[int, int, int]]]:
        ends, places, total = [], [], 0
        for shard, groups in enumerate(self._layout):
            for group, rows in enumerate(groups):
                places.append((shard, group, total))
                total += rows
                ends.append(total)
        return np.array(ends, np.int64), places

    def _place(self, index: int) -> tuple[int, int, int]:
        ends, places = self._ends
        shard, group, start = places[int(np.searchsorted(ends, index, side="right"))]
        return shard, group, index - start

    def _group(self, shard: int, group: int) -> tuple[pa.ChunkedArray, pa.Table]:
        """The pictures and the masks of a row group."""
        key = shard, group
        if key not in self._groups:
            # What threads would save on so little, starting them costs.
            pictures = self._file(self._shard("images", shard)).read_row_group(group, ["image.bytes"], False)
            masks = self._file(self._shard("masks", shard)).read_row_group(group, _OF_MASKS, False)
            self._groups[key] = pictures["image"], masks
            if len(self._groups) > _GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def _file(self, path: Path) -> pq.ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if path not in self._files:
            try:
                self._files[path] = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
            except (OSError, pa.ArrowInvalid) as error:
                raise ReadError(f"cannot be read ({error})", path=path, remedy="curate again") from error
            if len(self._files) > _FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]


def _labelled(about: Mapping[str, Any], picture: bytes, masks: pa.Table, rows: Sequence[int]) -> LabelledImage:
    """An image of which ``about`` knows `_ABOUT`, with the masks in some rows of a table."""
    spacing = None if about["row_spacing"] is None else (about["row_spacing"], about["column_spacing"])
    source = Path(about["source"])
    image = Slice(
        decode_png(picture),
        spacing=spacing,
        modality=about["modality"],
        source=source,
        axis="z" if about["axis"] == "2d" else about["axis"],
        index=about["index"],
    )
    return LabelledImage(
        image=image,
        modality=about["modality"] or "unknown",
        dataset=about["dataset"],
        case=about["case"],
        path=source,
        masks=[_mask(about, masks, row) for row in rows],
        name=about["id"],
        split=about["split"],
    )


def _mask(about: Mapping[str, Any], masks: pa.Table, row: int) -> ObjectMask:
    counts, target, instance, pseudo = (masks[name][row].as_py() for name in _OF_MASKS)
    return ObjectMask(decode_mask(counts, about["height"], about["width"]), target, instance, pseudo)


def is_corpus(folder: Path) -> bool:
    """Whether a folder is a whole corpus."""
    return (folder / DESCRIPTION).is_file()


def _words(name: str) -> list[str]:
    """Columns whose values repeat."""
    common = ["modality", "dataset", "split"]
    return (
        [*common, "case", "name", "axis", "source", "source_digest"]
        if name == "images"
        else ["id", *common, "target", "label", "group", "organ", "model"]
    )


def table_writer(name: str, path: Path, about: Mapping[str, str] | None = None) -> pq.ParquetWriter:
    """Writes the row groups of one file of a table; ``about`` is kept in the file's metadata."""
    import pyarrow.parquet as pq

    schema = _schema(name)
    if about:
        schema = schema.with_metadata({**(schema.metadata or {}), **about})
    # PNG does not get smaller, the rest does.
    compression = {leaf: "none" if leaf == "image.bytes" else "zstd" for leaf in _leaves(schema)}
    return pq.ParquetWriter(path, schema, compression=compression, use_dictionary=_words(name))


def file_metadata(path: Path) -> dict[str, str]:
    """What a file of a corpus says about itself."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"}


def as_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows with the columns of a table."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=_schema(name))


def _schema(name: str) -> pa.Schema:
    return image_schema() if name == "images" else mask_schema()


def _leaves(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        if str(field.type).startswith("struct"):
            yield from (f"{field.name}.{field.type.field(i).name}" for i in range(field.type.num_fields))
        else:
            yield field.name


def mask_row(mask: NDArray[np.bool_], about: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the masks: what ``about`` says, and what the mask itself says."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return {
        **about,
        "rle": encode_mask(mask),
        "height": mask.shape[0],
        "width": mask.shape[1],
        "area": int(mask.sum()),
        "x0": int(columns[0]),
        "y0": int(rows[0]),
        "x1": int(columns[-1]) + 1,
        "y1": int(rows[-1]) + 1,
    }
