"""From a model's name, folder or file to a Predictor."""

from __future__ import annotations

from pathlib import Path

from vesalius.core.errors import ModelError
from vesalius.predict.predictor import Predictor

BUNDLED = Path(__file__).parent.parent / "weights"
DEFAULT = "vesalius-tiny"


def load_model(
    name: str | Path | None = None, device: str = "cpu", *, preset: str | None = None, adapters: bool = True
) -> Predictor:
    """Loads a model.

    Args:
        name: A bundled model's name (``"vesalius-tiny"`` if left out), a name of the registry that has been fetched
            (``vesalius models list``), a checkpoint folder, a folder of transformers' ``SamModel``, or a published
            file. Names come before paths; ``./name`` is always a path.
        device: Where it runs, such as ``"cpu"`` or ``"cuda"``.
        preset: How it wants its input, where the weights do not tell: those of SAM, MedSAM and FT-SAM look the same.
        adapters: Whether SAM-Med2D's adapters are used; False gives the network that the paper marks with ``*``.

    Raises:
        ModelError: There is no such model, it has not been fetched, or its weights are damaged or do not fit.
    """
    from vesalius.models.convert import load_network
    from vesalius.models.torch_runtime import TorchRuntime

    path = find_model(name)
    label = path.name if path.is_dir() else path.stem
    return Predictor(TorchRuntime(load_network(path, preset, adapters), device), label)


def find_model(name: str | Path | None = None) -> Path:
    """The folder or file of a model; see `load_model`.

    Raises:
        ModelError: There is no such model, or it has not been fetched.
    """
    from vesalius.models.registry import entries, model_folder

    name = DEFAULT if name is None else name
    bundled = sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir())
    if name in bundled:
        return BUNDLED / name
    if name in entries():
        folder = model_folder(str(name))
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"the model {name!r} has not been fetched",
                remedy=f"run: vesalius models fetch {name} (for a folder of that name, give ./{name})",
            )
        return folder
    path = Path(name)
    if path.exists():
        return path
    raise ModelError(
        f"there is no model {str(name)!r}",
        remedy=f"give one of {', '.join(bundled)}, {', '.join(entries())}, a checkpoint folder, or a published file",
    )
