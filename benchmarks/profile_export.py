"""Where the time of an exported network goes, by kind of operation.

    python benchmarks/profile_export.py FOLDER [--boxes 64] [--turns 9]

FOLDER is an export for OpenVINO, such as ``benchmarks/models.py`` leaves in OUT/exports. Prints what encoding an image
costs, or with ``--boxes`` decoding as many boxes: milliseconds of each kind of operation, counted by OpenVINO itself,
the median over turns, beside those of a call as a whole.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from vesalius.models.exported import ExportedRuntime, openvino_settings, precision_of, read_export
from vesalius.models.runtime import PromptArrays


class Counted:
    """A graph that adds up the milliseconds of its operations."""

    def __init__(self, path: Path, settings: dict[str, str]) -> None:
        self._compiled = openvino.Core().compile_model(path, "CPU", settings | {"PERF_COUNT": "YES"})
        self._request = self._compiled.create_infer_request()
        self._wanted = {value.get_any_name() for value in self._compiled.inputs}
        self.spent: Counter[str] = Counter()

    def __call__(self, arrays: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs it."""
        self._request.infer({k: v for k, v in arrays.items() if k in self._wanted})
        for operation in self._request.profiling_info:
            self.spent[operation.node_type] += 1e3 * operation.real_time.total_seconds()
        return [self._request.get_output_tensor(i).data.copy() for i in range(len(self._compiled.outputs))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--boxes", type=int, default=0, help="boxes to decode; 0 for encoding an image")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    config = read_export(arguments.folder)
    paths = {path.stem: path for path in arguments.folder.glob("*.xml")}
    graphs = {
        name: Counted(path, openvino_settings(precision_of(name, list(paths), "openvino", config.precision)))
        for name, path in paths.items()
    }
    runtime = ExportedRuntime(config, dict(graphs))
    side = config.preset.side
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    content = np.array([[0, 0, side, side]])
    features = runtime.encode(pixels, content)
    count = arguments.boxes
    boxes = np.array([[0.2, 0.3, 0.7, 0.8]], np.float32) * side + np.arange(count, dtype=np.float32)[:, None]
    prompts = PromptArrays(
        np.zeros((count, 0, 2), np.float32), np.zeros((count, 0), np.int64), np.zeros(count, np.int64), boxes
    )
    whole: list[float] = []
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(arguments.turns + 2):
        for graph in graphs.values():
            graph.spent.clear()
        start = time.perf_counter()
        if count:
            runtime.decode(features, prompts, config.preset.multimask)
        else:
            runtime.encode(pixels, content)
        if turn >= 2:
            whole.append(1e3 * (time.perf_counter() - start))
            spent = sum((graph.spent for graph in graphs.values()), Counter())
            for kind in {*kinds, *spent}:
                kinds[kind].append(spent[kind])
    times = {kind: median(values) for kind, values in kinds.items()}
    total = sum(times.values())
    print(f"{arguments.folder.name}, {f'{count} boxes' if count else 'encode'}: {median(whole):.1f} ms\n")
    print("| operation | ms | share |\n|---|---|---|")
    for kind, value in sorted(times.items(), key=lambda item: -item[1]):
        if value > 0.01 * total:
            print(f"| {kind} | {value:.1f} | {value / total:.0%} |")


if __name__ == "__main__":
    main()
