"""How networks want their input: what published checkpoints do differently.

Sources: Kirillov et al., "Segment Anything", 2023; Ma et al., "Segment Anything in Medical Images", 2024 (MedSAM);
Cheng et al., "SAM-Med2D", 2023; Huang et al., "Segment Anything Model for Medical Images?", 2024 (COSMOS, FT-SAM);
Cheng et al., "Interactive Medical Image Segmentation", 2025 (IMIS-Net); and the code published with each.
"""

from __future__ import annotations

from typing import Literal

from vesalius.core.config import Config


class Preset(Config):
    """How a network wants its input; what published checkpoints do differently is a field here.

    Attributes:
        side: Side of the square input in pixels.
        fit: ``stretch`` both axes; ``longest_side`` then pad right and bottom; ``pad`` small images centred.
        intensity: ``mean_std`` on 0..255 RGB, or ``min_max`` of each image to 0..1.
        channels: Order in which the network takes the colours; ``mean`` and ``std`` are in this order.
        mean: Per channel, on 0..255.
        std: Per channel, on 0..255.
        box: Whether the box's far corner is the last pixel inside (``inclusive``) or the edge (``half_open``).
        mask_prompt: Scale on which the network takes its mask prompt: ``logits`` or ``probability``.
        mask_side: Side of the low-resolution masks it takes and gives.
        multimask: Whether three masks are asked for and the one of highest predicted IoU is chosen.
        focus: Look a second time, at a window around the object that is this many times its longer side;
            None for networks that always see the whole image.
        box_cut: Logit at which a mask asked for by a box alone is cut; it is taken off the logits. Below zero for a
            network that stays inside of boxes that fit, as it was trained on others too.
        min_quality: Predicted IoU that a mask of everything mode must exceed; the published value is SAM's.
        min_stability: Its least stability, likewise.
        stability_offset: In logits, likewise.
    """

    side: int
    fit: Literal["stretch", "longest_side", "pad"] = "longest_side"
    intensity: Literal["mean_std", "min_max"] = "mean_std"
    channels: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    box: Literal["inclusive", "half_open"] = "inclusive"
    mask_prompt: Literal["logits", "probability"] = "logits"
    mask_side: int
    multimask: bool = True
    focus: float | None = None
    box_cut: float = 0.0
    min_quality: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0


PRESETS = {
    "sam": Preset(side=1024, mask_side=256),
    # COSMOS fine-tunes the mask decoder with SAM's own input (Huang et al., 2024, section 4.12).
    "ft-sam": Preset(side=1024, mask_side=256),
    "sam-256": Preset(side=256, mask_side=64),
    "medsam": Preset(side=1024, mask_side=256, fit="stretch", intensity="min_max", multimask=False),
    # It was trained on blue, green, red with the means of red, green, blue.
    "sam-med2d": Preset(side=256, mask_side=64, fit="pad", channels="bgr", box="half_open", mask_prompt="probability"),
    # It was trained at 256 and is published with positions for 1024; it stretches (Cheng et al., 2025).
    "imis-net": Preset(side=256, mask_side=64, fit="stretch"),
    "imis-net-1024": Preset(side=1024, mask_side=256, fit="stretch"),
}
