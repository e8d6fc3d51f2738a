"""From a model's name, folder or file to a Predictor."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from vesalius.core.errors import ModelError
from vesalius.models.exported import EXPORT, best_export, check_installed, load_export, read_export, read_origin
from vesalius.predict.predictor import Predictor

BUNDLED = Path(__file__).parent.parent / "weights"
DEFAULT = "vesalius-tiny"

RuntimeName = Literal["auto", "torch", "onnx", "openvino"]
PrecisionName = Literal["fp32", "bf16"]

_log = logging.getLogger(__name__)


def load_model(
    name: str | Path | None = None,
    device: str = "cpu",
    *,
    preset: str | None = None,
    adapters: bool = True,
    runtime: RuntimeName = "auto",
    precision: PrecisionName = "fp32",
    compile: bool = False,
) -> Predictor:
    """Loads a model.

    Args:
        name: A bundled model's name (``"vesalius-tiny"`` if left out), a name of the registry that has been fetched
            (``vesalius models list``), a checkpoint folder, a folder of transformers' ``SamModel`` or ``Sam2Model``, a
            published file, or an exported model's folder. Names come before paths; ``./name`` is always a path.
        device: Where it runs, such as ``"cpu"`` or ``"cuda"``.
        preset: How it wants its input, where the weights do not tell: those of SAM, MedSAM and FT-SAM look the same.
        adapters: Whether SAM-Med2D's adapters are used; False gives the network that the paper marks with ``*``.
        runtime: What runs it. ``"onnx"`` and ``"openvino"`` need an export in the checkpoint's folder
            (``vesalius models export``). ``"auto"`` takes the fastest that is installed and gives the same masks: of
            the exports of what the checkpoint holds now, as they were measured when they were made (mean Dice with
            torch of 0.99 or more), and torch. It logs which one it takes, and so do all records.
        precision: What torch computes in, ``"fp32"`` or ``"bf16"``; anything but ``"fp32"`` means torch.
        compile: Compile torch's image encoder when it first runs, which takes a minute and pays for many images; it
            means torch.

    Raises:
        ModelError: There is no such model, it has not been fetched, its weights are damaged or do not fit, or what
            would run it is missing.
    """
    for what, value, known in (
        ("runtime", runtime, get_args(RuntimeName)),
        ("precision", precision, get_args(PrecisionName)),
    ):
        if value not in known:
            raise ModelError(f"there is no {what} {value!r}", remedy=f"give one of {', '.join(known)}")
    path = find_model(name)
    label = path.name if path.is_dir() else path.stem
    torch_only = preset is not None or not adapters or device != "cpu" or precision != "fp32" or compile
    export = _find_export(path, runtime, torch_only)
    if export is not None:
        loaded = load_export(export)
        _log.info("%s runs by %s", label, loaded.label)
        return Predictor(loaded, label)
    if find_spec("torch") is None:
        raise ModelError(
            "needs torch, which is not installed, or an export that runs without it",
            path=path,
            remedy='pip install "vesalius[torch]", or "vesalius[onnx]" for a model that is exported for it',
        )
    from vesalius.models.convert import load_network
    from vesalius.models.torch_runtime import TorchRuntime

    by_torch = TorchRuntime(load_network(path, preset, adapters), device, precision, compile)
    _log.info("%s runs by %s", label, by_torch.label)
    return Predictor(by_torch, label)


def _find_export(path: Path, runtime: RuntimeName, torch_only: bool) -> Path | None:
    """The folder of the export to run, or None for torch."""
    if (path / EXPORT).is_file():
        if torch_only or runtime not in ("auto", read_export(path).format):
            raise ModelError(
                f"is an export for {read_export(path).format}, to be run as it is",
                path=path,
                remedy="give the checkpoint that it was made from",
            )
        return path
    if runtime == "torch" or (runtime == "auto" and torch_only):
        return None
    if torch_only:
        raise ModelError(
            f"runtime {runtime!r} takes no device, precision, preset, adapters or compile", remedy='use runtime="torch"'
        )
    if runtime == "auto":
        return best_export(path)[0] if path.is_dir() else None
    check_installed(runtime, path)
    if read_origin(path) is None:
        raise ModelError(
            "is not a checkpoint of ours, beside which an export could lie",
            path=path,
            remedy=f"convert it first: vesalius models convert {path} -o FOLDER, "
            f"then vesalius models export FOLDER --format {runtime}",
        )
    best, passed = best_export(path, runtime)
    if best is None:
        told = ", ".join(f"{name}: {reason}" for name, reason in passed.items())
        raise ModelError(
            f"has no export that {runtime} can run here{f' ({told})' if told else ''}",
            path=path,
            remedy=f"make one: vesalius models export {path} --format {runtime}",
        )
    return best


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
