"""Evaluation: any models, on any corpus, under the papers' protocols, with the same prompts for all."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

import vesalius
from vesalius.core.config import Config
from vesalius.core.errors import ConfigError, ReadError, WriteError
from vesalius.core.files import locked, remove_stand_ins, replacing
from vesalius.corpus.engines import run_here, run_on_ray
from vesalius.corpus.objects import MIN_AREA
from vesalius.evaluation.engine import Scene, object_rows, scene_of, score_scene
from vesalius.evaluation.images import (
    Place,
    blocks_of,
    datasets_of,
    digest_of,
    list_places,
    name_of,
    read_places,
    stacks_of,
)
from vesalius.evaluation.prompts import (
    Key,
    Turn,
    draw_prompts,
    prompts_of,
    read_prompts,
    read_turns,
    to_row,
    turn_rows,
    turns_of,
)
from vesalius.evaluation.protocols import ANNOTATOR, PROTOCOLS, Strategy, strategies_of
from vesalius.evaluation.results import RUN, TABLES, read_table, schema, write_table
from vesalius.evaluation.scores import progress_bar
from vesalius.evaluation.subjects import Subject, load_subject
from vesalius.evaluation.times import time_rows
from vesalius.evaluation.volumes import SCORE_COLUMNS, volume_rows

# Tables that blocks make; the others are made of these.
_OF_BLOCKS = ("objects", "prompts", "saliency", "scores")
_PARTS, _LOCK, _SECONDS = ".parts", ".lock", "seconds.json"
# Images whose embeddings are shown, and images that times are taken on.
SHOWN, TIMED = 6, 5
# Versions that decide the numbers.
_PACKAGES = [
    "monai",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "scikit-image",
    "scipy",
    "torch",
    "transformers",
]


class EvaluationPlan(Config):
    """What is measured.

    Attributes:
        corpus: A corpus, or a folder of sets of image and label pairs.
        models: What `load_subject` takes: models, baselines, classes, folders of masks.
        protocols: Names of `PROTOCOLS`.
        split: Which cases.
        seed: Seed of all draws.
        max_objects: Of an image with more objects, this many are drawn; a field of cells would outweigh all else. 0
            measures all.
        max_images: Of more images, about this many, evenly from all; for some protocols fewer (``limits``).
        limits: Protocol -> its own ``max_images``.
        units: Of distances and of NSD's tolerance: ``"mm"`` where an image states its spacing and pixels elsewhere, or
            ``"px"``: pixels everywhere, as in COSMOS's tables; volumes have no distances then.
        tolerance: Of NSD.
        internal: Data sets that the models were trained on; all others are external.
        prompts: An earlier evaluation whose stored prompts are given again; corrections, which depend on a model's
            answers, are drawn from the same seed. An annotator's are those of the corpus, if this is left out.
        runtime: What runs models of the package; see `load_model`.
        device: Where they run.
        embeddings: Folder in which the models' embeddings are kept for other evaluations of the same images.
    """

    corpus: Path
    models: tuple[str, ...] = ("vesalius-tiny", "ellipse", "GrabCut")
    protocols: tuple[str, ...] = ("sam-med2d",)
    split: Literal["train", "val", "test", "all"] = "test"
    seed: NonNegativeInt = 0
    max_objects: NonNegativeInt = 10
    max_images: PositiveInt | None = None
    limits: dict[str, PositiveInt] = Field(default_factory=dict)
    units: Literal["mm", "px"] = "mm"
    tolerance: NonNegativeFloat = 2.0
    internal: tuple[str, ...] = ()
    prompts: Path | None = None
    runtime: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    device: str = "cpu"
    embeddings: Path | None = None

    def model_post_init(self, _: object) -> None:
        """Raises ConfigError for names that do not exist or come twice."""
        for what, given, known in (
            ("protocol", self.protocols, set(PROTOCOLS)),
            ("protocol", tuple(self.limits), set(PROTOCOLS)),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ConfigError(
                    f"there is no {what} {unknown[0]!r}", remedy=f"give one of {', '.join(sorted(known))}"
                )
        for what, given in (("model", self.models), ("protocol", self.protocols)):
            if len(set(given)) < len(given) or not given:
                raise ConfigError(f"no {what} is given, or one comes twice", remedy=f"give each {what} once")


def evaluate_corpus(
    plan: EvaluationPlan, output: Path, workers: int = 1, engine: str = "local", address: str = "auto"
) -> Path:
    """Measures models and writes the tables of `results`.

    A folder that holds an unfinished run of the same plan is taken up where it stopped.

    Args:
        plan: What is measured.
        output: Folder for the tables; made if its parent exists.
        workers: Processes of this machine.
        engine: ``"local"``, or ``"ray"`` for a cluster that sees the same files.
        address: Of the cluster.

    Returns:
        ``output``.

    Raises:
        ReadError: The data or the stored prompts cannot be read, or there is no object in this split.
        ConfigError: The folder holds another run, or a data set that is named as internal is not in the corpus.
        ModelError: A model cannot be loaded.
        WriteError: The folder cannot be made, or another process is at work in it.
    """
    # Processes of a cluster may be at work in another folder.
    paths = {"corpus": plan.corpus, "prompts": plan.prompts, "embeddings": plan.embeddings}
    plan = plan.model_copy(update={name: path and path.resolve() for name, path in paths.items()})
    # What earlier evaluations of this process have read may have changed since.
    _loaded.cache_clear()
    _stored.cache_clear()
    _turns.cache_clear()
    _check_internal(plan)
    places = _thinned(list_places(plan.corpus, plan.split), plan.max_images)
    subjects = _subjects(plan)
    if plan.prompts is not None:
        _stored(plan.prompts)
        _check_seed(plan.prompts, plan.seed)
    if ANNOTATOR in plan.protocols:
        _turns(plan.prompts or plan.corpus)
    run = {
        "vesalius": vesalius.__version__,
        "plan": json.loads(plan.model_dump_json()),
        "corpus": {"path": str(plan.corpus), "digest": digest_of(plan.corpus, places), "images": len(places)},
        "models": [
            {"name": one.name, "digest": one.digest, "runs_by": one.runs_by, "given": given}
            for given, one in zip(plan.models, subjects, strict=True)
        ],
        "min_area": MIN_AREA,
        "machine": _machine(),
    }
    if len({one.name for one in subjects}) < len(subjects):
        raise ConfigError("two models have one name", remedy="rename the folder of one")
    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"cannot be made ({error.strerror})", path=output, remedy="choose a folder in one that exists"
        ) from error
    with locked(output / _LOCK):
        _start(output, run)
        remove_stand_ins(output)
        if not read_run(output).get("finished"):
            _run(plan, output, run, places, workers, engine, address)
        # Also those of a run that was killed when it had finished.
        shutil.rmtree(output / _PARTS, ignore_errors=True)
    return output


def _run(
    plan: EvaluationPlan,
    output: Path,
    run: dict[str, Any],
    places: Sequence[Place],
    workers: int,
    engine: str,
    address: str,
) -> None:
    parts = (output / _PARTS).resolve()
    parts.mkdir(exist_ok=True)
    chosen = {protocol: set(_thinned(places, most)) for protocol, most in plan.limits.items()}
    shown = set(_thinned(places, SHOWN))
    blocks = blocks_of(places)
    tasks = []
    for number, block in enumerate(blocks):
        if not (parts / f"{number:05d}.scores.parquet").is_file():
            limits = {protocol: [place for place in block if place in kept] for protocol, kept in chosen.items()}
            tasks.append((number, block, limits, [place for place in block if place in shown], plan, str(parts)))
    ran = run_on_ray(score_block, tasks, address) if engine == "ray" else run_here(score_block, tasks, workers)
    before, started = _seconds(parts), time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=len(places), completed=len(places) - sum(len(t[1]) for t in tasks))
        for count in ran:
            progress.update(task, advance=count)
            with replacing(parts / _SECONDS) as part:
                part.write_text(json.dumps(before + time.perf_counter() - started), encoding="utf-8")
    _finish(output, parts, run, len(blocks), plan, places, _seconds(parts))


def _seconds(parts: Path) -> float:
    """How long the blocks that are there have taken, over all runs that made them."""
    path = parts / _SECONDS
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0


def score_block(
    number: int,
    block: Sequence[Place],
    limits: dict[str, list[Place]],
    shown: Sequence[Place],
    plan: EvaluationPlan,
    parts: str,
) -> int:
    """Measures all models on some images and writes their part of the tables.

    Args:
        number: Of the block.
        block: The images, of one folder.
        limits: Protocol -> the images that it is measured on, where these are not all.
        shown: Images whose embeddings are kept as pictures.
        plan: What is measured.
        parts: Folder of the parts.

    Returns:
        How many images there are.
    """
    subjects = _subjects(plan)
    stored = None if plan.prompts is None else _stored(plan.prompts)
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in _OF_BLOCKS}
    counts = Counter(images=len(block))
    for place, labelled, stack in read_places(block):
        name = name_of(labelled)
        if plan.units == "px":
            labelled = replace(labelled, image=replace(labelled.image, spacing=None))
        scene = scene_of(name, labelled, stack, plan.seed, plan.max_objects or None)
        counts["objects_left_out"] += len(scene.left_out)
        if not scene.names:
            counts["images_without_objects"] += 1
            continue
        wanted = [
            strategy
            for strategy in strategies_of(plan.protocols)
            if strategy.protocol not in limits or place in limits[strategy.protocol]
        ]
        prompts = _prompts(scene, wanted, plan.seed, stored)
        rows["objects"] += object_rows(scene, name, plan.internal)
        rows["prompts"] += [to_row(key, prompt) for key, prompt in prompts.items()]
        turns = {}
        if any(strategy.protocol == ANNOTATOR for strategy in wanted):
            turns = turns_of(_turns(plan.prompts or plan.corpus), scene.names)
        rows["prompts"] += [row for name, said in turns.items() for row in turn_rows(name, said)]
        for subject in subjects:
            rows["scores"] += score_scene(subject, scene, wanted, prompts, plan.seed, plan.tolerance, turns)
            if place in shown:
                rows["saliency"] += _saliency(subject, scene, name)
    with replacing(Path(parts) / f"{number:05d}.json") as part:
        part.write_text(json.dumps(counts), encoding="utf-8")
    for table in _OF_BLOCKS:
        # The scores come last: a block that has them is whole.
        write_table(Path(parts), table, rows[table], f"{number:05d}.{table}")
    return len(block)


def read_run(folder: Path) -> dict[str, Any]:
    """Reads a ``run.json``.

    Raises:
        ReadError: The file is missing or is not JSON.
    """
    path = folder / RUN
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(f"cannot be read ({error})", path=path, remedy="evaluate again") from error
    return found


def _prompts(scene: Scene, strategies: Sequence[Strategy], seed: int, stored: dict[Key, Any] | None) -> dict[Key, Any]:
    if stored is not None:
        return prompts_of(stored, scene.names, strategies)
    return draw_prompts(scene.labelled, scene.names, strategies, seed)


@lru_cache(maxsize=1)
def _stored(path: Path) -> dict[Key, Any]:
    return read_prompts(path)


@lru_cache(maxsize=1)
def _turns(path: Path) -> dict[str, list[Turn]]:
    return read_turns(path)


def _check_internal(plan: EvaluationPlan) -> None:
    """Raises ConfigError for a data set that the corpus does not have: all of its objects would count as external."""
    if not plan.internal:
        return
    known = datasets_of(plan.corpus)
    for name in plan.internal:
        if name not in known:
            near = get_close_matches(name, known, n=3) or known[:10]
            raise ConfigError(
                f"the corpus has no data set {name!r}, which is given as internal",
                path=plan.corpus,
                remedy=f"give one of its own, such as {', '.join(near)}",
            )


def _check_seed(prompts: Path, seed: int) -> None:
    """Raises ConfigError where stored first prompts would be followed by corrections drawn from another seed."""
    folder = prompts if prompts.is_dir() else prompts.parent
    if not (folder / RUN).is_file():
        return
    theirs = read_run(folder)["plan"]["seed"]
    if theirs != seed:
        raise ConfigError(
            f"the stored prompts were drawn from seed {theirs}, and corrections would be drawn from seed {seed}",
            path=prompts,
            remedy=f"give the seed {theirs}",
        )


def _subjects(plan: EvaluationPlan) -> tuple[Subject, ...]:
    return _loaded(plan.models, plan.runtime, plan.device, plan.embeddings)


@lru_cache(maxsize=1)
def _loaded(models: tuple[str, ...], runtime: str, device: str, embeddings: Path | None) -> tuple[Subject, ...]:
    return tuple(load_subject(given, runtime, device, embeddings) for given in models)


def _saliency(subject: Subject, scene: Scene, name: str) -> Iterator[dict[str, Any]]:
    values = subject.saliency(subject.open(scene.labelled, scene.names))
    if values is not None:
        yield {
            "model": subject.name,
            "image": name,
            "height": values.shape[0],
            "width": values.shape[1],
            "values": values.astype(np.float16).tobytes(),
        }


def _thinned(places: Sequence[Place], most: int | None) -> list[Place]:
    """About so many of the places, evenly from all of them."""
    if most is None or len(places) <= most:
        return list(places)
    return [places[int((i + 0.5) * len(places) / most)] for i in range(most)]


def _start(output: Path, run: dict[str, Any]) -> None:
    """Describes a new run, or makes sure that the run in the folder is this one."""
    if (output / RUN).exists():
        found = read_run(output)
        if any(found.get(key) != run[key] for key in run if key != "machine"):
            raise ConfigError("holds another evaluation", path=output, remedy="choose another folder")
        return
    _write_run(output, run)


def _finish(
    output: Path,
    parts: Path,
    run: dict[str, Any],
    blocks: int,
    plan: EvaluationPlan,
    places: Sequence[Place],
    seconds: float,
) -> None:
    """Puts the parts together, and makes what needs all of them."""
    import pyarrow.parquet as pq

    for table in _OF_BLOCKS:
        with (
            replacing(output / f"{table}.parquet") as part,
            pq.ParquetWriter(part, schema(table), compression="zstd") as writer,
        ):
            for number in range(blocks):
                writer.write_table(pq.read_table(parts / f"{number:05d}.{table}.parquet", schema=schema(table)))
    objects = read_table(output, "objects")
    if not len(objects):
        raise ReadError("no image of the split has an object", path=plan.corpus, remedy="use another split")
    scores = pq.ParquetFile(output / "scores.parquet").iter_batches(1024, columns=SCORE_COLUMNS)
    whole = stacks_of(plan.corpus, list_places(plan.corpus, "all"))
    partial = {}
    for name in plan.protocols:
        measured = stacks_of(plan.corpus, _thinned(places, plan.limits.get(name)))
        partial[name] = {stack for stack, count in measured.items() if count < whole[stack]}
    write_table(output, "volumes", volume_rows(objects, scores, plan.tolerance, partial))
    timed = time_rows(_subjects(plan), _scenes(plan, places), strategies_of(plan.protocols), plan.seed)
    write_table(output, "times", timed)
    counts: Counter[str] = Counter()
    for number in range(blocks):
        counts.update(json.loads((parts / f"{number:05d}.json").read_text(encoding="utf-8")))
    summary = {
        "finished": True,
        "counts": counts,
        "rows": {table: pq.read_metadata(output / f"{table}.parquet").num_rows for table in TABLES},
        "seconds": round(seconds, 1),
        "prompts_digest": _digest(output / "prompts.parquet"),
    }
    _write_run(output, {**run, **summary})


def _scenes(plan: EvaluationPlan, places: Sequence[Place]) -> Iterator[Scene]:
    """The images that times are taken on: the first of some, evenly from all, that have objects."""
    for folder, block in groupby(_thinned(places, TIMED), key=lambda place: place.folder):
        del folder
        for _, labelled, stack in read_places(list(block)):
            scene = scene_of(name_of(labelled), labelled, stack, plan.seed, 1)
            if scene.names:
                yield scene


def _digest(path: Path) -> str:
    """SHA-256 of a table's rows, whatever wrote them."""
    import hashlib

    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    for batch in pq.ParquetFile(path).iter_batches(1024):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _machine() -> dict[str, Any]:
    import os

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _write_run(output: Path, run: dict[str, Any]) -> None:
    with replacing(output / RUN) as part:
        part.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
