"""Exports a network as graphs that run without torch; `vesalius.models.exported` runs them."""

from __future__ import annotations

import logging
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import vesalius
from vesalius.core.errors import ModelError, WriteError
from vesalius.core.files import file_digest
from vesalius.models import exported
from vesalius.models.base import PromptBatch, SegmentationModel
from vesalius.models.baseline_sam2 import Sam2
from vesalius.models.checkpoint import weights_digest
from vesalius.models.exported import Agreement, ExportConfig, ExportedRuntime, Format, Precision
from vesalius.models.runtime import PromptArrays, Runtime
from vesalius.models.sam.model import Sam
from vesalius.models.specialists import Specialist
from vesalius.models.tiny import Tiny
from vesalius.models.torch_runtime import TorchRuntime, prepare

_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino", "nncf")}


class Encoder(nn.Module):
    """From pixels to features, what prepares the pixels included."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, content: Tensor) -> tuple[Tensor, ...]:
        """(B, side, side, 3) uint8 RGB, (B, 4) int64 boxes of what is image -> features."""
        return self.model.encode(prepare(images, content, self.model.preset))


class Decoder(nn.Module):
    """From prompts and features to masks."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        features: tuple[Tensor, ...],
        points: Tensor,
        labels: Tensor,
        boxes: Tensor,
        masks: Tensor,
        word: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features of N prompts; see `PromptBatch` -> logits and predicted IoU.

        ``word`` is (N,) int64, which of the network's words each prompt has; -1 for none.
        """
        text = None
        if word is not None:
            assert isinstance(self.model, Tiny)
            text = torch.where(word[:, None] >= 0, self.model.words(word.clamp_min(0)), torch.nan)
        prompts = PromptBatch(points, labels, boxes, masks, torch.arange(points.shape[0]), text)
        return self.model.decode(features, prompts, self.model.preset.multimask)


class Tokens(nn.Module):
    """From prompts to SAM's tokens."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `PromptBatch` -> tokens, and which of them are there."""
        return self.model.prompt_encoder.tokens(PromptBatch(points, labels, boxes))


class TokenDecoder(nn.Module):
    """From SAM's tokens and features to masks."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, features: tuple[Tensor, ...], tokens: Tensor, present: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features of one row, or of one for each of N prompts, their tokens, their masks -> logits, predicted IoU."""
        return self.model.decode_tokens(features[0], tokens, present, masks, self.model.preset.multimask)


def export_model(
    model: SegmentationModel,
    folder: str | Path,
    kind: Format,
    precision: Precision,
    images: Sequence[NDArray[np.uint8]],
    checkpoint: str | Path | None = None,
) -> ExportConfig:
    """Writes a network's graphs, runs them beside torch in float32, and records how well they agree.

    The export of an IMIS-Net takes no words.

    Args:
        model: The network, in float32.
        folder: The export's folder; it must not exist yet, or be an older export, which is replaced.
        kind: What shall run the graphs.
        precision: What the encoder shall compute in: ``fp32``; ``bf16`` (OpenVINO alone); ``int8``: the weights of
            matrix products in 8 bits per output channel, their inputs quantised as they come. What places prompts on
            the image stays in fp32; see `vesalius.models.exported.precision_of`.
        images: (H, W) or (H, W, 3) images of any size, best of the kind that the model is for.
        checkpoint: Folder of the checkpoint that the network was loaded from. Without it the export runs when it is
            named, but `vesalius.load_model` does not take it for that checkpoint.

    Returns:
        What was written to ``export.json``.

    Raises:
        ModelError: What exports is not installed, or cannot do this.
        WriteError: The folder cannot be written.
    """
    check_exportable(model, kind, precision)
    folder = Path(folder)
    origin = None if checkpoint is None else exported.read_origin(Path(checkpoint))
    if folder.exists() and not (folder / exported.EXPORT).is_file():
        raise WriteError("is there already and is not an export", path=folder, remedy="name another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
            place = Path(made) / folder.name
            place.mkdir()
            _write_graphs(model, place, kind, precision)
            config = _describe(model, place, kind, precision, images, None if origin is None else origin[0])
            (place / exported.EXPORT).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            place.rename(folder)
    except OSError as error:
        raise WriteError(f"the export cannot be written ({error})", path=folder) from error
    return config


def check_exportable(model: SegmentationModel, kind: Format, precision: Precision) -> None:
    """Checks that a network can be exported here.

    Raises:
        ModelError: What exports is not installed, or cannot do this.
    """
    from importlib.util import find_spec

    missing = [name for name in _NEEDED[kind] if find_spec(name) is None]
    if missing:
        raise ModelError(f"to export, {', '.join(missing)} must be installed", remedy='pip install "vesalius[export]"')
    if kind == "onnx" and precision == "bf16":
        raise ModelError("ONNX Runtime does not compute in bfloat16 on a CPU", remedy="export for openvino, or in int8")
    if _words(model) and kind == "openvino":
        raise ModelError("OpenVINO does not run the graphs of networks that take words", remedy="export for onnx")
    if isinstance(model, Specialist):
        raise ModelError(f"{model.architecture} networks, which are there to compare with, cannot be exported")
    if isinstance(model, Sam2):
        raise ModelError("SAM 2, whose network is that of transformers, cannot be exported", remedy="use torch")


def _words(model: SegmentationModel) -> tuple[str, ...]:
    """Names of targets that an export understands: those of a table, since a text encoder is not exported."""
    return model.config.words if isinstance(model, Tiny) else ()


def _write_graphs(model: SegmentationModel, place: Path, kind: Format, precision: Precision) -> None:
    graphs = _graphs(model)
    for name, graph in graphs.items():
        path = place / f"{name}.onnx"
        own = exported.precision_of(name, graphs, kind, precision)
        if kind == "onnx":
            _save_onnx(graph, path, own)
        else:
            # By way of a file: OpenVINO reads weights beside the graph.
            graph.save(path, external_data=True)
            _save_openvino(path, own)


def _graphs(model: SegmentationModel) -> dict[str, Any]:
    """The graphs, by name, as programs of torch's ONNX exporter."""
    preset, model = model.preset, model.eval()
    side = preset.side
    images, content = torch.zeros(1, side, side, 3, dtype=torch.uint8), torch.tensor([[0, 0, side, side]])
    count, points = torch.export.Dim("prompts", min=1), torch.export.Dim("points", min=1)
    with torch.no_grad():
        features = model.encode(prepare(images, content, preset))
    many = tuple(level.expand(3, *level.shape[1:]).contiguous() for level in features)
    names, outputs = [f"features_{i}" for i in range(len(features))], ["logits", "quality"]
    prompts = (torch.zeros(3, 2, 2), torch.ones(3, 2, dtype=torch.long), torch.zeros(3, 4))
    parts, free = ["points", "labels", "boxes"], ({0: count, 1: points}, {0: count, 1: points}, {0: count})
    masks = torch.zeros(3, 1, preset.mask_side, preset.mask_side)
    one: tuple[dict[int, Any], ...] = tuple({} for _ in features)
    each = tuple({0: count} for _ in features)
    with _quietly():
        graphs = {"encoder": _export(Encoder(model), (images, content), ["images", "content"], names, None)}
        if not isinstance(model, Sam):
            word = (torch.zeros(3, dtype=torch.long),) if _words(model) else ()
            shapes = (each, *free, {0: count}, *({0: count} for _ in word))
            inputs = [*names, *parts, "masks", *("word" for _ in word)]
            arguments = (many, *prompts, masks, *word)
            return graphs | {"decoder": _export(Decoder(model), arguments, inputs, outputs, shapes)}
        tokens = (torch.zeros(3, 5, model.config.prompt_dim), torch.ones(3, 5, dtype=torch.bool))
        length = torch.export.Dim("tokens", min=2)
        told = ({0: count, 1: length}, {0: count, 1: length})
        inputs = [*names, *exported.TOKENS]
        graphs[exported.PROMPTS] = _export(Tokens(model), prompts, parts, list(exported.TOKENS), free)
        decoder = TokenDecoder(model)
        graphs["decoder"] = _export(
            decoder, (many, *tokens, masks), [*inputs, "masks"], outputs, (each, *told, {0: count})
        )
        graphs[exported.SHARED] = _export(decoder, (features, *tokens), inputs, outputs, (one, *told))
    return graphs


def _export(graph: nn.Module, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str], shapes: Any) -> Any:
    with torch.no_grad():
        return torch.onnx.export(
            graph,
            arguments,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            # The runtimes optimise by themselves; folded weights could not be stored as they are.
            optimize=False,
            verbose=False,
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks about itself."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def _save_onnx(graph: Any, path: Path, precision: Precision) -> None:
    import onnx

    proto = graph.model_proto
    strip_notes(proto)
    # The exporter notes some shapes wrongly, which the quantiser would trip over; nobody else reads them.
    del proto.graph.value_info[:]
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            plain, folded = Path(folder) / "plain.onnx", Path(folder) / "folded.onnx"
            onnx.save(proto, plain, save_as_external_data=True)
            _fold(plain, folded)
            quantize_dynamic(
                folded,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        return
    halve(proto)
    onnx.save(proto, path)


def _fold(source: Path, target: Path) -> None:
    """Computes what is constant, such as weights turned over, which the quantiser would not see as weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", target.with_suffix(".bin").name
    )
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def strip_notes(proto: Any) -> None:
    """Removes what the exporter notes of the code that a graph came from: nobody runs it, and it names local paths."""
    graph = proto.graph
    parts = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for function in proto.functions:
        parts += [function, *function.node]
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def halve(proto: Any) -> None:
    """Stores every weight that float16 holds without loss as float16, and casts it back in the graph."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 1024:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _save_openvino(path: Path, precision: Precision) -> None:
    import openvino

    graph = openvino.convert_model(path)
    if precision == "int8":
        import nncf

        nncf.set_log_level(logging.ERROR)
        graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(graph, path.with_suffix(".xml"), compress_to_fp16=precision == "bf16")
    path.unlink()
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)


def _describe(
    model: SegmentationModel,
    place: Path,
    kind: Format,
    precision: Precision,
    images: Sequence[NDArray[np.uint8]],
    checkpoint: str | None,
) -> ExportConfig:
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("torch", *_NEEDED[kind])}
    unmeasured = Agreement(images=0, prompts=0, dice=0, worst_dice=0, logits=0, encode_speedup=0, decode_speedup=0)
    config = ExportConfig(
        format=kind,
        precision=precision,
        architecture=model.architecture,
        preset=model.preset,
        digest=weights_digest(model),
        checkpoint=checkpoint,
        words=_words(model),
        loses_words="text" in model.takes and not _words(model),
        features=len(model.encode(torch.zeros(1, 3, model.preset.side, model.preset.side))),
        prompts_at_once=model.prompts_at_once,
        agreement=unmeasured,
        made_by={"vesalius": vesalius.__version__, "machine": platform.processor() or platform.machine(), **versions},
        files={path.name: file_digest(path) for path in sorted(place.iterdir())},
    )
    graphs = exported.open_graphs(place, kind, precision)
    found = agreement(TorchRuntime(model), ExportedRuntime(config, graphs), images)
    return config.model_copy(update={"agreement": found})


def agreement(truth: Runtime, other: Runtime, images: Sequence[NDArray[np.uint8]]) -> Agreement:
    """Compares two runtimes of one network on images, each with nine boxes and nine clicks on a grid.

    Args:
        truth: What the other is compared with.
        other: The other.
        images: (H, W) or (H, W, 3) images; they are stretched to the network's input.
    """
    import cv2

    preset = truth.preset
    side = preset.side
    centres = np.stack(np.meshgrid(*[np.array([0.25, 0.5, 0.75]) * side] * 2), axis=-1).reshape(-1, 2)
    size = np.array([0.1, 0.15, 0.2] * 3)[:, None] * side
    boxes = np.concatenate([centres - size, centres + size], axis=1).astype(np.float32)
    rows = np.zeros(9, np.int64)
    none = np.zeros((9, 0, 2), np.float32), np.zeros((9, 0), np.int64)
    clicks = centres.astype(np.float32)[:, None], np.ones((9, 1), np.int64)
    batches = [PromptArrays(*none, rows, boxes), PromptArrays(*clicks, rows)]
    dice: list[float] = []
    difference = 0.0
    times: dict[str, list[list[float]]] = {"encode": [[], []], "decode": [[], []]}
    for image in images:
        colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
        pixels = cv2.resize(colour, (side, side), interpolation=cv2.INTER_AREA)[None]
        answers = []
        for which, runtime in enumerate((truth, other)):
            start = time.perf_counter()
            features = runtime.encode(pixels, np.array([[0, 0, side, side]]))
            encoded = time.perf_counter()
            answers.append([runtime.decode(features, batch, preset.multimask) for batch in batches])
            times["encode"][which].append(encoded - start)
            times["decode"][which].append(time.perf_counter() - encoded)
        for (logits, quality), (others, other_quality) in zip(*answers, strict=True):
            difference = max(difference, float(np.abs(logits - others).max()))
            ours = np.take_along_axis(logits, quality.argmax(1)[:, None, None, None], 1) > 0
            theirs = np.take_along_axis(others, other_quality.argmax(1)[:, None, None, None], 1) > 0
            total = ours.sum((1, 2, 3)) + theirs.sum((1, 2, 3))
            both = (ours & theirs).sum((1, 2, 3))
            dice += list(2 * both[total > 0] / total[total > 0])
    # The first image also pays for the start.
    encode, decode = (
        statistics.median(own[1:] or own) / statistics.median(others[1:] or others)
        for own, others in (times["encode"], times["decode"])
    )
    return Agreement(
        images=len(images),
        prompts=18 * len(images),
        dice=float(np.mean(dice)) if dice else None,
        worst_dice=float(min(dice)) if dice else None,
        logits=difference,
        encode_speedup=encode,
        decode_speedup=decode,
    )
