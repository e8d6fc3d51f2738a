import json
import pickle
from collections import Counter

import numpy as np
import pytest

import vesalius as vs
from made_corpus import masks_of, picture
from vesalius.corpus.resplit import divide_test, resplit
from vesalius.corpus.schema import DESCRIPTION, GROUP
from vesalius.corpus.store import (
    Corpus,
    decode_mask,
    decode_png,
    encode_mask,
    encode_png,
    is_corpus,
)

NUMBERS = [*range(GROUP + 5), 40, 44, 48, *range(50, 50 + 2 * GROUP)]


def expect(found, number: int, masks: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(found.image.pixels, picture(number))
    assert found.name == f"set/{number}/2d_none"
    assert found.image.spacing == (0.5, 0.25)
    assert found.case == f"case{number // 2}"
    assert len(found.masks) == len(masks)
    for stored, mask in zip(found.masks, masks, strict=True):
        np.testing.assert_array_equal(stored.mask, mask)
        assert stored.target == f"target {number % 3}"


def test_pictures_and_masks_come_back_as_they_were() -> None:
    for number in range(6):
        np.testing.assert_array_equal(decode_png(encode_png(picture(number))), picture(number))
        for mask in masks_of(number):
            np.testing.assert_array_equal(decode_mask(encode_mask(mask), *mask.shape), mask)


def test_every_image_can_be_read_in_any_order(corpus: Corpus) -> None:
    assert len(corpus) == len(NUMBERS)
    for index in np.random.default_rng(0).permutation(len(NUMBERS)):
        expect(corpus.read(int(index)), NUMBERS[index], masks_of(NUMBERS[index]))
    for wrong in (-1, len(NUMBERS)):
        with pytest.raises(IndexError):
            corpus.read(wrong)


def test_chosen_masks_alone_are_read(corpus: Corpus) -> None:
    masks = masks_of(7)
    expect(corpus.read(7, which=[2, 0]), 7, [masks[2], masks[0]])
    expect(corpus.read(7, which=[]), 7, [])


def test_streaming_gives_all_in_order(corpus: Corpus) -> None:
    for number, found in zip(NUMBERS, corpus.stream(), strict=True):
        expect(found, number, masks_of(number))


def test_tables_are_filtered_without_the_pictures(corpus: Corpus) -> None:
    assert corpus.images.num_rows == len(NUMBERS)
    assert "image" not in corpus.images.column_names
    found = corpus.masks(["id", "area"], modality="ct", target=["target 1"])
    expected = {f"set/{i}/2d_none" for i in NUMBERS if i % 2 and i % 3 == 1 and masks_of(i)}
    assert set(found["id"].to_pylist()) == expected
    first = corpus.masks(["area", "x0", "y0", "x1", "y1"]).to_pylist()[0]
    mask = masks_of(1)[0]
    rows, columns = np.nonzero(mask)
    assert list(first.values()) == [mask.sum(), columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_corpus_can_be_sent_to_another_process(corpus: Corpus) -> None:
    corpus.read(0)
    expect(pickle.loads(pickle.dumps(corpus)).read(3), 3, masks_of(3))


def test_what_is_not_a_whole_corpus_is_refused(corpus: Corpus) -> None:
    path = corpus.folder / DESCRIPTION
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(vs.VesaliusError, match=r"schema 99.*update vesalius"):
        Corpus(corpus.folder)
    path.write_text(json.dumps(content | {"schema_version": 1}))
    with pytest.raises(vs.VesaliusError, match=r"schema 1, and 2 is read here; curate again"):
        Corpus(corpus.folder)
    path.write_text("{")
    with pytest.raises(vs.VesaliusError, match="cannot be read"):
        Corpus(corpus.folder)
    path.unlink()
    assert not is_corpus(corpus.folder)
    with pytest.raises(vs.VesaliusError, match=r"is not a whole corpus.*run the same"):
        Corpus(corpus.folder)


def test_a_damaged_shard_is_an_error_with_its_path(corpus: Corpus) -> None:
    path = corpus.shards("images")[2]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(vs.VesaliusError, match=r"images.00002.parquet.*cannot be read"):
        Corpus(corpus.folder).read(0)


def test_cases_change_their_split_in_both_tables(corpus: Corpus) -> None:
    pictures = [corpus.read(i).image.pixels for i in range(len(corpus))]
    untouched = corpus.shards("images")[2].read_bytes()
    splits = {("set", "case0"): "val", ("set", "case3"): None, ("other", "case1"): "val"}
    resplit(corpus.folder, corpus.info.shards, lambda dataset, case, split: splits.get((dataset, case), split))
    changed = Corpus(corpus.folder)
    splits = dict(zip(changed.images["id"].to_pylist(), changed.images["split"].to_pylist(), strict=True))
    expected = {i: {0: "val", 3: None}.get(i // 2, "test" if i % 5 == 0 else "train") for i in NUMBERS}
    assert splits == {f"set/{i}/2d_none": split for i, split in expected.items()}
    for row in changed.masks(["id", "split"]).to_pylist():
        assert row["split"] == splits[row["id"]]
    for index, pixels in enumerate(pictures):
        np.testing.assert_array_equal(changed.read(index).image.pixels, pixels)
    assert corpus.shards("images")[2].read_bytes() == untouched


def test_as_many_whole_cases_as_fit_stay_in_the_test(corpus: Corpus) -> None:
    # Ten test images, each of a case of its own.
    tests = {f"case{i // 2}" for i in NUMBERS if i % 5 == 0}
    assert divide_test(corpus.folder, corpus.info.shards, "set", 0) == ([], len(tests))
    every, none = divide_test(corpus.folder, corpus.info.shards, "set", 1000)
    assert (set(every), none) == (tests, 0)
    # The same order whatever the limit.
    assert divide_test(corpus.folder, corpus.info.shards, "set", 3) == (every[:3], len(tests) - 3)


def test_a_case_in_two_shards_stays_as_a_whole(corpus: Corpus) -> None:
    resplit(corpus.folder, corpus.info.shards, lambda dataset, case, split: "test")
    cases = Counter(f"case{i // 2}" for i in NUMBERS)
    assert set(cases.values()) >= {2}
    for most in (4, 5, 6, 7):
        kept, beyond = divide_test(corpus.folder, corpus.info.shards, "set", most)
        images = sum(cases[case] for case in kept)
        assert images in (most - 1, most)
        assert beyond == len(NUMBERS) - images
