import pytest
import torch
import transformers

from golden import fill
from transformers_layout import transformers_sam
from vesalius.core.errors import ModelError
from vesalius.models.base import PromptBatch
from vesalius.models.layouts import sam_config
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam
from vesalius.models.sam.transformers_names import MATRIX, TWIN, from_transformers, to_transformers

CONFIG = SamConfig(
    side=64,
    encoder_dim=32,
    encoder_depth=3,
    encoder_heads=2,
    global_blocks=(1,),
    window=3,
    prompt_dim=32,
    decoder_mlp=48,
    iou_hidden=24,
)
PARTS = ["points", "box", "box_points", "mask", "points_mask", "box_mask", "box_points_mask"]


@pytest.fixture(scope="module")
def theirs():
    """A network of transformers with random parameters everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        zeros = Sam(CONFIG, Preset(side=64, mask_side=16)).state_dict()
        model = transformers_sam(CONFIG, zeros)
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(0.2 * torch.randn(value.shape))
            model.state_dict()[TWIN].copy_(model.state_dict()[MATRIX])
    return model


def compare(ours, theirs, parts, multimask):
    rng = torch.Generator().manual_seed(3)
    images = torch.randn(1, 3, 64, 64, generator=rng)
    points, labels = 64 * torch.rand(3, 2, 2, generator=rng), torch.tensor([[1, 0], [0, 1], [1, 1]])
    boxes = torch.tensor([[5.0, 6.0, 30.0, 40.0], [1.0, 2.0, 60.0, 50.0], [20.0, 20.0, 30.0, 25.0]])
    mask = torch.randn(1, 1, 16, 16, generator=rng)
    count = 2 if "points" in parts else 0
    prompts = PromptBatch(
        points[:, :count],
        labels[:, :count],
        boxes if "box" in parts else None,
        mask.expand(3, -1, -1, -1) if "mask" in parts else None,
    )
    with torch.no_grad():
        features = ours.encode(images)
        torch.testing.assert_close(features[0], theirs.get_image_embeddings(images), rtol=0, atol=1e-5)
        logits, iou = ours.decode(features, prompts, multimask)
        for row in range(3):
            expected = theirs(
                image_embeddings=features[0],
                input_points=points[None, row : row + 1] if count else None,
                input_labels=labels[None, row : row + 1] if count else None,
                input_boxes=None if prompts.boxes is None else boxes[None, row : row + 1],
                input_masks=mask if "mask" in parts else None,
                multimask_output=multimask,
            )
            torch.testing.assert_close(logits[row], expected.pred_masks[0, 0], rtol=0, atol=1e-5)
            torch.testing.assert_close(iou[row], expected.iou_scores[0, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("parts", PARTS)
def test_theirs_becomes_ours(theirs, parts, multimask):
    state = from_transformers(theirs.state_dict())
    config = SamConfig(**sam_config({name: tuple(value.shape) for name, value in state.items()}))
    assert config == CONFIG
    ours = Sam(config, Preset(side=64, mask_side=16)).eval()
    ours.load_state_dict(state)
    compare(ours, theirs, parts, multimask)


@pytest.mark.parametrize("multimask", [True, False], ids=["multi", "single"])
@pytest.mark.parametrize("parts", PARTS)
def test_ours_becomes_theirs(parts, multimask):
    ours = Sam(CONFIG, Preset(side=64, mask_side=16)).eval()
    ours.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in ours.state_dict().items()}))
    compare(ours, transformers_sam(CONFIG, ours.state_dict()), parts, multimask)


@pytest.mark.parametrize("name", ["sam_vit_b_1024", "sam_vit_l_1024", "sam_vit_h_1024"])
def test_every_published_name_goes_there_and_back(name):
    config = sam_config(fill.manifest(name))
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in fill.manifest(name).items()}
        dim = config["encoder_dim"]
        vision = {"hidden_size": dim, "num_hidden_layers": config["encoder_depth"]}
        vision |= {"num_attention_heads": config["encoder_heads"], "global_attn_indexes": config["global_blocks"]}
        model = transformers.SamModel(transformers.SamConfig(vision_config=vision | {"mlp_dim": 4 * dim}))
    renamed = to_transformers(state)
    assert {key: v.shape for key, v in renamed.items()} == {key: v.shape for key, v in model.state_dict().items()}
    del renamed[TWIN]
    assert {name: value.shape for name, value in from_transformers(renamed).items()} == {
        name: value.shape for name, value in state.items()
    }


def test_one_copy_of_the_positional_matrix_is_enough_and_two_must_agree(theirs):
    state = theirs.state_dict()
    whole = from_transformers(state)
    for name in (MATRIX, TWIN):
        rest = {key: value for key, value in state.items() if key != name}
        assert from_transformers(rest).keys() == whole.keys()
    with pytest.raises(ModelError, match="differ"):
        from_transformers({**state, TWIN: state[TWIN] + 1})
