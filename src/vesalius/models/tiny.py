"""vesalius-tiny: a small convolutional promptable network, trained from nothing by this project.

The encoder is a residual pyramid; the decoder is a small U-Net over the pyramid in which prompts are drawn as maps.
The decoder starts from a prior, the ellipse inscribed in the box plus the previous logits, and learns the correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from vesalius.core.config import Config
from vesalius.core.errors import ModelError
from vesalius.models.base import Features, PromptBatch, SegmentationModel
from vesalius.models.presets import Preset
from vesalius.models.runtime import SPATIAL
from vesalius.models.words import rows_of

PRESET = Preset(side=256, fit="stretch", box="half_open", mask_side=128, focus=2.0)
# Of a network with a finer level, whose other levels then see what they see in images of 256.
FINE_PRESET = PRESET.model_copy(update={"side": 512, "mask_side": 256})

PROMPT_MAPS, WORD_MAPS = 15, 2
# Of channels that are normalised together in the decoder.
_GROUPS = 8


class TinyConfig(Config):
    """Widths and depths of the network.

    Attributes:
        widths: Channels of the encoder at strides 2, 4, 8, 16 and 32.
        depths: Residual blocks of the encoder at the same strides.
        decoder: Channels of the decoder at strides 2, 4, 8, 16 and 32.
        deeper: Residual blocks of the decoder at the same strides, beside those that every decoder has.
        fine: Channels of a finer level in the encoder, at stride 2, and in the decoder, at stride 4, where a pixel
            stands for four of the masks; all other strides double. None without it.
        key: Length of the vectors by which pixels are compared with clicked ones, and with words.
        words: Names of the targets that it understands, as the vocabulary has them.
    """

    widths: tuple[int, int, int, int, int] = (24, 48, 96, 128, 192)
    depths: tuple[int, int, int, int, int] = (1, 2, 2, 2, 2)
    decoder: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128)
    deeper: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    fine: tuple[int, int] | None = None
    key: int = 32
    words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        normalised = self.decoder if self.deeper[0] else self.decoder[1:]
        if any(width % _GROUPS for width in normalised):
            raise ValueError(f"the decoder's channels must be multiples of {_GROUPS}")
        return self


def _conv_norm(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _EncoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv_norm(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    @property
    def last(self) -> nn.Module:
        return self.second[1]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class _DecoderBlock(nn.Module):
    # GroupNorm: the decoder meets other inputs in each round of interaction, so batch statistics would not carry over.
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    @property
    def last(self) -> nn.Module:
        return self.conv2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(self.norm(x))))
        return out


class _FineEncoder(nn.Module):
    """The level above the others: (B, 3, S, S) to what it adds to the first of them and what the decoder is shown.

    Both are at stride 4, of ``below`` and ``shown`` channels.
    """

    def __init__(self, width: int, shown: int, below: int) -> None:
        super().__init__()
        self.stage = _conv_norm(3, width, stride=2)
        self.down = nn.Conv2d(width, below, 3, 2, 1)
        self.project = nn.Conv2d(width, shown, 3, 2, 1)

    @property
    def last(self) -> nn.Module:
        return self.down

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        level = self.stage(x)
        return self.down(level), self.project(level)


class _FineDecoder(nn.Module):
    """What the finest level adds to the masks: (N, 3, S/2, S/2), S being the side of the input.

    It sees the last features of the level below (N, below, S/4, S/4), what the encoder shows it (N or 1, width, S/4,
    S/4), and the prior (N, 2, S/2, S/2). Four pixels of the masks are channels of one, for convolutions of many
    channels are faster than those of few at twice the side.
    """

    def __init__(self, width: int, below: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(below + 8, width, 3, padding=1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.masks = nn.Conv2d(width, 12, 1)

    @property
    def last(self) -> nn.Module:
        return self.masks

    def forward(self, x: Tensor, shown: Tensor, prior: Tensor) -> Tensor:
        start = F.pixel_unshuffle(prior.to(x.dtype) / 4, 2)
        level = F.relu(self.merge(torch.cat([x, start], dim=1)) + shown)
        return F.pixel_shuffle(self.masks(F.relu(self.conv(level))), 2)


class _Encoder(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.fine = _FineEncoder(*config.fine, config.widths[0]) if config.fine else None
        inputs = (3, *config.widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(_conv_norm(i, w, stride=2), *(_EncoderBlock(w) for _ in range(d)))
            for i, w, d in zip(inputs, config.widths, config.depths, strict=True)
        )
        top = config.widths[-1]
        self.context = nn.Linear(top, top)
        fused = (*config.widths[1:4], top)
        self.lateral = nn.ModuleList(nn.Conv2d(fused[i + 1], fused[i], 1) for i in range(3))
        self.smooth = nn.ModuleList(_conv_norm(w, w) for w in fused[:3])
        self.project = nn.ModuleList(
            nn.Conv2d(w, d, 1) for w, d in zip((config.widths[0], *fused), config.decoder, strict=True)
        )
        self.key = nn.Conv2d(fused[0], config.key, 1)

    def forward(self, x: Tensor) -> Features:
        levels: list[Tensor] = []
        finest: Features = ()
        more: Tensor | None = None
        if self.fine is not None:
            more, shown = self.fine(x)
            finest = (shown,)
            x = F.avg_pool2d(x, 2)
        for stage in self.stages:
            x = stage(x)
            if more is not None:
                x, more = x + more, None
            levels.append(x)
        top = levels[4]
        top = top + self.context(top.mean(dim=(2, 3)))[:, :, None, None]
        fused = [levels[0], *levels[1:4], top]
        for i in (2, 1, 0):
            above = F.interpolate(self.lateral[i](fused[i + 2]), scale_factor=2.0, mode="bilinear")
            fused[i + 1] = self.smooth[i](fused[i + 1] + above)
        key = F.normalize(self.key(fused[1]).float(), dim=1)
        return (*(project(level) for project, level in zip(self.project, fused, strict=True)), key, *finest)


class _Decoder(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        widths = config.decoder
        self.prompt = nn.Conv2d(PROMPT_MAPS + (WORD_MAPS if config.words else 0), widths[1], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, 2, 1) for i in (1, 2, 3))
        self.blocks = nn.ModuleList(_DecoderBlock(w) for w in widths[1:])
        self.up = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(4))
        self.merge = nn.ModuleList(_DecoderBlock(w) for w in widths[1:4])
        # Of the lowest level as it is on the way down, of the others as they are on the way up.
        self.deeper = nn.ModuleList(
            nn.Sequential(*(_DecoderBlock(w) for _ in range(n))) for w, n in zip(widths, config.deeper, strict=True)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(widths[0], widths[0], 3, padding=1), nn.ReLU())
        self.masks = nn.Conv2d(widths[0], 3, 1)
        self.fine = _FineDecoder(config.fine[1], widths[0]) if config.fine else None
        self.prior = nn.Parameter(torch.ones(2, 3))
        self.quality = nn.Sequential(
            nn.Linear(widths[4] + widths[1] + widths[0] + 3, 128), nn.ReLU(), nn.Linear(128, 1)
        )

    def forward(self, features: Features, maps: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        levels = features[:5]
        x = self.blocks[0](self.prompt(maps) + levels[1])
        skips = [x]
        for i, down in enumerate(self.down):
            x = self.blocks[i + 1](down(x) + levels[i + 2])
            skips.append(x)
        x = bottom = self.deeper[4](x)
        for i in (2, 1, 0):
            x = F.interpolate(self.up[i + 1](x), scale_factor=2.0, mode="bilinear") + skips[i]
            x = self.deeper[i + 1](self.merge[i](x))
        fine = F.interpolate(self.up[0](x), scale_factor=2.0, mode="bilinear") + levels[0]
        fine = self.head(self.deeper[0](fine))
        own = self.masks(fine).float()
        if self.fine is not None:
            own = F.interpolate(own, scale_factor=2.0, mode="bilinear") + self.fine(fine, features[6], prior).float()
        # Not as a product of matrices: its backward pass in bfloat16 crashes for some numbers of prompts (oneDNN 3.12).
        logits = own + prior[:, :1] * self.prior[0, :, None, None] + prior[:, 1:] * self.prior[1, :, None, None]
        return logits, self._quality(logits.detach(), (fine, x), bottom)

    def _quality(self, logits: Tensor, levels: tuple[Tensor, ...], bottom: Tensor) -> Tensor:
        """(N, 3) predicted IoU of masks as they are; it corrects the IoU that the probabilities themselves expect."""
        probability = logits.sigmoid().flatten(2)
        inside = (logits > 0).float().flatten(2)
        area = inside.sum(2, keepdim=True)
        certain = (probability * inside).sum(2, keepdim=True)
        expected = certain / (area + probability.sum(2, keepdim=True) - certain + 1e-3)
        odds = torch.logit(expected, eps=0.02)
        overlap = inside @ inside.transpose(1, 2)
        union = area + area.transpose(1, 2) - overlap
        agreement = (overlap / union.clamp_min(1)).mean(2, keepdim=True)
        seen = []
        for level in levels:
            weights = F.adaptive_avg_pool2d(logits.sigmoid(), (level.shape[2], level.shape[3])).flatten(2)
            seen.append(weights @ level.float().flatten(2).transpose(1, 2) / (weights.sum(2, keepdim=True) + 1))
        globe = bottom.float().mean(dim=(2, 3))[:, None].expand(-1, 3, -1)
        share = area / inside.shape[2]
        correction: Tensor = self.quality(torch.cat([globe, *seen, odds, agreement, share], dim=2))
        return (correction + odds).squeeze(2).sigmoid()


class Tiny(SegmentationModel):
    """The network of vesalius-tiny; see the module's docstring."""

    architecture: ClassVar[str] = "tiny"
    config: TinyConfig

    def __init__(self, config: TinyConfig | None = None, preset: Preset | None = None) -> None:
        super().__init__()
        self.config = config or TinyConfig()
        self.preset = preset or (FINE_PRESET if self.config.fine else PRESET)
        self.encoder = _Encoder(self.config)
        self.decoder = _Decoder(self.config)
        self.takes = SPATIAL | {"text"} if self.config.words else SPATIAL
        self.vocabulary = self.config.words
        if self.config.words:
            self.words = nn.Embedding(len(self.config.words), self.config.key)

    def encode(self, images: Tensor) -> Features:
        """Pyramid features at strides 2, 4, 8, 16, 32 and the comparison keys at stride 4; see the base class.

        With a finer level these strides are doubled, and what it shows to the decoder at stride 4 is the last.
        """
        features: Features = self.encoder(images.contiguous(memory_format=torch.channels_last))
        return features

    def embed_text(self, words: Sequence[str]) -> Tensor:
        """(N, key) vectors of N names of targets; synonyms have the same one.

        Raises:
            PromptError: One is none of the words that it was trained on.
            ModelError: It was trained on none.
        """
        if not self.config.words:
            return super().embed_text(words)
        rows = torch.tensor(rows_of(words, self.config.words), device=self.words.weight.device)
        vectors: Tensor = self.words(rows)
        return vectors

    def decode(self, features: Features, prompts: PromptBatch, multimask: bool = True) -> tuple[Tensor, Tensor]:
        """Three masks of side ``mask_side`` and their predicted IoU, or the one of highest predicted IoU."""
        if prompts.rows is not None:
            features = tuple(level.index_select(0, prompts.rows) for level in features)
        maps, prior = prompt_maps(prompts, features[5], self.preset.side)
        if self.config.words:
            maps = torch.cat([maps, word_maps(prompts.text, features[5], prompts.points.shape[0])], dim=1)
        maps = maps.contiguous(memory_format=torch.channels_last)
        logits, quality = self.decoder(features, maps, prior)
        if multimask:
            return logits, quality
        best = quality.argmax(1, keepdim=True)
        chosen = logits.gather(1, best[:, :, None, None].expand(-1, -1, *logits.shape[2:]))
        return chosen, quality.gather(1, best)


def with_words(model: Tiny, words: Sequence[str]) -> Tiny:
    """A copy of a network that takes no words, with an input for some that it has still to learn.

    It answers as before, with a word or without one, until it learns: the decoder's first convolution has new columns
    of zeros. The words' vectors are drawn from torch's generator.

    Args:
        model: A network without words.
        words: Names of targets.

    Raises:
        ModelError: The network has words already.
    """
    if model.config.words:
        raise ModelError("the network has words already")
    new = Tiny(model.config.model_copy(update={"words": tuple(words)}), model.preset)
    state = model.state_dict()
    prompt = state["decoder.prompt.weight"]
    state["decoder.prompt.weight"] = F.pad(prompt, (0, 0, 0, 0, 0, WORD_MAPS))
    new.load_state_dict({**state, "words.weight": new.words.weight.detach()})
    return new.train(model.training)


def grown(model: Tiny, config: TinyConfig) -> Tiny:
    """A copy of a network with more residual blocks or a finer level, which answers as before until these learn.

    The new blocks add nothing at first: the last weights of each are zero (Goyal et al., "Accurate, Large Minibatch
    SGD", 2017, section 5.1), and so are those by which a finer level adds to the others. Their other weights are drawn
    from torch's generator. With a new finer level ``side`` and ``mask_side`` of the preset double; the other levels
    see the mean of four pixels, and masks are interpolated, so that it answers nearly as before.

    Args:
        model: The network.
        config: Of the new one; ``depths`` and ``deeper`` nowhere lower, ``fine`` where there was none, the rest alike.

    Raises:
        ModelError: The configuration is another.
    """
    own = model.config
    for name, old in own:
        new_value = getattr(config, name)
        higher = name in ("depths", "deeper") and all(a >= b for a, b in zip(new_value, old, strict=True))
        if new_value != old and not higher and not (name == "fine" and old is None):
            raise ModelError(
                f"a trained network cannot grow from {name} = {old} to {new_value}",
                remedy="give depths and deeper that are nowhere lower than its own, or fine where it has none; "
                "leave the other sizes out, or train a new network",
            )
    preset = model.preset
    if config.fine and not own.fine:
        preset = preset.model_copy(update={"side": 2 * preset.side, "mask_side": 2 * preset.mask_side})
    new = Tiny(config, preset)
    known = dict(model.named_modules())
    for name, module in new.named_modules():
        if name in known or not isinstance(module, _EncoderBlock | _DecoderBlock | _FineEncoder | _FineDecoder):
            continue
        for parameter in module.last.parameters():
            nn.init.zeros_(parameter)
    new.load_state_dict({**new.state_dict(), **model.state_dict()})
    return new.train(model.training)


def word_maps(text: Tensor | None, key: Tensor, count: int) -> Tensor:
    """(count, 2, side/S, side/S): likeness of the pixels to each prompt's word, and whether it has one.

    Args:
        text: (count, C), NaN where a prompt has no word, or None.
        key: (count or 1, C, side/S, side/S) unit vectors of the pixels.
        count: Number of prompts.
    """
    if text is None:
        return key.new_zeros(count, WORD_MAPS, *key.shape[2:])
    given = text.isfinite().all(1)
    filled = torch.where(given[:, None], text, 0.0).float()
    vectors = F.normalize(filled, dim=1)
    like = torch.einsum("nc,nchw->nhw", vectors, key.expand(count, -1, -1, -1))
    return torch.stack([like, given.float()[:, None, None].expand_as(like)], dim=1)


def prompt_maps(prompts: PromptBatch, key: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Draws prompts as maps on the grid of the pixels' vectors.

    Args:
        prompts: N prompts in model pixels; a row of NaN in ``boxes`` or ``masks`` has none.
        key: (N or 1, C, side/S, side/S) unit vectors of the pixels, S being 4, or 8 with a finer level.
        side: Side of the model input.

    Returns:
        Maps (N, 15, side/S, side/S): clicks near and far (4), box (4), previous mask (2), presence (2), likeness
        to clicked, background, and enclosed pixels (3). Prior (N, 2, side/2, side/2): ellipse and previous logits.
    """
    count, grid = prompts.points.shape[0], key.shape[2]
    stride = side // grid
    device = key.device
    points = prompts.points.to(device, torch.float32)
    labels = prompts.labels
    centres = (torch.arange(grid, device=device, dtype=torch.float32) + 0.5) * stride - 0.5
    zero = torch.zeros(count, 1, grid, grid, device=device)

    maps: list[Tensor] = []
    likeness: list[Tensor] = []
    for label in (1, 0):
        chosen = labels == label
        if not torch.compiler.is_exporting() and not bool(chosen.any()):
            maps += [zero, zero]
            likeness.append(zero)
            continue
        dx = (centres[None, None, :] - points[:, :, 0, None]) ** 2
        dy = (centres[None, None, :] - points[:, :, 1, None]) ** 2
        near = [
            torch.where(
                chosen[:, :, None, None],
                torch.exp(-dy / (2 * sigma**2))[:, :, :, None] * torch.exp(-dx / (2 * sigma**2))[:, :, None, :],
                0.0,
            ).amax(1, keepdim=True)
            for sigma in (1.25 * stride, 6.0 * stride)
        ]
        maps += near
        cell = ((points + 0.5) / stride).long().clamp(0, grid - 1)
        flat = (cell[:, :, 1] * grid + cell[:, :, 0])[:, None, :].expand(-1, key.shape[1], -1)
        clicked = key.flatten(2).expand(count, -1, -1).gather(2, flat)
        like = torch.einsum("nck,nchw->nkhw", clicked, key.expand(count, -1, -1, -1))
        like = torch.where(chosen[:, :, None, None], like, -1.0).amax(1, keepdim=True)
        likeness.append(torch.where(chosen.any(1)[:, None, None, None], like, 0.0))

    ellipse = torch.zeros(count, 1, side // 2, side // 2, device=device)
    if prompts.boxes is None:
        maps += [zero] * 4
        has_box = torch.zeros(count, device=device, dtype=torch.bool)
    else:
        boxes = prompts.boxes.to(device, torch.float32)
        has_box = boxes.isfinite().all(1)
        boxes = torch.where(has_box[:, None], boxes, 0.0)
        x, y = (_box_axis(boxes, i, centres, stride / 8) for i in (0, 1))
        shown = has_box[:, None, None, None]
        radius = (x[:, None, None, :] ** 2 + y[:, None, :, None] ** 2).sqrt()
        rectangle = torch.maximum(x.abs()[:, None, None, :], y.abs()[:, None, :, None])
        wide = x.clamp(-2, 2)[:, None, None, :].expand(count, 1, grid, grid)
        high = y.clamp(-2, 2)[:, None, :, None].expand(count, 1, grid, grid)
        inside_ellipse = torch.sigmoid(6 * (1 - radius))
        inside_box = torch.sigmoid(12 * (1 - rectangle))
        maps += [torch.where(shown, m, 0.0) for m in (inside_ellipse, inside_box, wide, high)]
        fine = (torch.arange(side // 2, device=device, dtype=torch.float32) + 0.5) * 2 - 0.5
        x, y = (_box_axis(boxes, i, fine, stride / 8) for i in (0, 1))
        radius = (x[:, None, None, :] ** 2 + y[:, None, :, None] ** 2).sqrt()
        ellipse = torch.where(shown, (8 * (1 - radius)).clamp(-6, 4), 0.0)

    previous = torch.zeros(count, 1, side // 2, side // 2, device=device)
    if prompts.masks is None:
        maps += [zero, zero]
        has_mask = torch.zeros(count, device=device, dtype=torch.bool)
    else:
        given = prompts.masks.to(device, torch.float32)
        has_mask = given.isfinite().all(3).all(2).all(1)
        previous = torch.where(has_mask[:, None, None, None], given, 0.0).clamp(-8, 8)
        coarse = F.avg_pool2d(previous, stride // 2)
        maps += [coarse / 4, torch.where(has_mask[:, None, None, None], coarse.sigmoid(), 0.0)]

    # What the previous mask, or else the box's ellipse, encloses on average.
    weights = torch.where(has_mask[:, None, None, None], maps[9], maps[4])
    mean = torch.einsum("nohw,nchw->nc", weights, key.expand(count, -1, -1, -1))
    enclosed = torch.einsum("nc,nchw->nhw", F.normalize(mean, dim=1), key.expand(count, -1, -1, -1))[:, None]
    presence = [flag.float()[:, None, None, None].expand(-1, 1, grid, grid) for flag in (has_box, has_mask)]
    return torch.cat([*maps, *presence, *likeness, enclosed], dim=1), torch.cat([ellipse, previous], dim=1)


def _box_axis(boxes: Tensor, axis: int, centres: Tensor, least: float) -> Tensor:
    """(N, G) position of pixel centres along one axis of the boxes: -1 and 1 at the box's edges.

    A box whose half is shorter than ``least`` counts as one of that length, or it would lie between the centres.
    """
    low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
    return (centres[None] + 0.5 - (low + high) / 2) / ((high - low) / 2).clamp_min(least)
