from pathlib import Path

import numpy as np
import pytest
import torch

import vesalius as vs
from vesalius.core.frame import Frame
from vesalius.core.types import Logits
from vesalius.models.base import PromptBatch, SegmentationModel, normalise
from vesalius.models.presets import Preset
from vesalius.models.tiny import Tiny
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.predictor import Predictor, focus_frame, prompt_arrays, whole_frame


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(TorchRuntime(Tiny()), "untrained")


def picture(height: int = 300, width: int = 420) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)


def test_several_prompts_are_answered_as_each_alone(predictor: Predictor) -> None:
    embedding = predictor.encode(picture())
    prompts = [
        vs.Prompt(box=(10, 20, 60, 90)),
        vs.Prompt(points=[(200, 150)]),
        vs.Prompt(box=(100, 100, 400, 280), points=[(150, 150), (390, 270)], labels=[1, 0]),
        vs.Prompt(box=(200, 30, 260, 80)),
    ]
    together = predictor.predict(embedding, prompts)
    assert predictor.predict(embedding, []) == []
    for prompt, expected in zip(prompts, together, strict=True):
        (alone,) = predictor.predict(embedding, [prompt])
        assert alone.mask.shape == (300, 420)
        assert alone.mask.dtype == np.bool_
        assert np.allclose(alone.logits.values, expected.logits.values, atol=1e-3)
        assert alone.quality == pytest.approx(expected.quality, abs=1e-3)


def test_small_objects_get_a_second_look_and_corrections_keep_it(predictor: Predictor) -> None:
    embedding = predictor.encode(picture())
    (small, large) = predictor.predict(embedding, [vs.Prompt(box=(10, 20, 60, 90)), vs.Prompt(box=(10, 20, 400, 290))])
    assert not small.logits.frame.is_whole
    assert large.logits.frame.is_whole
    assert not small.mask[:, 200:].any()
    (again,) = predictor.predict(embedding, [vs.Prompt(points=[(30, 50)], logits=small.logits)])
    assert again.logits.frame == small.logits.frame
    (moved,) = predictor.predict(embedding, [vs.Prompt(points=[(300, 250)], logits=small.logits)])
    assert moved.logits.frame != small.logits.frame
    assert moved.mask.shape == (300, 420)
    (widened,) = predictor.predict(embedding, [vs.Prompt(box=(10, 20, 180, 200), logits=small.logits)])
    x0, y0, x1, y1 = widened.logits.frame.window
    assert x0 <= 10
    assert y0 <= 20
    assert x1 >= 180
    assert y1 >= 200


def test_encoding_is_done_once_per_frame(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = predictor.runtime.model.encode
    monkeypatch.setattr(predictor.runtime.model, "encode", lambda x: calls.append(len(x)) or encode(x))
    pixels = picture() // 2
    embedding = predictor.encode(pixels)
    predictor.encode(pixels.copy())
    assert calls == [1]
    (first,) = predictor.predict(embedding, [vs.Prompt(box=(10, 20, 60, 90))])
    assert calls == [1, 1]
    predictor.predict(embedding, [vs.Prompt(points=[(30, 50)], logits=first.logits), vs.Prompt(box=(10, 20, 60, 90))])
    predictor.predict(embedding, [vs.Prompt(box=(0, 0, 420, 300))])
    assert calls == [1, 1]


def test_slices_are_answered_as_each_alone_and_encoded_only_where_they_are_asked(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [vs.Slice(picture() // 3), vs.Slice(picture() // 4), vs.Slice(picture(256, 300) // 5)]
    prompts = [vs.Prompt(box=(10, 20, 60, 90)), vs.Prompt(box=(0, 0, 420, 300)), vs.Prompt(points=[(200, 150)])]
    calls = []
    encode = predictor.runtime.model.encode
    monkeypatch.setattr(predictor.runtime.model, "encode", lambda x: calls.append(len(x)) or encode(x))
    together = predictor.predict_slices(images[:2], prompts[:2])
    assert calls == [2]
    together += predictor.predict_slices(images[2:], prompts[2:])
    for image, prompt, expected in zip(images, prompts, together, strict=True):
        (alone,) = predictor.predict(predictor.encode(image), [prompt])
        assert alone.mask.shape == expected.mask.shape == image.size
        assert np.allclose(alone.logits.values, expected.logits.values, atol=1e-3)
    assert not together[0].logits.frame.is_whole
    assert predictor.predict_slices([], []) == []


@pytest.mark.parametrize(
    "array", [np.zeros((9, 9)), np.zeros((9, 9), bool), np.zeros((9, 9, 4), np.uint8), np.zeros(9, np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(predictor: Predictor, array: np.ndarray) -> None:
    with pytest.raises(vs.VesaliusError, match="uint8, or a Slice"):
        predictor.encode(array)


def test_prompts_that_do_not_fit_are_refused(predictor: Predictor) -> None:
    embedding = predictor.encode(picture())
    for prompt in (
        vs.Prompt(box=(10, 10, 421, 50)),
        vs.Prompt(points=[(420, 5)]),
        vs.Prompt(mask=np.ones((300, 421), bool)),
    ):
        with pytest.raises(vs.VesaliusError):
            predictor.predict(embedding, [vs.Prompt(box=(1, 1, 9, 9)), prompt])


class Recorder(SegmentationModel):
    """Keeps what it is given; its masks are its mask prompts."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[PromptBatch] = []

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (images,)

    def decode(
        self, features: tuple[torch.Tensor, ...], prompts: PromptBatch, multimask: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(prompts)
        side = self.preset.mask_side
        logits = torch.zeros(len(prompts), 3, side, side) if prompts.masks is None else prompts.masks.repeat(1, 3, 1, 1)
        return logits, torch.tensor([[0.2, 0.9, 0.4]]).expand(len(prompts), -1)


def test_conventions_are_the_preset_s() -> None:
    model = Recorder(Preset(side=100, mask_side=50, fit="stretch", box="inclusive", mask_prompt="probability"))
    predictor = Predictor(TorchRuntime(model), "recorder")
    embedding = predictor.encode(np.arange(50 * 200, dtype=np.uint32).reshape(50, 200).astype(np.uint8))
    mask = np.zeros((50, 200), bool)
    mask[10:20, 40:80] = True
    (prediction,) = predictor.predict(embedding, [vs.Prompt(points=[(0, 0)], box=(40, 10, 80, 20), mask=mask)])
    (batch,) = model.seen
    assert batch.points[0].tolist() == [[-0.25, 0.5]]  # centres: (0 + 0.5) / 2 - 0.5, (0 + 0.5) * 2 - 0.5
    assert batch.boxes is not None
    assert batch.boxes[0].tolist() == [20.0, 20.0, 39.5, 38.0]
    assert batch.masks is not None
    assert ((batch.masks > 0) & (batch.masks < 1)).all()
    assert prediction.quality == pytest.approx(0.9)


def test_a_mask_prompt_keeps_its_place_in_every_fit() -> None:
    mask = np.zeros((60, 90), bool)
    mask[20:45, 30:70] = True
    for fit in ("stretch", "longest_side", "pad"):
        model = Recorder(Preset(side=128, mask_side=64, fit=fit))
        predictor = Predictor(TorchRuntime(model), fit)
        (prediction,) = predictor.predict(predictor.encode(mask.astype(np.uint8) * 200), [vs.Prompt(mask=mask)])
        union = prediction.mask | mask
        assert (prediction.mask & mask).sum() / union.sum() > 0.9, fit


def test_padding_is_zero_after_normalisation() -> None:
    preset = Preset(side=64, mask_side=16, fit="longest_side")
    predictor = Predictor(TorchRuntime(Recorder(preset)), "recorder")
    embedding = predictor.encode(np.full((30, 60), 7, np.uint8))
    (image,) = embedding.features
    assert (image[:, :, 32:] == 0).all()
    assert torch.equal(image[:, :, :32], normalise(torch.full((1, 32, 64, 3), 7, dtype=torch.uint8), preset))


def test_focus_windows_lie_in_the_image_and_hold_their_region() -> None:
    whole = Frame.stretch((300, 420), 256)
    for region in ((0, 0, 40, 30), (400, 280, 420, 300), (100, 50, 101, 51), (5, 250, 130, 260)):
        x0, y0, x1, y1 = focus_frame(np.array(region, float), whole, 2.0).window
        assert 0 <= x0 <= region[0] < region[2] <= x1 <= 420
        assert 0 <= y0 <= region[1] < region[3] <= y1 <= 300
    assert focus_frame(np.array([20.0, 20, 220, 220]), whole, 2.0) is whole


def test_unknown_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(vs.VesaliusError, match=r"no model 'sam3'.*checkpoint folder"):
        vs.load_model("sam3")


def test_batches_hold_every_frame_s_own_coordinates() -> None:
    preset = Preset(side=256, mask_side=128, fit="stretch", box="half_open")
    whole = whole_frame((256, 256), preset)
    window = Frame.stretch((256, 256), 256, (64, 64, 128, 128))
    batch = prompt_arrays([vs.Prompt(box=(64, 64, 128, 128))] * 2, [whole, window], preset, [0, 1])
    assert batch.boxes is not None
    assert batch.boxes.tolist() == [[64, 64, 128, 128], [0, 0, 256, 256]]


class Looks(Recorder):
    """Answers each time with a square of half this width about the middle of its 64 pixels, and this quality."""

    def __init__(self, answers: list[tuple[int, float]]) -> None:
        super().__init__(Preset(side=128, mask_side=64, fit="stretch", focus=2.0))
        self.answers = answers

    def decode(
        self, features: tuple[torch.Tensor, ...], prompts: PromptBatch, multimask: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        half, quality = self.answers[len(self.seen)]
        self.seen.append(prompts)
        logits = torch.full((1, 3, 64, 64), -1.0)
        logits[:, :, 32 - half : 32 + half, 32 - half : 32 + half] = 1
        return logits, torch.full((1, 3), quality)


@pytest.mark.parametrize("qualities", [(0.9, 0.3), (0.3, 0.9)])
def test_of_two_looks_the_better_one_is_taken(qualities: tuple[float, float]) -> None:
    model = Looks([(4, qualities[0]), (4, qualities[1])])
    predictor = Predictor(TorchRuntime(model), "looks")
    (prediction,) = predictor.predict(predictor.encode(picture(256, 256)), [vs.Prompt(points=[(128, 128)])])
    assert len(model.seen) == 2
    assert prediction.quality == pytest.approx(max(qualities))
    assert prediction.logits.frame.is_whole == (qualities[0] > qualities[1])


def test_only_the_mask_of_a_box_alone_is_cut_at_another_logit() -> None:
    model = Looks([(16, 0.5)] * 3)
    model.preset = model.preset.model_copy(update={"focus": None, "box_cut": -0.25})
    predictor = Predictor(TorchRuntime(model), "looks")
    embedding = predictor.encode(picture(256, 256))
    box, again = vs.Prompt(box=(64, 64, 192, 192)), vs.Prompt(box=(64, 64, 192, 192), points=[(128, 128)], labels=[1])
    (alone,), (corrected,) = predictor.predict(embedding, [box]), predictor.predict(embedding, [again])
    assert set(np.unique(alone.logits.values)) == {-0.75, 1.25}
    assert set(np.unique(corrected.logits.values)) == {-1, 1}
    assert alone.mask.sum() > corrected.mask.sum()


@pytest.mark.parametrize(("half", "looks"), [(4, 2), (7, 2), (9, 1), (16, 1)])
def test_a_correction_looks_again_where_its_outline_is_small_for_what_it_sees(half: int, looks: int) -> None:
    model = Looks([(half, 0.5), *[(16, 0.6)] * 2])
    predictor = Predictor(TorchRuntime(model), "looks")
    embedding = predictor.encode(picture(256, 256))
    before = Logits(np.full((64, 64), -1, np.float32), whole_frame((256, 256), model.preset))
    prompt = vs.Prompt(points=[(128, 128), (10, 128)], labels=[1, 0], logits=before)
    (prediction,) = predictor.predict(embedding, [prompt])
    assert len(model.seen) == looks
    assert prediction.logits.frame.is_whole == (looks == 1)
    model.seen.clear()
    model.answers = [(16, 0.6)]
    # A click beside the object may lie outside of what was looked at.
    for beside in ((100, 128), (10, 128)):
        model.seen.clear()
        prompt = vs.Prompt(points=[(128, 128), beside], labels=[1, 0], logits=prediction.logits)
        (after,) = predictor.predict(embedding, [prompt])
        assert len(model.seen) == 1
        assert after.logits.frame == prediction.logits.frame
