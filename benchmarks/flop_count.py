"""Counts the work of a network, attention on a CPU included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two matrix products, from the shapes of queries, keys and values."""
    return int(sdpa_flop_count(query, key, value))


# The counter knows attention as GPUs compute it, and takes that of CPUs for nothing.
EXTRA = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in a call."""
    with FlopCounterMode(display=False, custom_mapping=EXTRA) as counter:
        call()
    return int(counter.get_total_flops())
