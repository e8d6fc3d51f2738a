import pytest
import torch

from vesalius.models.sam import mask_decoder
from vesalius.models.sam.mask_decoder import Attention, ImageToToken, TokenToImage, Upscaling, in_order


def rows(count: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(count, tokens, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kind", [TokenToImage, ImageToToken])
@torch.no_grad()
def test_moving_projections_to_the_few_changes_nothing(kind: type[Attention], images: int, monkeypatch) -> None:
    torch.manual_seed(0)
    attention = kind(32, 2, shrink=2)
    image, placed, tokens, named = rows(images, 50, 1), rows(images, 50, 2), rows(3, 7, 3), rows(3, 7, 4)
    if kind is TokenToImage:
        arguments = (tokens, placed, image, None)
    else:
        present = torch.ones(3, 1, 1, 7, dtype=torch.bool)
        present[1, ..., 4:] = False
        arguments = (placed, tokens, named, present)
    expected = Attention.forward(attention, *arguments)
    # The usual way is not the one taken.
    monkeypatch.setattr(Attention, "forward", None)
    torch.testing.assert_close(attention(*arguments), expected)
    monkeypatch.undo()
    monkeypatch.setattr(mask_decoder, "_many", lambda _: True)
    torch.testing.assert_close(attention(*arguments), expected)


@torch.no_grad()
def test_enlarging_by_products_is_enlarging_by_transposed_convolutions() -> None:
    torch.manual_seed(0)
    upscaling = Upscaling(32)
    image = torch.randn(2, 9, 32)
    expected = torch.nn.Sequential.forward(upscaling, image.transpose(1, 2).unflatten(2, (3, 3)))
    torch.testing.assert_close(in_order(upscaling(image).permute(0, 3, 1, 2)), expected)
