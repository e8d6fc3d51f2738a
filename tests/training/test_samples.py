import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.training.conftest import disc_images, tiny

from made_corpus import write
from vesalius.core.errors import ConfigError, ReadError
from vesalius.core.types import Slice
from vesalius.corpus.interactive_masks import add_interactive_masks
from vesalius.corpus.objects import LabelledImage, ObjectMask
from vesalius.corpus.store import Corpus
from vesalius.models.presets import PRESETS, Preset
from vesalius.predict.predictor import whole_frame
from vesalius.prompts.sample import tight_box
from vesalius.training.batches import collate
from vesalius.training.interaction import InteractionConfig, InteractiveStep
from vesalius.training.losses import LossConfig
from vesalius.training.pool import Crop, Item, joined, rows_of
from vesalius.training.samples import Sample, SampleConfig, SampleSource, batches

SMALL = Preset(side=64, mask_side=32, fit="stretch")
PLAIN = SampleConfig(augment=False)


def same(a: Sample, b: Sample) -> bool:
    arrays = np.array_equal(a.image, b.image) and np.array_equal(a.masks, b.masks)
    named = (a.targets, a.pseudo, a.joined) == (b.targets, b.pseudo, b.joined)
    return arrays and named and (a.index, a.content) == (b.index, b.content)


def labelled(modality: str, dataset: str, targets: str, split: str | None = None) -> LabelledImage:
    """A small image with a square for each letter."""
    masks = []
    for i, target in enumerate(targets):
        mask = np.zeros((16, 16), bool)
        mask[2 * i : 2 * i + 2, :3] = True
        masks.append(ObjectMask(mask, target, i + 1))
    pixels = np.zeros((16, 16), np.uint8)
    return LabelledImage(Slice(pixels), modality, dataset, "case", Path("x.png"), masks, split=split)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("corpus") / "made", [list(range(12)), list(range(12, 20))])


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    first = SampleSource(disc_images(3), SMALL, SampleConfig(), seed=5)
    second = SampleSource(disc_images(3), SMALL, SampleConfig(), seed=5)
    second[9]
    for number in (0, 7):
        assert same(first[number], second[number])
    assert not np.array_equal(first[0].image, first[1].image)
    other = SampleSource(disc_images(3), SMALL, SampleConfig(), seed=6)
    assert not np.array_equal(first[0].image, other[0].image)


@pytest.mark.parametrize("fit", ["stretch", "longest_side", "pad"])
def test_masks_move_with_their_image(fit: str) -> None:
    config = SampleConfig(intensity=0, grown=0, shapes=0)
    source = SampleSource(disc_images(4), Preset(side=128, mask_side=32, fit=fit), config, seed=0)
    for number in range(30):
        sample = source[number]
        grey = sample.image[:, :, 0].astype(float)
        seen = grey > 0  # the warp leaves black where the image ends
        for mask in sample.masks:
            ring = seen & ~np.any(sample.masks, axis=0)
            assert grey[mask & seen].mean() > grey[ring].mean() + 30


def test_own_shapes_and_regions_have_no_name() -> None:
    drawn = SampleSource(disc_images(4), SMALL, SampleConfig(shapes=1, grown=0), seed=0)
    assert all((drawn[i].targets[0], drawn[i].pseudo[0]) == ("", False) for i in range(8))
    grown = SampleSource(disc_images(4), SMALL, SampleConfig(shapes=0, grown=1), seed=0)
    assert any((grown[i].targets[0], grown[i].pseudo[0]) == ("", True) for i in range(8))
    plain = SampleSource(disc_images(4), SMALL, SampleConfig(shapes=0, grown=0), seed=0)
    assert {name for i in range(8) for name in plain[i].targets} == {"disc", "corner"}


IMAGES = [
    *[labelled("ct", "a", "l")] * 9,
    *[labelled("ct", "b", "lk"), labelled("ct", "b", "l"), labelled("ct", "b", "l"), labelled("ct", "b", "l")],
    labelled("mr", "c", "l"),
    *[labelled("mr", "none", "")] * 5,
]


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        # 14 images: each as often as any other, half of the first of b for each of its objects.
        ((None, 1, None), {"al": 9 / 14, "bl": 3.5 / 14, "bk": 0.5 / 14, "cl": 1 / 14}),
        ((1, 1, 1), {"al": 9 / 14, "bl": 3.5 / 14, "bk": 0.5 / 14, "cl": 1 / 14}),
        # Sets of 9, 4 and 1 images: 3 to 2 to 1.
        ((None, 0.5, None), {"al": 3 / 6, "bl": 2 / 6 * 3.5 / 4, "bk": 2 / 6 * 0.5 / 4, "cl": 1 / 6}),
        # Either modality as often, in CT 3 to 2.
        ((0, 0.5, None), {"al": 0.3, "bl": 0.2 * 3.5 / 4, "bk": 0.2 * 0.5 / 4, "cl": 0.5}),
        # Sets alike, and targets alike in each.
        ((None, 0, 0), {"al": 1 / 3, "bl": 1 / 6, "bk": 1 / 6, "cl": 1 / 3}),
        # Targets of all sets together: l weighs 13.5, k 0.5.
        ((None, None, 0), {"al": 9 / 27, "bl": 3.5 / 27, "bk": 0.5, "cl": 1 / 27}),
    ],
)
def test_objects_are_drawn_by_modality_data_set_and_target(exponents, expected) -> None:
    modality, dataset, target = exponents
    config = PLAIN.model_copy(
        update={"by_modality": modality, "by_dataset": dataset, "by_target": target, "objects": 1}
    )
    source = SampleSource(IMAGES, SMALL, config, seed=0)
    chances: Counter[str] = Counter()
    objects = source.pool.objects
    for row, chance in enumerate(source.chances):
        image = int(np.searchsorted(objects.first, row, side="right")) - 1
        chances[IMAGES[image].dataset + objects.targets[objects.target[row]]] += chance
    assert {name: pytest.approx(chance) for name, chance in chances.items()} == expected
    drawn = Counter(IMAGES[s.index].dataset + s.targets[0] for s in (source[i] for i in range(2000)))
    for name, chance in expected.items():
        assert abs(drawn[name] / 2000 - chance) < 4 * np.sqrt(chance * (1 - chance) / 2000)


def test_an_emphasised_data_set_is_drawn_more_often() -> None:
    config = PLAIN.model_copy(update={"by_dataset": 0.5, "emphasis": {"c": 3.0}})
    source = SampleSource(IMAGES, SMALL, config, seed=0)
    objects = source.pool.objects
    image = np.searchsorted(objects.first, np.arange(len(objects.target)), side="right") - 1
    chances: Counter[str] = Counter()
    for row, chance in zip(image, source.chances, strict=True):
        chances[IMAGES[row].dataset] += chance
    # 3 to 2 to 1 without it.
    assert chances == {"a": pytest.approx(3 / 8), "b": pytest.approx(2 / 8), "c": pytest.approx(3 / 8)}


def test_only_data_sets_that_there_are_can_be_emphasised() -> None:
    config = PLAIN.model_copy(update={"emphasis": {"a": 2.0, "x": 3.0}})
    with pytest.raises(ConfigError, match="that there are not: x"):
        SampleSource(IMAGES, SMALL, config, seed=0)


def test_images_of_one_group_are_drawn_alike() -> None:
    source = SampleSource(IMAGES, SMALL, PLAIN, seed=1)
    drawn = Counter(source[i].index for i in range(3000))
    assert set(drawn) == set(range(14))
    assert all(abs(drawn[i] - 3000 / 2 / 9) < 4 * np.sqrt(3000 / 18) for i in range(9))


def test_an_epoch_takes_every_image_once() -> None:
    source = SampleSource(IMAGES, SMALL, PLAIN.model_copy(update={"order": "epochs"}), seed=0)
    assert len(source) == 14
    epochs = [[source[i].index for i in range(14 * e, 14 * (e + 1))] for e in range(3)]
    assert all(sorted(epoch) == list(range(14)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert source[20].index == epochs[1][6]


def test_a_split_is_drawn_from_and_no_other() -> None:
    images = [labelled("ct", "a", "l", split) for split in ("train", "val", "test", None)]
    source = SampleSource(images, SMALL, PLAIN, seed=0, split="val")
    assert {source[i].index for i in range(40)} == {1, 3}
    with pytest.raises(ReadError, match=r"'train' has an object"):
        SampleSource(images[1:3], SMALL, PLAIN, seed=0)


def test_a_corpus_is_drawn_from_as_its_split_says(corpus: Corpus) -> None:
    source = SampleSource(corpus, SMALL, PLAIN, seed=0)
    splits, counts = corpus.images["split"].to_pylist(), corpus.images["masks"].to_pylist()
    held_out = rows_of(corpus, "val")
    wanted = [i for i in range(20) if splits[i] == "train" and counts[i] and not held_out[i]]
    assert list(source.indices) == wanted
    assert {source[i].index for i in range(300)} == set(wanted)
    assert source.targets == tuple(sorted({f"target {i % 3}" for i in wanted}))
    test = SampleSource(corpus, SMALL, PLAIN, seed=0, split="test")
    assert {source.pool.objects.modalities[c] for c in source.pool.objects.modality} == {"ct", "unknown"}
    assert {test[i].index for i in range(100)} == {5, 10, 15}


@pytest.mark.parametrize("augment", [True, False])
def test_what_is_kept_in_memory_and_what_is_read_are_one(corpus: Corpus, augment: bool) -> None:
    settings = {"augment": augment, "objects": 2, "shapes": 0.0, "grown": 0.0}
    kept, read = (SampleSource(corpus, SMALL, SampleConfig(**settings, memory=memory), seed=0) for memory in (1.0, 0.0))
    splits = np.where(rows_of(corpus, "val"), "val", corpus.images["split"].to_pylist())
    images = [replace(image, split=split) for image, split in zip(corpus.stream(), splits.tolist(), strict=True)]
    listed = SampleSource(images, SMALL, SampleConfig(**settings), seed=0)
    for number in range(30):
        assert same(kept[number], read[number])
        assert same(kept[number], listed[number])


def test_plain_samples_are_the_image_as_the_preset_places_it(corpus: Corpus) -> None:
    for name in ("sam-med2d", "sam-256", "imis-net"):
        preset = PRESETS[name]
        source = SampleSource(corpus, preset, PLAIN.model_copy(update={"objects": 9}), seed=0)
        for number in range(5):
            sample = source[number]
            true = corpus.read(sample.index)
            frame = whole_frame(true.image.size, preset)
            assert np.array_equal(sample.image, frame.image(true.image.rgb()))
            assert sample.content == frame.content
            assert len(sample.masks) == len(true.masks)
            expected = [frame.image(entry.mask.astype(np.float32)) > 0.501 for entry in true.masks]
            for mask in sample.masks:
                assert min((mask ^ other).sum() / mask.sum() for other in expected) < 0.01


def test_masks_are_chosen_without_repeat_and_repeated_only_if_there_are_too_few() -> None:
    config = PLAIN.model_copy(update={"objects": 5, "repeat": True})
    few = SampleSource([labelled("ct", "a", "lk")], SMALL, config, seed=0)
    seen = Counter()
    for number in range(40):
        sample = few[number]
        assert len(sample.masks) == 5
        assert set(sample.targets[:2]) == {"l", "k"}
        seen[sample.targets[2:].count("k")] += 1
    assert set(seen) == {0, 1, 2, 3}
    many = SampleSource([labelled("ct", "a", "abcdefg")], SMALL, config, seed=0)
    chosen = [many[number].targets for number in range(40)]
    assert all(len(set(names)) == 5 for names in chosen)
    assert len(set(chosen)) > 30
    assert set(Counter(name for names in chosen for name in names)) == set("abcdefg")


def test_what_is_thin_does_not_vanish() -> None:
    image = labelled("ct", "a", "l")
    mask = np.zeros((512, 512), bool)
    mask[100, 20:400] = True
    image = LabelledImage(
        Slice(np.zeros((512, 512), np.uint8)), "ct", "a", "case", Path("x"), [ObjectMask(mask, "vessel", 1)]
    )
    mask = SampleSource([image], SMALL, PLAIN, seed=0)[0].masks[0]
    assert set(np.flatnonzero(mask.any(1))) == {100 // 8}
    assert mask.sum() in (47, 48)


SHAPES = {
    "disc": lambda x, y: (x - 300) ** 2 + (y - 200) ** 2 <= 8**2,
    "row": lambda x, y: (y == 100) & (x > 40) & (x < 400),
    "slope": lambda x, y: (y == x // 3 + 60) & (x > 100),
    "corner": lambda x, y: (x < 14) & (y < 14),
    "point": lambda x, y: (x == 511) & (y == 77),
}


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("name", SHAPES)
def test_what_a_sample_is_about_is_in_it_however_small_or_thin(name: str, side: int) -> None:
    y, x = np.mgrid[:512, :512]
    mask = SHAPES[name](x, y)
    pixels = np.where(mask, 255, 0).astype(np.uint8)
    image = LabelledImage(Slice(pixels), "ct", "a", "case", Path("x"), [ObjectMask(mask, name, 1)])
    config = SampleConfig(intensity=0, shapes=0, grown=0, objects=2)
    source = SampleSource([image], Preset(side=side, mask_side=side // 4, fit="stretch"), config, seed=0)
    for number in range(100):
        sample = source[number]
        assert sample.targets == (name,)
        (found,) = sample.masks
        assert found.any()
        grey = sample.image[:, :, 0]
        near = cv2.dilate(found.astype(np.uint8), np.ones((3, 3))) > 0
        assert (name == "point" and not grey.any()) or grey[near].mean() > 1.2 * grey.mean()
    again = SampleSource([image], source.preset, config, seed=0)
    assert all(same(again[number], source[number]) for number in (0, 31, 57))


def test_a_painted_shape_leaves_a_small_object_that_it_does_not_cover() -> None:
    y, x = np.mgrid[:512, :512]
    mask = SHAPES["disc"](x, y)
    image = LabelledImage(
        Slice(np.zeros((512, 512), np.uint8)), "ct", "a", "case", Path("x"), [ObjectMask(mask, "disc", 1)]
    )
    config = SampleConfig(focus=0, zoom=(1, 1), aspect=1, shapes=1, grown=0, objects=2)
    source = SampleSource([image], Preset(side=256, mask_side=64, fit="stretch"), config, seed=0)
    drawn = [source[number] for number in range(40)]
    assert Counter(sample.targets for sample in drawn).keys() == {("", "disc"), ("",)}
    assert all(sample.masks[1].sum() > 40 for sample in drawn if len(sample.masks) == 2)


def test_an_object_that_is_lost_in_a_pixel_is_that_pixel() -> None:
    mask = np.zeros((6400, 6400), bool)
    mask[1234, 5678] = True
    image = LabelledImage(
        Slice(np.zeros((6400, 6400), np.uint8)), "ct", "a", "case", Path("x"), [ObjectMask(mask, "dot", 1)]
    )
    for preset in (SMALL, Preset(side=64, mask_side=32, fit="pad"), Preset(side=64, mask_side=32, fit="longest_side")):
        (found,) = SampleSource([image], preset, PLAIN, seed=0)[0].masks
        assert np.argwhere(found).tolist() == [[12, 56]]
    varied = SampleSource([image], SMALL, SampleConfig(shapes=0, grown=0), seed=0)
    assert all((varied[i].targets, varied[i].masks.any()) == (("dot",), True) for i in range(5))


def test_masks_that_are_empty_are_no_sample(monkeypatch) -> None:
    source = SampleSource([labelled("ct", "a", "l")], SMALL, SampleConfig(), seed=0)
    monkeypatch.setattr(source.pool, "item", lambda index, numbers: Item(np.zeros((16, 16), np.uint8), {}))
    with pytest.raises(ReadError, match="masks of its image 0 are empty"):
        source[0]


def test_in_a_mirror_sides_have_no_name() -> None:
    image = labelled("ct", "a", "x")
    images = [
        replace(image, masks=[ObjectMask(image.masks[0].mask, name, 1)]) for name in ("left kidney", "left ventricle")
    ]
    config = SampleConfig(focus=0, shapes=0, grown=0, rotate=0, zoom=(1, 1), aspect=1)
    mirrored, straight = (
        SampleSource(images, SMALL, config.model_copy(update={"flip": flip}), seed=0) for flip in (1, 0)
    )
    assert {mirrored[i].targets[0] for i in range(20)} == {"kidney", "left ventricle"}
    assert {straight[i].targets[0] for i in range(20)} == {"left kidney", "left ventricle"}


def test_what_is_asked_for_by_name_is_not_mirrored_where_its_name_has_a_side() -> None:
    image = labelled("ct", "a", "xx")
    sided = replace(image, masks=[replace(entry, target="left kidney") for entry in image.masks])
    for images, kept in (([sided], "left kidney"), ([image], "x")):
        source = SampleSource(images, SMALL, SampleConfig(joined=1, flip=1, focus=0, shapes=0, grown=0), seed=0)
        assert {(source[i].targets[0], source[i].joined[0]) for i in range(20)} == {(kept, True)}


def test_in_a_mirror_no_spelling_of_a_side_is_kept() -> None:
    image = labelled("ct", "a", "x")
    images = [replace(image, masks=[ObjectMask(image.masks[0].mask, "Kidney_L", 1)])]
    source = SampleSource(images, SMALL, SampleConfig(flip=1, shapes=0, grown=0), seed=0)
    assert source[0].targets == ("kidney",)
    assert source.targets == ("Kidney_L",)
    assert source.words == ("left kidney",)


def test_varied_samples_say_where_they_are_padded() -> None:
    pixels = np.full((90, 120), 200, np.uint8)
    mask = np.zeros((90, 120), bool)
    mask[20:60, 30:80] = True
    pixels[mask] = 120
    image = LabelledImage(Slice(pixels), "ct", "a", "1", Path("a.png"), [ObjectMask(mask, "liver", 1)])
    preset = SMALL.model_copy(update={"fit": "longest_side"})
    still = {"focus": 0, "flip": 0, "intensity": 0, "shapes": 0, "grown": 0}
    config = SampleConfig(**still, rotate=0, zoom=(1, 1), aspect=1)
    source = SampleSource([image], preset, config, seed=0)
    plain = SampleSource([image], preset, SampleConfig(augment=False), seed=0)
    assert source[0].content == plain[0].content == (0, 0, 64, 48)
    # Of a smaller or turned image the rectangle around it.
    for angle, nearest in ((0, 1), (20, 64)):
        source = SampleSource([image], preset, SampleConfig(**still, rotate=angle, zoom=(0.8, 1.3)), seed=0)
        for number in range(20):
            lit = tight_box(source[number].image.max(2) > 100)
            gap = np.array(source[number].content) - lit
            assert (gap * [-1, -1, 1, 1] >= 0).all()
            assert np.abs(gap).max() <= nearest
    # Nothing is drawn in the padding, nor found there.
    for kind in ("shapes", "grown"):
        drawn = SampleSource([image], preset, config.model_copy(update={kind: 1}), seed=0)
        found = [drawn[number] for number in range(40)]
        assert all(sample.content == (0, 0, 64, 48) for sample in found)
        assert any(sample.targets[0] == "" for sample in found)
        assert not any(sample.masks[:, 48:].any() for sample in found)
        assert all(mask.sum() >= 4 for sample in found for mask in sample.masks)
    # What fills the square is not padded in use.
    full = SampleSource([image], SMALL, SampleConfig(**still, rotate=20, zoom=(0.8, 0.8)), seed=0)
    assert {full[number].content for number in range(10)} == {(0, 0, 64, 64)}


@pytest.mark.parametrize("augment", [True, False])
def test_pseudo_masks_stand_beside_true_ones(tmp_path: Path, augment: bool) -> None:
    corpus = write(tmp_path / "made", [[1, 3, 7]])

    def halves(image: Slice):
        half = np.zeros(image.size, bool)
        half[: image.size[0] // 2] = True
        return [half, ~half]

    add_interactive_masks(corpus, halves, "digest")
    config = SampleConfig(augment=augment, objects=3, pseudo_share=0.4, shapes=0, grown=0, focus=0)
    source = SampleSource(corpus, SMALL, config, seed=0)
    samples = [source[i] for i in range(400)]
    for sample in samples:
        assert not sample.pseudo[0]
        for mask, target, pseudo in zip(sample.masks, sample.targets, sample.pseudo, strict=True):
            assert (target == "") == pseudo
            assert not pseudo or mask.mean() > 0.3
    # Two places after the first, each with a chance of 0.4.
    assert abs(np.mean([sum(sample.pseudo) for sample in samples]) - 0.8) < 0.15
    none = SampleSource(corpus, SMALL, config.model_copy(update={"pseudo_share": 0.0}), seed=0)
    assert not any(any(none[i].pseudo) for i in range(20))


def flat(found: list[list[Sample]]) -> list[Sample]:
    return [sample for batch in found for sample in batch]


def test_batches_are_the_same_however_they_are_drawn(corpus: Corpus) -> None:
    def source() -> SampleSource:
        return SampleSource(corpus, SMALL, SampleConfig(), seed=3)

    alone = source()
    by_number = [alone[i] for i in range(12)]
    threaded = list(batches(source(), 0, 4, 3))
    resumed = list(batches(source(), 2, 4, 3))
    shared = [list(batches(source(), 0, 4, 3, part=(rank, 2))) for rank in (0, 1)]
    assert [len(batch) for batch in threaded] == [3] * 4
    assert [[len(batch) for batch in part] for part in shared] == [[2] * 4, [1] * 4]
    for found in (threaded, resumed):
        expected = by_number[6:] if found is resumed else by_number
        assert len(flat(found)) == len(expected)
        assert all(same(a, b) for a, b in zip(flat(found), expected, strict=True))
    assert all(same(a, by_number[i]) for i, a in zip([0, 2, 3, 5, 6, 8, 9, 11], flat(shared[0]), strict=True))
    assert all(same(a, by_number[i]) for i, a in zip([1, 4, 7, 10], flat(shared[1]), strict=True))
    assert list(batches(source(), 4, 4, 3)) == []
    with pytest.raises(ConfigError, match="cannot be shared out"):
        list(batches(source(), 0, 1, 1, part=(0, 2)))


SCRIPT = """
import pickle, sys
from vesalius.corpus.store import Corpus
from vesalius.models.presets import Preset
from vesalius.training.samples import SampleConfig, SampleSource, batches

if __name__ == "__main__":
    source = SampleSource(Corpus(sys.argv[1]), Preset(side=64, mask_side=32, fit="stretch"), SampleConfig(), seed=3)
    with open(sys.argv[2], "wb") as file:
        pickle.dump(list(batches(source, 1, 6, 3, workers=2)), file)
"""


@pytest.mark.slow
def test_batches_are_the_same_from_any_number_of_processes(corpus: Corpus, tmp_path: Path) -> None:
    none = list(batches(SampleSource(corpus, SMALL, SampleConfig(), seed=3), 1, 6, 3))
    # As a run does it: in an interpreter of its own, which other tests' libraries have not been loaded into.
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(corpus.folder), str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=300)
    two = pickle.loads((tmp_path / "two").read_bytes())
    assert [len(batch) for batch in two] == [3] * 5
    assert all(same(a, b) for a, b in zip(flat(none), flat(two), strict=True))


DAMAGED = """
import sys
from types import SimpleNamespace
from vesalius.core.errors import ReadError
from vesalius.training.samples import batches

class Source:
    pool = SimpleNamespace(limit=print)

    def __getitem__(self, number):
        if number == 1:
            raise ReadError("is damaged", path="b.png", remedy="leave it out")
        return number

if __name__ == "__main__":
    drawn = batches(Source(), 0, 3, 1, workers=int(sys.argv[1]))
    assert next(drawn) == [0]
    try:
        next(drawn)
    except ReadError as error:
        print(error, error.path, error.remedy)
"""


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_told_the_same_from_any_process(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(DAMAGED)
    told = []
    for workers in (0, 1):
        command = [sys.executable, str(tmp_path / "script.py"), str(workers)]
        done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
        told.append(done.stdout.splitlines()[-1])
    assert told[0] == told[1]
    assert told[0].endswith("b.png leave it out")


def test_batches_can_be_left_early(corpus: Corpus) -> None:
    drawn = batches(SampleSource(corpus, SMALL, SampleConfig(), seed=3), 0, 1000, 2)
    next(drawn)
    drawn.close()


def test_a_source_travels_without_what_it_keeps(corpus: Corpus) -> None:
    source = SampleSource(corpus, SMALL, SampleConfig(), seed=0)
    before = len(pickle.dumps(source))
    first = source[0]
    for number in range(50):
        source[number]
    content = pickle.dumps(source)
    assert len(content) < before + 2000
    assert same(pickle.loads(content)[0], first)


def test_room_is_limited_and_shared_out(corpus: Corpus) -> None:
    source = SampleSource(corpus, SMALL, SampleConfig(memory=4e-6), seed=0)
    for number in range(200):
        source[number]
    assert 0 < len(source.pool._items) < len(source)
    source.pool.limit(4)
    assert source.pool._room == 1000


@pytest.mark.parametrize("augment", [False, True])
def test_a_name_means_all_objects_of_its_target(augment: bool) -> None:
    config = SampleConfig(augment=augment, joined=0.5, objects=3, shapes=0, grown=0, rotate=0, flip=0)
    preset = Preset(side=16, mask_side=16, fit="stretch")
    source = SampleSource([labelled("ct", "a", "kkl")], preset, config, seed=0)
    found = 0
    for number in range(60):
        sample = source[number]
        for mask, target, whole in zip(sample.masks, sample.targets, sample.joined, strict=True):
            if whole:
                found += target == "k"
                assert target in ("k", "l")
                if not augment and target == "k":
                    assert np.array_equal(np.flatnonzero(mask.any(1)), range(4))
            else:
                assert target in ("", "l")
        assert sample.joined.count(True) <= 1
    assert 5 < found < 40


def test_joined_objects_keep_their_shapes() -> None:
    first = Crop(np.array([[True, False], [True, True]]), 4, 7, "k", False)
    second = Crop(np.array([[False, True]]), 2, 9, "k", False)
    whole = joined([first, second])
    expected = np.zeros((8, 12), bool)
    expected[4:6, 7] = expected[5, 8] = expected[2, 10] = True
    x0, y0, x1, y1 = whole.box
    assert np.array_equal(whole.mask, expected[y0:y1, x0:x1])
    assert whole.mask.sum() == expected.sum()
    assert (whole.target, whole.joined) == ("k", True)


def test_no_two_streams_of_random_numbers_are_one(monkeypatch) -> None:
    source = SampleSource(disc_images(3), SMALL, SampleConfig(augment=False, order="epochs"), seed=0)
    states = []
    default_rng = np.random.default_rng

    def recorded(seed):
        states.append(tuple(np.random.SeedSequence(seed).generate_state(4)))
        return default_rng(seed)

    monkeypatch.setattr(np.random, "default_rng", recorded)
    config = InteractionConfig()
    for step in range(6):
        batch = collate([source[step]], [step], step, SMALL)
        list(InteractiveStep(tiny(), config, LossConfig()).play(batch))
    # Six samples, two epochs, two objects in each sample, and the turns of each step.
    assert len(states) == 6 + 2 + 12 + 6
    assert len(set(states)) == len(states)


def test_where_no_split_is_for_validation_a_tenth_of_the_training_cases_is(corpus: Corpus) -> None:
    splits, cases = (np.array(corpus.images[name].to_pylist()) for name in ("split", "case"))
    assert set(splits) == {"train", "test"}
    train, held_out = rows_of(corpus, "train"), rows_of(corpus, "val")
    assert not (train & held_out).any()
    assert np.array_equal(train | held_out, splits == "train")
    assert len(set(cases[held_out])) == 1
    assert not set(cases[held_out]) & set(cases[train])
    assert np.array_equal(rows_of(corpus, "test"), splits == "test")


def test_few_cases_are_all_trained_on(tmp_path: Path) -> None:
    small = write(tmp_path / "small", [list(range(8))])
    assert not rows_of(small, "val").any()
    assert rows_of(small, "train").sum() == 6
