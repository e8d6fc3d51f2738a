"""All sets of the real-data collection, curated by one command; skipped where VESALIUS_DATA does not name it."""

import os
from collections import Counter
from pathlib import Path

import pytest

from made_listing import listed
from vesalius.cli import main
from vesalius.corpus.recipe import Recipe
from vesalius.corpus.store import Corpus

RECIPE = Path(__file__).parent / "real_data.toml"
DATA = os.environ.get("VESALIUS_DATA")


@pytest.mark.skipif(not DATA, reason="VESALIUS_DATA does not name the real-data collection")
def test_every_set_is_curated_by_one_command_and_the_corpus_is_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["curate", str(RECIPE), "--root", str(DATA), "-o", str(tmp_path / "corpus")])
    assert stop.value.code == 0
    corpus, recipe = Corpus(tmp_path / "corpus"), Recipe.from_toml(RECIPE)
    assert corpus.info.rejects == 0
    found = Counter(corpus.images["dataset"].to_pylist())
    assert set(found) == {dataset.name for dataset in recipe.datasets}
    for dataset in recipe.datasets:
        if dataset.layout == "pairs" and dataset.root.parts[0] == "pairs":
            placed = dataset.model_copy(update={"root": Path(str(DATA)) / dataset.root})
            pictures = len(listed(placed))
            # What is left out has no mask of 0.153 % of the image.
            assert 0.6 * pictures <= found[dataset.name] <= pictures
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["corpus", "check", str(tmp_path / "corpus")])
    assert stop.value.code == 0
    assert " 0 serious findings" in capsys.readouterr().out
    splits = Counter(corpus.images["split"].to_pylist())
    assert 0.05 < splits["test"] / len(corpus) < 0.35
