import pytest
import torch
import torch.nn.functional as F

from vesalius.models.sam.layers import linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_a_linear_layer_in_training_is_torch_s(bias: bool, turned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 24, generator=generator, requires_grad=True)
    weight = torch.randn((24, 16) if turned else (16, 24), generator=generator, requires_grad=True)
    added = torch.randn(16, generator=generator, requires_grad=True) if bias else None
    inputs = [x, weight, *([added] if added is not None else [])]
    upstream = torch.randn(2, 3, 5, 16, generator=generator)
    found, expected = (way(x, weight.T if turned else weight, added) for way in (linear, F.linear))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(out, inputs, upstream) for out in (found, expected))
    for gradient, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-5)


def test_what_is_frozen_gets_no_gradient_and_bf16_stays_torch_s() -> None:
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    assert not linear(x, weight).requires_grad
    out = linear(x.requires_grad_(), weight)
    out.sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, 8))
    assert weight.grad is None
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
