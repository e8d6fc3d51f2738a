import numpy as np
import pytest
from skimage import data

import vesalius as vs
from vesalius.corpus.interactive_masks import add_interactive_masks, cleaned, over_segmentation
from vesalius.corpus.store import PSEUDO, Corpus


def disc(shape=(60, 60), centre=(30, 30), radius=10) -> np.ndarray:
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_what_is_small_doubled_or_everything_is_dropped() -> None:
    speck = np.zeros((60, 60), bool)
    speck[5, 5] = True
    everything, small = np.ones((60, 60), bool), disc(centre=(15, 15), radius=5)
    kept = list(cleaned([disc(), speck, disc() | speck, everything, small]))
    assert len(kept) == 2
    assert (kept[0] ^ disc()).sum() <= 8
    holed = disc()
    holed[30, 30] = False
    assert next(cleaned([holed]))[30, 30]


def test_over_segmentation_covers_the_image_in_parts() -> None:
    image = vs.Slice(data.camera()[::4, ::4])
    found = list(over_segmentation(image))
    # Each of the three scales takes every pixel once.
    np.testing.assert_array_equal(np.sum(found, axis=0), 3)
    assert len(list(cleaned(found))) > 10


def halves(image: vs.Slice):
    mask = np.zeros(image.size, bool)
    mask[:, : image.size[1] // 2] = True
    yield mask
    yield ~mask


def test_pseudo_masks_lie_apart_and_name_their_model(corpus: Corpus) -> None:
    before = [path.read_bytes() for name in ("images", "masks") for path in corpus.shards(name)]
    calls = []
    assert corpus.pseudo_masks(3) == []
    total = add_interactive_masks(corpus, halves, "digest", lambda *numbers: calls.append(numbers))
    assert total == 2 * len(corpus)
    assert calls[-1] == (len(corpus), len(corpus))
    assert before == [path.read_bytes() for name in ("images", "masks") for path in corpus.shards(name)]
    for index in (0, 3, 16, len(corpus) - 1):
        masks = corpus.pseudo_masks(index)
        assert [entry.pseudo for entry in masks] == [True, True]
        expected = list(halves(corpus.read(index).image))
        for entry, mask in zip(masks, expected, strict=True):
            np.testing.assert_array_equal(entry.mask, mask)
    assert set(corpus.table(PSEUDO, ["model"])["model"].to_pylist()) == {"digest"}


def test_an_interrupted_run_goes_on_and_another_model_starts_again(corpus: Corpus) -> None:
    count = 0

    def stops(image: vs.Slice):
        nonlocal count
        count += 1
        if count > 18:
            raise KeyboardInterrupt
        return halves(image)

    with pytest.raises(KeyboardInterrupt):
        add_interactive_masks(corpus, stops, "digest")
    assert not list((corpus.folder / PSEUDO).glob("*"))
    count = -10
    with pytest.raises(KeyboardInterrupt):
        add_interactive_masks(corpus, stops, "digest")
    first = corpus.shards(PSEUDO)[0].read_bytes()
    seen = []
    add_interactive_masks(corpus, lambda image: seen.append(1) or halves(image), "digest")
    assert len(seen) == len(corpus) - 24
    assert corpus.shards(PSEUDO)[0].read_bytes() == first
    seen.clear()
    add_interactive_masks(corpus, lambda image: seen.append(1) or halves(image), "another")
    assert len(seen) == len(corpus)
