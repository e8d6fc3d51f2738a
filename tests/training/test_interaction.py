import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from golden.networks import sam
from vesalius.core.errors import ConfigError
from vesalius.models.base import PromptBatch
from vesalius.models.presets import Preset
from vesalius.models.tiny import Tiny
from vesalius.training.interaction import (
    Batch,
    FirstPrompt,
    InteractionConfig,
    InteractiveStep,
    Round,
    draw,
    draw_turns,
    first_kinds,
    first_prompts,
    on_scale,
)
from vesalius.training.losses import LossConfig, mask_loss, true_iou
from words import CONFIG, imis, write_tokenizer

PRESET = Preset(side=64, mask_side=32, fit="stretch", box="half_open")
LOSS = LossConfig(dice=1, sized_entropy=1)


def only(kind: str) -> FirstPrompt:
    return FirstPrompt(**{name: float(name == kind) for name in ("point", "box", "mask", "text")})


def two_masks() -> torch.Tensor:
    real = torch.zeros(2, 32, 32, dtype=torch.bool)
    real[0, 3:9, 10:20] = True
    real[0, 25:28, 2:5] = True  # a second part
    real[1, 16, 16] = True
    return real


def batch_of(real: torch.Tensor, targets: tuple[str, ...] = (), **other: object) -> Batch:
    count = len(real)
    content = torch.tensor([[0, 0, 64, 64]]).repeat(count, 1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (count, 64, 64, 3), dtype=torch.uint8, generator=generator)
    batch = Batch(
        images,
        content,
        real[:, None].float(),
        torch.arange(count),
        targets or ("",) * count,
        (False,) * count,
        (False,) * count,
        tuple(range(count)),
        step=3,
    )
    return replace(batch, **other)


def prompts_of(real: torch.Tensor, config: InteractionConfig, preset: Preset = PRESET, seed: int = 0) -> PromptBatch:
    draws = draw(batch_of(real), seed, config)
    kinds = first_kinds(config.first, draws, [False] * len(real))
    return first_prompts(real, kinds, draws, config, preset, step=2.0)


def test_boxes_hold_the_whole_mask_and_each_coordinate_moves_by_itself() -> None:
    config = InteractionConfig(first=only("box"), jitter=3)
    prompts = prompts_of(two_masks()[:1].repeat(400, 1, 1), config)
    assert prompts.masks is None
    assert (prompts.labels == -1).all()
    moved = prompts.boxes - torch.tensor([4.0, 6.0, 40.0, 56.0])
    assert moved.abs().max() <= 3
    assert moved.std(0).min() > 1
    correlation = torch.corrcoef(moved.T).fill_diagonal_(0)
    assert correlation.abs().max() < 0.2


def test_jitter_is_limited_as_the_recipe_says() -> None:
    real = two_masks()[:1].repeat(200, 1, 1)
    wide = InteractionConfig(first=only("box"), jitter=8, jitter_share=None, jitter_outward=True)
    moved = prompts_of(real, wide).boxes - torch.tensor([4.0, 6.0, 40.0, 56.0])
    assert (moved[:, :2] <= 0).all()
    assert (moved[:, 2:] >= 0).all()
    assert moved[:, 2].max() > 6
    narrow = InteractionConfig(first=only("box"), jitter=100, jitter_share=0.05)
    moved = prompts_of(real, narrow).boxes - torch.tensor([4.0, 6.0, 40.0, 56.0])
    assert moved[:, ::2].abs().max() <= 0.05 * 36 + 1e-6
    assert moved[:, 1::2].abs().max() <= 0.05 * 50 + 1e-6


def test_a_loose_box_leaves_room_all_around() -> None:
    real = two_masks()[:1].repeat(400, 1, 1)
    moved = prompts_of(real, InteractionConfig(first=only("box"), jitter=0, loose=0.25)).boxes
    room = (moved - torch.tensor([4.0, 6.0, 40.0, 56.0])) * torch.tensor([-1, -1, 1, 1])
    loose = room.abs().sum(1) > 0
    assert 0.18 < loose.float().mean() < 0.32
    # To the left and above the image itself ends: there is no room for a quarter.
    share = room[loose] / torch.tensor([36.0, 50.0, 36.0, 50.0])
    assert (share >= 0).all()
    assert share[:, 2].max() <= 0.25
    assert 0.1 < share[:, 2].mean() < 0.15
    # What else is drawn is the same, so that recipes without loose boxes are what they were.
    jitter = InteractionConfig(first=only("box"), jitter=3)
    with_loose = prompts_of(real, jitter.model_copy(update={"loose": 0.25})).boxes
    assert (prompts_of(real, jitter).boxes == with_loose).all(1)[~loose].all()


def test_exact_boxes_stay_as_they_are() -> None:
    real = two_masks()[:1].repeat(400, 1, 1)
    first = InteractionConfig(first=only("box"), jitter=3, loose=0.25)
    before = prompts_of(real, first).boxes
    moved = prompts_of(real, first.model_copy(update={"exact": 0.4})).boxes
    exact = (moved == torch.tensor([4.0, 6.0, 40.0, 56.0])).all(1)
    assert 0.32 < exact.float().mean() < 0.48
    assert not (before == moved).all(1)[exact].any()
    assert (before == moved).all(1)[~exact].all()


def test_boxes_cannot_be_loose_and_exact() -> None:
    with pytest.raises(ValueError, match="loose and exact"):
        InteractionConfig(loose=0.6, exact=0.5)


def test_boxes_and_masks_are_as_the_preset_wants_them() -> None:
    real = two_masks()[:1]
    still = InteractionConfig(first=only("box"), jitter=0)
    inclusive = PRESET.model_copy(update={"box": "inclusive"})
    assert prompts_of(real, still).boxes.tolist() == [[4, 6, 40, 56]]
    assert prompts_of(real, still, inclusive).boxes.tolist() == [[4, 6, 39, 55]]
    drawn = InteractionConfig(first=only("mask"))
    logits = prompts_of(real, drawn).masks
    odds = prompts_of(real, drawn, PRESET.model_copy(update={"mask_prompt": "probability"})).masks
    assert set(logits.unique().tolist()) == {-4.0, 4.0}
    assert torch.equal(odds, logits.sigmoid())


def test_points_lie_in_their_object() -> None:
    prompts = prompts_of(two_masks(), InteractionConfig(first=only("point")), seed=1)
    assert prompts.boxes is None
    assert (prompts.labels == 1).all()
    cells = ((prompts.points[:, 0] + 0.5) / 2).long()
    for real, (x, y) in zip(two_masks(), cells.tolist(), strict=True):
        assert real[y, x]


def test_rough_masks_are_near_the_truth_and_others_are_absent() -> None:
    real = two_masks()[:1].repeat(40, 1, 1)
    masks = prompts_of(real, InteractionConfig(first=FirstPrompt(point=0.5, box=0, mask=0.5))).masks
    given = ~masks.isnan().flatten(1).any(1)
    assert 5 < given.sum() < 35
    agree = ((masks[given, 0] > 0) & real[given]).sum() / real[given].sum()
    assert agree > 0.5


def test_kinds_come_as_often_as_told_and_words_only_where_there_are_some() -> None:
    real = two_masks()[:1].repeat(3000, 1, 1)
    first = FirstPrompt(point=0.3, box=0.4, mask=0, text=0.3)
    draws = draw(batch_of(real), 0, InteractionConfig(first=first, rounds=1))
    shares = np.bincount(first_kinds(first, draws, [True] * 3000), minlength=4) / 3000
    assert shares == pytest.approx([0.3, 0.4, 0, 0.3], abs=0.04)
    shares = np.bincount(first_kinds(first, draws, [False] * 3000), minlength=4) / 3000
    assert shares == pytest.approx([3 / 7, 4 / 7, 0, 0], abs=0.04)


def test_mask_only_rounds_are_the_last_and_one_in_between() -> None:
    config = InteractionConfig(rounds=9, points=(1, 3, 5, 9), mask_only="last and middle", mask_text=True)
    middles = set()
    for seed in range(60):
        turns = draw_turns(config, np.random.default_rng(seed))
        alone = [i for i, turn in enumerate(turns) if not turn.points]
        assert len(turns) == 8
        assert len(alone) == 2
        assert alone[1] == 7
        assert {turn.points for turn in turns} <= {0, 1, 3, 5, 9}
        assert all(turn.mask for turn in turns)
        assert [turn.text for turn in turns] == [i in alone for i in range(8)]
        middles.add(alone[0])
    assert middles == set(range(7))


def test_an_object_s_random_numbers_do_not_depend_on_its_neighbours() -> None:
    config = InteractionConfig()
    whole = draw(batch_of(two_masks()), 0, config)
    part = draw(batch_of(two_masks()[1:], numbers=(1,)), 0, config)
    for name in ("kind", "point", "jitter", "errors"):
        assert np.array_equal(getattr(whole, name)[1:], getattr(part, name))
    other = draw(batch_of(two_masks()), 1, config)
    assert not np.array_equal(whole.point, other.point)
    # Two objects of one image have streams of their own.
    shared = draw(batch_of(two_masks(), rows=torch.tensor([0, 0]), numbers=(0,)), 0, config)
    assert not np.array_equal(shared.point[0], shared.point[1])


def test_every_part_of_the_network_gets_a_gradient(small_model: Tiny) -> None:
    truth = torch.zeros(3, 32, 32, dtype=torch.bool)
    truth[:, 8:20, 8:24] = True
    step = InteractiveStep(small_model, InteractionConfig(mask_only=0), LOSS)
    loss, stats = step(batch_of(truth))
    assert stats.shape == (5,)
    assert stats[-1] == 3
    loss.backward()
    assert [name for name, p in small_model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


SAM_MED2D = InteractionConfig(
    rounds=4,
    first=FirstPrompt(point=0.5, box=0.5, mask=0),
    points=(1, 3, 5, 9),
    keep=False,
    mask_only="last and middle",
    select="iou",
    spread=0,
    later=("mask_decoder.*",),
    grid="input",
)


def big_masks(count: int = 3) -> torch.Tensor:
    real = torch.zeros(count, 64, 64, dtype=torch.bool)
    for i in range(count):
        real[i, 10 + i : 40, 5:30] = True
    return real


def test_later_rounds_train_the_decoder_alone() -> None:
    loss = LossConfig(focal=20, dice=1)
    gradients = {}
    for rounds in (1, 4):
        model = sam().train()
        config = SAM_MED2D.model_copy(update={"rounds": rounds, "mask_only": 0.0})
        value, _ = InteractiveStep(model, config, loss)(batch_of(big_masks()))
        (value * rounds).backward()
        gradients[rounds] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(p.requires_grad for p in model.parameters())
    for name, gradient in gradients[1].items():
        if name.startswith("mask_decoder."):
            continue
        # The encoder and the prompts' encoder learn from the first round alone.
        torch.testing.assert_close(gradients[4][name], gradient, rtol=1e-4, atol=1e-7)
    decoder = "mask_decoder.transformer.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(gradients[4][decoder], gradients[1][decoder])
    assert {name for name in gradients[4] if "mask_downscaling" in name} == set()
    assert any(name.startswith("image_encoder.") for name in gradients[1])


class Recorder(InteractiveStep):
    """Keeps what it plays."""

    def play(self, batch):
        self.seen = []
        for turn in super().play(batch):
            self.seen.append(turn)
            yield turn


def test_later_rounds_give_new_points_in_the_error_and_the_previous_mask() -> None:
    preset = Preset(side=64, mask_side=16, fit="stretch", mask_prompt="probability", box="half_open")
    model = sam(preset=preset)
    step = Recorder(model, SAM_MED2D, LossConfig(focal=20, dice=1))
    real = big_masks()
    step(batch_of(real))
    assert len(step.seen) == 4
    for before, after in zip(step.seen, step.seen[1:], strict=False):
        prompts = after.prompts
        chosen = before.quality.argmax(1)
        previous = before.logits[torch.arange(3), chosen]
        assert torch.allclose(prompts.masks[:, 0], previous.sigmoid())
        assert prompts.boxes is None
        large = torch.nn.functional.interpolate(previous[:, None], (64, 64), mode="bilinear")[:, 0] > 0
        for i in range(3):
            for (x, y), label in zip(prompts.points[i].long().tolist(), prompts.labels[i].tolist(), strict=True):
                assert label == int(real[i, y, x])
                assert bool(large[i, y, x]) != bool(real[i, y, x])
    assert step.seen[-1].prompts.points.shape[1] == 0
    assert {turn.prompts.points.shape[1] for turn in step.seen[1:]} <= {0, 1, 3, 5, 9}


def test_earlier_prompts_stay_where_the_recipe_keeps_them(small_model: Tiny) -> None:
    config = InteractionConfig(first=only("box"), points=(3,), mask_only=0)
    step = Recorder(small_model, config, LOSS)
    step(batch_of(two_masks()))
    assert [turn.prompts.points.shape[1] for turn in step.seen] == [1, 4, 7]
    assert all(torch.equal(turn.prompts.boxes, step.seen[0].prompts.boxes) for turn in step.seen)
    assert step.seen[0].prompts.masks is None


@pytest.mark.parametrize("select", ["iou", "quality"])
def test_the_loss_is_on_the_mask_that_the_recipe_selects(select: str) -> None:
    model = sam()
    config = InteractionConfig(rounds=1, first=only("box"), select=select, spread=0)
    step = Recorder(model, config, LossConfig(focal=20, dice=1, quality=0))
    real = torch.zeros(2, 16, 16, dtype=torch.bool)
    real[0, 2:9, 2:9], real[1, 5:15, 3:14] = True, True
    loss, _ = step(batch_of(real))
    (turn,) = step.seen
    truth = real[:, None].float()
    best = (true_iou(turn.logits, real[:, None]) if select == "iou" else turn.quality).argmax(1)
    losses = mask_loss(turn.logits, truth, step.loss)
    assert loss.item() == pytest.approx(losses[torch.arange(2), best].mean().item(), rel=1e-5)


def test_the_loss_is_shared_out_among_the_best_mask_the_shown_one_and_all() -> None:
    real = torch.zeros(2, 16, 16, dtype=torch.bool)
    real[0, 2:9, 2:9], real[1, 5:15, 3:14] = True, True
    config = InteractionConfig(rounds=1, first=only("box"), spread=0.25, own=0.5)
    step = Recorder(sam(), config, LossConfig(dice=1, quality=0))
    loss, _ = step(batch_of(real))
    (turn,) = step.seen
    losses = mask_loss(turn.logits, real[:, None].float(), step.loss)
    shown = losses[torch.arange(2), turn.quality.argmax(1)]
    assert not torch.equal(shown, losses.min(1).values)
    expected = 0.25 * losses.min(1).values + 0.25 * losses.mean(1) + 0.5 * shown
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    with pytest.raises(ConfigError, match="sum exceeds 1"):
        InteractionConfig.from_dict({"spread": 0.4, "own": 0.7})


class Answering(InteractiveStep):
    """Gives the same answer in every round."""

    answer: tuple[torch.Tensor, torch.Tensor]

    def _answer(self, features, prompts):
        logits, quality = self.answer
        return Round(prompts, logits, quality, None)


def test_a_thin_object_s_iou_is_that_with_its_own_pixels() -> None:
    share = torch.zeros(1, 32, 32)
    share[0, 10, 4:28] = 0.3  # it covers half of no pixel
    right = torch.where(share > 0, 5.0, -5.0)
    answer = torch.stack([torch.full((1, 32, 32), -5.0), right, -right], dim=1), torch.tensor([[0.0, 1.0, 0.0]])
    config = InteractionConfig(rounds=1, first=only("box"), select="iou", spread=0)
    losses = {}
    for quality in (0.0, 1.0):
        step = Answering(sam(), config, LossConfig(dice=1, quality=quality))
        step.answer = answer
        loss, stats = step(batch_of(share))
        assert stats[0] == 1
        losses[quality] = float(loss)
    # The mask that is right is the selected one, and that it says so costs nothing.
    expected = mask_loss(right[:, None], share[:, None], LossConfig(dice=1))
    assert losses[0.0] == pytest.approx(expected.item(), rel=1e-5)
    assert losses[1.0] == pytest.approx(losses[0.0], abs=1e-5)


def test_the_loss_of_a_batch_is_the_mean_over_its_objects() -> None:
    step = InteractiveStep(sam(), SAM_MED2D, LossConfig(focal=20, dice=1))
    whole = batch_of(big_masks(4))
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = replace(
            whole,
            images=whole.images[rows],
            content=whole.content[rows],
            truth=whole.truth[rows],
            rows=torch.arange(len(whole.rows[rows])),
            targets=whole.targets[rows],
            pseudo=whole.pseudo[rows],
            joined=whole.joined[rows],
            numbers=whole.numbers[rows],
        )
        parts.append(step(part, 4.0)[0])
    assert sum(part.item() for part in parts) == pytest.approx(step(whole)[0].item(), rel=1e-5)


@pytest.fixture
def worded(tmp_path):
    write_tokenizer(tmp_path)
    model = imis(CONFIG.model_copy(update={"semantic_dim": 16}))
    model.read_extras(tmp_path)
    return model


IMIS = InteractionConfig(
    rounds=4,
    first=FirstPrompt(point=0.3, box=0.4, mask=0, text=0.3),
    keep=False,
    mask_only="last and middle",
    mask_text=True,
    text_for_mask=0.4,
    select="quality",
    spread=0,
    later=("mask_decoder.*", "prompt_encoder.*"),
)


def small_masks(count: int) -> torch.Tensor:
    real = torch.zeros(count, 16, 16, dtype=torch.bool)
    real[:, 3:12, 4:11] = True
    return real


def test_words_are_first_prompts_and_come_beside_masks(worded) -> None:
    loss = LossConfig(focal=20, dice=1, category=1)
    names = ("kidney", "liver", "spleen")
    config = IMIS.model_copy(update={"first": only("text")})
    step = Recorder(worded, config, loss, names=names)
    batch = batch_of(small_masks(4), ("liver", "kidney", "", "liver"), pseudo=(False, False, False, True))
    value, _ = step(batch)
    value.backward()
    first = step.seen[0].prompts
    assert torch.allclose(first.text[:2], worded.embed_text(["liver", "kidney"]), atol=1e-4)
    assert first.text[2:].isnan().all()
    assert first.boxes[:2].isnan().all()
    assert first.boxes[2:].isfinite().all()  # who has no name gets a box
    last = step.seen[-1].prompts
    assert torch.allclose(last.text[:2], first.text[:2])
    assert last.masks is not None
    assert last.points.shape[1] == 0
    gradients = {name for name, p in worded.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "text_out_dim.weight" in gradients
    assert "mask_decoder.semantic_prediction_head.layers.2.weight" in gradients
    without = Recorder(worded, config, loss.model_copy(update={"category": 0.0}), names=names)
    assert without(batch)[0] < value


def test_a_name_takes_the_place_of_the_mask_only_of_objects_that_have_one(worded) -> None:
    config = IMIS.model_copy(update={"mask_only": 0.0, "text_for_mask": 1.0})
    batch = batch_of(small_masks(3), ("liver", "", "liver"), pseudo=(False, False, True))
    step = Recorder(worded, config, LossConfig(dice=1))
    step(batch)
    for before, now in itertools.pairwise(step.seen):
        assert now.prompts.text.isfinite().all(1).tolist() == [True, False, False]
        assert now.prompts.masks[0].isnan().all()
        previous = before.logits[torch.arange(3), before.quality.argmax(1)][:, None]
        assert torch.equal(now.prompts.masks[1:], on_scale(previous, worded.preset)[1:])
    all_named = Recorder(worded, config, LossConfig(dice=1))
    all_named(batch_of(small_masks(2), ("liver", "kidney")))
    assert all(turn.prompts.masks is None for turn in all_named.seen[1:])


@pytest.mark.parametrize("frozen", [True, False])
def test_names_of_categories_are_embedded_once_unless_the_text_encoder_trains(worded, frozen, monkeypatch) -> None:
    names, asked = ("kidney", "liver", "spleen"), []
    embed = type(worded).embed_names
    monkeypatch.setattr(type(worded), "embed_names", lambda model, words: (asked.append(words), embed(model, words))[1])
    worded.text_model.requires_grad_(not frozen)
    step = InteractiveStep(worded, IMIS, LossConfig(focal=20, dice=1, category=1), names=names)
    batch = batch_of(small_masks(2), ("liver", "spleen"))
    weight = worded.mask_decoder.semantic_prediction_head.layers[2].weight

    def outcome(step: InteractiveStep) -> tuple[float, torch.Tensor]:
        worded.zero_grad()
        loss, _ = step(batch)
        loss.backward()
        return loss.item(), weight.grad.clone()

    first, second = outcome(step), outcome(step)
    assert asked == [["kidney", "liver", "spleen"]] * (1 if frozen else 2)
    for found in (second, outcome(InteractiveStep(worded, IMIS, step.loss, names=names))):
        assert found[0] == first[0]
        assert torch.equal(found[1], first[1])


def test_networks_without_words_refuse_recipes_with_words(small_model: Tiny, worded) -> None:
    with pytest.raises(ConfigError, match="do not take a name"):
        InteractiveStep(small_model, IMIS, LOSS)
    with pytest.raises(ConfigError, match="names of categories"):
        InteractiveStep(worded, IMIS, LossConfig(category=1))(batch_of(small_masks(2), ("liver", "liver")))
    with pytest.raises(ConfigError, match="add up to 1"):
        FirstPrompt.from_dict({"point": 1, "box": 1})
    with pytest.raises(ConfigError, match=r"'decoder\.x' matches no parameter"):
        InteractiveStep(small_model, InteractionConfig(later=("decoder.x",)), LOSS)


def test_joined_objects_are_asked_for_by_name(worded) -> None:
    step = InteractiveStep(
        worded, IMIS.model_copy(update={"first": FirstPrompt(point=0.5, box=0.4, mask=0, text=0.1)}), LossConfig(dice=1)
    )
    targets = ("liver", "kidney", "liver", "")
    batch = batch_of(small_masks(4), targets, joined=(True, True, False, True))
    with torch.no_grad():
        asked = [next(iter(step.play(replace(batch, numbers=tuple(range(i, i + 4)))))).prompts for i in range(0, 80, 4)]
    named = torch.stack([first.text.isfinite().all(1) for first in asked if first.text is not None]).float().mean(0)
    assert len(asked) == 20
    assert named[:2].tolist() == [1, 1]
    assert named[2] < 0.5
    assert named[3] == 0
