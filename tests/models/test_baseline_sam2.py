import json
import logging
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from made_sam2 import small_sam2
from vesalius.core.errors import ModelError, PromptError
from vesalius.core.types import Prompt
from vesalius.models.base import PromptBatch
from vesalius.models.baseline_sam2 import is_sam2, load_sam2
from vesalius.predict.load import load_model

NAN = float("nan")
POINTS = torch.tensor([[9.0, 9.0], [40.0, 20.0]])
BOX = torch.tensor([5.0, 6.0, 30.0, 40.0])
PARTS = ["points", "box", "box_points", "mask", "points_mask", "box_mask"]


@pytest.fixture(scope="module")
def network():
    return small_sam2().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "sam2-random"
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_sam2(folder).requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mask():
    return torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(3))


def batch(parts, mask):
    count = 2 if "points" in parts else 0
    return PromptBatch(
        POINTS[None, :count],
        torch.tensor([[1, 0]])[:, :count],
        BOX[None] if "box" in parts else None,
        mask[None] if "mask" in parts else None,
    )


def test_it_is_not_exported(model, tmp_path):
    from vesalius.models.export import export_model

    with pytest.raises(ModelError, match=r"SAM 2.*cannot be exported; use torch"):
        export_model(model, tmp_path / "out", "onnx", "fp32", [])
    assert not list(tmp_path.iterdir())


def test_it_takes_no_preset(folder):
    with pytest.raises(ModelError, match="sam2-random: is a SAM 2, which tells its own preset"):
        load_model(folder, preset="sam")


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("parts", PARTS)
def test_answers_as_transformers(network, model, images, mask, parts, multimask):
    prompts = batch(parts, mask)
    logits, iou = model.decode(model.encode(images[:1]), prompts, multimask)
    expected = network(
        pixel_values=images[:1],
        input_points=prompts.points[:, None] if "points" in parts else None,
        input_labels=prompts.labels[:, None] if "points" in parts else None,
        input_boxes=None if prompts.boxes is None else prompts.boxes[:, None],
        input_masks=prompts.masks,
        multimask_output=multimask,
    )
    assert logits.shape == (1, 3 if multimask else 1, 16, 16)
    torch.testing.assert_close(logits, expected.pred_masks[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(iou, expected.iou_scores[:, 0], rtol=0, atol=1e-5)


def test_rows_that_give_different_things_each_answer_as_alone(model, images, mask):
    kinds = [*PARTS, "points", "last"]
    labels = [[1, 0] if "points" in parts else [-1, 1] if parts == "last" else [-1, -1] for parts in kinds]
    mixed = PromptBatch(
        POINTS.expand(8, 2, 2),
        torch.tensor(labels),
        torch.stack([BOX if "box" in parts else BOX * NAN for parts in kinds]),
        torch.stack([mask if "mask" in parts else mask * NAN for parts in kinds]),
        torch.tensor([0, 1, 0, 1, 0, 1, 1, 0]),
    )
    features = model.encode(images)
    logits, iou = model.decode(features, mixed)
    for index, (parts, row) in enumerate(zip(kinds, mixed.rows.tolist(), strict=True)):
        own = PromptBatch(POINTS[None, 1:], torch.tensor([[1]])) if parts == "last" else batch(parts, mask)
        alone = model.decode(tuple(level[row : row + 1] for level in features), own)
        got = (logits[index : index + 1], iou[index : index + 1])
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="rows"):
        model.decode(features, batch("box", mask))


def test_many_prompts_keep_their_order(model, images):
    count = 2 * model.prompts_at_once + 1
    rng = torch.Generator().manual_seed(4)
    points = torch.rand(count, 1, 2, generator=rng) * 64
    boxes = torch.where(torch.arange(count)[:, None] % 2 == 0, BOX, BOX * NAN)
    features = model.encode(images[:1])
    logits, _ = model.decode(features, PromptBatch(points, torch.ones(count, 1, dtype=torch.long), boxes))
    for index in (0, 1, count - 2, count - 1):
        own = BOX[None] if index % 2 == 0 else None
        alone, _ = model.decode(features, PromptBatch(points[index : index + 1], torch.ones(1, 1).long(), own))
        torch.testing.assert_close(logits[index : index + 1], alone, rtol=0, atol=1e-5)


def test_a_predictor_runs_it(folder):
    predictor = load_model(folder)
    assert (predictor.name, predictor.preset.fit) == ("sam2-random", "stretch")
    assert predictor.digest == load_model(folder).digest
    y, x = np.mgrid[:40, :60]
    embedding = predictor.encode(np.where((x - 30) ** 2 + (y - 20) ** 2 < 100, 200, 50).astype(np.uint8))
    drawn = np.zeros((40, 60), bool)
    drawn[10:30, 20:40] = True
    first, *others = predictor.predict(
        embedding, [Prompt(box=(20, 10, 40, 30)), Prompt(points=[(30, 20)]), Prompt(mask=drawn)]
    )
    for prediction in (first, *others):
        assert prediction.mask.shape == (40, 60)
        assert 0 <= prediction.quality <= 1
    (again,) = predictor.predict(embedding, [Prompt(points=[(30, 20)], logits=first.logits)])
    assert again.logits.values.shape == (16, 16)
    with pytest.raises(PromptError, match="no text head"):
        predictor.predict(embedding, [Prompt(text="liver")])


def changed(folder, path, config=None, state=None):
    """A copy of the folder, with another configuration or other weights."""
    path.mkdir()
    content = json.loads((folder / "config.json").read_text()) | (config or {})
    (path / "config.json").write_text(json.dumps(content))
    save_file(load_file(folder / "model.safetensors") if state is None else state, path / "model.safetensors")
    return path


def test_of_a_video_network_the_part_for_images_is_taken(folder, model, images, mask, tmp_path, caplog):
    more = {**load_file(folder / "model.safetensors"), "memory_encoder.projection.bias": torch.zeros(4)}
    video = changed(folder, tmp_path / "video", {"model_type": "sam2_video"}, more)
    assert is_sam2(video)
    with caplog.at_level(logging.WARNING):
        loaded = load_sam2(video)
    prompts = batch("box", mask)
    got = loaded.decode(loaded.encode(images[:1]), prompts)
    torch.testing.assert_close(got, model.decode(model.encode(images[:1]), prompts), rtol=0, atol=0)


def test_weights_that_do_not_fit_are_refused(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    del state["mask_decoder.iou_token.weight"]
    path = changed(folder, tmp_path / "less", state=state)
    with pytest.raises(ModelError, match=r"does not fit SAM 2: 1 missing keys \(mask_decoder\.iou_token\.weight\)"):
        load_model(path)
    (path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read as SAM 2 by transformers"):
        load_model(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read as SAM 2 by transformers"):
        load_model(path)


def test_what_is_no_sam2(tmp_path):
    assert not is_sam2(tmp_path)
    assert not is_sam2(tmp_path / "absent")
    for content in ("{", "[]", "{}", '{"model_type": "sam"}'):
        (tmp_path / "config.json").write_text(content)
        assert not is_sam2(tmp_path)


def test_without_transformers_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs the package transformers; pip install vesalius\[text\]"):
        load_sam2(folder)
