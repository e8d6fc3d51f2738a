"""The same SAM in transformers: its configuration for a network of ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.transformers_names import to_transformers


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
