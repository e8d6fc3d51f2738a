"""What a run tells: a progress bar, tables, TensorBoard, pictures of predictions, and a record of the run."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import vesalius
from vesalius.core.errors import WriteError
from vesalius.core.files import replacing
from vesalius.corpus.store import encode_png
from vesalius.training.interaction import Batch, InteractiveStep, thresholded

# Extras that some networks are made of.
NETWORK_LIBRARIES = ("monai", "peft", "transformers")
LOG, VALIDATION, PREDICTIONS, RUN = "log.csv", "validation.csv", "predictions", "run.json"

# Truth, and the outlines after the first and the last round.
GREEN, ORANGE, MAGENTA = (0, 200, 0), (255, 160, 0), (255, 0, 255)
TILE = 192


class Monitor:
    """The tables and the progress bar of a run, in the process that writes; used with ``with``.

    Args:
        output: Folder of the run.
        start: Steps that are done; rows of later steps, of a killed process, are dropped.
        end: Steps at the end.
    """

    def __init__(self, output: Path, start: int, end: int) -> None:
        self.output, self.start, self.end = output, start, end
        for name in (LOG, VALIDATION):
            # Without a step there is no state, so a row of step 0 is of a killed process too.
            _cut(output / name, start or -1)
        self._progress = _progress()
        self._board = _board(output / "tensorboard", start)
        if self._board is None:
            self.tell('not logged for TensorBoard, which is not installed: pip install "vesalius[tensorboard]"')

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("train", total=self.end, completed=self.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def step(self, done: int, loss: float) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=done, description=f"loss {loss:.3f}")

    def tell(self, text: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(text, highlight=False)

    def row(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a row to a table, and its values to TensorBoard."""
        path = self.output / name
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{Path(name).stem}/{key}", value, step)

    def picture(self, step: int, sheet: NDArray[np.uint8]) -> None:
        """Keeps a contact sheet, (H, W, 3) uint8 RGB, as ``predictions/STEP.png``."""
        folder = self.output / PREDICTIONS
        folder.mkdir(exist_ok=True)
        with replacing(folder / f"{step:07d}.png") as part:
            part.write_bytes(encode_png(sheet))
        if self._board is not None:
            self._board.add_image("predictions", sheet, step, dataformats="HWC")


def check_folder(output: Path) -> None:
    """Refuses a folder that has files which are of no training run, where a run would write its own.

    Raises:
        WriteError: It has one.
    """
    for name in (LOG, VALIDATION, RUN):
        path = output / name
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if not (is_record(_parsed(text)) if name == RUN else text.startswith("step,") or not text):
            raise WriteError("is there, and is of no training run", path=path, remedy="choose another folder")


def is_record(content: Any) -> bool:
    """Whether the content of a ``run.json`` is that of a training run."""
    return isinstance(content, dict) and "steps" in content


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def write_run(output: Path, record: Mapping[str, Any]) -> None:
    """Writes ``run.json``: what is given, and what made it."""
    made_by = {
        "version": vesalius.__version__,
        "revision": revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        **{name: version(name) for name in NETWORK_LIBRARIES if name in sys.modules},
    }
    with replacing(output / RUN) as part:
        part.write_text(json.dumps({**made_by, **record}, indent=2) + "\n", encoding="utf-8")


def revision() -> str | None:
    """Revision of the source tree, with a plus where it was changed; None for an installed package."""
    here = Path(vesalius.__file__).parent
    try:
        told = [
            subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True, timeout=30, check=True)
            for command in (["ls-files", "__init__.py"], ["rev-parse", "HEAD"], ["status", "--porcelain", "."])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    known, head, changed = (one.stdout.strip() for one in told)
    return head + ("+" if changed else "") if known else None


@torch.no_grad()
def contact_sheet(step: InteractiveStep, batches: Iterable[Batch]) -> NDArray[np.uint8]:
    """Predictions on batches, one after the other: (H, W, 3) uint8 RGB, two tiles per object.

    The left one shows the truth (green) and the answer to the first prompt (orange), with the prompt; the right one the
    truth and the answer after the last round (magenta).
    """
    return _grid([tile for batch in batches for tile in _tiles(step, batch)], columns=4)


def _tiles(step: InteractiveStep, batch: Batch) -> list[NDArray[np.uint8]]:
    side = batch.images.shape[1]
    rounds = list(step.play(batch))
    tiles = []
    images = batch.images.cpu().numpy()
    truth = thresholded(batch.truth)[:, 0].cpu().numpy()
    for i, row in enumerate(batch.rows.tolist()):
        pair = []
        for colour, now in ((ORANGE, rounds[0]), (MAGENTA, rounds[-1])):
            logits = now.logits[i, int(now.chosen()[i])].cpu().numpy()
            tile = np.ascontiguousarray(cv2.resize(images[row], (TILE, TILE), interpolation=cv2.INTER_AREA))
            _outline(tile, truth[i], GREEN)
            _outline(tile, cv2.resize(logits, (TILE, TILE)) > 0, colour)
            prompts = now.prompts
            if prompts.boxes is not None and bool(prompts.boxes[i].isfinite().all()):
                x0, y0, x1, y1 = (int(v * TILE / side) for v in prompts.boxes[i].tolist())
                cv2.rectangle(tile, (x0, y0), (x1, y1), (255, 255, 0), 1)
            for (x, y), label in zip(prompts.points[i].tolist(), prompts.labels[i].tolist(), strict=True):
                if label >= 0:
                    at = (int((x + 0.5) * TILE / side), int((y + 0.5) * TILE / side))
                    cv2.circle(tile, at, 3, (0, 255, 255) if label else (255, 0, 0), -1)
            pair.append(tile)
        tiles.append(np.concatenate(pair, axis=1))
    return tiles


def _outline(tile: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Sequence[int]) -> None:
    shown = cv2.resize(mask.astype(np.uint8), (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(shown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, contours, -1, tuple(colour), 1)


def _grid(tiles: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    columns = min(columns, len(tiles))
    missing = -len(tiles) % columns
    tiles = tiles + [np.zeros_like(tiles[0])] * missing
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows, axis=0)


def _cut(path: Path, step: int) -> None:
    """Drops the rows of a table that are of later steps, or cut off: a killed process wrote them."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    header, *rows = text[: text.rfind("\n") + 1].splitlines() or [""]
    kept = [row for row in rows if int(row.partition(",")[0]) <= step]
    if not header or not kept:
        path.unlink()
        return
    with replacing(path) as part:
        part.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")


def _board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else 0)


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True))
