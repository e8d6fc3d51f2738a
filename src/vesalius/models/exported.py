"""Runs exported networks by ONNX Runtime or OpenVINO: no torch is needed.

An exported network is a folder with ``export.json`` and graphs: an encoder and a decoder; for SAM also one that makes
tokens of prompts, and a decoder for prompts that share an image and have no mask, which computes the image's side once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ModelError
from vesalius.core.files import file_digest
from vesalius.core.types import Part
from vesalius.models.presets import Preset
from vesalius.models.runtime import SPATIAL, ImageFeatures, PromptArrays
from vesalius.models.words import rows_of

Format = Literal["onnx", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]

EXPORT = "export.json"
PROMPTS, SHARED = "prompts", "decoder_shared"
# What the graph of prompts gives to the decoders.
TOKENS = ("tokens", "present")
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
# The least agreement of masks with those of torch in float32 that counts as the same model.
ENOUGH = 0.99

_log = logging.getLogger(__name__)


class Agreement(Config):
    """How an export compares with torch in float32, on images and prompts as `vesalius.models.export` draws them.

    Attributes:
        images: Number of images.
        prompts: Number of prompts.
        dice: Mean Dice of the low-resolution masks; masks that are empty on both sides are left out; None if all are.
        worst_dice: The least of them.
        logits: Largest absolute difference of mask logits.
        encode_speedup: Time of torch to encode an image divided by the export's, on the machine that exported.
        decode_speedup: The same for the prompts of an image.
    """

    images: int
    prompts: int
    dice: float | None
    worst_dice: float | None
    logits: float
    encode_speedup: float
    decode_speedup: float


class ExportConfig(Config):
    """The content of ``export.json``.

    Attributes:
        version: Of this format.
        format: What runs the graphs.
        precision: Of the encoder and, as `precision_of` says, of the rest.
        architecture: Kind of network.
        preset: How it wants its input.
        digest: SHA-256 of the network's weights, as its records name it.
        checkpoint: SHA-256 of the weights file of the checkpoint that it was made from; None if it was made from a
            network that lay in none.
        words: Names of targets that it understands.
        loses_words: Whether the network takes words and the export does not.
        features: Number of arrays that the encoder gives.
        prompts_at_once: Prompts that are best decoded together.
        agreement: With torch in float32.
        made_by: Versions of what made it.
        files: SHA-256 of each file.
    """

    version: Literal[1] = 1
    format: Format
    precision: Precision
    architecture: str
    preset: Preset
    digest: str
    checkpoint: str | None = None
    words: tuple[str, ...] = ()
    loses_words: bool = False
    features: int
    prompts_at_once: int
    agreement: Agreement
    made_by: dict[str, str]
    files: dict[str, str]


class ExportedRuntime:
    """An exported network; see `vesalius.models.runtime.Runtime`.

    Args:
        config: What it is.
        graphs: The graphs, ready to run, by name.
        open_streams: Opens the graphs but the encoder for calls that run side by side; None if nothing is gained so.
    """

    def __init__(
        self, config: ExportConfig, graphs: dict[str, Run], open_streams: Callable[[], dict[str, Run]] | None = None
    ) -> None:
        self.config = config
        self.preset = config.preset
        self.digest = config.digest
        self.label = f"{config.format} {config.precision}"
        self.takes: frozenset[Part] = SPATIAL | {"text"} if config.words else SPATIAL
        self.words = config.words
        self._graphs = graphs
        self._open_streams = open_streams

    def encode(self, images: NDArray[np.uint8], content: NDArray[np.int64]) -> list[ImageFeatures]:
        """Features of images; see `vesalius.models.runtime.Runtime.encode`."""
        return [
            tuple(self._graphs["encoder"]({"images": images[i : i + 1], "content": content[i : i + 1]}))
            for i in range(len(images))
        ]

    def decode(
        self, features: Sequence[ImageFeatures], prompts: PromptArrays, multimask: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Masks of prompts; see `vesalius.models.runtime.Runtime.decode`.

        Raises:
            ModelError: Another number of masks is asked for than the graphs give.
        """
        if multimask != self.preset.multimask:
            raise ModelError(
                f"the exported network gives {3 if self.preset.multimask else 1} masks per prompt, and no other number",
                remedy='load it with runtime="torch"',
            )
        step = self.config.prompts_at_once
        parts = [slice(i, i + step) for i in range(0, len(prompts), step)]
        if len(parts) > 1 and self._streams:
            with ThreadPoolExecutor() as threads:
                answers = list(threads.map(partial(self._decode, self._streams, features, prompts), parts))
        else:
            answers = [self._decode(self._graphs, features, prompts, part) for part in parts]
        logits, quality = (np.concatenate(level) for level in zip(*answers, strict=True))
        return logits, quality

    @cached_property
    def _streams(self) -> dict[str, Run] | None:
        return self._open_streams() if self._open_streams else None

    def _decode(
        self, graphs: dict[str, Run], features: Sequence[ImageFeatures], prompts: PromptArrays, part: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points, labels, rows = prompts.points[part], prompts.labels[part], prompts.rows[part]
        count = len(points)
        # Graphs want at least one point; one labelled -1 is not there. Neither is a box or a mask of NaN.
        arrays: Arrays = {
            "points": np.concatenate([points, np.zeros((count, 1, 2), np.float32)], axis=1),
            "labels": np.concatenate([labels, np.full((count, 1), -1, np.int64)], axis=1),
            "boxes": np.full((count, 4), np.nan, np.float32) if prompts.boxes is None else prompts.boxes[part],
        }
        if SHARED in graphs and prompts.masks is None and (rows == rows[0]).all():
            graph, levels = SHARED, features[rows[0]]
        else:
            graph = "decoder"
            levels = tuple(np.concatenate([level[row] for row in rows]) for level in zip(*features, strict=True))
            side = self.preset.mask_side
            empty = np.full((count, 1, side, side), np.nan, np.float32)
            arrays["masks"] = empty if prompts.masks is None else prompts.masks[part]
        if "text" in self.takes:
            rows_of_words = [-1] * count if prompts.text is None else rows_of(prompts.text[part], self.config.words)
            arrays["word"] = np.array(rows_of_words, np.int64)
        if PROMPTS in graphs:
            tokens, present = graphs[PROMPTS](arrays)
            # What no prompt has is not computed.
            used = present.any(0)
            arrays |= zip(TOKENS, (tokens[:, used], present[:, used]), strict=True)
        arrays |= {f"features_{i}": level for i, level in enumerate(levels)}
        logits, quality = graphs[graph](arrays)
        return logits, quality


def read_export(folder: str | Path) -> ExportConfig:
    """Reads what an exported network is.

    Raises:
        ModelError: The folder has no readable ``export.json``.
    """
    path = Path(folder) / EXPORT
    try:
        return ExportConfig.from_dict(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read ({error})", path=path) from error
    except ConfigError as error:
        raise ModelError(error.reason, path=path) from error


def load_export(folder: str | Path) -> ExportedRuntime:
    """Loads an exported network.

    Raises:
        ModelError: The folder is damaged, or what runs it is not installed.
    """
    folder = Path(folder)
    config = read_export(folder)
    check_installed(config.format, folder)
    for name, expected in config.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError("is missing", path=path, remedy="export the model again")
        found = file_digest(path)
        if found != expected:
            raise ModelError(
                f"has SHA-256 {found}, but {EXPORT} says {expected}", path=path, remedy="export the model again"
            )
    graphs = open_graphs(folder, config.format, config.precision)
    # Two runs side by side gain little by ONNX Runtime.
    streams = partial(open_graphs, folder, config.format, config.precision, streams=True)
    return ExportedRuntime(config, graphs, streams if config.format == "openvino" else None)


def precision_of(graph: str, graphs: Collection[str], kind: Format, precision: Precision) -> Precision:
    """What one of an export's graphs computes in.

    The encoder in the export's precision. What places prompts on the image in fp32, since the eight bits of bfloat16 do
    not tell one pixel from the next; so decoders are in bf16, by OpenVINO, only where a graph of its own does that.
    """
    if graph == "encoder":
        return precision
    reduced = PROMPTS in graphs and graph != PROMPTS and kind == "openvino" and precision != "fp32"
    return "bf16" if reduced else "fp32"


def open_graphs(folder: Path, kind: Format, precision: Precision, streams: bool = False) -> dict[str, Run]:
    """The graphs of a folder, ready to run.

    Args:
        folder: Of an export.
        kind: What runs them.
        precision: Of the export.
        streams: For calls from several threads that run side by side, by OpenVINO, and without the encoder.

    Raises:
        ModelError: One of them cannot be read.
    """
    paths = sorted(folder.glob("*.onnx" if kind == "onnx" else "*.xml"))
    try:
        if kind == "onnx":
            return {path.stem: _open_onnx(path) for path in paths}
        names = [path.stem for path in paths]
        return {
            path.stem: _open_openvino(path, precision_of(path.stem, names, kind, precision), streams)
            for path in paths
            if not (streams and path.stem == "encoder")
        }
    except Exception as error:  # both libraries raise kinds of their own
        raise ModelError(f"cannot be loaded by {PACKAGES[kind]} ({error})", path=folder) from error


def installed(kind: Format) -> bool:
    """Whether what runs this kind of export is installed."""
    return find_spec(PACKAGES[kind]) is not None


def check_installed(kind: Format, path: Path) -> None:
    """Checks that what runs this kind of export is installed.

    Raises:
        ModelError: It is not; the error names ``path``.
    """
    if not installed(kind):
        raise ModelError(
            f"needs {PACKAGES[kind]}, which is not installed", path=path, remedy=f'pip install "vesalius[{kind}]"'
        )


def read_origin(folder: Path) -> tuple[str, Preset] | None:
    """What a checkpoint's ``config.json`` says an export of it is made from, without torch.

    Returns:
        SHA-256 of the weights file, and the preset; None if the path is not a checkpoint of ours.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(content["sha256"]), Preset.from_dict(content["preset"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def best_export(folder: Path, kind: Format | None = None) -> tuple[Path | None, dict[str, str]]:
    """The fastest export beside a checkpoint that can run here and gives the checkpoint's masks.

    Args:
        folder: The checkpoint's folder; its exports are folders in it.
        kind: What shall run it; None for either.

    Returns:
        Its folder, or None if there is none, or if torch is faster and installed and ``kind`` is None; and the names
        of those that are passed over, with the reasons, which are in the log too.
    """
    best: tuple[float, Path] | None = None
    passed: dict[str, str] = {}
    origin = read_origin(folder)
    for path in sorted(file.parent for file in folder.glob(f"*/{EXPORT}")):
        config = read_export(path)
        reason = _unfit(config, kind, origin)
        if reason:
            _log.info("%s is passed over: %s", path, reason)
            passed[path.name] = reason
        elif best is None or config.agreement.encode_speedup > best[0]:
            best = config.agreement.encode_speedup, path
    if best and kind is None and best[0] < 1 and find_spec("torch") is not None:
        return None, passed
    return best[1] if best else None, passed


def _unfit(config: ExportConfig, kind: Format | None, origin: tuple[str, Preset] | None) -> str | None:
    if kind not in (None, config.format):
        return f"it is for {config.format}"
    if origin is None:
        return "the folder is not a checkpoint of ours"
    if config.checkpoint is None:
        return "it does not say which checkpoint it was made from"
    if config.checkpoint != origin[0]:
        return "it was made from other weights than are here now"
    if config.preset != origin[1]:
        return "it was made with another preset than the checkpoint has now"
    if kind is None and config.loses_words:
        return "it takes no words, and the network does"
    if not installed(config.format):
        return f"{PACKAGES[config.format]} is not installed"
    if config.agreement.dice is None:
        return "its masks were empty on all images that it was compared on"
    if config.agreement.dice < ENOUGH:
        return f"the Dice of its masks with those of torch is {config.agreement.dice:.3f}, below {ENOUGH}"
    if config.precision == "bf16" and not _computes_bf16():
        return "this processor does not compute in bfloat16"
    return None


def _computes_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _open_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait actively keep the processor from others at work, and from each other where there are few cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        out: list[NDArray[Any]] = session.run(None, {k: v for k, v in arrays.items() if k in wanted})
        return out

    return run


def openvino_settings(precision: Precision, streams: bool = False) -> dict[str, str]:
    """How OpenVINO runs an encoder or decoder: one call at a time by all cores, or several side by side."""
    return {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "THROUGHPUT" if streams else "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128" if precision == "int8" else "0",
    }


def _open_openvino(path: Path, precision: Precision, streams: bool) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", openvino_settings(precision, streams))
    wanted = {value.get_any_name() for value in compiled.inputs}
    idle = [compiled.create_infer_request()]

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        request.infer({k: v for k, v in arrays.items() if k in wanted})
        answers = [request.get_output_tensor(i).data.copy() for i in range(len(compiled.outputs))]
        idle.append(request)
        return answers

    return run
