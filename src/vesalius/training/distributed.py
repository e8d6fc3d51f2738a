"""Training in several processes, as ``torchrun`` starts them: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vesalius.models.torch_runtime import DEVICE_ERRORS, device_error

# The first process validates alone, so the others may wait long.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: Number of this one, from 0; the first one writes.
        size: How many there are.
        device: Where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wrap(self, step: nn.Module) -> nn.Module:
        """The step, with gradients averaged over all processes, and on GPUs batches normalised over all of them."""
        if self.size == 1:
            return step
        if self.device.startswith("cuda"):
            # Else each process would normalise by its own share of the images; torch has this for GPUs alone.
            step = nn.SyncBatchNorm.convert_sync_batchnorm(step)  # type: ignore[no-untyped-call]
        # Not every round trains every parameter: a batch without a rough mask leaves that encoder alone.
        return DistributedDataParallel(step, find_unused_parameters=True)

    def unsynchronised(self, step: nn.Module, wanted: bool) -> AbstractContextManager[None]:
        """A block in which gradients stay in this process, to be averaged with later ones."""
        if wanted and isinstance(step, DistributedDataParallel):
            return step.no_sync()  # type: ignore[no-any-return, unused-ignore]
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' values."""
        if self.size == 1:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: str | None = None) -> Iterator[World]:
    """The processes that ``torchrun`` started, or this one alone.

    Args:
        device: Where to compute; a GPU of one's own for each process, or the CPU, if None.

    Raises:
        ModelError: The device cannot be used.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if size > 1 and gpu:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = device or ("cuda" if gpu else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except DEVICE_ERRORS as error:
        raise device_error(device, error) from error
    if size == 1:
        yield World(device=device)
        return
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
