import pytest
import torch
import torch.nn.functional as F

from flop_count import flops


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_attention_on_a_cpu_counts(biased, mode):
    query, key, value = torch.randn(1, 12, 50, 64), torch.randn(1, 12, 196, 64), torch.randn(1, 12, 196, 64)
    bias = torch.randn(1, 12, 50, 196) if biased else None
    with mode():
        counted = flops(lambda: F.scaled_dot_product_attention(query, key, value, bias) @ torch.randn(64, 3))
    assert counted == 2 * 12 * (2 * 50 * 196 * 64 + 50 * 64 * 3)


def test_attention_on_a_cpu_counts_backward_too():
    query, key, value = (torch.randn(1, 12, n, 64, requires_grad=True) for n in (50, 196, 196))

    def step():
        F.scaled_dot_product_attention(query, key, value).sum().backward()

    # Two products forward; backward two for each of these, and the scores again.
    assert flops(step) == 7 * 12 * 2 * 50 * 196 * 64


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch is built without oneDNN")
def test_products_by_onednn_count():
    x, weight = torch.randn(2, 5, 64), torch.randn(32, 64)
    assert flops(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")) == 2 * 2 * 5 * 64 * 32
