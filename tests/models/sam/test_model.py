import pytest
import torch

from golden import fill
from transformers_layout import transformers_sam
from vesalius.core.errors import ConfigError, ModelError
from vesalius.models.base import PromptBatch, normalise
from vesalius.models.presets import PRESETS, Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam

SIZES = {
    "sam_vit_b_1024": SamConfig(),
    "sam_vit_l_1024": SamConfig(encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_blocks=(5, 11, 17, 23)),
    "sam_vit_h_1024": SamConfig(encoder_dim=1280, encoder_depth=32, encoder_heads=16, global_blocks=(7, 15, 23, 31)),
    "sam_vit_b_256": SamConfig(side=256),
    "sam_med2d_vit_b_256": SamConfig(side=256, adapter="sam-med2d"),
}

# Windows of 3 on a grid of 4 leave padded tokens, as 14 on 16 does.
TINY = SamConfig(
    side=64,
    encoder_dim=32,
    encoder_depth=3,
    encoder_heads=2,
    global_blocks=(1,),
    window=3,
    prompt_dim=32,
    decoder_heads=4,
    decoder_mlp=48,
    iou_hidden=24,
)
TINY_PRESET = Preset(side=64, mask_side=16)

PARTS = ["points", "box", "box_point", "mask", "points_mask"]


def batch(parts, side, grid):
    """The prompts of the stored outputs."""
    scale = side / 256
    points = torch.tensor([[[100.0, 120.0], [30.0, 200.0]]]) * scale
    box = torch.tensor([[60.0, 70.0, 180.0, 190.0]]) * scale
    rng = fill.np.random.Generator(fill.np.random.PCG64(3))
    mask = torch.from_numpy(rng.standard_normal((1, 1, 4 * grid, 4 * grid)).astype("float32"))
    count = {"points": 2, "points_mask": 2, "box_point": 1}.get(parts, 0)
    return PromptBatch(
        points[:, :count],
        torch.tensor([[1, 0]])[:, :count],
        box if "box" in parts else None,
        mask if "mask" in parts else None,
    )


@pytest.fixture(scope="module", params=["sam_vit_b_256", "sam_med2d_vit_b_256"])
def published(request):
    """A network with the published layout, its embedding of the image, and the stored outputs."""
    model = Sam(SIZES[request.param], PRESETS["sam-256"]).eval()
    model.load_state_dict(fill.state_dict(fill.manifest(request.param)))
    image = torch.from_numpy(fill.image(256, 256))[None]
    with torch.no_grad():
        features = model.encode(normalise(image, model.preset))
    return request.param, model, features, fill.outputs(request.param)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_have_the_published_names_and_shapes(name):
    config = SIZES[name]
    with torch.device("meta"):
        model = Sam(config, Preset(side=config.side, mask_side=config.mask_side))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == fill.manifest(name)


def test_embedding_is_the_published_one(published):
    _, _, (embedding,), stored = published
    torch.testing.assert_close(embedding, stored["embedding"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("parts", PARTS)
def test_masks_are_the_published_ones(published, parts, multimask):
    name, model, _, stored = published
    # From the published embedding: these made-up weights amplify rounding, so that embeddings 1e-5 apart, as two
    # processors or numbers of threads give them, lead to logits up to 5e-4 apart.
    with torch.no_grad():
        logits, iou = model.decode((stored["embedding"],), batch(parts, 256, 16), multimask)
    key = f"{parts}_{'multi' if multimask else 'single'}"
    # The published float32 outputs of this one kind of prompt are themselves 3e-4 from the same network in float64.
    tolerance = 3e-4 if (name, parts) == ("sam_med2d_vit_b_256", "points_mask") else 1e-4
    torch.testing.assert_close(logits[..., ::2, ::2], stored[f"{key}_low_res"], rtol=0, atol=tolerance)
    torch.testing.assert_close(iou, stored[f"{key}_iou"], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def large():
    """SAM ViT-B at 1024, its embedding of the image, and the stored outputs: every fourth row and column."""
    model = Sam(SIZES["sam_vit_b_1024"], PRESETS["sam"]).eval()
    model.load_state_dict(fill.state_dict(fill.manifest("sam_vit_b_1024")))
    with torch.no_grad():
        features = model.encode(normalise(torch.from_numpy(fill.image(1024, 1024))[None], model.preset))
    return model, features, fill.outputs("sam_vit_b_1024")


@pytest.mark.slow
def test_embedding_at_1024_is_the_published_one(large):
    _, (embedding,), stored = large
    torch.testing.assert_close(embedding[..., ::4, ::4], stored["embedding"], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("parts", PARTS)
def test_masks_at_1024_are_the_published_ones(large, parts, multimask):
    model, features, stored = large
    with torch.no_grad():
        logits, iou = model.decode(features, batch(parts, 1024, 64), multimask)
    key = f"{parts}_{'multi' if multimask else 'single'}"
    torch.testing.assert_close(logits[..., ::4, ::4], stored[f"{key}_low_res"], rtol=0, atol=1e-4)
    torch.testing.assert_close(iou, stored[f"{key}_iou"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("parts", PARTS)
def test_image_to_mask_is_the_published_way(published, parts):
    name, model, features, stored = published
    with torch.no_grad():
        logits, iou = model.decode(features, batch(parts, 256, 16))
    tolerance = 1e-4 if name == "sam_vit_b_256" else 2e-3
    torch.testing.assert_close(logits[..., ::2, ::2], stored[f"{parts}_multi_low_res"], rtol=0, atol=tolerance)
    torch.testing.assert_close(iou, stored[f"{parts}_multi_iou"], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def tiny():
    """A small network with random weights everywhere."""
    model = Sam(TINY, TINY_PRESET).eval()
    model.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in model.state_dict().items()}))
    return model


@pytest.fixture(scope="module")
def oracle(tiny):
    return transformers_sam(TINY, tiny.state_dict())


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_encodes_as_transformers(tiny, oracle, images):
    with torch.no_grad():
        (embedding,) = tiny.encode(images)
        torch.testing.assert_close(embedding, oracle.get_image_embeddings(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("parts", PARTS)
def test_decodes_as_transformers(tiny, oracle, images, parts, multimask):
    prompts = batch(parts, 64, 4)
    given = prompts.points.shape[1] > 0
    with torch.no_grad():
        features = tiny.encode(images[:1])
        logits, iou = tiny.decode(features, prompts, multimask)
        expected = oracle(
            image_embeddings=features[0],
            input_points=prompts.points[:, None] if given else None,
            input_labels=prompts.labels[:, None] if given else None,
            input_boxes=None if prompts.boxes is None else prompts.boxes[:, None],
            input_masks=prompts.masks,
            multimask_output=multimask,
        )
    torch.testing.assert_close(logits, expected.pred_masks[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(iou, expected.iou_scores[:, 0], rtol=0, atol=1e-5)


def test_epsilon_of_the_decoder_is_the_published_one(tiny, images):
    # Weights of one hundredth make variances small enough for 1e-5 to show.
    state = {
        key: 0.01 * value if key.startswith("mask_decoder.transformer.") else value
        for key, value in tiny.state_dict().items()
    }
    model = Sam(TINY, TINY_PRESET).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        features = model.encode(images[:1])
        box = batch("box", 64, 4)
        logits, _ = model.decode(features, box)
        expected = transformers_sam(TINY, state)(image_embeddings=features[0], input_boxes=box.boxes[:, None])
    torch.testing.assert_close(logits, expected.pred_masks[:, 0], rtol=1e-3, atol=1e-6)


def test_padded_window_tokens_cost_no_product_and_change_nothing(tiny):
    attention = tiny.image_encoder.blocks[0].attn
    x = torch.randn(2, 4, 4, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        padded = torch.nn.functional.pad(x, (0, 0, 0, 2, 0, 2))
        torch.testing.assert_close(attention(x), attention(padded)[:, :4, :4])


def rows_of(prompts, index):
    return PromptBatch(*(None if v is None else v[index : index + 1] for v in list(vars(prompts).values())[:4]))


@pytest.fixture
def several():
    rng = torch.Generator().manual_seed(2)
    return PromptBatch(
        torch.rand(3, 2, 2, generator=rng) * 64,
        torch.tensor([[1, 0], [0, 1], [1, 1]]),
        torch.tensor([[5.0, 6.0, 30.0, 40.0], [1.0, 2.0, 60.0, 50.0], [20.0, 20.0, 30.0, 25.0]]),
        torch.randn(3, 1, 16, 16, generator=rng),
    )


def test_rows_of_one_image_share_its_embedding(tiny, images, several):
    with torch.no_grad():
        features = tiny.encode(images[:1])
        logits, iou = tiny.decode(features, several)
        for index in range(3):
            alone = tiny.decode(features, rows_of(several, index))
            torch.testing.assert_close((logits[index : index + 1], iou[index : index + 1]), alone)


def test_rows_say_whose_image_a_prompt_is(tiny, images, several):
    with torch.no_grad():
        features = tiny.encode(images)
        mixed = PromptBatch(several.points, several.labels, several.boxes, several.masks, torch.tensor([1, 0, 1]))
        logits, _ = tiny.decode(features, mixed)
        for index, row in enumerate((1, 0, 1)):
            alone, _ = tiny.decode((features[0][row : row + 1],), rows_of(several, index))
            torch.testing.assert_close(logits[index : index + 1], alone)
    with pytest.raises(ValueError, match="rows"):
        tiny.decode(features, several)


def test_rows_that_give_different_things_do_not_touch_each_other(tiny, images):
    nan = float("nan")
    box, mask = torch.tensor([5.0, 6.0, 30.0, 40.0]), torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(3))
    points = torch.tensor([[9.0, 9.0], [40.0, 20.0]])
    mixed = PromptBatch(
        torch.stack([points, points, points, points]),
        torch.tensor([[1, 0], [-1, 1], [-1, -1], [-1, -1]]),
        torch.stack([box, box * nan, box, box * nan]),
        torch.stack([mask * nan, mask, mask * nan, mask]),
    )
    none = torch.zeros(1, 0, dtype=torch.long)
    alone = [
        PromptBatch(points[None], torch.tensor([[1, 0]]), box[None]),
        PromptBatch(points[None, 1:], torch.tensor([[1]]), None, mask[None]),
        PromptBatch(points[None, :0], none, box[None]),
        PromptBatch(points[None, :0], none, None, mask[None]),
    ]
    with torch.no_grad():
        features = tiny.encode(images[:1])
        logits, iou = tiny.decode(features, mixed)
        for index, prompts in enumerate(alone):
            expected = tiny.decode(features, prompts)
            torch.testing.assert_close((logits[index : index + 1], iou[index : index + 1]), expected, rtol=0, atol=1e-5)


def test_every_parameter_learns_and_the_positional_matrix_is_not_one(images, several):
    model = Sam(TINY, TINY_PRESET)
    before = dict(model.named_parameters())
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" not in before
    features = model.encode(images[:1])
    points = PromptBatch(several.points, several.labels)
    loss = sum(
        out.square().sum()
        for prompts, multimask in ((several, True), (points, False))
        for out in model.decode(features, prompts, multimask)
    )
    loss.backward()
    after = dict(model.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert [name for name, value in after.items() if value.grad is None or not value.grad.any()] == []


def test_a_config_that_cannot_be_built_is_refused():
    with pytest.raises(ConfigError, match="multiple of patch"):
        SamConfig.from_dict({"side": 250})
    with pytest.raises(ConfigError, match="block that does not exist"):
        SamConfig.from_dict({"encoder_depth": 4})
    with pytest.raises(ConfigError, match="even number of tokens"):
        SamConfig.from_dict({"side": 240, "adapter": "sam-med2d"})
    with pytest.raises(ModelError, match="preset"):
        Sam(TINY, PRESETS["sam"])


@pytest.mark.parametrize(("side", "count"), [(256, 32), (1024, 1)])
def test_gradients_are_the_same_each_time_on_several_threads(side: int, count: int) -> None:
    """Those of many prompts about one image add up, and so do those of the relative positions of a large grid."""
    torch.manual_seed(0)
    sizes = TINY.model_copy(update={"side": side, "encoder_depth": 1, "global_blocks": (0,)})
    model = Sam(sizes, TINY_PRESET.model_copy(update={"side": side, "mask_side": side // 4}))
    torch.nn.init.normal_(model.image_encoder.blocks[0].attn.rel_pos_h)
    image = torch.randn(1, 3, side, side)
    points = side * torch.rand(count, 1, 2)
    rows = torch.zeros(count, dtype=torch.long)
    prompts = PromptBatch(points, torch.ones(count, 1, dtype=torch.long), rows=rows)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(6):
            model.zero_grad()
            logits, _ = model.decode(model.encode(image), prompts)
            (logits**2).mean().backward()
            found.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    finally:
        torch.set_num_threads(threads)
    differing = {name for grads in found for name, value in grads.items() if not torch.equal(value, found[0][name])}
    assert not differing
