"""From a model's name, folder or file to a Predictor."""

from __future__ import annotations

from pathlib import Path

from vesalius.core.errors import ModelError
from vesalius.predict.predictor import Predictor

BUNDLED = Path(__file__).parent.parent / "weights"
DEFAULT = "vesalius-tiny"


def load_model(name: str | Path | None = None, device: str = "cpu") -> Predictor:
    """Loads a model.

    Args:
        name: A bundled model's name (``"vesalius-tiny"`` if left out), a checkpoint folder, or a published ``.pth``.
        device: Where it runs, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        ModelError: There is no such model, or its checkpoint is damaged.
    """
    from vesalius.models.checkpoint import load_checkpoint, load_foreign
    from vesalius.models.torch_runtime import TorchRuntime

    name = DEFAULT if name is None else name
    path = BUNDLED / name if (BUNDLED / name / "config.json").exists() else Path(name)
    if path.is_dir():
        return Predictor(TorchRuntime(load_checkpoint(path), device), path.name)
    if path.is_file():
        return Predictor(TorchRuntime(load_foreign(path), device), path.stem)
    known = ", ".join(sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir()))
    raise ModelError(
        f"there is no model {str(name)!r}", remedy=f"give one of {known}, a checkpoint folder, or a .pth file"
    )
