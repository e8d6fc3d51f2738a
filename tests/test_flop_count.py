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
