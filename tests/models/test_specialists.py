from pathlib import Path

import numpy as np
import pytest
import torch

import vesalius as vs
from made_specialists import specialist
from vesalius.core.errors import ModelError, PromptError
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.export import check_exportable
from vesalius.models.specialists import DeepLab, Specialist, box_channel, expected_iou
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.predictor import Predictor

WORDS = ("liver", "left kidney")
IMAGE = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(params=["unet", "deeplab"])
def architecture(request: pytest.FixtureRequest) -> str:
    if request.param == "unet":
        pytest.importorskip("monai")
    return str(request.param)


def predictor(model: Specialist) -> Predictor:
    return Predictor(TorchRuntime(model), "special")


def boxed(boxes: list[list[float]], rows: list[int]) -> PromptBatch:
    count = len(boxes)
    points = torch.zeros(count, 0, 2)
    return PromptBatch(points, points[:, :, 0].long(), boxes=torch.tensor(boxes), rows=torch.tensor(rows))


def test_the_box_channel_is_the_share_of_each_pixel_that_lies_in_the_box() -> None:
    found = box_channel(torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.5, 1.25, 2.0, 4.0]]), 4)
    assert found.shape == (2, 1, 4, 4)
    assert found[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert found[1, 0].tolist() == [[0] * 4, [0.375, 0.75, 0, 0], [0.5, 1, 0, 0], [0.5, 1, 0, 0]]


def test_the_quality_is_the_iou_that_the_probabilities_expect() -> None:
    chances = torch.tensor([[0.9, 0.8, 0.3, 0.0], [0.4, 0.4, 0.1, 0.1]]).view(2, 1, 2, 2)
    found = expected_iou(torch.logit(chances, eps=1e-9))
    assert found.flatten().tolist() == pytest.approx([1.7 / 2.3, 0.0], abs=1e-6)
    assert expected_iou(torch.full((1, 1, 2, 2), -1e4)).item() == 0


def test_a_row_answers_for_its_own_image_and_box_whatever_is_beside_it(architecture: str) -> None:
    model = specialist(architecture).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = [[4.0, 4.0, 40.0, 30.0], [10.0, 20.0, 60.0, 60.0]] * 5
    rows = [0, 1, 1, 0, 0, 1, 0, 1, 1, 0]
    with torch.inference_mode():
        logits, quality = model.decode(model.encode(images), boxed(boxes, rows))
        assert logits.shape == (10, 1, 64, 64)
        assert quality.shape == (10, 1)
        assert not torch.allclose(logits[0], logits[3], atol=1e-4)  # another box
        assert not torch.allclose(logits[0], logits[2], atol=1e-4)  # another image
        for i in (0, 9):
            alone, _ = model.decode(model.encode(images[rows[i] : rows[i] + 1]), boxed([boxes[i]], [0]))
            assert torch.allclose(alone[0], logits[i], atol=1e-4)


def test_a_network_of_boxes_refuses_all_else(architecture: str) -> None:
    model = predictor(specialist(architecture))
    assert model.takes == {"box"}
    embedding = model.encode(IMAGE)
    (prediction,) = model.predict(embedding, [vs.Prompt(box=(10, 5, 60, 40))])
    assert prediction.mask.shape == (50, 90)
    assert prediction.logits.values.shape == (64, 64)
    assert 0 <= prediction.quality <= 1
    with pytest.raises(PromptError, match="special does not take points; prompt with a box alone"):
        model.predict(embedding, [vs.Prompt(points=[(10, 5)])])
    with pytest.raises(PromptError, match="does not take points or a mask"):
        model.predict(embedding, [vs.Prompt(points=[(10, 5)], logits=prediction.logits, box=(10, 5, 60, 40))])
    with pytest.raises(PromptError, match="no text head"):
        model.predict(embedding, [vs.Prompt(text="liver")])
    with pytest.raises(PromptError, match="takes boxes alone"):
        specialist(architecture).decode(
            (torch.zeros(1, 3, 64, 64),), PromptBatch(torch.zeros(1, 1, 2), torch.ones(1, 1))
        )


def test_a_network_without_prompts_is_asked_by_the_names_of_its_targets(architecture: str) -> None:
    network = specialist(architecture, WORDS).eval()
    model = predictor(network)
    assert model.takes == {"text"}
    embedding = model.encode(IMAGE)
    found = model.predict(embedding, [vs.Prompt(text=name) for name in ("left kidney", "liver", "kidney left")])
    outputs = embedding.features[0]
    assert outputs.shape == (1, 3, 64, 64)
    for prediction, row in zip(found, (1, 0, 1), strict=True):
        assert (prediction.logits.values == outputs[0, row].numpy()).all()
    with pytest.raises(PromptError, match=r"was not trained on 'spleen'; say"):
        model.predict(embedding, [vs.Prompt(text="spleen")])
    for prompt in (vs.Prompt(box=(1, 1, 9, 9)), vs.Prompt(text="liver", points=[(3, 3)])):
        with pytest.raises(PromptError, match="prompt with a name alone"):
            model.predict(embedding, [prompt])


def test_what_has_no_name_is_the_last_output() -> None:
    network = specialist("deeplab", WORDS).eval()
    outputs = torch.randn(2, 3, 64, 64)
    text = torch.tensor([[1.0], [torch.nan]])
    batch = PromptBatch(torch.zeros(2, 0, 2), torch.zeros(2, 0), rows=torch.tensor([1, 0]), text=text)
    logits, _ = network.decode((outputs,), batch)
    assert torch.equal(logits[:, 0], torch.stack([outputs[1, 1], outputs[0, 2]]))


@pytest.mark.parametrize("words", [(), WORDS])
def test_a_checkpoint_brings_the_same_network_back(words: tuple[str, ...], architecture: str, tmp_path: Path) -> None:
    model = specialist(architecture, words).eval()
    save_checkpoint(model, tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.config == model.config
    assert loaded.takes == model.takes
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert vs.load_model(tmp_path / "checkpoint").preset.side == 64


def test_the_usual_deeplab_has_the_published_strides() -> None:
    with torch.device("meta"):
        network = DeepLab().network
        fine = network.stages[0](network.stem(torch.zeros(1, 4, 256, 256)))
        x = fine
        for stage in network.stages[1:]:
            x = stage(x)
        assert fine.shape[2:] == (64, 64)
        assert x.shape[2:] == (16, 16)
        assert network(torch.zeros(1, 4, 256, 256)).shape == (1, 1, 256, 256)
    assert [branch[0].dilation[0] for branch in network.pyramid.branches] == [1, 6, 12, 18]


def test_they_are_not_exported() -> None:
    with pytest.raises(ModelError, match="cannot be exported"):
        check_exportable(specialist("deeplab"), "onnx", "fp32")
