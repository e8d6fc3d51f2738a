"""The ``vesalius train`` and ``vesalius finetune`` commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vesalius.corpus.objects import LabelledImage
    from vesalius.training.interaction import InteractionConfig

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

    from vesalius.evaluation.validation import validation
    from vesalius.training.config import TrainConfig
    from vesalius.training.distributed import world
    from vesalius.training.run import EmptySplitError, find_recipe, run_training

    decisive = _decisive(TrainConfig.from_toml(find_recipe(config)).interaction)
    console = Console(stderr=True)
    with world(device) as here:
        validate = None
        if here.is_first:
            try:
                validate = validation(_validation_images(corpus), here.device, strategies=decisive)
            except EmptySplitError as error:
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


def _decisive(interaction: InteractionConfig) -> tuple[str, ...]:
    """The prompts by which the best network is chosen: those that it is trained for."""
    from vesalius.evaluation.strategies import CLICKS, STRATEGIES

    clicks = interaction.first.point or interaction.rounds > 1
    if interaction.first.box and not clicks:
        return ("box",)
    return tuple(CLICKS) if clicks and not interaction.first.box else STRATEGIES


def _validation_images(corpus: Path) -> list[LabelledImage]:
    """Images with objects of the validation split, or of what is held out in its place, evenly from all of them."""
    from vesalius.corpus.store import Corpus
    from vesalius.training.pool import rows_of
    from vesalius.training.run import EmptySplitError, open_images

    images = open_images(corpus, "val")
    if isinstance(images, Corpus):
        rows = (rows_of(images, "val") & (images.images["masks"].to_numpy() > 0)).nonzero()[0].tolist()
    else:
        rows = [row for row, image in enumerate(images) if image.masks]
    if not rows:
        raise EmptySplitError("no image of the validation split has an object", path=corpus)
    chosen = rows[:: -(-len(rows) // MOST)]
    return [images.read(row) if isinstance(images, Corpus) else images[row] for row in chosen]


def finetune(
    corpus: Annotated[Path, typer.Option(metavar="FOLDER", help="Corpus, or a folder of sets of pairs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the run; made if absent.")
    ] = Path("finetuned"),
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|FOLDER", help="Model to start from.", show_default="vesalius-tiny"),
    ] = None,
    prompts: Annotated[str, typer.Option(metavar="any|box|point", help="What it is to be good at.")] = "any",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is in the folder.")] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as cpu or cuda.", show_default="a GPU if there is one")
    ] = None,
) -> None:
    """Fine-tune a model on your own labelled images, and measure what that brought on cases that are held out.

    Takes from 20 labelled images on, of 5 cases or more. Training stops when validation no longer gets better; the best
    network, which may be the untouched one, is kept (best). Writes report.md with the Dice before and after, and
    pictures of both. With --resume the same command goes on where a run was stopped.
    """
    from typing import get_args

    from rich.console import Console

    from vesalius.core.errors import ConfigError
    from vesalius.finetune import Prompts
    from vesalius.finetune import finetune as run
    from vesalius.training.distributed import world

    if prompts not in get_args(Prompts):
        raise ConfigError(f"there are no prompts {prompts!r}", remedy=f"give one of {', '.join(get_args(Prompts))}")
    console = Console(stderr=True)
    with world(device) as here:
        report = run(
            corpus,
            output,
            model,
            prompts,  # type: ignore[arg-type]
            resume,
            here,
            tell=lambda text: console.print(text, highlight=False) if here.is_first else None,
        )
    if report is not None:
        print(report.read_text(encoding="utf-8"))
