"""The same SAM in transformers: its configuration and parameter names for a network of ours."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from vesalius.models.sam.config import SamConfig

# (published name, transformers' name), applied in this order.
RENAMED = [
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
    (r"\.norm(\d|_final_attn)\.", r".layer_norm\1."),
]


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours under transformers' names."""
    out = {}
    for name, value in state.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        out[name] = value
    out["shared_image_embedding.positional_embedding"] = out["prompt_encoder.shared_embedding.positional_embedding"]
    return out


def transformers_sam(config: SamConfig, state: dict[str, Tensor]) -> nn.Module:
    """The ``SamModel`` of transformers with our sizes and weights, in evaluation mode."""
    import transformers

    dim = config.prompt_dim
    sizes: dict[str, Any] = {"image_size": config.side, "patch_size": config.patch}
    model = transformers.SamModel(
        transformers.SamConfig(
            vision_config={
                "hidden_size": config.encoder_dim,
                "num_hidden_layers": config.encoder_depth,
                "num_attention_heads": config.encoder_heads,
                "global_attn_indexes": list(config.global_blocks),
                "window_size": config.window,
                "output_channels": dim,
                "num_pos_feats": dim // 2,
                **sizes,
            },
            prompt_encoder_config={"hidden_size": dim, "mask_input_channels": config.mask_channels, **sizes},
            mask_decoder_config={
                "hidden_size": dim,
                "num_hidden_layers": config.decoder_depth,
                "num_attention_heads": config.decoder_heads,
                "mlp_dim": config.decoder_mlp,
                "iou_head_hidden_dim": config.iou_hidden,
                # The published network has 1e-5 here; transformers' default is 1e-6.
                "layer_norm_eps": 1e-5,
            },
        )
    )
    model.load_state_dict(to_transformers(state))
    return model.eval()
