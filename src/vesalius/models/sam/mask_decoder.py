"""SAM's mask decoder: prompt tokens and image tokens look at each other, then masks are drawn.

Source: Kirillov et al., "Segment Anything", 2023, section 3 and appendix A (figure 14).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vesalius.models.sam.config import SamConfig
from vesalius.models.sam.layers import LayerNorm2d, Linear, Mlp, linear

MASKS = 3


class Attention(nn.Module):
    """Multi-head attention at ``1 / shrink`` of the width; one side's single row serves all rows of the other."""

    def __init__(self, dim: int, heads: int, shrink: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(dim, dim // shrink)
        self.k_proj = Linear(dim, dim // shrink)
        self.v_proj = Linear(dim, dim // shrink)
        self.out_proj = Linear(dim // shrink, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None) -> Tensor:
        """(N or 1, Tq, dim), (N or 1, Tk, dim) twice, which keys (N, 1, 1, Tk) are there -> (N, Tq, dim)."""
        rows = max(query.shape[0], key.shape[0])
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2).expand(rows, -1, -1, -1)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=present)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class TokenToImage(Attention):
    """Attention of a few tokens to the many of the image.

    The projections of the image move to the tokens' side, ``(W x) q = x (W' q)`` and ``sum a (V x) = V (sum a x)``: the
    image is used as it is, and what was computed for each of its tokens is computed for each head of the few.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None) -> Tensor:
        """See `Attention`; every image token is there."""
        q = self.q_proj(query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        if present is not None or _many(q):
            return super().forward(query, key, value, present)
        width, tokens = q.shape[-1], q.shape[2]
        # What the bias of the keys adds is the same for all keys, and vanishes in the softmax.
        asked = q @ self.k_proj.weight.view(self.heads, width, -1)
        # This way round it is not the image that is turned, but the scores of a few tokens.
        scores = (key @ (asked * width**-0.5).flatten(1, 2).transpose(1, 2)).transpose(1, 2)
        seen = scores.softmax(-1) @ value
        seen = seen.unflatten(1, (self.heads, tokens)) @ self.v_proj.weight.view(self.heads, width, -1).transpose(1, 2)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2) + self.v_proj.bias)
        return out


class ImageToToken(Attention):
    """Attention of the many tokens of the image to a few; its projections move to the few, as in `TokenToImage`."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, present: Tensor | None = None) -> Tensor:
        """See `Attention`."""
        k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.k_proj, key), (self.v_proj, value))
        )
        if _many(k):
            return super().forward(query, key, value, present)
        width, tokens = k.shape[-1], k.shape[2]
        k = k * width**-0.5
        asked = (k @ self.q_proj.weight.view(self.heads, width, -1)).flatten(1, 2)
        bias = (k @ self.q_proj.bias.view(self.heads, width, 1)).transpose(2, 3)
        if present is not None:
            bias = bias.masked_fill(~present, -torch.inf)
        scores = (query @ asked.transpose(1, 2) + bias.flatten(1)[:, None]).unflatten(2, (self.heads, tokens))
        answers = v @ self.out_proj.weight.T.view(self.heads, width, -1)
        out: Tensor = scores.softmax(-1).flatten(2) @ answers.flatten(1, 2) + self.out_proj.bias
        return out


def _many(x: Tensor) -> bool:
    """Whether (N, heads, T, d) tokens are so many that projecting the image is less work."""
    # An exported graph takes any number, most often a few.
    return not torch.compiler.is_exporting() and x.shape[2] > 2 * x.shape[3]


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens."""

    def __init__(self, dim: int, heads: int, mlp: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = TokenToImage(dim, heads, shrink=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp, nn.ReLU())
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ImageToToken(dim, heads, shrink=2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, tokens_pe: Tensor, image_pe: Tensor, present: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(N, T, dim) tokens and (N or 1, grid², dim) image -> the same, with N rows both."""
        if self.first:
            # The tokens still are their own positions.
            tokens = self.self_attn(tokens, tokens, tokens, present)
        else:
            placed = tokens + tokens_pe
            tokens = tokens + self.self_attn(placed, placed, tokens, present)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + tokens_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(image + image_pe, tokens + tokens_pe, tokens, present)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """The two-way blocks and a last look of the tokens at the image."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim, heads = config.prompt_dim, config.decoder_heads
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads, config.decoder_mlp, first=index == 0) for index in range(config.decoder_depth)
        )
        self.final_attn_token_to_image = TokenToImage(dim, heads, shrink=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, image_pe: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, T, dim) tokens, (N or 1, grid², dim) image, (grid², dim) positions -> tokens and image, N rows."""
        tokens_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, tokens_pe, image_pe, present)
        seen = self.final_attn_token_to_image(tokens + tokens_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + seen), image


class Head(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise((dim, hidden, hidden, out)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class Upscaling(nn.Sequential):
    """Enlarges the image four times, as image tokens in and tokens of a sixteenth of their size out.

    Its transposed convolutions, of size and stride 2, touch no pixel twice: each is one matrix product per token, and
    the four small tokens stay beside each other until masks of few channels are put in order.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(N, grid², dim) -> (N, grid², 16, dim / 8), the sixteen by rows and columns of the first and the second."""
        first, norm, _, second, _ = self.children()
        x = _in_fours(image, first)
        x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.get_parameter("weight"), norm.get_parameter("bias"), 1e-6))
        return F.gelu(_in_fours(x, second)).flatten(2, 3)


def _in_fours(x: Tensor, layer: nn.Module) -> Tensor:
    """(..., in) tokens -> (..., 4, out): what a transposed convolution of size and stride 2 makes of each."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    out = linear(x, weight.permute(2, 3, 1, 0).flatten(0, 2), bias.repeat(4))
    return torch.unflatten(out, -1, (4, -1))


def in_order(values: Tensor) -> Tensor:
    """(N, M, grid², 16) of tokens as `Upscaling` leaves them -> (N, M, 4 grid, 4 grid)."""
    count, masks, tokens, _ = values.shape
    grid = math.isqrt(tokens)
    x = values.view(count, masks, grid, grid, 2, 2, 2, 2)
    return x.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(count, masks, 4 * grid, 4 * grid)


class MaskDecoder(nn.Module):
    """Image embedding and prompts to masks and their predicted IoU."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        dim = config.prompt_dim
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(1 + MASKS, dim)
        self.output_upscaling = Upscaling(dim)
        self.output_hypernetworks_mlps = nn.ModuleList(Head(dim, dim, dim // 8) for _ in range(1 + MASKS))
        self.iou_prediction_head = Head(dim, config.iou_hidden, 1 + MASKS)

    def forward(
        self,
        embedding: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        present: Tensor | None,
        dense: Tensor,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N prompts.

        Args:
            embedding: (N or 1, dim, grid, grid) image embeddings.
            image_pe: (grid², dim) positional encoding of the image tokens.
            sparse: (N, T, dim) prompt tokens.
            present: (N, T) bool, the prompt tokens each row has; None if all have all.
            dense: (N, dim, grid, grid) mask prompts, or (1, dim, 1, 1) for none.
            multimask: Three masks for an ambiguous prompt, or the one mask.

        Returns:
            Mask logits (N, M, 4 grid, 4 grid) and predicted IoU (N, M), with M = 3 or 1.
        """
        tokens, image = self.look(embedding, image_pe, sparse, present, dense)
        return self.draw(tokens, self.output_upscaling(image), multimask)

    def outputs(self) -> Tensor:
        """(T', dim) tokens that the network answers by: the IoU's, then those of the masks."""
        return torch.cat([self.iou_token.weight, self.mask_tokens.weight])

    def look(
        self, embedding: Tensor, image_pe: Tensor, sparse: Tensor, present: Tensor | None, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The tokens (N, T' + T, dim) and the image (N, grid², dim) after their look at each other."""
        outputs = self.outputs()
        tokens = torch.cat([outputs.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        image = (embedding + dense).flatten(2).transpose(1, 2)
        if present is not None:
            present = torch.cat([present.new_ones(sparse.shape[0], len(outputs)), present], dim=1)[:, None, None]
        looked: tuple[Tensor, Tensor] = self.transformer(tokens, image, image_pe, present)
        return looked

    def draw(self, tokens: Tensor, upscaled: Tensor, multimask: bool) -> tuple[Tensor, Tensor]:
        """Mask logits and predicted IoU of tokens and the enlarged image, (N, grid², 16, dim / 8)."""
        asked = range(1, 1 + MASKS) if multimask else range(1)
        kernels = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in asked], dim=1)
        logits = in_order(products(kernels, upscaled))
        iou: Tensor = self.iou_prediction_head(tokens[:, 0])
        return logits, iou[:, asked.start : asked.stop]


def products(kernels: Tensor, upscaled: Tensor) -> Tensor:
    """(N, M, c) kernels on the enlarged image (N, grid², 16, c) -> (N, M, grid², 16)."""
    return torch.unflatten(kernels @ upscaled.flatten(1, 2).transpose(1, 2), 2, upscaled.shape[1:3])
