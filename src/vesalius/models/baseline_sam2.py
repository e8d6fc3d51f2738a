"""SAM 2 through transformers (an extra), to compare with and to train further.

Needs ``pip install vesalius[text]``. Nothing is downloaded: it is loaded from a folder of transformers, or from a
checkpoint of ours.

Source: Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024; its input as in the code published with it.
"""

from __future__ import annotations

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vesalius.core.config import Config
from vesalius.core.errors import ModelError
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.models.presets import Preset

# The hub's checkpoints hold the video's network, of which the image's is a part.
MODEL_TYPES = ("sam2", "sam2_video")

# Number of points, whether there is a box, whether there is a mask.
Parts = tuple[int, bool, bool]

_log = logging.getLogger(__name__)


class Sam2Config(Config):
    """Sizes of a SAM 2.

    Attributes:
        network: What transformers' configuration of it says besides its own defaults.
    """

    network: dict[str, Any] = Field(default_factory=dict)


class Sam2(SegmentationModel):
    """SAM 2 for single images.

    Args:
        config: Its sizes.
        preset: How it wants its input; as the sizes tell if None.
        network: ``Sam2Model`` of transformers of these sizes; a new one if None.

    Raises:
        ModelError: transformers is not installed, or cannot make a network of these sizes; the preset has others.
    """

    architecture: ClassVar[str] = "sam2"
    config: Sam2Config

    def __init__(self, config: Sam2Config, preset: Preset | None = None, network: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = network or _made(config)
        sizes: Any = self.network.config
        side, patch = sizes.prompt_encoder_config.image_size, sizes.prompt_encoder_config.patch_size
        self.preset = preset or Preset(side=side, mask_side=4 * side // patch, fit="stretch")
        if (self.preset.side, self.preset.mask_side) != (side, 4 * side // patch):
            raise ModelError(
                f"the preset is for images of {self.preset.side} pixels and masks of {self.preset.mask_side}, and the "
                f"network for {side} and {4 * side // patch}"
            )

    def encode(self, images: Tensor) -> Features:
        """Two finer levels and the embedding of (B, 3, side, side) normalised images."""
        network: Any = self.network
        # What transformers' get_image_embeddings does, which leaves no gradient.
        maps = list(network.get_image_features(images, return_dict=True).fpn_hidden_states)
        maps[-1] = maps[-1] + network.no_memory_embedding
        sizes = network.backbone_feature_sizes
        return tuple(
            level.permute(1, 2, 0).reshape(len(images), -1, *size) for level, size in zip(maps, sizes, strict=True)
        )

    def decode(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> tuple[Tensor, Tensor]:
        """Masks of the prompts; see the base class.

        Raises:
            ValueError: The features are those of several images and ``prompts.rows`` does not say which is whose.
        """
        if prompts.rows is None and features[0].shape[0] != 1:
            raise ValueError(f"features of {features[0].shape[0]} images need prompts.rows")
        # transformers knows no absent parts, so rows of the same parts are decoded together.
        groups: dict[Parts, list[int]] = {}
        for row, parts in enumerate(_parts(prompts)):
            groups.setdefault(parts, []).append(row)
        order: list[int] = []
        answers = []
        step = self.prompts_at_once
        for parts, members in groups.items():
            for rows in (members[start : start + step] for start in range(0, len(members), step)):
                order += rows
                answers.append(self._decode(features, prompts, rows, parts, multimask))
        back = torch.tensor(order).argsort()
        logits, iou = (torch.cat(column)[back] for column in zip(*answers, strict=True))
        return logits, iou

    def _decode(
        self, features: Features, prompts: PromptBatch, rows: list[int], parts: Parts, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Masks of prompts that all have the same parts."""
        count, boxed, drawn = parts
        index = torch.tensor(rows, device=prompts.labels.device)
        whose = torch.zeros_like(index) if prompts.rows is None else prompts.rows[index]
        labels = prompts.labels[index]
        given = labels >= 0
        # One image per prompt: transformers takes a mask per image, not per prompt.
        network: Any = self.network
        out = network(
            image_embeddings=[level[whose] for level in features],
            input_points=prompts.points[index][given].view(len(rows), 1, count, 2) if count else None,
            input_labels=labels[given].view(len(rows), 1, count) if count else None,
            input_boxes=prompts.boxes[index][:, None] if boxed and prompts.boxes is not None else None,
            input_masks=prompts.masks[index] if drawn and prompts.masks is not None else None,
            multimask_output=multimask,
        )
        return out.pred_masks[:, 0], out.iou_scores[:, 0]

    @property
    def prompts_at_once(self) -> int:
        """Prompts that a CPU had best decode together: each has its own copy of the image."""
        return 8


def _parts(prompts: PromptBatch) -> list[Parts]:
    """What each row has."""
    none = prompts.labels.new_zeros(len(prompts), dtype=torch.bool)
    counts = (prompts.labels >= 0).sum(1)
    boxed = none if prompts.boxes is None else prompts.boxes.isfinite().all(1)
    drawn = none if prompts.masks is None else prompts.masks.isfinite().flatten(1).all(1)
    return list(zip(counts.tolist(), boxed.tolist(), drawn.tolist(), strict=True))


def is_sam2(folder: Path) -> bool:
    """Whether a path is a folder of transformers that holds a SAM 2."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("model_type") in MODEL_TYPES


def load_sam2(folder: Path) -> Sam2:
    """Loads SAM 2 from a folder of transformers: ``config.json`` and ``model.safetensors``.

    Of a video's network the part for single images is taken; what is left out is named in the log.

    Returns:
        The network on the CPU, in evaluation mode, in float32.

    Raises:
        ModelError: The folder cannot be read, its weights do not fit, or transformers is not installed.
    """
    transformers = _transformers(folder)
    kind: Any = transformers.Sam2Model
    messages: Any = transformers.utils.logging
    bars = messages.is_progress_bar_enabled()
    messages.disable_progress_bar()
    try:
        network, report = kind.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    # What transformers raises for a damaged file depends on its version and that of safetensors.
    except Exception as error:
        raise ModelError(f"cannot be read as SAM 2 by transformers ({error})", path=folder) from error
    finally:
        if bars:
            messages.enable_progress_bar()
    for fault in ("missing_keys", "mismatched_keys"):
        if report[fault]:
            names = ", ".join(sorted(map(str, report[fault]))[:3])
            told = f"{len(report[fault])} {fault.replace('_', ' ')} ({names})"
            raise ModelError(f"does not fit SAM 2: {told}", path=folder)
    if report["unexpected_keys"]:
        _log.warning("%s: not loaded: %s", folder, ", ".join(sorted(report["unexpected_keys"])))
    # Where it was loaded from says nothing about it.
    sizes = {name: value for name, value in json.loads(network.config.to_json_string()).items() if name[0] != "_"}
    return Sam2(Sam2Config(network=sizes), network=network).eval()


def _made(config: Sam2Config) -> nn.Module:
    transformers = _transformers()
    try:
        made: nn.Module = transformers.Sam2Model(transformers.Sam2Config.from_dict(deepcopy(config.network)))
    # What transformers raises for sizes that do not go together depends on its version.
    except Exception as error:
        raise ModelError(f"transformers can make no SAM 2 of these sizes ({error})") from error
    return made


def _transformers(path: Path | None = None) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            "SAM 2 needs the package transformers", path=path, remedy="pip install vesalius[text]"
        ) from error
    return transformers
