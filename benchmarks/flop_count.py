"""Counts the work of a network, attention and oneDNN's products on a CPU included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two matrix products, from the shapes of queries, keys and values."""
    return int(sdpa_flop_count(query, key, value))


def attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Five matrix products, one of them taken again, as the counter counts them for GPUs."""
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def linear(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """One matrix product of any number of rows, from their shape and that of the weights."""
    return 2 * math.prod(x) * int(weight[0])


# The counter knows attention as GPUs compute it, and takes that of CPUs, and oneDNN's products, for nothing.
EXTRA = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    EXTRA[torch.ops.mkldnn._linear_pointwise] = linear


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in a call."""
    with FlopCounterMode(display=False, custom_mapping=EXTRA) as counter:
        call()
    return int(counter.get_total_flops())
