import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from made_discs import COUNT, RECIPE, images
from vesalius.cli import main
from vesalius.corpus.layouts import layout
from vesalius.corpus.store import PSEUDO, Corpus


@pytest.fixture
def corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    layout("coco").write(images(), tmp_path / "raw" / "discs", "discs")
    (tmp_path / "raw" / "recipe.toml").write_text(RECIPE)
    run("curate", tmp_path / "raw" / "recipe.toml", "-o", tmp_path / "corpus")
    capsys.readouterr()
    return tmp_path / "corpus"


def run(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_curate_says_what_it_made(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("curate", tmp_path / "raw" / "recipe.toml", "-o", corpus) == 0
    out = capsys.readouterr().out
    assert f"{COUNT} images" in out
    assert "not in the vocabulary, kept as it is: gremlin (16 masks)" in out
    assert run("curate", "-o", tmp_path / "other") == 2
    assert "there is no recipe" in capsys.readouterr().err
    assert run("curate", tmp_path / "raw" / "recipe.toml") == 2
    assert "there is no place for the result" in capsys.readouterr().err


def test_info(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("corpus", "info", corpus) == 0
    out = capsys.readouterr().out
    assert f"all: {COUNT} images, 40 masks, 0 rejects, 1 shards" in out
    assert f"modality: ct {COUNT}" in out
    assert "made by: vesalius" in out
    assert "pseudo" not in out
    assert run("corpus", "info", corpus.parent) == 2
    assert "is not a whole corpus" in capsys.readouterr().err


def test_check_fails_only_for_what_is_serious(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("corpus", "check", corpus) == 0
    assert "0 serious findings" in capsys.readouterr().out
    path = corpus / "images" / "00000.parquet"
    table = pq.read_table(path)
    half = ["train" if number % 2 else "test" for number in range(len(table))]
    broken = table.set_column(table.schema.get_field_index("split"), "split", [half])
    pq.write_table(broken, path, row_group_size=pq.ParquetFile(path).metadata.row_group(0).num_rows)
    assert run("corpus", "check", corpus) == 1
    out = capsys.readouterr().out
    assert "SERIOUS leakage: discs/patient0: this case is in test and train" in out


def test_figures(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("corpus", "figures", corpus, "-o", tmp_path / "figures") == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "figures").iterdir())


def test_merge_and_split(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "raw" / "recipe.toml"
    (tmp_path / "raw" / "second.toml").write_text(recipe.read_text().replace('name = "discs"', 'name = "more"'))
    assert run("curate", tmp_path / "raw" / "second.toml", "-o", tmp_path / "second") == 0
    assert run("corpus", "merge", corpus, tmp_path / "second", "-o", tmp_path / "both") == 0
    assert f"both: {2 * COUNT} images, 80 masks" in capsys.readouterr().out
    assert run("corpus", "split", tmp_path / "both", "--shares", 0.5, 0.25, 0.25) == 0
    assert {"train", "val", "test"} == {line.split(":")[0] for line in capsys.readouterr().out.split("\n") if line}
    rows = Corpus(tmp_path / "both").images.to_pylist()
    assert len({(row["case"], row["split"]) for row in rows}) == COUNT // 2


def test_a_split_that_nothing_fell_to_is_said(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("corpus", "split", corpus, "--shares", 0.999, 0.001, 0) == 0
    out = capsys.readouterr().out
    assert "warning: val has no image, though its share is 0.001" in out
    assert "--seed" in out
    assert "test" not in out


def test_export(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("corpus", "export", corpus, "--format", "sam-med2d", "-o", tmp_path / "out") == 0
    assert len(json.loads((tmp_path / "out" / "image2label_train.json").read_text())) > COUNT // 2
    assert run("corpus", "export", corpus, "--format", "tiff", "-o", tmp_path / "out2") == 2
    assert "there is no layout 'tiff'" in capsys.readouterr().err
    assert not (tmp_path / "out2").exists()


def test_interactive_masks_by_over_segmentation_and_by_a_model(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("corpus", "interactive-masks", corpus) == 0
    first = Corpus(corpus).table(PSEUDO).to_pylist()
    assert f"{len(first)} pseudo masks for {COUNT} images" in capsys.readouterr().out
    assert len(first) > COUNT
    assert {row["model"] for row in first} == {None}
    assert run("corpus", "info", corpus) == 0
    assert f"pseudo masks: {len(first)}" in capsys.readouterr().out
    command = ("corpus", "interactive-masks", corpus, "--model", "vesalius-tiny", "--points", 4)
    assert run(*command, "--min-quality", 0.3, "--min-stability", 0.5) == 0
    second = Corpus(corpus).table(PSEUDO).to_pylist()
    assert len(second) > COUNT // 2
    models = {row["model"] for row in second}
    assert len(models) == 1
    assert len(models.pop() or "") == 64
    # Other settings draw other masks; true masks stay as they are.
    assert run(*command, "--min-quality", 1) == 0
    assert Corpus(corpus).table(PSEUDO).num_rows == 0
    assert Corpus(corpus).masks().num_rows == 40
    areas = np.array([row["area"] / (row["height"] * row["width"]) for row in second])
    assert areas.min() >= 0.0005


def test_pseudo_masks_follow_a_new_split_and_a_merge(corpus: Path, tmp_path: Path) -> None:
    run("corpus", "interactive-masks", corpus)
    assert run("corpus", "split", corpus, "--shares", 0.4, 0.3, 0.3, "--seed", 3) == 0
    run("corpus", "merge", corpus, "-o", tmp_path / "merged")
    for folder in (corpus, tmp_path / "merged"):
        opened = Corpus(folder)
        splits = dict(zip(opened.images["id"].to_pylist(), opened.images["split"].to_pylist(), strict=True))
        pseudo = opened.table(PSEUDO).to_pylist()
        assert pseudo
        assert all(row["split"] == splits[row["id"]] for row in pseudo)
    # The shards still know which model has drawn them.
    before = (corpus / PSEUDO / "00000.parquet").read_bytes()
    run("corpus", "interactive-masks", corpus)
    assert (corpus / PSEUDO / "00000.parquet").read_bytes() == before
