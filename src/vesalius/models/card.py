"""Model cards: the README.md of a checkpoint, with the header that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping

from vesalius.models.checkpoint import CheckpointConfig

CARD = "README.md"


def model_card(title: str, content: CheckpointConfig, facts: Mapping[str, str], licence: str | None = None) -> str:
    """The card of a checkpoint.

    Args:
        title: The model's name.
        content: What its ``config.json`` says.
        facts: More rows for its table, such as where it comes from.
        licence: SPDX identifier; None if it is not known.
    """
    preset = content.preset
    colours = "red, green, blue" if preset.channels == "rgb" else "blue, green, red"
    scale = "each image from 0 to 1" if preset.intensity == "min_max" else f"mean {preset.mean}, std {preset.std}"
    rows = {
        **facts,
        "network": ", ".join(f"{key} {_plain(value)}" for key, value in content.config.items()),
        "input": f"{preset.side} x {preset.side}, {preset.fit.replace('_', ' ')}; {colours}; {scale}",
        "prompts": f"boxes with {preset.box.replace('_', '-')} far corner; masks as {preset.mask_prompt}",
        "weights": f"`model.safetensors`, SHA-256 `{content.sha256}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: vesalius
license: {(licence or "unknown").lower()}
pipeline_tag: mask-generation
tags:
- medical
- image-segmentation
- {content.architecture}
---
# {title}

| | |
|---|---|
{table}

```python
import vesalius as vs

model = vs.load_model("folder of this file")
```
"""


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
