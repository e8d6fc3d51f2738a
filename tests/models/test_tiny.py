import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import vesalius as vs
from vesalius.models.base import PromptBatch
from vesalius.models.checkpoint import load_checkpoint, save_checkpoint
from vesalius.models.tiny import Tiny, TinyConfig, grown, prompt_maps, with_words
from vesalius.models.torch_runtime import TorchRuntime
from vesalius.predict.predictor import Predictor

NAN = torch.nan


def network() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


def prompts(rows: torch.Tensor | None = None) -> PromptBatch:
    masks = torch.full((4, 1, 128, 128), NAN)
    masks[3] = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(1))
    return PromptBatch(
        points=torch.tensor([[[40.0, 60.0], [0, 0]], [[0, 0], [0, 0]], [[20, 30], [200, 210]], [[100, 90], [0, 0]]]),
        labels=torch.tensor([[1, -1], [-1, -1], [1, 0], [0, -1]]),
        boxes=torch.tensor([[NAN] * 4, [50.0, 60, 120, 160], [10, 10, 60, 70], [NAN] * 4]),
        masks=masks,
        rows=rows,
    )


def test_three_masks_and_their_quality() -> None:
    model = network()
    with torch.inference_mode():
        logits, quality = model.decode(model.encode(torch.randn(1, 3, 256, 256)), prompts())
        best, best_quality = model.decode(model.encode(torch.randn(1, 3, 256, 256)), prompts(), multimask=False)
    assert logits.shape == (4, 3, 128, 128)
    assert quality.shape == (4, 3)
    assert ((quality > 0) & (quality < 1)).all()
    assert best.shape == (4, 1, 128, 128)
    assert best_quality.shape == (4, 1)


def test_absent_parts_leave_no_trace() -> None:
    """A row of a mixed batch answers as it does alone, without its padding."""
    model = network()
    mixed = prompts()
    alone = [
        PromptBatch(mixed.points[:1, :1], mixed.labels[:1, :1]),
        PromptBatch(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), boxes=mixed.boxes[1:2]),
        PromptBatch(mixed.points[2:3], mixed.labels[2:3], boxes=mixed.boxes[2:3]),
        PromptBatch(mixed.points[3:, :1], mixed.labels[3:, :1], masks=mixed.masks[3:]),
    ]
    with torch.inference_mode():
        features = model.encode(torch.randn(1, 3, 256, 256))
        together, _ = model.decode(features, mixed)
        apart = torch.cat([model.decode(features, single)[0] for single in alone])
    assert torch.allclose(together, apart, atol=1e-4)


def test_rows_choose_their_image() -> None:
    model = network()
    images = torch.randn(2, 3, 256, 256)
    with torch.inference_mode():
        both = model.encode(images)
        chosen, _ = model.decode(both, prompts(torch.tensor([1, 0, 1, 0])))
        first, _ = model.decode(model.encode(images[:1]), prompts())
        second, _ = model.decode(model.encode(images[1:]), prompts())
    expected = torch.stack([second[0], first[1], second[2], first[3]])
    assert torch.allclose(chosen, expected, atol=1e-4)


def test_the_prior_of_a_box_is_its_inscribed_ellipse() -> None:
    batch = PromptBatch(
        torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), torch.tensor([[32.0, 64.0, 160.0, 128.0]])
    )
    key = torch.nn.functional.normalize(torch.randn(1, 8, 64, 64), dim=1)
    maps, prior = prompt_maps(batch, key, 256)
    y, x = (np.mgrid[0:128, 0:128] + 0.5) * 2
    ellipse = ((x - 96) / 64) ** 2 + ((y - 96) / 32) ** 2 < 1
    assert ((prior[0, 0].numpy() > 0) == ellipse).all()
    assert maps.shape == (1, 15, 64, 64)


def test_a_click_is_drawn_where_it_was_made() -> None:
    batch = PromptBatch(torch.tensor([[[101.5, 37.5]]]), torch.tensor([[1]]))
    key = torch.nn.functional.normalize(torch.randn(1, 8, 64, 64), dim=1)
    maps, _ = prompt_maps(batch, key, 256)
    peak = int(maps[0, 0].argmax())
    assert (peak % 64, peak // 64) == (25, 9)
    assert maps[0, 2].abs().sum() == 0  # no background click
    likeness = maps[0, 12]
    assert int(likeness.argmax()) == peak


def small_with_words() -> Tiny:
    torch.manual_seed(0)
    sizes = {"widths": (8, 8, 16, 16, 16), "depths": (1, 1, 1, 1, 1), "decoder": (8, 8, 8, 8, 8), "key": 8}
    return Tiny(TinyConfig.from_dict({**sizes, "words": ["liver", "right kidney", "cell nucleus"]})).eval()


def test_words_are_those_of_its_training_under_all_their_names(tmp_path) -> None:
    model = small_with_words()
    assert "text" in model.takes
    assert "text" not in network().takes
    vectors = model.embed_text(["liver", "kidney_right", "Right kidney"])
    assert torch.equal(vectors[1], vectors[2])
    assert not torch.equal(vectors[0], vectors[1])
    with pytest.raises(vs.VesaliusError, match=r"not trained on 'left kidney'.*say one of: cell nucleus, liver"):
        model.embed_text(["left kidney"])
    with pytest.raises(vs.VesaliusError, match=r"not trained on 'liver tumour'.*say liver$"):
        model.embed_text(["liver tumour"])
    with pytest.raises(vs.VesaliusError, match="no text head"):
        network().embed_text(["liver"])
    save_checkpoint(model, tmp_path / "folder")
    again = load_checkpoint(tmp_path / "folder")
    assert torch.equal(again.embed_text(["liver"]), model.embed_text(["liver"]))


def test_a_word_changes_the_answer_of_its_row_alone() -> None:
    model = small_with_words()
    one = PromptBatch(torch.tensor([[[40.0, 60.0]]] * 2), torch.ones(2, 1, dtype=torch.long))
    text = torch.stack([model.embed_text(["liver"])[0], torch.full((8,), NAN)])
    with torch.inference_mode():
        features = model.encode(torch.randn(1, 3, 256, 256))
        plain, _ = model.decode(features, one)
        worded, _ = model.decode(features, PromptBatch(one.points, one.labels, text=text))
        other, _ = model.decode(features, PromptBatch(one.points, one.labels, text=model.embed_text(["liver"] * 2)))
    assert torch.allclose(worded[1], plain[1], atol=1e-5)
    assert not torch.allclose(worded[0], plain[0], atol=1e-3)
    assert torch.allclose(worded[0], other[1], atol=1e-5)


def test_a_word_alone_is_a_prompt() -> None:
    predictor = Predictor(TorchRuntime(small_with_words()), "tiny")
    image = predictor.encode(np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8))
    (found,) = predictor.predict(image, [vs.Prompt(text="Liver")])
    assert found.mask.shape == (60, 80)
    with pytest.raises(vs.VesaliusError, match="not trained on 'spleen'"):
        predictor.predict(image, [vs.Prompt(text="spleen")])


def test_a_network_is_given_words_and_answers_as_before_without_them() -> None:
    plain = network()
    torch.manual_seed(3)
    model = with_words(plain, ["liver", "right kidney"])
    assert model.config.words == ("liver", "right kidney")
    assert model.preset == plain.preset
    assert not model.training
    with torch.inference_mode():
        features = plain.encode(torch.randn(1, 3, 256, 256))
        for before, after in zip(plain.decode(features, prompts()), model.decode(features, prompts()), strict=True):
            assert torch.equal(before, after)
        named = replace(prompts(), text=model.embed_text(["liver"] * 4))
        assert torch.equal(plain.decode(features, prompts())[0], model.decode(features, named)[0])
    assert not torch.equal(*model.embed_text(["liver", "kidney_right"]))
    with pytest.raises(vs.VesaliusError, match=r"not trained on 'liver tumour'.*say liver$"):
        model.embed_text(["liver tumour"])
    with pytest.raises(vs.VesaliusError, match="has words already"):
        with_words(model, ["spleen"])


def prompts_at(side: int) -> PromptBatch:
    return PromptBatch(torch.full((2, 1, 2), side / 3), torch.ones(2, 1), rows=torch.arange(2))


def resized(model: Tiny, **sizes: object) -> TinyConfig:
    return model.config.model_copy(update=sizes)


def test_a_network_grows_and_answers_as_before_until_it_learns() -> None:
    plain = small_with_words()
    torch.manual_seed(4)
    model = grown(plain, resized(plain, depths=(1, 2, 1, 3, 1), deeper=(1, 0, 2, 0, 1)))
    assert (model.config.depths, model.config.deeper) == ((1, 2, 1, 3, 1), (1, 0, 2, 0, 1))
    assert (model.preset, model.vocabulary, model.training) == (plain.preset, plain.vocabulary, False)
    image = torch.randn(1, 3, 256, 256)

    def answers(network: Tiny) -> tuple[torch.Tensor, ...]:
        return network.decode(network.encode(image), prompts())

    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(answers(plain), answers(model), strict=True))
    added = {name: value for name, value in model.named_parameters() if name not in plain.state_dict()}
    # Blocks: one and two of the encoder, four of the decoder; six tensors each.
    assert len(added) == 6 * (3 + 4)
    trained = answers(model.train())
    assert all(torch.equal(a, b) for a, b in zip(answers(plain.train()), trained, strict=True))
    trained[0].sum().backward()
    for name in ("encoder.stages.1.2.second.1.weight", "decoder.deeper.2.1.conv2.weight"):
        assert added[name].grad is not None
        assert added[name].grad.any()


EIGHT = """
import torch
from vesalius.models.base import PromptBatch
from vesalius.models.tiny import Tiny, TinyConfig

torch.set_num_threads(1)
model = Tiny(TinyConfig(widths=(8,) * 5, depths=(1,) * 5, decoder=(8,) * 5, key=8, fine=(8, 8)))
features = model.encode(torch.randn(1, 3, 512, 512))
with torch.autocast("cpu", torch.bfloat16):
    logits, _ = model.decode(features, PromptBatch(torch.full((8, 1, 2), 100.0), torch.ones(8, 1)))
logits.square().mean().backward()
"""


def test_eight_prompts_train_in_bfloat16() -> None:
    """Where the prior's weights were a product of matrices, oneDNN divided by zero; such a crash ends the process.

    On a processor that computes bfloat16 by itself, and one thread.
    """
    subprocess.run([sys.executable, "-c", EIGHT], check=True, timeout=300)


def test_channels_that_are_normalised_come_in_groups() -> None:
    assert Tiny(TinyConfig(decoder=(12, 8, 8, 8, 8)))
    for sizes in ({"decoder": (12, 8, 8, 8, 8), "deeper": (1, 0, 0, 0, 0)}, {"decoder": (8, 8, 12, 8, 8)}):
        with pytest.raises(vs.VesaliusError, match="multiples of 8"):
            TinyConfig.from_dict(dict(sizes))


def test_a_network_does_not_shrink_or_become_another() -> None:
    model = small_with_words()
    finer = grown(model, resized(model, fine=(8, 8)))
    for start, sizes, told in (
        (model, {"depths": (1, 1, 1, 0, 1)}, r"depths = \(1, 1, 1, 1, 1\) to \(1, 1, 1, 0, 1\)"),
        (model, {"key": 16}, "key = 8 to 16"),
        (model, {"words": ("liver",)}, r"words = \('liver', .*\) to \('liver',\)"),
        (finer, {"fine": None}, r"fine = \(8, 8\) to None"),
        (finer, {"fine": (8, 16)}, r"fine = \(8, 8\) to \(8, 16\)"),
    ):
        with pytest.raises(vs.VesaliusError, match=rf"cannot grow from {told}; give depths and deeper"):
            grown(start, resized(start, **sizes))


def twice(batch: PromptBatch) -> PromptBatch:
    """The same prompts in an image of twice the side."""
    assert batch.boxes is not None
    assert batch.masks is not None
    masks = batch.masks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return PromptBatch((batch.points + 0.5) * 2 - 0.5, batch.labels, batch.boxes * 2, masks)


def test_prompts_are_drawn_at_the_same_places_of_a_grid_whatever_the_side_of_the_image() -> None:
    key = torch.nn.functional.normalize(torch.randn(4, 8, 64, 64), dim=1)
    maps, prior = prompt_maps(prompts(), key, 256)
    again, finer = prompt_maps(twice(prompts()), key, 512)
    assert torch.allclose(maps, again, atol=1e-5)
    thin = replace(prompts(), boxes=torch.tensor([[10.0, 57.0, 60.0, 57.1]] * 4))
    assert torch.allclose(prompt_maps(thin, key, 256)[0], prompt_maps(twice(thin), key, 512)[0], atol=1e-5)
    assert prior.shape == (4, 2, 128, 128)
    assert finer.shape == (4, 2, 256, 256)
    assert torch.allclose(torch.nn.functional.avg_pool2d(finer, 2), prior, atol=0.1)
    masks = twice(prompts()).masks
    assert masks is not None
    assert torch.equal(finer[3, 1], masks[3, 0].clamp(-8, 8))


def test_a_network_with_a_finer_level_answers_for_images_of_twice_the_side() -> None:
    """As it did for the means of four pixels, until it learns; boxes, clicks and masks are drawn at the same places."""
    plain = small_with_words()
    torch.manual_seed(4)
    model = grown(plain, resized(plain, fine=(8, 16)))
    assert (model.preset.side, model.preset.mask_side) == (512, 256)
    assert Tiny(model.config).preset == model.preset
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        shown = zip(
            plain.encode(image), model.encode(image.repeat_interleave(2, 2).repeat_interleave(2, 3)), strict=False
        )
        assert all(torch.equal(old, new) for old, new in shown)
        before, quality = plain.decode(plain.encode(image), prompts())
        enlarged = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
        after, again = model.decode(model.encode(enlarged), twice(prompts()))
    assert after.shape == (4, 3, 256, 256)
    pooled = torch.nn.functional.avg_pool2d(after, 2)
    # All but for what a finer grid smooths: the prior's edges, and masks between their pixels.
    assert (pooled - before).abs().mean() < 0.003 * before.abs().mean()
    assert ((pooled > 0) == (before > 0)).float().mean() > 0.99
    assert torch.allclose(quality, again, atol=0.02)


def test_a_finer_level_sees_and_draws_what_the_others_cannot() -> None:
    plain = small_with_words()
    model = grown(plain, resized(plain, fine=(8, 16))).train()
    for name, parameter in model.named_parameters():
        if ".fine." in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    # Lines of one pixel, which the mean of four pixels does not show.
    image = torch.zeros(1, 3, 512, 512)
    image[..., ::2] = 1
    image[..., 1::2] = -1
    flat = torch.zeros_like(image)
    model.eval()
    with torch.inference_mode():
        lines, _ = model.decode(model.encode(image), PromptBatch(torch.tensor([[[100.0, 60.0]]]), torch.ones(1, 1)))
        nothing, _ = model.decode(model.encode(flat), PromptBatch(torch.tensor([[[100.0, 60.0]]]), torch.ones(1, 1)))
    assert (lines - nothing).abs().max() > 1e-3
    finest = lines - torch.nn.functional.avg_pool2d(lines, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert finest.abs().max() > 1e-3
    trained = model.train()
    trained.decode(trained.encode(image.repeat(2, 1, 1, 1)), prompts_at(512))[0].sum().backward()
    assert all(
        value.grad is not None and value.grad.any() for name, value in trained.named_parameters() if ".fine." in name
    )
