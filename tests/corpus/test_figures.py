from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from vesalius.core.types import Slice
from vesalius.corpus.figures import contact_sheet, samples, write_figures
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.store import Corpus

NAMES = ["modalities", "groups", "targets", "masks", "resolutions", "contact_sheet"]


def test_every_figure_is_a_picture_with_something_on_it(corpus: Corpus, tmp_path: Path) -> None:
    written = write_figures(corpus, tmp_path / "figures", np.random.default_rng(0))
    assert [path.stem for path in written] == NAMES
    for path in written:
        pixels = np.array(Image.open(path).convert("L"))
        assert min(pixels.shape) > 100
        assert len(np.unique(pixels)) > 5
    again = write_figures(corpus, tmp_path / "again", np.random.default_rng(0))
    for a, b in zip(written, again, strict=True):
        np.testing.assert_array_equal(np.array(Image.open(a)), np.array(Image.open(b)))


def test_counts_of_bars_are_those_of_the_corpus(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, dict[str, dict[str, int]]] = {}

    def keep(figure, path: Path) -> Path:
        axes = figure.axes[0]
        if axes.get_yticklabels() and axes.containers and len(axes.containers) > 1:
            names = [label.get_text() for label in axes.get_yticklabels()]
            drawn[path.stem] = {
                bars.get_label(): dict(zip(names, [int(bar.get_width()) for bar in bars], strict=True))
                for bars in axes.containers
                if hasattr(bars, "patches")
            }
        return path

    monkeypatch.setattr("vesalius.corpus.figures._save", keep)
    write_figures(corpus, tmp_path, np.random.default_rng(0))
    images, masks = corpus.images.to_pylist(), corpus.masks().to_pylist()
    labelled = [row for row in images if row["masks"]]
    for modality, shown in (("ct", "ct"), (None, "not stated")):
        assert drawn["modalities"]["images"][shown] == sum(row["modality"] == modality for row in images)
        assert drawn["modalities"]["masks"][shown] == sum(row["modality"] == modality for row in masks)
    for target in ("target 0", "target 1", "target 2"):
        own = [row for row in masks if row["target"] == target]
        assert drawn["targets"]["masks"][target] == len(own)
        assert drawn["targets"]["images"][target] == len({row["id"] for row in own})
    assert sum(drawn["targets"]["images"].values()) == len(labelled)


def test_the_sheet_shows_outlines_and_not_fillings() -> None:
    pixels = data.camera()[::4, ::4]
    mask = np.zeros(pixels.shape, bool)
    mask[32:96, 32:96] = True
    image = LabelledImage(Slice(pixels), "ct", "set", "case", Path("a.png"), [ObjectMask(mask, "liver", 1)])
    plain = LabelledImage(Slice(pixels), "ct", "set", "case", Path("a.png"), [])
    with_mask, without = contact_sheet([image]), contact_sheet([plain])
    changed = (with_mask != without).any(2)[:200, :200]
    assert 100 < changed.sum() < 1200
    assert not changed[90:110, 90:110].any()
    assert contact_sheet([image] * 7).shape[0] == 2 * contact_sheet([image]).shape[0]
    assert contact_sheet([]).shape == contact_sheet([image]).shape


def test_every_data_set_is_shown_before_any_is_shown_twice() -> None:
    datasets = ["large"] * 90 + ["small"] * 2 + ["single"]
    rng = np.random.default_rng(0)
    assert sorted(datasets[index] for index in samples(datasets, 3, rng)) == ["large", "single", "small"]
    chosen = samples(datasets, 8, rng)
    assert chosen == sorted(set(chosen))
    assert sorted(datasets[index] for index in chosen) == ["large"] * 5 + ["single"] + ["small"] * 2
    assert samples(datasets[:2], 8, rng) == [0, 1]
