import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

import vesalius as vs
from made_discs import COUNT, RECIPE, files, images, recipe
from vesalius.cli import main
from vesalius.corpus import curate as curate_module
from vesalius.corpus.curate import curate, list_jobs, split_blocks
from vesalius.corpus.layouts import layout
from vesalius.corpus.recipe import DatasetRecipe, Recipe
from vesalius.corpus.split import split_among
from vesalius.corpus.store import Corpus, rewrite_groups


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate_module, "BLOCK_ENTRIES", 5)


def test_everything_is_in_the_corpus(raw: Path, tmp_path: Path, small_blocks: None) -> None:
    seen: list[tuple[int, int]] = []
    info = curate(recipe(), tmp_path / "corpus", root=raw, progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (COUNT, COUNT)
    assert (info.images, info.rejects, info.shards) == (COUNT, 0, 5)
    assert info.unknown_targets == {"gremlin": info.masks - COUNT}
    corpus = Corpus(tmp_path / "corpus")
    assert sorted(path.name for path in corpus.folder.iterdir()) == [
        "corpus.json",
        "images",
        "masks",
        "rejects.parquet",
    ]
    for source, found in zip(images(), corpus.stream(), strict=True):
        low, high = int(source.image.pixels.min()), int(source.image.pixels.max())
        expected = np.ceil((source.image.pixels - float(low)) * 255 / (high - low) - 1e-9)
        np.testing.assert_array_equal(found.image.pixels, expected)
        assert [entry.target for entry in found.masks] == [entry.target for entry in source.masks]
        for mask, true in zip(found.masks, source.masks, strict=True):
            np.testing.assert_array_equal(mask.mask, true.mask)
        assert found.case == source.case
    rows = corpus.images.to_pylist()
    assert all((raw / row["source"]).is_file() for row in rows)
    digest = hashlib.sha256((raw / rows[3]["source"]).read_bytes()).hexdigest()
    assert rows[3]["source_digest"] == digest
    # No patient on both sides.
    splits = {(row["case"], row["split"]) for row in rows}
    assert len({case for case, _ in splits}) == len(splits) == COUNT // 2
    assert {row["group"] for row in corpus.masks().to_pylist() if row["target"] == "liver"} == {"abdomen"}


def test_workers_and_interruptions_change_no_byte(raw: Path, tmp_path: Path, small_blocks: None) -> None:
    curate(recipe(), tmp_path / "one", root=raw)
    curate(recipe(), tmp_path / "two", root=raw, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")

    def interrupt(done: int, _total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate(recipe(), tmp_path / "three", root=raw, progress=interrupt)
    with pytest.raises(vs.VesaliusError, match="is not a whole corpus"):
        Corpus(tmp_path / "three")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "three" / "images").iterdir()}
    assert len(kept) == 2
    curate(recipe(), tmp_path / "three", root=raw)
    assert files(tmp_path / "one") == files(tmp_path / "three")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    # Once more changes nothing.
    assert curate(recipe(), tmp_path / "three", root=raw) == Corpus(tmp_path / "one").info


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_and_run_again_it_ends_with_the_same_bytes(raw: Path, tmp_path: Path, small_blocks: None) -> None:
    curate(recipe(), tmp_path / "whole", root=raw)
    code = """
import sys, time
from pathlib import Path
from typing import Any
from vesalius.corpus import curate as module
from vesalius.corpus.recipe import Recipe
module.BLOCK_ENTRIES = 5
module.curate(Recipe.from_toml(sys.argv[1]), sys.argv[2], root=sys.argv[3], progress=lambda *_: time.sleep(0.4))
"""
    toml = tmp_path / "recipe.toml"
    toml.write_text(RECIPE)
    process = subprocess.Popen([sys.executable, "-c", code, toml, tmp_path / "killed", raw])
    state = tmp_path / "killed" / ".curate"
    while len(list(state.glob("0*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(state.glob("0*.json"))) < 5
    curate(recipe(), tmp_path / "killed", root=raw)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_full_disk_leaves_what_is_whole_and_goes_on_later(
    raw: Path, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vesalius.corpus import block

    curate(recipe(), tmp_path / "whole", root=raw)
    add, count = block.ShardWriter.add, 0

    def full(self: block.ShardWriter, *rows: object) -> None:
        nonlocal count
        count += 1
        if count > 12:
            raise OSError(28, "No space left on device")
        add(self, *rows)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(block.ShardWriter, "add", full)
        with pytest.raises(vs.VesaliusError, match=r"No space left.*goes on where it was"):
            curate(recipe(), tmp_path / "full", root=raw)
    assert sorted(path.name for path in (tmp_path / "full" / "images").iterdir()) == ["00000.parquet", "00001.parquet"]
    curate(recipe(), tmp_path / "full", root=raw)
    assert files(tmp_path / "full") == files(tmp_path / "whole")


def test_another_recipe_does_not_touch_a_corpus(raw: Path, tmp_path: Path) -> None:
    curate(recipe(), tmp_path / "corpus", root=raw)
    before = files(tmp_path / "corpus")
    for other in (recipe(modality="mr"), recipe(profile="cosmos")):
        with pytest.raises(vs.VesaliusError, match="holds another corpus"):
            curate(other, tmp_path / "corpus", root=raw)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(vs.VesaliusError, match="is not a corpus"):
        curate(recipe(), tmp_path / "mine", root=raw)
    assert files(tmp_path / "corpus") == before


def test_one_bad_file_is_one_reject(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = sorted((raw / "discs").rglob("*.png"))
    pictures[2].write_bytes(pictures[2].read_bytes()[:200])
    pictures[7].unlink()
    toml = tmp_path / "recipe.toml"
    toml.write_text(
        'name = "all"\n[[datasets]]\nname = "discs"\nlayout = "coco"\nroot = "raw/discs"\nmodality = "ct"\n'
    )
    command = ["curate", str(toml), "-o", str(tmp_path / "corpus"), "--workers", "1"]
    for extra, code in (([], 1), (["--allow-rejects"], 0)):
        with pytest.raises(SystemExit) as stop:
            main([*command, *extra])
        assert (stop.value.code or 0) == code
        assert "2 entries could not be used" in capsys.readouterr().out
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert {Path(row["file"]).name for row in rejects} == {pictures[2].name, pictures[7].name}
    assert all(row["reason"] and row["dataset"] == "discs" for row in rejects)
    assert Corpus(tmp_path / "corpus").info.images == COUNT - 2


def test_profiles_leave_out_and_say_so(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "big.toml").write_text("min_area = 0.05\nintensity = 'min_max'\n")
    info = curate(recipe(profile=str(tmp_path / "big.toml")), tmp_path / "corpus", root=raw)
    assert info.masks == COUNT
    assert info.left_out == {"the mask is too small": sum(len(image.masks) - 1 for image in images())}


def test_at_most_so_many_test_images(raw: Path, tmp_path: Path, small_blocks: None) -> None:
    (tmp_path / "few.toml").write_text("split = [0.4, 0.0, 0.6]\nmax_test = 5\n")
    info = curate(recipe(profile=str(tmp_path / "few.toml")), tmp_path / "corpus", root=raw)
    corpus = Corpus(tmp_path / "corpus")
    splits = corpus.images["split"].to_pylist()
    assert splits.count("test") == 4
    assert info.left_out == {"more test images of discs than the profile takes: no split": splits.count(None)}
    assert corpus.masks(["split"])["split"].to_pylist().count(None) > 0


def test_the_limit_of_test_images_can_be_interrupted(
    raw: Path, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "few.toml").write_text("split = [0.4, 0.0, 0.6]\nmax_test = 5\n")
    few = recipe(profile=str(tmp_path / "few.toml"))
    expected = curate(few, tmp_path / "expected", root=raw)
    written = []

    def interrupted(*arguments: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(rewrite_groups(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr("vesalius.corpus.resplit.rewrite_groups", interrupted)
        with pytest.raises(KeyboardInterrupt):
            curate(few, tmp_path / "corpus", root=raw)
    assert len(written) == 3
    assert curate(few, tmp_path / "corpus", root=raw).left_out == expected.left_out
    assert files(tmp_path / "corpus") == files(tmp_path / "expected")


def test_recipes_that_make_no_sense_are_refused(raw: Path, tmp_path: Path) -> None:
    dataset = recipe().datasets[0]
    with pytest.raises(vs.VesaliusError, match="two data sets are named discs"):
        curate(Recipe(name="x", datasets=(dataset, dataset)), tmp_path / "corpus", root=raw)
    with pytest.raises(vs.VesaliusError, match=r"there is no profile 'best'.*sa-med2d"):
        curate(recipe(profile="best"), tmp_path / "corpus", root=raw)
    with pytest.raises(vs.VesaliusError, match="there is no such folder"):
        curate(recipe(root="absent"), tmp_path / "corpus", root=raw)
    with pytest.raises(vs.VesaliusError, match=r"datasets.0.layuot"):
        Recipe.from_dict({"name": "x", "datasets": [{**json.loads(dataset.model_dump_json()), "layuot": 1}]})
    assert not (tmp_path / "corpus").exists()


def test_blocks_end_by_size_and_number(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = list(list_jobs(recipe(), raw, Counter()))
    sizes = [job.entry.image.stat().st_size for job in jobs]
    monkeypatch.setattr(curate_module, "BLOCK_BYTES", sum(sizes[:3]))
    blocks = list(split_blocks(jobs))
    assert [job for block in blocks for job in block] == jobs
    assert len(blocks[0]) == 3
    assert all(len(block) <= 5 for block in blocks)
    # They double, but not for ever.
    monkeypatch.setattr(curate_module, "BLOCK_BYTES", max(sizes))
    monkeypatch.setattr(curate_module, "GROWTH", 1)
    monkeypatch.setattr(curate_module, "LARGEST_BLOCK", 4 * max(sizes))
    limits = [max(sizes), 2 * max(sizes), *[4 * max(sizes)] * len(jobs)]
    grown = [[job.entry.image.stat().st_size for job in block] for block in split_blocks(jobs)]
    assert len(grown) > 3
    for own, limit in zip(grown[:-1], limits, strict=False):
        assert sum(own[:-1]) < limit <= sum(own)
    assert isinstance(jobs[0].dataset, DatasetRecipe)


def test_images_without_labels_are_rejects_unless_the_recipe_leaves_them_out(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    for number in range(3):
        Image.fromarray(data.camera()[number::8, ::8]).save(tmp_path / "raw" / "images" / f"{number}.png")
    labels = np.zeros(data.camera()[::8, ::8].shape, np.uint8)
    labels[20:40, 20:40] = 1
    Image.fromarray(labels).save(tmp_path / "raw" / "labels" / "0.png")
    about = {"layout": "pairs", "images": "images/*", "labels": "labels/{stem}.png", "targets": {"1": "liver"}}
    strict = recipe(root="raw", **about)
    info = curate(strict, tmp_path / "strict", root=tmp_path)
    assert (info.images, info.rejects, info.left_out) == (1, 2, {})
    loose = curate(recipe(root="raw", labelled_only=True, **about), tmp_path / "loose", root=tmp_path)
    assert (loose.images, loose.rejects, loose.left_out) == (1, 0, {"there is no label file": 2})


def test_a_layout_that_knows_one_split_alone_leaves_it_to_the_profile(tmp_path: Path) -> None:
    def written(splits: list[str | None]) -> dict[str | None, int]:
        folder = tmp_path / "-".join(split or "none" for split in splits)
        marked = [replace(image, split=splits[number % len(splits)]) for number, image in enumerate(images())]
        layout("coco").write(marked, folder / "discs", "discs")
        info = curate(recipe(), folder / "corpus", root=folder)
        assert info.images == COUNT
        return Counter(Corpus(folder / "corpus").images["split"].to_pylist())

    expected = written([None])
    assert expected["train"] > COUNT // 2
    assert written(["test"]) == expected
    assert written(["train", "val"]) == {"train": COUNT // 2, "val": COUNT // 2}


@pytest.mark.parametrize("name", ["msd", "coco"])
def test_images_without_labels_do_not_make_a_split(tmp_path: Path, name: str) -> None:
    marked = [replace(image, split=("train", "test")[number % 2]) for number, image in enumerate(images())]
    half = tmp_path / "half.toml"
    half.write_text("split = [0.5, 0.0, 0.5]\n")

    def splits(unlabelled: bool) -> dict[str, tuple[str, str]]:
        folder = tmp_path / str(unlabelled)
        layout(name).write(marked, folder / "discs", "discs")
        if unlabelled:
            index = folder / "discs" / ("dataset.json" if name == "msd" else "annotations/instances_test.json")
            content = json.loads(index.read_text())
            if name == "msd":
                # As published: a list of files.
                content["test"] = [row["image"] for row in content["test"]]
            else:
                content["annotations"] = []
            index.write_text(json.dumps(content))
        curate(recipe(layout=name, profile=str(half)), folder / "corpus", root=folder)
        rows = Corpus(folder / "corpus").images.to_pylist()
        return {row["name"]: (row["case"], row["split"]) for row in rows}

    labelled = splits(unlabelled=False)
    assert Counter(split for _, split in labelled.values()) == {"train": COUNT // 2, "test": COUNT // 2}
    rest = splits(unlabelled=True)
    assert rest.keys() == {key for key, (_, split) in labelled.items() if split == "train"}
    assert {split for _, split in rest.values()} == {"train", "test"}
    assert all(split == split_among(case, (0.5, 0.0, 0.5)) for case, split in rest.values())
