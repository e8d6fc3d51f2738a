"""Small specialist networks."""

import torch

from vesalius.models.specialists import PRESET, DeepLab, DeepLabConfig, Specialist, UNet, UNetConfig

# Small sizes by architecture.
SIZES = {
    "unet": {"widths": (8, 8, 16, 16, 16, 8)},
    "deeplab": {"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "pyramid": 16},
}


def specialist(architecture: str, words: tuple[str, ...] = ()) -> Specialist:
    """A small network that takes boxes, or these words."""
    torch.manual_seed(0)
    sizes = {**SIZES[architecture], "words": words}
    preset = PRESET.model_copy(update={"side": 64, "mask_side": 64})
    if architecture == "unet":
        return UNet(UNetConfig.from_dict(sizes), preset)
    return DeepLab(DeepLabConfig.from_dict(sizes), preset)
