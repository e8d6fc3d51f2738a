from dataclasses import replace

import pytest
import torch

from vesalius.core.errors import ModelError
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from vesalius.models.imis.model import Imis
from vesalius.models.sam.model import Sam
from words import CONFIG, PRESET, imis, write_tokenizer

NAN = float("nan")
POINTS = torch.tensor([[9.0, 9.0], [40.0, 20.0]])
BOX = torch.tensor([5.0, 6.0, 30.0, 40.0])
NONE = torch.zeros(1, 0, dtype=torch.long)


@pytest.fixture(scope="module")
def model():
    return imis().requires_grad_(False)


@pytest.fixture(scope="module")
def features(model):
    return model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def words(model):
    return model.embed_tokens(torch.tensor([[74, 3, 20, 75, 75], [74, 30, 2, 8, 75]]))


@pytest.fixture(scope="module")
def mask():
    return torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(3))


def assert_rows(model, features, mixed, alone, multimask=True):
    logits, iou = model.decode(features, mixed, multimask)
    semantic = model.decode_semantic(features, mixed, multimask)
    assert semantic.shape == (len(alone), 3 if multimask else 1, CONFIG.semantic_dim)
    for index, prompts in enumerate(alone):
        row = slice(index, index + 1)
        own = (*model.decode(features, prompts, multimask), model.decode_semantic(features, prompts, multimask))
        torch.testing.assert_close((logits[row], iou[row], semantic[row]), own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
def test_rows_that_give_different_things_each_answer_as_alone(model, features, words, mask, multimask):
    parts = [
        # points' labels, box, mask, word
        ((1, 0), True, False, None),
        ((-1, 1), False, False, 0),
        ((-1, -1), False, False, 1),
        ((-1, -1), True, True, 0),
        ((1, -1), False, True, None),
        ((-1, -1), False, True, None),
        ((1, 1), True, True, 1),
    ]
    mixed = PromptBatch(
        POINTS.expand(len(parts), 2, 2),
        torch.tensor([labels for labels, *_ in parts]),
        torch.stack([BOX if boxed else BOX * NAN for _, boxed, _, _ in parts]),
        torch.stack([mask if drawn else mask * NAN for _, _, drawn, _ in parts]),
        text=torch.stack([words[0] * NAN if word is None else words[word] for *_, word in parts]),
    )
    alone = []
    for labels, boxed, drawn, word in parts:
        kept = torch.tensor(labels) >= 0
        alone.append(
            PromptBatch(
                POINTS[kept][None],
                torch.tensor(labels)[kept][None],
                BOX[None] if boxed else None,
                mask[None] if drawn else None,
                text=None if word is None else words[word][None],
            )
        )
    assert_rows(model, features, mixed, alone, multimask)


def test_words_of_nan_are_no_words(model, features, words):
    points = PromptBatch(POINTS[None], torch.tensor([[1, 0]]))
    without = model.decode(features, points)
    torch.testing.assert_close(model.decode(features, replace(points, text=words[:1] * NAN)), without)
    assert not torch.allclose(model.decode(features, replace(points, text=words[:1]))[0], without[0], atol=1e-2)


def test_words_count_as_a_token_and_in_the_logits(model, features, words):
    prompts = PromptBatch(POINTS[None, :0], NONE, text=words[:1])
    logits, iou = model.decode(features, prompts)
    quiet = imis().requires_grad_(False)
    quiet.mask_decoder.text_output.weight.zero_()
    quiet.mask_decoder.text_output.bias.zero_()
    token, same = quiet.decode(features, prompts)
    torch.testing.assert_close(iou, same, rtol=0, atol=0)
    added = logits - token
    assert added.abs().max() > 1e-2
    # The same is added to each of the masks.
    torch.testing.assert_close(added, added[:, :1].expand_as(added), rtol=0, atol=1e-4)
    other, _ = quiet.decode(features, replace(prompts, text=words[1:]))
    assert not torch.allclose(token, other, atol=1e-2)


def test_rows_of_several_images(model, words):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    several = model.encode(images)
    prompts = PromptBatch(POINTS[:0].expand(3, 0, 2), NONE.expand(3, 0), text=words[[0, 1, 0]])
    with pytest.raises(ValueError, match="rows"):
        model.decode(several, prompts)
    with pytest.raises(ValueError, match="rows"):
        model.decode_semantic(several, prompts)
    prompts = replace(prompts, rows=torch.tensor([1, 0, 1]))
    logits, _ = model.decode(several, prompts)
    semantic = model.decode_semantic(several, prompts)
    for index, row in enumerate((1, 0, 1)):
        one = (several[0][row : row + 1],)
        alone = PromptBatch(POINTS[None, :0], NONE, text=prompts.text[index : index + 1])
        torch.testing.assert_close(logits[index : index + 1], model.decode(one, alone)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(semantic[index : index + 1], model.decode_semantic(one, alone), rtol=0, atol=1e-5)


def test_every_parameter_learns(words):
    model = imis()
    features = model.encode(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    tokens = model.embed_tokens(torch.tensor([[74, 3, 20, 75]]))
    mask = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    boxed = PromptBatch(POINTS[None], torch.tensor([[1, 0]]), BOX[None], mask, text=tokens)
    points = PromptBatch(POINTS[None], torch.tensor([[1, 0]]))
    outputs = [
        out
        for prompts, multimask in ((boxed, True), (points, False))
        for out in (*model.decode(features, prompts, multimask), model.decode_semantic(features, prompts, multimask))
    ]
    sum(out.square().sum() for out in outputs).backward()
    still = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert still == []


def test_a_checkpoint_keeps_everything(model, features, tmp_path):
    save_checkpoint(model, tmp_path / "plain")
    plain = load_checkpoint(tmp_path / "plain")
    assert (plain.config, plain.preset, weights_digest(plain)) == (CONFIG, PRESET, weights_digest(model))
    with pytest.raises(ModelError, match=r"no tokenizer .* liver cannot be read; .*hf download .*tokenizer.json"):
        plain.embed_text(["liver"])

    write_tokenizer(tmp_path / "plain")
    worded = load_checkpoint(tmp_path / "plain")
    save_checkpoint(worded, tmp_path / "again")
    again = load_checkpoint(tmp_path / "again")
    with torch.no_grad():
        torch.testing.assert_close(again.embed_text(["liver"]), worded.embed_text(["liver"]), rtol=0, atol=0)
        torch.testing.assert_close(plain.encode(torch.ones(1, 3, 64, 64)), again.encode(torch.ones(1, 3, 64, 64)))


def test_it_is_a_sam_to_adapters(model):
    own = imis()
    own.add_adapters("light")
    assert own.config == CONFIG.model_copy(update={"adapter": "light"})
    own.drop_adapters()
    assert own.config == CONFIG
    assert weights_digest(own) == weights_digest(model)


def test_half_precision_is_for_the_heavy_parts(words):
    own = imis().requires_grad_(False)
    exact = imis().requires_grad_(False)
    own.to_bfloat16()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    prompts = PromptBatch(POINTS[None, :0], NONE, text=words[:1])
    logits, _ = own.decode(own.encode(images), prompts)
    expected, _ = exact.decode(exact.encode(images), prompts)
    assert ((logits > 0) == (expected > 0)).float().mean() > 0.9


def test_epsilon_of_the_encoder_is_timms():
    with torch.device("meta"):
        norms = {
            type(model): {m.eps for m in model.image_encoder.blocks.modules() if isinstance(m, torch.nn.LayerNorm)}
            for model in (Imis(CONFIG, PRESET), Sam(CONFIG, PRESET))
        }
    assert norms == {Imis: {1e-5}, Sam: {1e-6}}
