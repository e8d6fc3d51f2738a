"""Small networks with the published layouts."""

from golden import fill
from vesalius.models.presets import Preset
from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.model import Sam

# Windows of 3 on a grid of 4 leave padded tokens, as 14 on 16 does.
CONFIG = SamConfig(
    side=64,
    encoder_dim=32,
    encoder_depth=3,
    encoder_heads=2,
    global_blocks=(1,),
    window=3,
    prompt_dim=32,
    mask_channels=8,
    decoder_mlp=48,
    iou_hidden=24,
)
ADAPTED = CONFIG.model_copy(update={"adapter": "sam-med2d"})
PRESET = Preset(side=64, mask_side=16, fit="stretch", focus=1.5)


def sam(config=CONFIG, preset=PRESET):
    """A SAM network filled from its parameters' names."""
    model = Sam(config, preset).eval()
    model.load_state_dict(fill.state_dict({key: tuple(v.shape) for key, v in model.state_dict().items()}))
    return model
