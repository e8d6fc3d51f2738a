"""Predictor: encode an image once, then answer many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import scipy.special
from numpy.typing import NDArray

from vesalius.core.errors import PromptError, ReadError
from vesalius.core.frame import Frame
from vesalius.core.types import Logits, Prediction, Prompt, Slice, listed
from vesalius.models.presets import Preset
from vesalius.models.runtime import ImageFeatures, PromptArrays, Runtime
from vesalius.predict.cache import EmbeddingCache, pixel_digest
from vesalius.prompts.sample import tight_box

# A drawn mask says where the object is, not how sure anyone is; it enters as logits of this size.
MASK_LOGIT = 4.0
# Least side of a window around an object, in original pixels.
LEAST_WINDOW = 32.0

# What a large network needs for an image while it encodes would not fit for many of them.
_ENCODED_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class Shown:
    """An image as the network is to see it.

    Attributes:
        image: The image.
        rgb: (H, W, 3) uint8, at its own size.
        frame: The frame of the whole image.
        digest: Digest of ``rgb``.
    """

    image: Slice
    rgb: NDArray[np.uint8]
    frame: Frame
    digest: str


@dataclass(frozen=True, eq=False)
class Embedding(Shown):
    """An encoded image.

    Attributes:
        features: What the network keeps of it, encoded in its whole frame.
    """

    features: ImageFeatures


class Predictor:
    """A network that answers prompts in original pixels. It holds no current image.

    Args:
        runtime: The network, ready to run.
        name: What to call it in outputs.
        cache: Where embeddings are kept; one of its own if left out.

    Attributes:
        takes: Parts of prompts that the network takes.
    """

    def __init__(self, runtime: Runtime, name: str, cache: EmbeddingCache | None = None) -> None:
        self.runtime = runtime
        self.name = name
        self.digest = runtime.digest
        self.takes = runtime.takes
        self.runs_by = runtime.label
        self.cache = EmbeddingCache() if cache is None else cache

    @property
    def preset(self) -> Preset:
        """How the network wants its input."""
        return self.runtime.preset

    def encode(self, image: Slice | NDArray[Any]) -> Embedding:
        """Encodes an image, whole.

        Args:
            image: A slice, or an (H, W) or (H, W, 3) uint8 array.

        Raises:
            ReadError: The array is not such an image.
        """
        if not isinstance(image, Slice):
            image = Slice(np.asarray(image))
            shape = image.pixels.shape
            if image.pixels.dtype != np.uint8 or shape[2:] not in ((), (3,)) or len(shape) < 2 or 0 in shape:
                raise ReadError(
                    f"an array of shape {shape} and dtype {image.pixels.dtype} is no image that can be encoded",
                    remedy="give (H, W) or (H, W, 3) uint8, or a Slice, which has a grey window",
                )
        shown = self._shown(image)
        (features,) = self._features([(shown, shown.frame)])
        return Embedding(image, shown.rgb, shown.frame, shown.digest, features)

    def predict(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Outlines the object of each prompt; all prompts are one batch.

        A network with a ``focus`` answers a prompt about a small object in a window around it, which is encoded once
        and kept for corrections. Where clicks alone do not show the object's size, the whole image is answered
        first, then the window around that answer, and the one of higher predicted IoU is taken. So is it with a
        correction by clicks whose answer would lie in a window of half the side of the one it was given in, or less.

        Raises:
            PromptError: A prompt does not fit the image, or has a part that the network does not take.
        """
        return [found[0] for found in self._answer([embedding] * len(prompts), prompts)]

    def candidates(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[list[Prediction]]:
        """All masks that the network gives for each prompt (three, or one), the best by predicted IoU first.

        The first is that of `predict`.

        Raises:
            PromptError: As `predict`.
        """
        return self._answer([embedding] * len(prompts), prompts, every=True)

    def predict_slices(self, images: Sequence[Slice], prompts: Sequence[Prompt]) -> list[Prediction]:
        """Outlines one object on each of several images, each by its own prompt; see `predict`.

        The images are encoded together, and only in the frames in which their prompts are answered: where the network
        looks at a window alone, the whole image is not encoded.

        Raises:
            PromptError: As `predict`.
        """
        return [found[0] for found in self._answer([self._shown(image) for image in images], prompts)]

    def _shown(self, image: Slice) -> Shown:
        rgb = image.rgb()
        return Shown(image, rgb, whole_frame(image.size, self.preset), pixel_digest(rgb))

    def _answer(
        self, images: Sequence[Shown], prompts: Sequence[Prompt], every: bool = False
    ) -> list[list[Prediction]]:
        """For each prompt the best mask alone, or every mask, the best first."""
        for shown, prompt in zip(images, prompts, strict=True):
            self._check_parts(prompt)
            prompt.check(shown.image.size, shown.image.source)
        frames = [self._frame(shown, prompt) for shown, prompt in zip(images, prompts, strict=True)]
        answers = self._decode(images, prompts, frames, every)
        second = [
            (i, frame)
            for i, prompt in enumerate(prompts)
            if (frame := self._second_look(images[i], prompt, frames[i], answers[i][0].mask)) is not None
        ]
        if second:
            of, to = [images[i] for i, _ in second], [prompts[i] for i, _ in second]
            again = self._decode(of, to, [frame for _, frame in second], every)
            for (i, _), answer in zip(second, again, strict=True):
                if answer[0].quality > answers[i][0].quality:
                    answers[i] = answer
        return answers

    def _check_parts(self, prompt: Prompt) -> None:
        if prompt.parts <= self.takes:
            return
        if prompt.text is not None and "text" not in self.takes:
            raise PromptError(
                f"{self.name} has no text head, so it does not understand {prompt.text!r}",
                remedy=f"prompt with {listed(self.takes)}, "
                "or use a model that takes words, such as an IMIS-Net run by torch",
            )
        raise PromptError(
            f"{self.name} does not take {listed(prompt.parts - self.takes)}",
            remedy=f"prompt with {listed(self.takes)} alone, or use another model",
        )

    def _frame(self, shown: Shown, prompt: Prompt) -> Frame:
        """The frame in which a prompt is answered first."""
        if self.preset.focus is None:
            return shown.frame
        points = np.asarray(prompt.points)
        if prompt.logits is not None and prompt.logits.frame.size == shown.image.size:
            x0, y0, x1, y1 = prompt.logits.frame.window
            # A click beside the object may lie anywhere.
            on = points[np.asarray(prompt.labels) == 1]
            said = np.concatenate([on + 0.5, np.reshape([] if prompt.box is None else prompt.box, (-1, 2))])
            if ((said >= (x0, y0)) & (said <= (x1, y1))).all():
                return prompt.logits.frame
        regions: list[Sequence[float]] = []
        if prompt.box is not None:
            regions.append(prompt.box)
        if prompt.mask is not None:
            regions.append(tight_box(prompt.mask))
        if prompt.logits is not None:
            before = prompt.logits.frame.inverse_logits(prompt.logits.values) > 0
            if before.any():
                regions.append(tight_box(before))
        if not regions:
            return shown.frame
        return focus_frame(_around(regions, points), shown.frame, self.preset.focus)

    def _second_look(self, shown: Shown, prompt: Prompt, seen: Frame, found: NDArray[np.bool_]) -> Frame | None:
        """The frame for a second look at the (H, W) mask that clicks alone have found, or None.

        None if they are not alone, nothing was found, or the frame that was ``seen`` first is near enough.
        """
        if self.preset.focus is None or prompt.box is not None or prompt.mask is not None or not found.any():
            return None
        points = np.asarray(prompt.points)[np.asarray(prompt.labels) == 1]
        frame = focus_frame(_around([tight_box(found)], points), shown.frame, self.preset.focus)
        if frame.is_whole:
            return None
        # Else a window would follow every small change of the outline, and be encoded anew.
        near_enough = prompt.logits is not None and 2 * _longer(frame) > _longer(seen)
        return None if near_enough else frame

    def _features(self, views: Sequence[tuple[Shown, Frame]]) -> list[ImageFeatures]:
        """Features of images, each in a frame, from the cache or the network."""
        known: dict[tuple[str, Frame], ImageFeatures] = {}
        new: dict[tuple[str, Frame], Shown] = {}
        for shown, frame in views:
            key = shown.digest, frame
            if isinstance(shown, Embedding) and frame == shown.frame:
                known[key] = shown.features
            elif (features := self.cache.get(*key)) is not None:
                known[key] = features
            else:
                new[key] = shown
        for start in range(0, len(new), _ENCODED_AT_ONCE):
            keys = list(new)[start : start + _ENCODED_AT_ONCE]
            images = np.stack([frame.image(new[digest, frame].rgb) for digest, frame in keys])
            encoded = self.runtime.encode(images, np.array([frame.content for _, frame in keys], np.int64))
            for key, features in zip(keys, encoded, strict=True):
                known[key] = features
                self.cache.put(*key, features)
        return [known[shown.digest, frame] for shown, frame in views]

    def _decode(
        self, images: Sequence[Shown], prompts: Sequence[Prompt], frames: Sequence[Frame], every: bool
    ) -> list[list[Prediction]]:
        # A group has the same parts in every row, so that an answer does not depend on its neighbours.
        groups: dict[tuple[int, bool, bool, bool], list[int]] = {}
        for i, prompt in enumerate(prompts):
            drawn = prompt.mask is not None or prompt.logits is not None
            parts = (len(np.asarray(prompt.points)), prompt.box is not None, drawn, prompt.text is not None)
            groups.setdefault(parts, []).append(i)
        out: dict[int, list[Prediction]] = {}
        for members in groups.values():
            views = {(images[i].digest, frames[i]): (images[i], frames[i]) for i in members}
            places = list(views)
            rows = [places.index((images[i].digest, frames[i])) for i in members]
            arrays = prompt_arrays([prompts[i] for i in members], [frames[i] for i in members], self.preset, rows)
            features = self._features(list(views.values()))
            logits, quality = self.runtime.decode(features, arrays, self.preset.multimask)
            if prompts[members[0]].parts == {"box"}:
                logits = logits - np.float32(self.preset.box_cut)
            by_quality = np.argsort(-quality, axis=1, kind="stable")
            for row, i in enumerate(members):
                chosen = by_quality[row] if every else by_quality[row, :1]
                out[i] = [_prediction(logits[row, level], quality[row, level], frames[i]) for level in chosen]
        return [out[i] for i in range(len(prompts))]


def _prediction(logits: NDArray[np.float32], quality: np.float32, frame: Frame) -> Prediction:
    values = logits.copy()
    return Prediction(frame.inverse_logits(values) > 0, float(quality.clip(0, 1)), Logits(values, frame))


def whole_frame(size: tuple[int, int], preset: Preset) -> Frame:
    """The frame of a whole image of ``size`` (height, width), as the preset fits it."""
    fit = {"stretch": Frame.stretch, "longest_side": Frame.longest_side, "pad": Frame.pad}[preset.fit]
    return fit(size, preset.side)


def focus_frame(region: NDArray[np.float64], whole: Frame, factor: float) -> Frame:
    """A frame of the window around a region, or the whole image's frame if the window is nearly all of it.

    Args:
        region: (4,) half-open box in original pixels.
        whole: The whole image's frame.
        factor: Side of the window in longer sides of the region.

    Returns:
        A stretched frame whose window is a square of at least `LEAST_WINDOW` pixels, moved and cut to lie in the image.
    """
    height, width = whole.size
    x0, y0, x1, y1 = region
    side = max(LEAST_WINDOW, factor * max(x1 - x0, y1 - y0))
    if side >= 0.8 * max(height, width):
        return whole
    window = []
    for low, high, length in ((x0, x1, width), (y0, y1, height)):
        extent = min(round(side), length)
        start = min(max(round((low + high - extent) / 2), 0), length - extent)
        window.append((start, start + extent))
    (left, right), (top, bottom) = window
    return Frame.stretch(whole.size, whole.side, (left, top, right, bottom))


def _longer(frame: Frame) -> int:
    """The longer side of what a frame shows, in original pixels."""
    x0, y0, x1, y1 = frame.window
    return max(x1 - x0, y1 - y0)


def _around(regions: Sequence[Sequence[float]], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4,) box around boxes and points."""
    corners = np.concatenate([np.reshape(regions, (-1, 2)), points, points + 1])
    return np.concatenate([corners.min(0), corners.max(0)])


def prompt_arrays(
    prompts: Sequence[Prompt], frames: Sequence[Frame], preset: Preset, rows: Sequence[int]
) -> PromptArrays:
    """Prompts of the same parts as arrays in model pixels, each drawn in its own frame.

    Args:
        prompts: N prompts.
        frames: The frame of each.
        preset: How the network wants them.
        rows: Which image's features each belongs to.
    """
    points = np.stack([frame.points(prompt.points) for prompt, frame in zip(prompts, frames, strict=True)])
    labels = np.stack([np.asarray(prompt.labels) for prompt in prompts])
    boxes = masks = text = None
    if prompts[0].box is not None:
        # An inclusive far corner is the last pixel inside, one less than the edge, in original pixels.
        inset = np.array([0, 0, 1, 1]) if preset.box == "inclusive" else np.zeros(4)
        corners = [frame.boxes(np.asarray(prompt.box) - inset) for prompt, frame in zip(prompts, frames, strict=True)]
        boxes = np.stack(corners).astype(np.float32)
    if prompts[0].mask is not None or prompts[0].logits is not None:
        masks = np.stack([_low_res(prompt, frame, preset) for prompt, frame in zip(prompts, frames, strict=True)])
        masks = masks[:, None].astype(np.float32)
        if preset.mask_prompt == "probability":
            masks = scipy.special.expit(masks)
    if prompts[0].text is not None:
        text = [str(prompt.text) for prompt in prompts]
    return PromptArrays(points.astype(np.float32), labels, np.asarray(rows, np.int64), boxes, masks, text)


def _low_res(prompt: Prompt, frame: Frame, preset: Preset) -> NDArray[np.float32]:
    """(mask_side, mask_side) logits of a prompt's mask or previous logits, in a frame."""
    side = preset.mask_side
    if prompt.mask is not None:
        return np.where(frame.mask(prompt.mask, side) > 0.5, MASK_LOGIT, -MASK_LOGIT).astype(np.float32)
    assert prompt.logits is not None
    if prompt.logits.frame == frame and prompt.logits.values.shape == (side, side):
        return prompt.logits.values
    full = frame.image(prompt.logits.frame.inverse_logits(prompt.logits.values))
    low: NDArray[np.float32] = cv2.resize(full, (side, side), interpolation=cv2.INTER_AREA)
    return low
