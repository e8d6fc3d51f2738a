"""The ``vesalius train`` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vesalius.corpus.objects import LabelledImage
    from vesalius.training.loop import Validation

# Images of the validation split that a network is measured on during training.
MOST = 200


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG.toml", help="TOML file, or the name of a bundled recipe.")],
    corpus: Annotated[Path, typer.Option(metavar="FOLDER", help="Corpus, or a folder of sets of pairs.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the run; made if absent.")],
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Model, checkpoint or published file to start from.", show_default="the recipe's own"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is in the folder.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda.", show_default="a GPU if there is one")
    ] = None,
) -> None:
    """Train a network by simulated interaction, on the training cases of a corpus.

    Writes log.csv, validation.csv, run.json, pictures of predictions, the network that was best in validation (best)
    and, at the end, the trained one (checkpoint). With --resume the same command goes on where a run was stopped.
    Under torchrun, all processes train one network.
    """
    from rich.console import Console

    from vesalius.core.errors import ReadError
    from vesalius.training.distributed import world
    from vesalius.training.run import run_training

    console = Console(stderr=True)
    with world(device) as here:
        validate = None
        if here.is_first:
            try:
                validate = validation(_validation_images(corpus), here.device)
            except ReadError as error:
                console.print(f"no validation: {error}", highlight=False)
        run_training(
            config,
            corpus,
            output,
            init,
            resume,
            here,
            validate,
            tell=lambda text: console.print(text, highlight=False) if here.is_first else None,
        )


def validation(images: list[LabelledImage], device: str = "cpu", max_objects: int = 5) -> Validation:
    """Measures networks by the protocol of `vesalius evaluate` on some images.

    Returns:
        A function of a network to its mean Dice under each prompt, ``dice`` being the mean of these; sets count
        equally, whatever their number of objects.
    """
    import copy
    from collections import defaultdict
    from statistics import fmean

    from vesalius.evaluation.evaluate import generator_of
    from vesalius.evaluation.strategies import predict_strategies
    from vesalius.metrics.overlap import dice
    from vesalius.models.base import SegmentationModel
    from vesalius.models.torch_runtime import TorchRuntime
    from vesalius.predict.predictor import Predictor

    def validate(model: SegmentationModel) -> dict[str, float]:
        # What runs a network changes it for inference alone.
        predictor = Predictor(TorchRuntime(copy.deepcopy(model), device), "training")
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for labelled in images:
            objects = [entry for entry in labelled.masks if entry.mask.any()][:max_objects]
            if not objects:
                continue
            generators = [generator_of(0, labelled.name or labelled.path.stem, entry.instance) for entry in objects]
            embedding = predictor.encode(labelled.image)
            truths = [entry.mask for entry in objects]
            for strategy, found in predict_strategies(predictor, embedding, truths, generators):
                values = [dice(one.mask, truth) for one, truth in zip(found, truths, strict=True)]
                scores[strategy][labelled.dataset] += values
        figures = {strategy: fmean(fmean(values) for values in sets.values()) for strategy, sets in scores.items()}
        return {"dice": fmean(figures.values()), **{name.replace(" ", "_"): value for name, value in figures.items()}}

    return validate


def _validation_images(corpus: Path) -> list[LabelledImage]:
    """Images of the validation split, or of what is held out in its place, evenly from all of it."""
    from vesalius.core.errors import ReadError
    from vesalius.corpus.store import Corpus
    from vesalius.training.pool import rows_of
    from vesalius.training.run import open_images

    images = open_images(corpus, "val")
    if not isinstance(images, Corpus):
        found = [image for image in images if image.masks]
        chosen: list[LabelledImage] = found[:: -(-len(found) // MOST) or 1]
    else:
        rows = rows_of(images, "val").nonzero()[0].tolist()
        chosen = [images.read(i) for i in rows[:: -(-len(rows) // MOST) or 1]]
    if not any(image.masks for image in chosen):
        raise ReadError("no image of the validation split has an object", path=corpus)
    return chosen
