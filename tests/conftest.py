from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A checkpoint of vesalius-tiny's architecture with random weights: quick, and its answers mean nothing."""
    from vesalius.models.checkpoint import save_checkpoint
    from vesalius.models.tiny import PRESET, Tiny, TinyConfig

    folder = tmp_path_factory.mktemp("models") / "random"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = TinyConfig(widths=(8, 8, 16, 16, 16), depths=(1, 1, 1, 1, 1), decoder=(8, 8, 8, 8, 8), key=8)
        save_checkpoint(Tiny(config, PRESET), folder)
    return folder
