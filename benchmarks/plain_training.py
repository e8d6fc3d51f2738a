"""SAM-Med2D's training step written the plain way, as its paper tells it and its published code loops.

It is the peer that `training.py` measures the engine against: the image is encoded, then prompts are decoded round by
round, mask by mask in a Python loop; corrective points are looked for in numpy on the CPU, mask by mask; the loss is on
the one mask that is chosen; every round runs backward by itself. Unlike in the published code the optimiser steps once,
after all rounds, so that the gradients are those of the engine, and the random numbers are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import plain_sam
from vesalius.models.base import PromptBatch
from vesalius.models.sam.model import Sam
from vesalius.models.torch_runtime import prepare
from vesalius.training.interaction import Batch, InteractionConfig, draw, draw_turns
from vesalius.training.losses import LossConfig

Encode = Callable[[Tensor], Tensor]
Decode = Callable[[Tensor, PromptBatch], tuple[Tensor, Tensor]]


@dataclass
class Network:
    """A network to train: our modules, and how they are computed."""

    sam: Sam
    encode: Encode
    decode: Decode


def written_plainly(sam: Sam) -> Network:
    """The network computed as `plain_sam` does, on the same parameters."""
    decoder = plain_sam.plain_decoder(sam)
    return Network(
        sam,
        lambda images: plain_sam.encode(sam, images),
        lambda embedding, prompts: plain_sam.decode(sam, decoder, embedding, prompts),
    )


def as_it_is(sam: Sam) -> Network:
    """The network by the code that the engine runs."""

    def decode(embedding: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(embedding), device=embedding.device).repeat_interleave(len(prompts) // len(embedding))
        return sam.decode((embedding,), PromptBatch(**{**vars(prompts), "rows": rows}))

    return Network(sam, lambda images: sam.encode(images)[0], decode)


@dataclass
class Answer:
    """A mask's prompt, and what the network said."""

    prompt: PromptBatch
    logits: Tensor
    quality: Tensor


def step(
    network: Network,
    batch: Batch,
    config: InteractionConfig,
    loss: LossConfig,
    seed: int = 0,
    together: bool = False,
    given: Sequence[tuple[Tensor, Tensor]] | None = None,
    told: list[list[PromptBatch]] | None = None,
) -> list[float]:
    """Plays all rounds and leaves the gradients in the network.

    Args:
        network: The network.
        batch: Images with the same number of masks each.
        config: The rounds, as SAM-Med2D's recipe has them.
        loss: The loss, of focal, Dice and quality alone.
        seed: Of the random numbers, which are those that the engine draws.
        together: Whether all masks are decoded at once, as the published code does, and not one by one.
        given: Logits (N, 3, h, w) and predicted IoU (N, 3) of each round, from which the next prompts are made in
            place of the network's own.
        told: Is filled with the prompts of each round.

    Returns:
        The mean loss of each round.
    """
    count, preset = len(batch), network.sam.preset
    draws = draw(batch, seed, config)
    turns = draw_turns(config, np.random.default_rng((seed, batch.step, 0, 2)))
    truths = (batch.truth[:, 0] > 0.5).cpu().numpy()
    embedding = network.encode(prepare(batch.images, batch.content, preset))
    prompts = [
        first_prompt(truths[i], draws.kind[i], draws.point[i], draws.jitter[i], config, preset.side)
        for i in range(count)
    ]
    losses = []
    for number in range(config.rounds):
        if told is not None:
            told.append(prompts)
        # The prompt encoder learns from the first prompts alone; so do the adapters, by the embedding.
        for parameter in network.sam.prompt_encoder.parameters():
            parameter.requires_grad_(number == 0)
        groups = list(grouped(prompts, batch.rows.tolist(), together))
        answers: list[Answer] = []
        total = torch.zeros(())
        for rows, images, prompt in groups:
            logits, quality = (
                value.float() for value in network.decode(embedding[images], prompt.to(embedding.device))
            )
            truth = batch.truth[rows]
            total = total + round_loss(logits, quality, truth, loss).sum() / count
            answers += [Answer(prompts[r], logits[i].detach(), quality[i].detach()) for i, r in enumerate(rows)]
        (total / config.rounds).backward()
        losses.append(float(total.detach()))
        embedding = embedding.detach()
        if number + 1 == config.rounds:
            break
        if given is not None:
            logits, quality = given[number]
            answers = [Answer(a.prompt, logits[i], quality[i]) for i, a in enumerate(answers)]
        turn = turns[number]
        prompts = [
            next_prompt(answer, truth, draws.errors[i, number, : turn.points])
            for i, (answer, truth) in enumerate(zip(answers, truths, strict=True))
        ]
    for parameter in network.sam.prompt_encoder.parameters():
        parameter.requires_grad_(True)
    return losses


def grouped(
    prompts: Sequence[PromptBatch], images: Sequence[int], together: bool
) -> Iterator[tuple[list[int], list[int], PromptBatch]]:
    """What is decoded at a time: numbers of masks, of their images, and the prompts."""
    if not together:
        yield from (([i], [images[i]], prompt) for i, prompt in enumerate(prompts))
        return
    yield list(range(len(prompts))), sorted(set(images)), stacked(prompts)


def stacked(prompts: Sequence[PromptBatch]) -> PromptBatch:
    """Prompts as one batch, with padding where one lacks what another has."""
    most = max(prompt.points.shape[1] for prompt in prompts)
    points = [F.pad(prompt.points, (0, 0, 0, most - prompt.points.shape[1])) for prompt in prompts]
    labels = [F.pad(prompt.labels, (0, most - prompt.labels.shape[1]), value=-1) for prompt in prompts]
    boxes = [torch.full((1, 4), torch.nan) if prompt.boxes is None else prompt.boxes for prompt in prompts]
    masks = [prompt.masks for prompt in prompts if prompt.masks is not None]
    return PromptBatch(
        torch.cat(points),
        torch.cat(labels),
        torch.cat(boxes) if any(prompt.boxes is not None for prompt in prompts) else None,
        torch.cat(masks) if masks else None,
    )


def first_prompt(
    truth: np.ndarray, kind: float, point: np.ndarray, jitter: np.ndarray, config: InteractionConfig, side: int
) -> PromptBatch:
    """A random pixel of the object, or the box around it with every coordinate moved by itself."""
    ys, xs = np.nonzero(truth)
    if kind < config.first.point:
        at = int(point[0] * len(ys))
        where = torch.tensor([[[xs[at] + point[1] - 0.5, ys[at] + point[2] - 0.5]]], dtype=torch.float32)
        return PromptBatch(where, torch.ones(1, 1, dtype=torch.long))
    box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], float)
    reach = np.minimum(config.jitter, config.jitter_share * np.tile(box[2:] - box[:2], 2))
    moved = box + reach * (2 * jitter - 1)
    if (moved[2:] - moved[:2] < 2).any():
        moved = box
    empty = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)
    return PromptBatch(*empty, torch.from_numpy(moved.clip(0, side)).float()[None])


def next_prompt(answer: Answer, truth: np.ndarray, uniforms: np.ndarray) -> PromptBatch:
    """Points from where the chosen mask is wrong, and the mask; with no points asked for, the mask alone."""
    chosen = answer.logits[int(answer.quality.argmax())][None, None]
    mask = chosen.sigmoid()
    enlarged = F.interpolate(chosen, truth.shape, mode="bilinear", align_corners=False)
    predicted = (enlarged[0, 0] > 0).cpu().numpy()
    wrong = np.argwhere(predicted != truth)
    points, labels = [], []
    for uniform in uniforms:
        if len(wrong):
            y, x = wrong[int(uniform * len(wrong))]
            points.append((float(x), float(y)))
            labels.append(int(truth[y, x]))
        else:
            points.append((0.0, 0.0))
            labels.append(-1)
    return PromptBatch(
        torch.tensor(points).view(1, -1, 2), torch.tensor(labels, dtype=torch.long).view(1, -1), masks=mask
    )


def round_loss(logits: Tensor, quality: Tensor, truth: Tensor, config: LossConfig) -> Tensor:
    """(N,) 20 focal + Dice on the mask of the highest true IoU, and the squared error of all predicted IoU."""
    with torch.no_grad():
        predicted, object_ = enlarged(logits, truth) > 0, truth > 0.5
        union = (predicted | object_).sum((2, 3)).clamp_min(1)
        iou = (predicted & object_).sum((2, 3)) / union
        best = iou.argmax(1)
    chosen = enlarged(logits[torch.arange(len(logits)), best][:, None], truth)
    probability = chosen.sigmoid()
    right = probability * truth + (1 - probability) * (1 - truth)
    entropy = F.binary_cross_entropy_with_logits(chosen, truth, reduction="none")
    weight = config.alpha * truth + (1 - config.alpha) * (1 - truth)
    focal = (weight * (1 - right) ** config.gamma * entropy).mean((1, 2, 3))
    both = (probability * truth).sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (probability.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + 1)
    return config.focal * focal + config.dice * dice + config.quality * ((quality - iou) ** 2).mean(1)


def enlarged(logits: Tensor, truth: Tensor) -> Tensor:
    """(N, M, h, w) logits at the size of the truth."""
    return F.interpolate(logits, truth.shape[2:], mode="bilinear", align_corners=False)
