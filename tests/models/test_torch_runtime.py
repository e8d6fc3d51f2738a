import pytest
import torch

from golden.networks import sam
from vesalius.models.torch_runtime import TorchRuntime, without_tf32

SWITCHES = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]


def test_tf32_is_off_for_a_while():
    before = [switch.fp32_precision for switch in SWITCHES]
    assert before[1] == "tf32"
    with without_tf32():
        assert [switch.fp32_precision for switch in SWITCHES] == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in SWITCHES] == before


@pytest.mark.parametrize(
    ("device", "precision", "exact"),
    [("cuda", "fp32", True), ("cuda:0", "fp32", True), ("cuda", "bf16", False), ("cpu", "fp32", False)],
)
def test_float32_on_a_gpu_is_without_tf32(monkeypatch, device, precision, exact):
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    runtime = TorchRuntime(sam(), device, precision)
    assert (runtime._arithmetic is without_tf32) == exact
