from __future__ import annotations

import numpy as np
import pytest

from vesalius.core.errors import GeometryError, PromptError
from vesalius.core.frame import Frame
from vesalius.core.geometry import Geometry
from vesalius.core.types import Logits, Prompt, Slice, Volume, to_8_bits

MASK = np.zeros((20, 30), bool)
MASK[3:5, 6:9] = True
LOGITS = Logits(np.zeros((8, 8), np.float32), Frame.stretch((20, 30), 8))


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({}, "the prompt is empty"),
        ({"points": []}, "the prompt is empty"),
        ({"points": [(1, 1)], "labels": [0]}, "background points alone"),
        ({"box": (5, 5, 5, 9)}, "inverted or empty"),
        ({"box": (9, 5, 5, 9)}, "box 9,5,5,9 is inverted"),
        ({"box": (1, 2, 3)}, "four finite numbers"),
        ({"box": (1, 2, 3, np.nan)}, "four finite numbers"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "1 points but 2 labels"),
        ({"points": [(1, 2)], "labels": [2]}, "neither 1 .object. nor 0"),
        ({"points": [(1, np.inf)]}, "not a finite number"),
        ({"points": [(1, 2, 3), (4, 5, 6)]}, r"shape \(2, 3\)"),
        ({"points": (1, 2)}, r"shape \(2,\)"),
        ({"points": [(1, 2), (3,)]}, "not two numbers"),
        ({"mask": MASK.astype(np.uint8)}, "mask prompt has dtype uint8"),
        ({"mask": np.zeros_like(MASK)}, "mask prompt is empty"),
        ({"mask": MASK, "logits": LOGITS}, "both a mask and previous logits"),
    ],
)
def test_senseless_prompts(parts: dict[str, object], match: str) -> None:
    with pytest.raises(PromptError, match=match):
        Prompt(**parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        (Prompt(points=[(30, 5)]), "point 30,5 lies outside the image of 30 x 20 pixels"),
        (Prompt(points=[(3, 5), (3, -1)]), "point 3,-1 lies outside"),
        (Prompt(box=(0, 0, 31, 20)), "box 0,0,31,20 reaches outside"),
        (Prompt(box=(-1, 0, 3, 3)), "reaches outside"),
        (Prompt(mask=MASK.T), "20 x 30 pixels, the image 30 x 20"),
    ],
)
def test_prompts_that_do_not_fit_the_image(prompt: Prompt, match: str) -> None:
    with pytest.raises(PromptError, match=match):
        prompt.check((20, 30))


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=[(0, 0), (29, 19), (29.4, 19.4), (-0.5, -0.5)]),
        Prompt(box=(0, 0, 30, 20)),
        Prompt(mask=MASK),
        Prompt(logits=LOGITS),
        Prompt(points=[(1, 2)], labels=[0], box=(0, 0, 3, 3), mask=MASK),
    ],
)
def test_prompts_that_fit(prompt: Prompt) -> None:
    prompt.check((20, 30))


def test_parts_are_normalised() -> None:
    prompt = Prompt(points=[(1, 2), (3, 4)], box=np.array([1, 2, 3, 4]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(prompt.labels, [1, 1])
    assert np.asarray(prompt.points).shape == (2, 2)
    assert prompt.box == (1.0, 2.0, 3.0, 4.0)
    assert np.asarray(Prompt(box=(0, 0, 1, 1)).points).shape == (0, 2)


def _volume() -> Volume:
    voxels = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    return Volume(voxels, Geometry((6, 5, 4), (0.5, 0.7, 3.0)), (0.0, 100.0), modality="mr")


def test_slices_of_a_volume() -> None:
    volume = _volume()
    for axis, pixels, spacing in (
        ("z", volume.voxels[2], (0.7, 0.5)),
        ("y", volume.voxels[:, 2], (3.0, 0.5)),
        ("x", volume.voxels[:, :, 2], (3.0, 0.7)),
    ):
        image = volume.slice(axis, 2)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.size == pixels.shape
        assert image.spacing == spacing
        assert (image.modality, image.window, image.axis, image.index) == ("mr", (0.0, 100.0), axis, 2)


@pytest.mark.parametrize(("axis", "index"), [("q", 0), ("z", None), ("z", 4), ("z", -1), ("x", 6)])
def test_slices_that_are_not_there(axis: str, index: int | None) -> None:
    with pytest.raises(GeometryError):
        _volume().slice(axis, index)


def test_rgb_of_a_slice() -> None:
    image = Slice(np.array([[-50, 0, 50, 100, 500]], np.int16), window=(0.0, 100.0))
    np.testing.assert_array_equal(image.rgb()[0, :, 1], [0, 0, 128, 255, 255])
    assert image.rgb().shape == (1, 5, 3)
    bytes_ = Slice(np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(bytes_.rgb()[..., 2], bytes_.pixels)
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(Slice(colour).rgb(), colour)


def test_to_8_bits() -> None:
    np.testing.assert_array_equal(to_8_bits(np.array([-5, 0, 50, 100, 200]), (0, 100)), [0, 0, 128, 255, 255])
