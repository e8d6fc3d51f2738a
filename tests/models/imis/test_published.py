"""The published IMIS-Net, its weights made from their names: the stored outputs, stage by stage."""

import pytest
import torch

from golden import fill
from vesalius.models.base import PromptBatch, normalise
from vesalius.models.imis.layout import from_published, our_name, resample_positions, unused
from vesalius.models.imis.model import Imis, ImisConfig
from vesalius.models.layouts import recognise
from vesalius.models.presets import PRESETS

NAME = "imis_net_vit_b"
KINDS = ["points", "box", "text", "points_text", "mask_text", "points_mask"]
SIDE = 256


@pytest.fixture(scope="module")
def stored():
    return fill.outputs(f"{NAME}_256")


@pytest.fixture(scope="module")
def model():
    net = Imis(ImisConfig(side=SIDE), PRESETS["imis-net"]).eval().requires_grad_(False)
    state = from_published(fill.state_dict(fill.manifest(NAME)))
    net.load_state_dict(resample_positions(state, ImisConfig(), SIDE))
    return net


def prompts(kind, text):
    rng = fill.np.random.Generator(fill.np.random.PCG64(3))
    mask = torch.from_numpy(rng.standard_normal((1, 1, SIDE // 4, SIDE // 4)).astype("float32"))
    count = 2 if "points" in kind else 0
    return PromptBatch(
        torch.tensor([[[100.0, 120.0], [30.0, 200.0]]])[:, :count],
        torch.tensor([[1, 0]])[:, :count],
        torch.tensor([[60.0, 70.0, 180.0, 190.0]]) if "box" in kind else None,
        mask if "mask" in kind else None,
        text=text if "text" in kind else None,
    )


def answer(model, embedding, kind, text):
    """Every second row and column of the logits, predicted IoU and what the masks show."""
    given = prompts(kind, text)
    logits, iou = model.decode((embedding,), given)
    return logits[..., ::2, ::2], iou, model.decode_semantic((embedding,), given)


@pytest.fixture(scope="module")
def answers(model, stored):
    """From the stored embeddings of image and words, by kind of prompt: in float32, and then in float64."""
    image, text = stored["embedding"], stored["text_embedding"]
    single = {kind: answer(model, image, kind, text) for kind in KINDS}
    parts = (model.prompt_encoder, model.mask_decoder)
    for part in parts:
        part.double()
    double = {kind: answer(model, image.double(), kind, text.double()) for kind in KINDS}
    for part in parts:
        part.float()
    return single, double


def test_parameters_have_the_published_names_and_shapes():
    published = fill.manifest(NAME)
    with torch.device("meta"):
        own = Imis(ImisConfig(), PRESETS["imis-net-1024"]).state_dict()
    left = unused(published)
    assert sorted(left) == sorted(
        f"image_encoder.sam_encoder.neck.{name}"
        for name in ("0.weight", "1.weight", "1.bias", "2.weight", "3.weight", "3.bias")
    )
    assert {our_name(name): shape for name, shape in published.items() if name not in left} == {
        name: tuple(value.shape) for name, value in own.items()
    }


def test_the_layout_tells_the_sizes():
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in fill.manifest(NAME).items()}
    weights = recognise({"model_state_dict": state, "epoch": 3}, "file.pth")
    assert ImisConfig.from_dict(weights.config) == ImisConfig()
    assert (weights.architecture, weights.preset) == ("imis", PRESETS["imis-net"])
    assert weights.dropped == ("the encoder's own neck, which is not in use (6 parameters)", "epoch")


@pytest.fixture(scope="module")
def encoded(model):
    with torch.no_grad():
        (embedding,) = model.encode(normalise(torch.from_numpy(fill.image(SIDE, SIDE))[None], model.preset))
    return embedding


def test_image_embedding_is_the_published_one(encoded, stored):
    torch.testing.assert_close(encoded, stored["embedding"], rtol=0, atol=2e-5)


def test_words_are_embedded_as_published(model, stored):
    pooled = model.text_model(input_ids=stored["token_ids"]).pooler_output
    torch.testing.assert_close(pooled, stored["text_pooled"], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.embed_tokens(stored["token_ids"]), stored["text_embedding"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_the_published_ones_as_far_as_float32_goes(answers, stored, kind):
    single, double = (each[kind] for each in answers)
    keys = [f"{kind}_{name}" for name in ("low_res", "iou", "semantic")]
    for key, rounded, exact in zip(keys, single, double, strict=True):
        # These made-up weights amplify rounding: those between tokens and image are five times as large as usual, so
        # their softmax is all but a choice of one. Float32 is up to 1.5e-3 from float64 here, whoever computes it; what
        # is published must not be much farther from float64 than our own float32 is.
        published = (stored[key] - exact).abs()
        own = (rounded - exact).abs()
        assert published.mean() < 5 * own.mean()
        assert published.mean() < 2e-4
        assert published.max() < {"low_res": 2e-3, "iou": 1e-4, "semantic": 6e-4}[key.removeprefix(f"{kind}_")]
        torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_words_to_mask_is_the_published_way(model, stored, encoded, kind):
    logits, iou, semantic = answer(model, encoded, kind, model.embed_tokens(stored["token_ids"]))
    torch.testing.assert_close(logits, stored[f"{kind}_low_res"], rtol=0, atol=5e-3)
    torch.testing.assert_close(iou, stored[f"{kind}_iou"], rtol=0, atol=3e-4)
    torch.testing.assert_close(semantic, stored[f"{kind}_semantic"], rtol=0, atol=2e-3)
