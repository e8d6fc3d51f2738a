"""Training samples: what a network is shown, drawn by number.

Sample ``i`` of a run is drawn from its own generator, seeded with (seed, i): the order of work, the number of
processes and a resumed run change nothing.

How the object that a sample is about is drawn (``order = "balanced"``): every image weighs 1, and its k objects weigh
1/k each. Objects are gathered by modality, each of these by data set, each of these by target. A group of weight n is
drawn among its siblings with a chance that goes with n to the power of its level's exponent, and in the last group an
object with a chance that goes with its own weight. So an exponent of 1 leaves a level as the images have it, 0 draws
all its groups equally often, and None does not tell them apart, which for the last level is the same as 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from vesalius.core.config import Probability
from vesalius.core.errors import ConfigError, ReadError, VesaliusError
from vesalius.core.frame import Frame
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.store import Corpus
from vesalius.models.presets import Preset
from vesalius.predict.predictor import whole_frame
from vesalius.training.augment import (
    AugmentConfig,
    Rng,
    View,
    covered,
    drawn_view,
    grown_region,
    inversion,
    paint_shape,
    random_shape,
    vary_intensity,
    warp,
    warp_crop,
)
from vesalius.training.pool import Crop, joined, pool_of
from vesalius.vocabulary.targets import target_of

# Objects of one image that are tried, at most: of a field of cells most lie outside a window.
_TRIED = 12
# Shapes that are drawn until one is large enough.
_DRAWN = 100
# An object covers at least this share of a varied sample, and this share of it is seen; of the one that the sample is
# about, either will do.
_LEAST, _SEEN = 0.001, 0.7


class SampleConfig(AugmentConfig):
    """How samples are drawn.

    Attributes:
        augment: Whether they are varied at all. If not, each is the whole image, placed as the network's preset says.
        order: ``balanced`` draws as this module says; ``epochs`` takes every image once, in random order, before it
            takes one again, and every object of an image equally often.
        by_modality: Exponent of modalities; None draws data sets without regard to it.
        by_dataset: Exponent of data sets; None as above.
        by_target: Exponent of targets; None as above.
        emphasis: Factors by which the chance of data sets is multiplied, for those that a network finds hard.
        objects: Most objects taken from one image.
        repeat: Whether an image of fewer objects shows some of them again, chosen at random.
        pseudo_share: Probability that a place after the first goes to one of the image's pseudo masks, if it has some.
        joined: Probability that the drawn object is joined with all others of its target, to be asked for by name.
            Unless it is 0, a name means all objects of a target, and one of several goes without.
        memory: GB (10^9 bytes) of a corpus that stay decoded, in all worker processes together; of several
            processes that train, in those of each.
    """

    augment: bool = True
    order: Literal["balanced", "epochs"] = "balanced"
    by_modality: float | None = None
    by_dataset: float | None = 0.5
    by_target: float | None = None
    emphasis: dict[str, PositiveFloat] = Field(default_factory=dict)
    objects: int = Field(3, ge=1)
    repeat: bool = False
    pseudo_share: Probability = 0.0
    joined: Probability = 0.0
    memory: float = Field(2.0, ge=0)


@dataclass(frozen=True, eq=False)
class Sample:
    """One training sample: an image as the network sees it, and objects in it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        masks: (M, S, S) bool, at least one; none is empty.
        targets: What they are; empty where that is unknown, they are drawn, or the name would mean others too.
        pseudo: Whether a model or an algorithm drew them.
        joined: Whether they are all objects of a target, to be asked for by name.
        index: Number of the image in its corpus or list.
        content: (x0, y0, x1, y1), half-open: where the image lies in the square; the rest is padding.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    targets: tuple[str, ...]
    pseudo: tuple[bool, ...]
    joined: tuple[bool, ...]
    index: int
    content: tuple[int, int, int, int]


class _Object(NamedTuple):
    """An object in a sample."""

    mask: NDArray[np.bool_]
    target: str = ""
    pseudo: bool = False
    joined: bool = False


class SampleSource:
    """Draws training samples; it can be sent to other processes, and is used by one thread at a time.

    Args:
        images: A corpus, or labelled images in memory. Images without objects are left out.
        preset: The network's input.
        config: How samples are drawn.
        seed: Seed of the run.
        split: The split that is drawn from.

    Raises:
        ReadError: The split has no object.
        ConfigError: The configuration emphasises a data set that there is not.
    """

    def __init__(
        self,
        images: Corpus | Sequence[LabelledImage],
        preset: Preset,
        config: SampleConfig,
        seed: int,
        split: str = "train",
    ) -> None:
        self.preset, self.config, self.seed = preset, config, seed
        self.folder = images.folder if isinstance(images, Corpus) else None
        self.pool = pool_of(images, split, int(config.memory * 1e9))
        objects = self.pool.objects
        if unknown := sorted(set(config.emphasis) - set(objects.datasets)):
            raise ConfigError(
                f"samples.emphasis names data sets that there are not: {', '.join(unknown)}",
                path=self.folder,
                remedy=f"name some of: {', '.join(objects.datasets)}",
            )
        counts = np.diff(objects.first)
        # Numbers of the images that are drawn, in order.
        self.indices: NDArray[np.int64] = np.flatnonzero(objects.wanted & (counts > 0))
        if not self.indices.size:
            remedy = "give more images, or another split"
            if self.folder is not None:
                remedy = "give a corpus with labelled images"
                if counts.any():
                    remedy = f"divide it by case: vesalius corpus split {self.folder} --shares 0.6 0.2 0.2"
            raise ReadError(f"no image of the split {split!r} has an object", path=self.folder, remedy=remedy)
        weight = np.repeat(np.where(objects.wanted, 1 / np.maximum(counts, 1), 0.0), counts)
        levels = [
            (np.repeat(objects.modality, counts), config.by_modality),
            (np.repeat(objects.dataset, counts), config.by_dataset),
            (objects.target, config.by_target),
        ]
        factors = np.array([config.emphasis.get(name, 1.0) for name in objects.datasets])
        self._until = np.cumsum(balanced(weight, levels) * np.repeat(factors[objects.dataset], counts))
        self._until /= self._until[-1]
        self._epoch = (-1, self.indices)

    def __len__(self) -> int:
        """Images in an epoch."""
        return len(self.indices)

    @property
    def chances(self) -> NDArray[np.float64]:
        """(N,) probability with which each of ``pool.objects`` is drawn, if the order is balanced."""
        return np.diff(self._until, prepend=0.0)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that are drawn."""
        objects = self.pool.objects
        drawn = np.repeat(objects.wanted, np.diff(objects.first))
        return tuple(name for i in np.unique(objects.target[drawn]) if (name := objects.targets[i]))

    @property
    def words(self) -> tuple[str, ...]:
        """The vocabulary's names of the targets that are drawn; of those that it does not have, their own."""
        return tuple(sorted({target_of(name).name for name in self.targets}))

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng((self.seed, number))
        index, anchor = self._drawn(number, rng)
        first = self.pool.objects.first
        count = int(first[index + 1] - first[index])
        order = [anchor, *(int(i) for i in rng.permutation(count) if i != anchor)]
        pseudo: list[Crop] = []
        if (places := int(rng.binomial(self.config.objects - 1, self.config.pseudo_share))) > 0:
            found = self.pool.pseudo(index)
            pseudo = [found[i] for i in rng.permutation(len(found))[:places]]
        order = order[: _TRIED if self.config.augment else self.config.objects - len(pseudo)]
        codes = self.pool.objects.target[first[index] : first[index + 1]]
        alike: list[int] = []
        if self.config.joined and rng.random() < self.config.joined and self.pool.objects.targets[codes[anchor]]:
            alike = np.flatnonzero(codes == codes[anchor]).tolist()
        item = self.pool.item(index, list(dict.fromkeys([*order, *alike])))
        crops = [item.crops[i] for i in order if i in item.crops and i not in alike]
        if self.config.joined:
            several = {self.pool.objects.targets[i] for i in np.flatnonzero(np.bincount(codes) > 1)}
            crops = [replace(crop, target="") if crop.target in several else crop for crop in crops]
        if parts := [item.crops[i] for i in alike if i in item.crops]:
            crops.insert(0, joined(parts))
        if not crops:
            raise ReadError(f"the masks of its image {index} are empty", path=self.folder, remedy="curate it again")
        pixels = item.pixels
        frame = whole_frame((pixels.shape[0], pixels.shape[1]), self.preset)
        if self.config.augment:
            modality = self.pool.objects.modalities[self.pool.objects.modality[index]]
            image, objects, content = self._varied(pixels, frame, crops, pseudo, modality, rng)
        else:
            image, objects = _rgb(frame.image(pixels)), [_placed(crop, frame) for crop in [*crops, *pseudo]]
            content = frame.content
        if self.config.repeat:
            missing = self.config.objects - len(objects)
            objects = objects + [objects[i] for i in rng.integers(len(objects), size=missing)]
        return Sample(
            image=image,
            masks=np.stack([entry.mask for entry in objects]),
            targets=tuple(entry.target for entry in objects),
            pseudo=tuple(entry.pseudo for entry in objects),
            joined=tuple(entry.joined for entry in objects),
            index=index,
            content=content,
        )

    def _drawn(self, number: int, rng: Rng) -> tuple[int, int]:
        """Number of an image, and of the object in it that the sample is about."""
        first = self.pool.objects.first
        if self.config.order == "balanced":
            row = int(np.searchsorted(self._until, rng.random(), side="right"))
            index = int(np.searchsorted(first, row, side="right")) - 1
            return index, row - int(first[index])
        epoch, place = divmod(number, len(self))
        if self._epoch[0] != epoch:
            # The last word keeps the stream apart from those of samples and prompts; a zero would not.
            self._epoch = epoch, np.random.default_rng((self.seed, epoch, 0, 3)).permutation(self.indices)
        index = int(self._epoch[1][place])
        return index, int(rng.integers(first[index + 1] - first[index]))

    def _varied(
        self,
        pixels: NDArray[np.uint8],
        frame: Frame,
        crops: list[Crop],
        pseudo: list[Crop],
        modality: str,
        rng: Rng,
    ) -> tuple[NDArray[np.uint8], list[_Object], tuple[int, int, int, int]]:
        """Image, objects and content from a drawn view, with shapes and regions of our own now and then."""
        config, side = self.config, self.preset.side
        least = _LEAST * side**2
        view, anchor = self._looked_at(frame, crops[0], least, rng)
        image = _rgb(warp(pixels, view.matrix, side))
        content = view.content(frame)

        def named(crop: Crop, mask: NDArray[np.bool_]) -> _Object:
            target = _unsided(crop.target) if view.flipped else crop.target
            if config.joined and target != crop.target:
                # Without its side, the name would mean the other side's too.
                target = ""
            return _Object(mask, target, crop.pseudo, crop.joined)

        def seen(candidates: list[Crop], most: int) -> list[_Object]:
            shown: list[_Object] = []
            for crop in candidates:
                if len(shown) == most:
                    break
                mask = warp_crop(crop.mask, crop.top, crop.left, view.matrix, side)
                if mask.sum() >= least and _is_seen(crop, mask, view):
                    shown.append(named(crop, mask))
            return shown

        machine = seen(pseudo, len(pseudo))
        others = seen(crops[1:], config.objects - len(machine) - 1)
        objects = [named(crops[0], anchor), *others, *machine]
        if rng.random() < config.shapes and (shape := _shape(side, content, least, rng)) is not None:
            image = paint_shape(image, shape, rng)
            rest = [entry._replace(mask=entry.mask & ~shape) for entry in objects]
            # What is smaller than the least has to be left whole.
            kept = [new for old, new in zip(objects, rest, strict=True) if new.mask.sum() >= min(least, old.mask.sum())]
            objects = [_Object(shape), *kept][: config.objects]
        if rng.random() < config.grown and (region := grown_region(image, rng)) is not None:
            region = _within(region, content)
            if region.sum() >= least:
                objects = [_Object(region, pseudo=True), *objects][: config.objects]
        return vary_intensity(image, rng, config.intensity, inversion(modality, config)), objects, content

    def _looked_at(self, frame: Frame, crop: Crop, least: float, rng: Rng) -> tuple[View, NDArray[np.bool_]]:
        """A view for the object that a sample is about, and its mask, which has a pixel at least."""
        config = self.config
        if crop.joined and _unsided(crop.target) != crop.target:
            # It is asked for by name, which it would lose in a mirror.
            config = config.model_copy(update={"flip": 0.0})
        view = drawn_view(frame, crop.box, config, rng)
        mask = warp_crop(crop.mask, crop.top, crop.left, view.matrix, self.preset.side)
        if mask.sum() >= least or _is_seen(crop, mask, view):
            return view, mask
        # It was turned or moved out of the sample, or is less than a pixel: the image as it is placed shows all of it.
        whole = View(np.column_stack([np.diag(frame.scale), frame.shift]), flipped=False)
        return whole, _placed(crop, frame).mask


def balanced(
    weight: NDArray[np.float64], levels: Sequence[tuple[NDArray[np.integer], float | None]]
) -> NDArray[np.float64]:
    """(N,) chances, which sum to 1, of objects that are drawn level by level.

    Args:
        weight: (N,) each object's own weight; at least one is above 0.
        levels: From the top: (N,) group of each object, and the exponent of the groups' weights; None leaves the
            level out.
    """
    chance = np.ones(len(weight))
    group = np.zeros(len(weight), np.int64)
    total = np.array([weight.sum()])
    for codes, exponent in levels:
        if exponent is None or not len(codes):
            continue
        joint = group * (int(codes.max()) + 1) + codes
        _, first, inner = np.unique(joint, return_index=True, return_inverse=True)
        total = np.bincount(inner, weight)
        power = np.where(total > 0, total, 1.0) ** exponent * (total > 0)
        above = group[first]
        siblings = np.bincount(above, power)[above]
        share = np.divide(power, siblings, out=np.zeros_like(power), where=siblings > 0)
        chance *= share[inner]
        group = inner
    whole = total[group]
    within: NDArray[np.float64] = np.divide(weight, whole, out=np.zeros_like(weight), where=whole > 0)
    return chance * within


def batches(
    source: SampleSource,
    first: int,
    last: int,
    images: int,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[list[Sample]]:
    """Yields batches ``first`` to ``last - 1``, in order, drawn ahead of their use.

    Batch b holds the samples b * images to (b + 1) * images - 1, however it is drawn.

    Args:
        source: What draws them; nobody else may use it meanwhile.
        first: Number of the first batch.
        last: Number after the last.
        images: Images in a batch.
        workers: Processes that draw; with 0 a thread does.
        part: (r, n) yields each n-th sample of a batch from its r-th on, for one of n processes that train together.

    Raises:
        ConfigError: A batch has fewer images than processes train.
    """
    rank, world = part
    if not 0 <= rank < world <= images:
        raise ConfigError(f"{images} images cannot be shared out among {world} processes", remedy="take larger batches")
    drawn = _Batches(source, images, rank, world)
    if workers:
        yield from _by_processes(drawn, range(first, last), workers)
        return
    with ThreadPoolExecutor(1) as pool:
        # Two ahead: one slow image does not hold up the network.
        waiting = [pool.submit(drawn.__getitem__, number) for number in range(first, min(first + 2, last))]
        try:
            for number in range(first + 2, last + 2):
                if not waiting:
                    return
                batch = waiting.pop(0).result()
                if number < last:
                    waiting.append(pool.submit(drawn.__getitem__, number))
                yield batch
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True, eq=False)
class _Batches:
    """A run's batches by number."""

    source: SampleSource
    images: int
    rank: int
    world: int

    def __getitem__(self, number: int) -> list[Sample]:
        start = number * self.images
        return [self.source[start + i] for i in range(self.rank, self.images, self.world)]


def _by_processes(drawn: _Batches, numbers: range, workers: int) -> Iterator[list[Sample]]:
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Told(drawn),  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=_start_worker,
        # A fresh interpreter: forking after numpy and OpenCV have started threads can hang.
        multiprocessing_context="spawn",
    )
    for batch in loader:
        if isinstance(batch, VesaliusError):
            raise batch
        yield batch


@dataclass(frozen=True, eq=False)
class _Told:
    """Batches by number, or the error in place of one: torch would make another of it, its traceback the reason."""

    drawn: _Batches

    def __getitem__(self, number: int) -> list[Sample] | VesaliusError:
        try:
            return self.drawn[number]
        except VesaliusError as error:
            return error


def _as_is(batch: list[Sample] | VesaliusError) -> list[Sample] | VesaliusError:
    return batch


def _start_worker(_: int) -> None:
    from torch.utils.data import get_worker_info

    cv2.setNumThreads(1)
    info = get_worker_info()
    if info is not None:
        told: Any = info.dataset
        told.drawn.source.pool.limit(info.num_workers)


def _placed(crop: Crop, frame: Frame) -> _Object:
    """An object where a frame places it; see `covered`. It has a pixel at least."""
    full = np.zeros(frame.size, np.uint8)
    x0, y0, x1, y1 = crop.box
    full[y0:y1, x0:x1] = crop.mask.view(np.uint8) * np.uint8(255)
    mask = covered(frame.image(full))
    if not mask.any():
        # Its share of every pixel is rounded to nothing: the one under its middle is taken.
        inside = np.argwhere(crop.mask)
        row, column = inside[len(inside) // 2]
        x, y = np.floor(frame.points((x0 + column, y0 + row)) + 0.5).astype(int)
        mask[y, x] = True
    return _Object(mask, crop.target, crop.pseudo, crop.joined)


def _is_seen(crop: Crop, mask: NDArray[np.bool_], view: View) -> bool:
    """Whether a mask, as a view shows it, is most of its object."""
    growth = abs(float(np.linalg.det(view.matrix[:, :2])))
    return bool(mask.sum() >= _SEEN * growth * crop.mask.sum())


def _shape(side: int, content: tuple[int, int, int, int], least: float, rng: Rng) -> NDArray[np.bool_] | None:
    """A drawn shape within the content that is not too small, or None if the content has no room for one."""
    for _ in range(_DRAWN):
        shape = _within(random_shape(side, rng), content)
        if shape.sum() >= least:
            return shape
    return None


def _within(mask: NDArray[np.bool_], content: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """What of a mask lies in the content."""
    x0, y0, x1, y1 = content
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return inside


def _unsided(target: str) -> str:
    """A target's name without its side: in a mirror, the left kidney looks like the right one."""
    found = target_of(target)
    return target if found.laterality is None else found.name.replace(found.laterality, "", 1).strip()


def _rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
