"""Listing of large data sets: what is found, its order, its memory, and labels that belong to no image."""

import gc
import json
import os
import tempfile
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from made_discs import COUNT, images, recipe
from vesalius.core.errors import ReadError, WriteError
from vesalius.corpus import sorting
from vesalius.corpus.curate import curate, list_jobs
from vesalius.corpus.layouts import layout
from vesalius.corpus.layouts.support import matching
from vesalius.corpus.recipe import LayoutName, Recipe
from vesalius.corpus.sorting import SortedRows, joined


def small_runs(monkeypatch: pytest.MonkeyPatch, size: int = 300, most: int = 3) -> None:
    monkeypatch.setattr(sorting, "RUN_BYTES", size)
    monkeypatch.setattr(sorting, "MOST_RUNS", most)


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_rows_are_sorted_and_keep_their_order_within_a_key(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_runs(monkeypatch)
    keys = np.random.default_rng(0).integers(0, 50, count).tolist()
    rows = [(f"key {key}", {"row": number}) for number, key in enumerate(keys)]
    found = SortedRows(rows, tmp_path)
    assert list(found) == sorted(rows, key=itemgetter(0))
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs(monkeypatch)
    rows = [("b", 1), ("a", 2), ("b", 3), ("d", 4)]
    assert list(joined(rows, [])) == [(key, row, None) for key, row in rows]
    beside = [("d", "last"), ("b", "once"), ("b", "again"), ("c", "of none")]
    assert list(joined(rows, beside)) == [("a", 2, None), ("b", 1, "again"), ("b", 3, "again"), ("d", 4, "last")]


def test_no_room_for_temporary_files(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs(monkeypatch)

    def full(**about: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", full)
        with pytest.raises(WriteError, match=r"temporary files cannot be written \(No space left.*TMPDIR"):
            list(list_jobs(recipe(), raw, Counter()))
        with pytest.raises(WriteError, match=r"temporary files cannot be written"):
            curate(recipe(), tmp_path / "corpus", root=raw)
    assert curate(recipe(), tmp_path / "corpus", root=raw).images == COUNT


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "**", "**/*", "**/*.png", "**/b", "**/b/**/*.png", "*/*.png", "none/*"),
        *("a/*.png", "a/x.png", "a/?.png", "a/[xy].png", "a/b/../*.png", "../*/a", "c[[]1]/*"),
        *("x.png/*", "**/x.png/*.png"),
    ],
)
def test_patterns_find_what_glob_finds(tmp_path: Path, pattern: str) -> None:
    for name in ("a/x.png", "a/y.png", "a/z.PNG", "a/.hidden.png", "a/b/x.png", "a/b/b/x.png", "c[1]/x.png", "x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if os.name != "nt":
        (tmp_path / "link").symlink_to(tmp_path / "a")
    assert sorted(matching(tmp_path, pattern)) == sorted(tmp_path.glob(pattern))


def test_folders_that_cannot_be_listed(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    about = recipe(layout="pairs", images="images/*", labels="labels/{stem}.png")
    (raw / "discs" / "images").mkdir(exist_ok=True)
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ReadError, match=r"discs.images: cannot be listed \(Permission denied\)"):
        list(list_jobs(about, raw, Counter()))


# JSON is read in pieces of 64 KB, which small files would not fill.
LONG = "x" * 150


def pairs(root: Path, count: int) -> dict[str, object]:
    for kind in ("images", "labels"):
        (root / kind).mkdir()
        for number in range(count):
            (root / kind / f"{number:06d}.png").touch()
    cases = {f"images/{number:06d}.png": {"case": str(number // 2) + LONG} for number in range(count)}
    (root / "cases.json").write_text(json.dumps(cases))
    return {"images": "images/*", "labels": "labels/{stem}.png"}


def cosmos(root: Path, count: int) -> dict[str, object]:
    pairs(root, count)
    return {}


def sa_med2d(root: Path, count: int) -> dict[str, object]:
    stems = [f"ct_00--set--{number:06d}--z_0001" for number in range(count)]
    index = {f"images/{stem}.png": [f"masks/{stem}--000{n}_000.png" for n in range(4)] for stem in stems}
    (root / "SAMed2D_v1.json").write_text(json.dumps(index))
    (root / "SAMed2D_v1_class_mapping_id.json").write_text('{"set": {"liver": "0000"}}')
    (root / "image2label_train.json").write_text(json.dumps(index))
    return {}


def sam_med2d(root: Path, count: int) -> dict[str, object]:
    for mode in ("train", "test"):
        rows = {f"d/masks/{mode}_{n:06d}_{LONG}_000.png": f"d/images/{mode}_{n:06d}.png" for n in range(count // 2)}
        (root / f"label2image_{mode}.json").write_text(json.dumps(rows))
    return {}


def coco(root: Path, count: int) -> dict[str, object]:
    (root / f"{0:06d}.png").touch()
    content = {
        "images": [{"id": n, "file_name": f"{n:06d}.png", "case": LONG} for n in range(count)],
        "annotations": [
            {"id": n, "image_id": n // 2, "category_id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}
            for n in range(2 * count)
        ],
        "categories": [{"id": 1, "name": "liver"}],
    }
    (root / "instances.json").write_text(json.dumps(content))
    return {}


def imis(root: Path, count: int) -> dict[str, object]:
    rows = [
        {"image": f"image/{n:06d}.png", "label": f"label/{n:06d}.(1, 5, 5, 1).npz", "case": LONG} for n in range(count)
    ]
    (root / "dataset.json").write_text(json.dumps({"training": rows, "labels": {"1": "liver"}}))
    return {}


def yolo(root: Path, count: int) -> dict[str, object]:
    pairs(root, count)
    (root / "data.yaml").write_text("train: images\nnames: [liver]\n")
    return {}


def nnunet(root: Path, count: int) -> dict[str, object]:
    for kind, ending in (("images", "_0000"), ("labels", "")):
        (root / f"{kind}Tr").mkdir()
        for number in range(count):
            (root / f"{kind}Tr" / f"{number:06d}{ending}.png").touch()
    (root / "dataset.json").write_text('{"labels": {"liver": 1}, "channel_names": {"0": "CT"}, "file_ending": ".png"}')
    return {}


def sa1b(root: Path, count: int) -> dict[str, object]:
    for number in range(count):
        (root / f"{number:06d}.png").touch()
        (root / f"{number:06d}.json").touch()
    return {}


def dicom(root: Path, count: int) -> dict[str, object]:
    about, series = Dataset(), Dataset()
    about.SOPClassUID, about.PatientID, about.Rows = CTImageStorage, LONG[:64], 1
    about.SeriesInstanceUID = series.SeriesInstanceUID = "2.25.1000000"
    about.ImagePositionPatient = [0, 0, 0]
    for modality, ending in (("CT", ""), ("SEG", "-seg")):
        about.Modality = modality
        file = BytesIO()
        about.save_as(file, implicit_vr=True, little_endian=True)
        for number in range(count):
            content = file.getvalue().replace(b"2.25.1000000", f"2.25.1{number:06d}".encode())
            (root / f"{number:06d}{ending}.dcm").write_bytes(content)
        about.ReferencedSeriesSequence = [series]
    return {}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pairs", pairs),
        pytest.param("dicom", dicom, marks=pytest.mark.slow),
        *(
            pytest.param(*about, marks=pytest.mark.long)
            for about in (
                ("cosmos", cosmos),
                ("sam-med2d", sam_med2d),
                ("coco", coco),
                ("imis", imis),
                ("yolo", yolo),
                ("nnunet", nnunet),
                ("sa1b", sa1b),
                ("sa-med2d-20m", sa_med2d),
            )
        ),
    ],
)
def test_memory_does_not_grow_with_the_number_of_entries(
    name: LayoutName,
    make: Callable[[Path, int], dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Headers of DICOM files are slow to read while memory is traced.
    few, many = (100, 400) if name == "dicom" else (500, 2000)
    small_runs(monkeypatch, size=few * 64, most=4)
    peaks: dict[int, list[int]] = {few: [], many: []}
    # The first time counts what is imported and kept, and any time what other threads of the interpreter ask for.
    for turn, count in enumerate((few, few, few, many, many, many)):
        root = tmp_path / str(turn)
        root.mkdir()
        given = recipe(layout=name, root=".", **make(root, count))
        gc.collect()
        tracemalloc.start()
        try:
            (last,) = deque(enumerate(list_jobs(given, root, Counter()), 1), maxlen=1)
            peaks[count].append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert last[0] == count
    assert min(peaks[many]) < 1.5 * min(peaks[few])


def test_the_order_does_not_depend_on_what_is_kept_on_disk(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pairs", "sam-med2d", "sa-med2d-20m", "imis"):
        marked = [replace(image, split=("train", "test")[number % 2]) for number, image in enumerate(images())]
        layout(name).write(marked, raw / name, name)  # type: ignore[arg-type]
    folders = ("discs", "pairs", "sam-med2d", "sa-med2d-20m", "imis")
    sets = []
    for folder in folders:
        found = layout("coco" if folder == "discs" else folder).guess(raw / folder)  # type: ignore[arg-type]
        assert found is not None
        sets.append(found.model_copy(update={"root": Path(folder)}))
    given = Recipe(name="all", datasets=tuple(sets))
    jobs = list(list_jobs(given, raw, Counter()))
    assert len(jobs) == len(folders) * COUNT
    for start in range(0, len(jobs), COUNT):
        names = [job.entry.name for job in jobs[start : start + COUNT]]
        assert names == sorted(names)
    assert {job.entry.split for job in jobs[COUNT:]} == {"train", "test"}
    small_runs(monkeypatch)
    assert list(list_jobs(given, raw, Counter())) == jobs


def put(path: Path, labels: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.indices((40, 44))
    Image.fromarray(((y > 9) & (x > 9) & (y < 30)).astype(np.uint8) if labels else (y * x % 251).astype(np.uint8)).save(
        path
    )


def rejected(corpus: Path, root: Path, *sets: dict[str, object]) -> list[tuple[str, str, str]]:
    """Data set, file and reason of what cannot be used."""
    made = [{"name": f"set{number}", "root": ".", "modality": "ct", **about} for number, about in enumerate(sets)]
    info = curate(Recipe.from_dict({"name": "all", "datasets": made}), corpus, root=root)
    assert info.images
    rows = pq.read_table(corpus / "rejects.parquet").to_pylist()
    return [(row["dataset"], row["file"], row["reason"]) for row in rows]


PAIRS = {"layout": "pairs", "images": "images/*.png", "labels": "labels/{stem}.png", "targets": {"1": "liver"}}


def test_label_files_without_image(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for stem in ("a_1", "a_2", "b_1"):
        put(root / f"images/{stem}.png")
        put(root / f"labels/{stem}.png", labels=True)
        put(root / f"{stem[0]}/objects_{stem}.png", labels=True)
    put(root / "labels/c_1.png", labels=True)
    put(root / "b/objects_b_2.png", labels=True)
    put(root / "labels/.hidden.png", labels=True)
    (root / "labels/notes.txt").touch()
    (root / "labels/folder.png").mkdir()
    about = PAIRS | {"instances": "{case}/objects_{stem}.png", "case": "([ab])_"}
    expected = [("set0", "b/objects_b_2.png", "has no image"), ("set0", "labels/c_1.png", "has no image")]
    assert rejected(tmp_path / "one", root, about) == expected
    # An image that is left out, since it has one file of two, uses that.
    (root / "labels/a_2.png").unlink()
    assert rejected(tmp_path / "loose", root, about | {"labelled_only": True}) == expected


def test_label_files_of_other_images_are_no_rejects(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for stem in ("a[1]", "a2", "b1"):
        put(root / f"images/{stem}.png")
        put(root / f"labels/{stem}.png", labels=True)
    # Data sets share a folder of labels.
    first, second = PAIRS | {"images": "images/a*.png"}, PAIRS | {"images": "images/b*.png"}
    assert rejected(tmp_path / "shared", root, first, second) == []
    assert rejected(tmp_path / "first", root, first) == [("set0", "labels/b1.png", "has no image")]
    # One label map for all images.
    assert rejected(tmp_path / "same", root, PAIRS | {"labels": "labels/a2.png"}) == []
    # Labels that lie elsewhere.
    assert rejected(tmp_path / "elsewhere", root, first | {"labels": f"{root}/labels/{{stem}}.png"}) == []
    # Labels beside images, whose pattern images match too.
    for stem in ("p", "q"):
        put(root / f"beside/{stem}_image.png")
        put(root / f"beside/{stem}.png", labels=True)
    beside = PAIRS | {"images": "beside/*_image.png", "labels": "beside/{case}.png", "case": "/(.+)_image"}
    assert rejected(tmp_path / "beside", root, beside) == []


def test_label_files_without_image_in_other_layouts(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for stem in ("a", "b", "c"):
        for name in (f"n/imagesTr/{stem}_0000", f"c/thing/images/{stem}", f"y/images/train/{stem}"):
            put(root / f"{name}.png")
        for name in (f"n/labelsTr/{stem}", f"c/thing/labels/{stem}"):
            put(root / f"{name}.png", labels=True)
        (root / "y/labels/train").mkdir(parents=True, exist_ok=True)
        (root / f"y/labels/train/{stem}.txt").write_text("0 0.2 0.2 0.8 0.2 0.8 0.8")
    (root / "n/dataset.json").write_text(
        '{"labels": {"liver": 1}, "channel_names": {"0": "CT"}, "file_ending": ".png"}'
    )
    (root / "y/data.yaml").write_text("train: images/train\nnames: [liver]\n")
    (root / "y/labels/train/classes.txt").write_text("liver\n")
    sets: list[dict[str, object]] = [
        {"layout": "nnunet", "root": "n"},
        {"layout": "cosmos", "root": "c", "targets": {"1": "liver"}},
        {"layout": "yolo", "root": "y"},
    ]
    assert rejected(tmp_path / "whole", root, *sets) == []
    for path in ("n/imagesTr/b_0000.png", "c/thing/images/b.png", "y/images/train/b.png"):
        (root / path).unlink()
    assert rejected(tmp_path / "part", root, *sets) == [
        ("set1", "c/thing/labels/b.png", "has no image"),
        ("set0", "n/labelsTr/b.png", "has no image"),
        ("set2", "y/labels/train/b.txt", "has no image"),
    ]
