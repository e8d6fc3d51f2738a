from pathlib import Path

import numpy as np
import pytest
from skimage import data

import vesalius as vs
from vesalius.core.types import Slice
from vesalius.corpus.check import _duplicates, _image_findings, check_corpus, difference_hash, near_pairs
from vesalius.corpus.merge import merge, split
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.resplit import resplit
from vesalius.corpus.store import Corpus


def found(corpus: Corpus, kind: str) -> list:
    return [finding for finding in check_corpus(corpus) if finding.kind == kind]


def test_a_case_on_both_sides_is_found(corpus: Corpus) -> None:
    # Image 10 is in the test, 11 in training, and both are of case 5.
    leaks = {finding.where for finding in found(corpus, "leakage")}
    assert "set/case5" in leaks
    assert "set/case4" not in leaks
    assert all(finding.serious for finding in found(corpus, "leakage"))
    resplit(corpus.folder, corpus.info.shards, lambda dataset, case, split: "train")
    assert not found(Corpus(corpus.folder), "leakage")


def test_near_duplicates_are_found_and_other_images_are_not() -> None:
    camera = data.camera()
    brighter = np.clip(camera * 0.9 + 20, 0, 255).astype(np.uint8)
    smaller = camera[::2, ::2]
    images = [camera, data.coins(), brighter, data.moon(), smaller, data.page()]
    digests = [difference_hash(image) for image in images]
    assert sorted(near_pairs(digests)) == [(0, 2), (0, 4), (2, 4)]
    rng = np.random.default_rng(0)
    every = [int.from_bytes(rng.bytes(16), "big") for _ in range(300)]
    for count in (1, 5, 6, 7):
        every += [value ^ sum(1 << int(bit) for bit in rng.choice(128, count, False)) for value in every[:40]]
    near = {(i, j) for i in range(460) for j in range(i + 1, 460) if (every[i] ^ every[j]).bit_count() <= 6}
    assert len(near) >= 120
    pairs = list(near_pairs(every))
    assert set(pairs) == near
    assert len(pairs) == len(near)


def test_of_many_images_that_are_alike_two_are_named(corpus: Corpus) -> None:
    case, split = corpus.images["case"].to_pylist(), corpus.images["split"].to_pylist()
    alike = list(_duplicates(corpus, [7] * len(corpus)))
    assert len(alike) == 1
    named = [alike[0].where, alike[0].what.split()[2].rstrip(",")]
    ids = corpus.images["id"].to_pylist()
    first, second = (ids.index(name) for name in named)
    assert case[first] != case[second]
    assert split[first] != split[second]
    assert "in another split" in alike[0].what
    # Neighbours of one case are no finding.
    rng = np.random.default_rng(0)
    neighbours = [int.from_bytes(rng.bytes(16), "big") for _ in range(len(corpus))]
    pair = next(i for i in range(len(corpus) - 1) if case[i] == case[i + 1])
    neighbours[pair + 1] = neighbours[pair]
    assert not list(_duplicates(corpus, neighbours))


def labelled(pixels: np.ndarray, mask: np.ndarray) -> LabelledImage:
    return LabelledImage(Slice(pixels), "ct", "set", "case", Path("a.png"), [ObjectMask(mask, "liver", 1)], name="a")


def test_blank_images_and_masks_that_do_not_fit_are_found() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:10] = True
    good = np.full((20, 20), 100, np.uint8)
    good[0, 0] = 0
    assert not list(_image_findings(labelled(good, mask)))
    kinds = [(f.kind, f.serious) for f in _image_findings(labelled(np.full((20, 20), 7, np.uint8), mask))]
    assert kinds == [("blank", True)]
    black = good.copy()
    black[4:12, 4:12] = 0
    assert [(f.kind, f.serious) for f in _image_findings(labelled(black, mask))] == [("mismatch", False)]
    assert [(f.kind, f.serious) for f in _image_findings(labelled(good, mask[:10]))] == [("mismatch", True)]


def test_targets_that_cosmos_leaves_out_are_named(corpus: Corpus) -> None:
    # The made-up masks are noise, in many pieces.
    assert {f.where for f in found(corpus, "target")} == {f"set/target {i}" for i in range(3)}
    assert all("criterion 3" in f.what for f in found(corpus, "target"))
    assert {f.where for f in found(corpus, "border")} == {f"set/target {i}" for i in range(3)}


def test_merging_keeps_every_image_and_refuses_one_name_twice(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(vs.VesaliusError, match="both hold a data set named set"):
        merge([corpus, corpus], tmp_path / "both", "both")
    made = merge([corpus], tmp_path / "one", "one")
    assert (made.images, made.masks, made.name) == (corpus.info.images, corpus.info.masks, "one")
    for a, b in zip(corpus.stream(), Corpus(tmp_path / "one").stream(), strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.image.pixels, b.image.pixels)
    with pytest.raises(vs.VesaliusError, match="is there already"):
        merge([corpus], tmp_path / "one", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "one"]


def test_a_new_split_is_by_case_and_by_seed(corpus: Corpus) -> None:
    counts = split(corpus.folder, (0.5, 0.2, 0.3))
    assert sum(counts.values()) == len(corpus)
    first = Corpus(corpus.folder)
    assert not found(first, "leakage")
    before = first.images["split"].to_pylist()
    split(corpus.folder, (0.5, 0.2, 0.3), seed=1)
    assert Corpus(corpus.folder).images["split"].to_pylist() != before
    split(corpus.folder, (0.5, 0.2, 0.3))
    assert Corpus(corpus.folder).images["split"].to_pylist() == before
    with pytest.raises(vs.VesaliusError, match="do not sum to 1"):
        split(corpus.folder, (0.5, 0.2, 0.2))
