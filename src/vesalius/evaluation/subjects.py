"""What can be measured: models of the package, classes of others, folders of masks, and baselines."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import ConfigError, ModelError, PromptError
from vesalius.core.types import Prediction, Prompt, Slice
from vesalius.corpus.objects import LabelledImage
from vesalius.evaluation.baselines import BASELINES
from vesalius.evaluation.protocols import Strategy
from vesalius.io.masks import read_mask
from vesalius.predict.cache import EmbeddingCache
from vesalius.predict.everything import segment_everything
from vesalius.predict.predictor import Predictor
from vesalius.predict.stored_embeddings import StoredEmbeddings
from vesalius.prompts.sample import Mask

# Parts of a prompt.
BOX, POINTS, TEXT = "box", "points", "text"
NO_ADAPTERS = "it has no adapters to compare with"
# Prompts answered at once, and pixels of an image times prompts: their masks are held in memory together.
_BATCH, _PIXELS = 64, 2**26


class OutsidePredictor(Protocol):
    """What a class must have to be measured as ``--model package.module:Class``; it is called without arguments.

    Attributes:
        name: Under which it is listed.
        digest: What tells two versions of it apart, such as a digest of its weights.
        takes: Of ``"box"``, ``"points"`` and ``"text"`` those that it understands.
    """

    name: str
    digest: str
    takes: Collection[str]

    def encode(self, image: Slice, /) -> Any:
        """What it keeps of an image, for all prompts about it; called again only for its times and pictures."""
        ...

    def predict(self, embedding: Any, prompts: Sequence[Prompt], /) -> Sequence[Prediction]:
        """One prediction per prompt, in order; a quality of NaN and no logits where it has none."""
        ...


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt about an object.

    Attributes:
        strategy: Under which it is given.
        number: Of the object among those of the image that are measured.
        round: Number of the answer, from 1.
        prompt: The prompt.
    """

    strategy: Strategy
    number: int
    round: int
    prompt: Prompt


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to several equal prompts.

    Attributes:
        asked: Places of the prompts among those that were asked.
        masks: All masks that the subject gives, its own choice first; empty where it cannot answer.
        reason: Why it cannot.
    """

    asked: list[int]
    masks: list[Prediction]
    reason: str | None = None


class Subject(ABC):
    """Something that is measured.

    Attributes:
        name: Under which it is listed.
        digest: What tells two of one name apart.
        runs_by: What computes it.
    """

    name: str
    digest: str
    runs_by: str

    @abstractmethod
    def cannot(self, strategy: Strategy, prompt: Prompt | None) -> str | None:
        """Why it cannot be prompted so; None if it can. A prompt of None asks for everything."""

    @abstractmethod
    def open(self, labelled: LabelledImage, names: Sequence[str]) -> Any:
        """What it keeps of an image whose measured objects have these names."""

    @abstractmethod
    def answer(self, opened: Any, asked: Sequence[Asked]) -> Iterator[Answer]:
        """Answers prompts that it can take."""

    def everything(self, opened: Any, side: int) -> list[Mask]:
        """Masks of all that it finds, from a grid of so many clicks along each side."""
        raise NotImplementedError

    def forget(self) -> None:  # noqa: B027
        """Drops what is kept of images, so that the next one is encoded anew."""

    def saliency(self, opened: Any) -> NDArray[np.float32] | None:  # noqa: ARG002
        """(h, w) how strongly the embedding answers to places of the whole image; None where there is none."""
        return None


class ModelSubject(Subject):
    """A model of the package.

    Args:
        predictor: The model.
        by_torch: Gives the same model, run by torch, with its adapters (True) or without them (False).
    """

    def __init__(self, predictor: Predictor, by_torch: Callable[[bool], Predictor] | None = None) -> None:
        self.name, self.digest, self.runs_by = predictor.name, predictor.digest, predictor.runs_by
        self.predictor, self._by_torch = predictor, by_torch

    @cached_property
    def compared(self) -> dict[bool, Predictor] | None:
        """The model with and without its adapters, both run by one library; None where it has none."""
        bare = self._by_torch(False) if self._by_torch else None
        if self._by_torch is None or bare is None or bare.digest == self.digest:
            return None
        same = self.predictor.runs_by == bare.runs_by
        return {True: self.predictor if same else self._by_torch(True), False: bare}

    def cannot(self, strategy: Strategy, prompt: Prompt | None) -> str | None:
        """See `Subject`."""
        if strategy.protocol == "adapter-off" and self.compared is None:
            return NO_ADAPTERS
        takes = self.predictor.takes
        if prompt is None:
            return None if POINTS in takes else "it takes no points, of which everything mode is made"
        return _not_taken(prompt, takes)

    def open(self, labelled: LabelledImage, names: Sequence[str]) -> Any:  # noqa: ARG002
        """See `Subject`."""
        return {self.predictor: self.predictor.encode(labelled.image), None: labelled.image}

    def _network(self, strategy: Strategy) -> Predictor:
        if strategy.protocol != "adapter-off":
            return self.predictor
        assert self.compared is not None
        return self.compared[strategy.adapters]

    def answer(self, opened: Any, asked: Sequence[Asked]) -> Iterator[Answer]:
        """See `Subject`."""
        networks = [self._network(one.strategy) for one in asked]
        for predictor in dict.fromkeys(networks):
            if predictor not in opened:
                opened[predictor] = predictor.encode(opened[None])
            places = [place for place, network in enumerate(networks) if network is predictor]
            yield from _answers(predictor, opened[predictor], asked, places, opened[None].size)

    def everything(self, opened: Any, side: int) -> list[Mask]:
        """See `Subject`."""
        return [found.mask for found in segment_everything(self.predictor, opened[self.predictor], side=side)]

    def forget(self) -> None:
        """See `Subject`; what is kept on disk is left aside from then on."""
        self.predictor.cache = EmbeddingCache()

    def saliency(self, opened: Any) -> NDArray[np.float32] | None:
        """See `Subject`."""
        features = opened[self.predictor].features[0]
        values = np.asarray(features.float().cpu() if hasattr(features, "float") else features, np.float32)
        mean = np.abs(values.reshape(-1, *values.shape[-2:])).mean(0)
        return np.asarray((mean - mean.min()) / max(float(np.ptp(mean)), 1e-12), np.float32)


class OutsideSubject(Subject):
    """A class of somebody else; see `OutsidePredictor`."""

    def __init__(self, outside: OutsidePredictor, where: str) -> None:
        self.name, self.digest, self.runs_by = outside.name, str(outside.digest), where
        self._outside = outside

    def cannot(self, strategy: Strategy, prompt: Prompt | None) -> str | None:
        """See `Subject`."""
        if strategy.protocol == "adapter-off":
            return NO_ADAPTERS
        return "it has no everything mode" if prompt is None else _not_taken(prompt, self._outside.takes)

    def open(self, labelled: LabelledImage, names: Sequence[str]) -> Any:  # noqa: ARG002
        """See `Subject`."""
        return labelled.image.size, self._outside.encode(labelled.image)

    def answer(self, opened: Any, asked: Sequence[Asked]) -> Iterator[Answer]:
        """See `Subject`.

        Raises:
            ModelError: It does not give one mask of the image's size for each prompt.
        """
        size, embedding = opened
        for answer in _answers(self._outside, embedding, asked, range(len(asked)), size):
            for mask in (found.mask for found in answer.masks):
                if mask.dtype != np.bool_ or mask.shape != size:
                    raise ModelError(
                        f"{self.name} gives a mask of {mask.dtype} {mask.shape} for an image of {size}",
                        remedy="give bool, and the size of the image",
                    )
            yield answer


class BaselineSubject(Subject):
    """One of `BASELINES`, which outline what is in a box."""

    def __init__(self, name: str) -> None:
        self.name, self.digest = name, ""
        self.runs_by = "scikit-image" if name == "random walker" else "OpenCV"
        self._outline = BASELINES[name]

    def cannot(self, strategy: Strategy, prompt: Prompt | None) -> str | None:
        """See `Subject`."""
        if strategy.protocol == "adapter-off":
            return NO_ADAPTERS
        if prompt is not None and prompt.box is not None and not len(np.asarray(prompt.points)):
            return None
        return "it takes a box alone"

    def open(self, labelled: LabelledImage, names: Sequence[str]) -> Any:  # noqa: ARG002
        """See `Subject`."""
        return labelled.image.rgb()

    def answer(self, opened: Any, asked: Sequence[Asked]) -> Iterator[Answer]:
        """See `Subject`."""
        for places in _alike(asked, range(len(asked))):
            box = asked[places[0]].prompt.box
            assert box is not None
            yield Answer(places, [Prediction(self._outline(opened, box), math.nan)])


class MaskFolder(Subject):
    """Masks that somebody has made from the stored prompts.

    ``FOLDER/PROTOCOL/STRATEGY/OBJECT.png`` is an image of the object's image's size, not 0 inside; of a strategy with a
    variant, repeats or rounds, ``STRATEGY`` is followed by ``-VARIANT``, ``-rREPEAT`` and ``-ROUND`` as far as they are
    not empty, 0 and 1. ``OBJECT`` is the object's name with ``--`` for each ``/``. A file that is missing is an empty
    cell.

    Args:
        name: Under which it is listed.
        folder: The folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.runs_by = name, folder, "masks"
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*.png")):
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        self.digest = digest.hexdigest()

    def cannot(self, strategy: Strategy, prompt: Prompt | None) -> str | None:
        """See `Subject`."""
        if prompt is None:
            return "a folder of masks has no everything mode"
        there = (self.folder / strategy.protocol).is_dir()
        return None if there else f"the folder has no masks of the protocol {strategy.protocol}"

    def open(self, labelled: LabelledImage, names: Sequence[str]) -> Any:
        """See `Subject`."""
        return labelled.image, list(names)

    def answer(self, opened: Any, asked: Sequence[Asked]) -> Iterator[Answer]:
        """See `Subject`."""
        image, names = opened
        for place, one in enumerate(asked):
            path = self.path(one.strategy, names[one.number], one.round)
            if not path.is_file():
                yield Answer([place], [], "the folder has no mask of the object")
                continue
            yield Answer([place], [Prediction(read_mask(path, like=image), math.nan)])

    def path(self, strategy: Strategy, name: str, number: int) -> Path:
        """Where the mask of an object lies."""
        parts = [strategy.name, strategy.variant, f"r{strategy.repeat}" if strategy.repeat else ""]
        parts.append(str(number) if number > 1 else "")
        return self.folder / strategy.protocol / "-".join(filter(None, parts)) / f"{name.replace('/', '--')}.png"


def load_subject(given: str, runtime: str = "auto", device: str = "cpu", embeddings: Path | None = None) -> Subject:
    """What a name means: a baseline, a model, a class of somebody else, or a folder of masks.

    Args:
        given: ``"ellipse"`` or another baseline; a name or path that `load_model` takes; ``"package.module:Class"``; or
            ``"NAME=FOLDER"`` for masks, or for a model that is to be listed under another name.
        runtime: What runs a model.
        device: Where it runs.
        embeddings: Folder in which its embeddings are kept.

    Raises:
        ConfigError: A class cannot be imported or lacks what `OutsidePredictor` asks for.
        ModelError: There is no such model.
        ReadError: There is no such folder.
    """
    from vesalius.models.exported import EXPORT
    from vesalius.predict.load import find_model, load_model

    if given in BASELINES:
        return BaselineSubject(given)
    name, equals, where = given.partition("=")
    if equals and Path(where).is_dir() and not is_checkpoint(Path(where)):
        return MaskFolder(name, Path(where))
    module, colon, attribute = given.partition(":")
    if colon and module.replace(".", "").isidentifier():
        return _outside(given, module, attribute)
    model = where if equals else given
    predictor = load_model(model, device, runtime=runtime)  # type: ignore[arg-type]
    if equals:
        predictor.name = name
    if embeddings is not None:
        predictor.cache = StoredEmbeddings(embeddings, predictor.digest, predictor.runs_by)
    # An export is run as it is.
    exported = (find_model(model) / EXPORT).is_file()

    def by_torch(adapters: bool) -> Predictor:
        return load_model(model, device, adapters=adapters, runtime="torch")

    return ModelSubject(predictor, None if exported else by_torch)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a model and not masks."""
    from vesalius.models.exported import EXPORT

    return any((folder / name).is_file() for name in ("config.json", EXPORT))


def _outside(given: str, module: str, attribute: str) -> OutsideSubject:
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{given} cannot be imported ({error})", remedy="install its package, or set PYTHONPATH"
        ) from error
    outside: Any = found() if inspect.isclass(found) else found
    lacking = [name for name in ("name", "digest", "takes", "encode", "predict") if not hasattr(outside, name)]
    if lacking:
        raise ConfigError(
            f"{given} has no {', '.join(lacking)}",
            remedy="see vesalius.evaluation.subjects.OutsidePredictor for what it needs",
        )
    return OutsideSubject(outside, given)


def _not_taken(prompt: Prompt, takes: Collection[str]) -> str | None:
    """Why a prompt cannot be given to what takes some parts; None if it can."""
    said = {POINTS: len(np.asarray(prompt.points)) > 0, BOX: prompt.box is not None, TEXT: prompt.text is not None}
    lacking = [part for part, there in said.items() if there and part not in takes]
    words = {POINTS: "points", BOX: "boxes", TEXT: "words"}
    return f"it takes no {' and no '.join(words[part] for part in lacking)}" if lacking else None


def _alike(asked: Sequence[Asked], places: Sequence[int]) -> list[list[int]]:
    """Places of prompts that say the same, together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place in places:
        prompt = asked[place].prompt
        said = np.asarray(prompt.points, np.float64).tobytes(), np.asarray(prompt.labels).tobytes()
        logits = None if prompt.logits is None else id(prompt.logits)
        groups.setdefault((*said, prompt.box, prompt.text, logits), []).append(place)
    return list(groups.values())


def _answers(
    by: Any, embedding: Any, asked: Sequence[Asked], places: Sequence[int], size: tuple[int, int]
) -> Iterator[Answer]:
    """Answers of a model: equal prompts once, words that it may not know one by one, all others together."""
    alike = _alike(asked, places)
    words = [group for group in alike if asked[group[0]].prompt.text is not None]
    others = [group for group in alike if asked[group[0]].prompt.text is None]
    most = max(1, min(_BATCH, _PIXELS // math.prod(size)))
    batches = [[group] for group in words] + [others[i : i + most] for i in range(0, len(others), most)]
    for batch in batches:
        prompts = [asked[group[0]].prompt for group in batch]
        matched = any(asked[place].strategy.matched for group in batch for place in group)
        try:
            if matched and isinstance(by, Predictor):
                found = by.candidates(embedding, prompts)
            else:
                found = [[one] for one in by.predict(embedding, prompts)]
        except PromptError as error:
            if prompts[0].text is None:
                raise
            yield Answer(batch[0], [], error.reason)
            continue
        if len(found) != len(prompts):
            raise ModelError(
                f"{by.name} gives {len(found)} answers to {len(prompts)} prompts", remedy="give one for each"
            )
        for group, masks in zip(batch, found, strict=True):
            yield Answer(group, list(masks))
