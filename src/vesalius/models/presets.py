"""How the published SAM networks want their input.

Sources: Kirillov et al., "Segment Anything", 2023; Ma et al., "Segment Anything in Medical Images", 2024 (MedSAM);
Cheng et al., "SAM-Med2D", 2023; and the code published with each.
"""

from __future__ import annotations

from vesalius.models.base import Preset

PRESETS = {
    "sam": Preset(side=1024, mask_side=256),
    "sam-256": Preset(side=256, mask_side=64),
    "medsam": Preset(side=1024, mask_side=256, fit="stretch", intensity="min_max", multimask=False),
    # It was trained on blue, green, red with the means of red, green, blue.
    "sam-med2d": Preset(side=256, mask_side=64, fit="pad", channels="bgr", box="half_open", mask_prompt="probability"),
}
