"""SAM and SAM-Med2D written the plain way: what the published code computes, step by step, on the weights of ours.

It is the peer that `models.py` and `training.py` measure against: windows are filled up with zero tokens that take part
in everything, the positional bias is built anew and added to a full matrix of attention, the adapter's convolutions are
convolutions, and the image embedding is copied for every prompt.
"""

from __future__ import annotations

import copy
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vesalius.models.base import PromptBatch
from vesalius.models.sam.mask_decoder import Attention, MaskDecoder
from vesalius.models.sam.model import Sam


def encode(sam: Sam, images: Tensor) -> Tensor:
    """(B, prompt_dim, grid, grid) embeddings of (B, 3, side, side) normalised images."""
    encoder = sam.image_encoder
    x = encoder.patch_embed(images) + encoder.pos_embed
    for index, block in enumerate(encoder.blocks):
        window = None if index in sam.config.global_blocks else sam.config.window
        normed = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, 1e-6)
        x = x + attention(block.attn, normed, window)
        normed = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6)
        hidden = F.gelu(F.linear(normed, block.mlp.lin1.weight, block.mlp.lin1.bias))
        x = x + F.linear(hidden, block.mlp.lin2.weight, block.mlp.lin2.bias)
        if sam.config.adapter:
            x = x + adapter(block.Adapter, normed)
    return encoder.neck(x.permute(0, 3, 1, 2))


def attention(attn: nn.Module, x: Tensor, window: int | None) -> Tensor:
    """Self-attention of (B, H, W, dim) tokens, in windows filled up with zeros, or over all of them."""
    batch, height, width, dim = x.shape
    size = window or height
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.view(batch, rows, size, columns, size, dim).permute(0, 1, 3, 2, 4, 5).reshape(-1, size, size, dim)
    count, heads = len(x), attn.heads
    qkv = F.linear(x, attn.qkv.weight, attn.qkv.bias)
    q, k, v = qkv.view(count, size * size, 3, heads, -1).permute(2, 0, 3, 1, 4).reshape(3, count * heads, size**2, -1)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    at = torch.arange(size, device=x.device)
    distance = at[:, None] - at[None, :] + size - 1
    grid = q.view(count * heads, size, size, -1)
    along_h = torch.einsum("nhwd,hkd->nhwk", grid, attn.rel_pos_h[distance])
    along_w = torch.einsum("nhwd,wkd->nhwk", grid, attn.rel_pos_w[distance])
    weights = weights.view(-1, size, size, size, size) + along_h[..., :, None] + along_w[..., None, :]
    seen = weights.view(-1, size**2, size**2).softmax(-1) @ v
    seen = seen.view(count, heads, size, size, -1).permute(0, 2, 3, 1, 4).reshape(count, size, size, dim)
    out = F.linear(seen, attn.proj.weight, attn.proj.bias)
    out = out.view(batch, rows, columns, size, size, dim).permute(0, 1, 3, 2, 4, 5)
    return out.reshape(batch, rows * size, columns * size, dim)[:, :height, :width]


def adapter(module: nn.Module, x: Tensor) -> Tensor:
    """SAM-Med2D's adapter on (B, H, W, dim) tokens, as the paper draws it."""
    maps = x.permute(0, 3, 1, 2)
    gate = module.channel(F.adaptive_avg_pool2d(maps, 1).flatten(1))
    out = module.spatial(maps * gate[:, :, None, None]) + maps
    return module.norm(out.permute(0, 2, 3, 1))


def plain_decoder(sam: Sam) -> MaskDecoder:
    """The network's mask decoder, on the same parameters, with attention computed for each token of the image."""
    shared = {id(parameter): parameter for parameter in sam.mask_decoder.parameters()}
    decoder = copy.deepcopy(sam.mask_decoder, shared)
    for module in decoder.modules():
        if isinstance(module, Attention):
            module.forward = MethodType(Attention.forward, module)
    return decoder


def decode(sam: Sam, decoder: MaskDecoder, embedding: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
    """Three masks of each prompt and their predicted IoU, all prompts at once, each with its own copy of the image.

    Of several images, each has as many prompts as the others, which follow each other.
    """
    sparse, present, dense = sam.prompt_encoder(prompts)
    copies = embedding.repeat_interleave(len(prompts) // len(embedding), 0)
    dense, side = dense.expand_as(copies).clone(), sam.config.grid
    tokens, image = decoder.look(copies, sam.prompt_encoder.dense_positions(), sparse, present, dense)
    enlarged = nn.Sequential.forward(decoder.output_upscaling, image.transpose(1, 2).unflatten(2, (side, side)))
    kernels = torch.stack([head(tokens[:, 2 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps[1:])], 1)
    masks = torch.einsum("nmc,nchw->nmhw", kernels, enlarged)
    return masks, decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
