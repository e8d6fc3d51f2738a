"""The ``vesalius curate`` and ``vesalius corpus`` commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vesalius.core.types import Slice


def curate(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE.toml", help="What to curate, and how.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the corpus.", show_default=False)
    ] = None,
    guess: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a first recipe for this folder to -o, and say what it assumes.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="What the recipe's folders are relative to.", show_default="the recipe's own folder"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Processes on this machine.", show_default="one per core"),
    ] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine's processes, or a Ray cluster.")] = (
        "local"
    ),
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Of the Ray cluster.")] = "auto",
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with 0 although some files could not be used.")
    ] = False,
) -> None:
    """Turn scans and label maps into one corpus of images and masks.

    Interrupted, the same command goes on where it was. Files that cannot be used are listed with the reason in
    rejects.parquet; if there are any, the exit code is 1.
    """
    import shlex

    from vesalius.core.errors import ConfigError

    if recipe is not None and recipe.is_dir():
        remedy = f"let a first one be written: vesalius curate --guess {shlex.quote(str(recipe))} -o recipe.toml"
        raise ConfigError("is a folder, and a recipe is wanted", path=recipe, remedy=remedy)
    if output is None:
        raise ConfigError("there is no place for the result", remedy="name it with -o")
    if guess is not None:
        _write_guess(guess, output)
        return
    if recipe is None:
        raise ConfigError("there is no recipe", remedy="name one, or let --guess FOLDER write a first one")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vesalius.corpus.curate import curate as run
    from vesalius.corpus.curate import default_workers
    from vesalius.corpus.recipe import Recipe

    chosen = Recipe.from_toml(recipe)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("curating", total=None)
        info = run(
            chosen,
            output,
            root=root or recipe.parent,
            workers=workers or default_workers(),
            engine=engine,
            address=address,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{output}: {info.images} images, {info.masks} masks in {info.shards} shards")
    for reason, count in info.left_out.items():
        print(f"left out, {reason}: {count}")
    for name, count in info.unknown_targets.items():
        print(f"not in the vocabulary, kept as it is: {name} ({count} masks)")
    if info.rejects:
        print(f"{info.rejects} entries could not be used: {output / 'rejects.parquet'}")
        for line in _reasons(output / "rejects.parquet"):
            print(line)
        if not allow_rejects:
            raise typer.Exit(1)


def _reasons(rejects: Path, most: int = 5) -> Iterator[str]:
    """The most frequent reasons in a table of rejects, each with its number of entries and a file."""
    import re

    import pyarrow.parquet as pq

    files: dict[str, list[str]] = {}
    for row in pq.read_table(rejects, columns=["file", "reason"]).to_pylist():
        # The same reason names other files and numbers each time.
        kind = re.sub(r"\S*[/\\]\S*|\d+", "#", row["reason"].replace(row["file"], "#"))
        files.setdefault(kind, []).append(f"{row['file']}: {row['reason']}")
    frequent = sorted(files.values(), key=len, reverse=True)
    for found in frequent[:most]:
        yield f"{len(found)} like {found[0]}"
    if frequent[most:]:
        yield f"{sum(map(len, frequent[most:]))} for {len(frequent) - most} other reasons"


def _write_guess(folder: Path, output: Path) -> None:
    import tomli_w

    from vesalius.core.errors import WriteError
    from vesalius.core.files import make_folder, replacing
    from vesalius.corpus.guess import ABOUT_PROFILE, guess_recipe

    if output.exists():
        raise WriteError("is there already", path=output, remedy="choose another name")
    recipe, assumed = guess_recipe(folder)
    make_folder(output.parent)
    with replacing(output) as part:
        content = {"name": recipe.name, "profile": recipe.profile}
        content |= recipe.model_dump(mode="json", exclude_defaults=True)
        profile = f'profile = "{recipe.profile}"\n'
        part.write_text(tomli_w.dumps(content).replace(profile, f"{ABOUT_PROFILE}\n{profile}", 1), encoding="utf-8")
    for sentence in assumed:
        print(sentence)
    print(f"{output}: read it, correct it, then: vesalius curate {output} --root {folder} -o corpus")


app = typer.Typer(
    name="corpus",
    help="Corpora: info, check, figures, interactive masks, merge, split, export.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of a corpus.")]


@app.command()
def info(corpus: Folder) -> None:
    """Show what a corpus holds."""
    from collections import Counter

    from vesalius.corpus.store import PSEUDO, Corpus

    opened = Corpus(corpus)
    about = opened.info
    print(f"{about.name}: {about.images} images, {about.masks} masks, {about.rejects} rejects, {about.shards} shards")
    for name in ("dataset", "modality", "split"):
        counts = Counter(value or "none" for value in opened.images[name].to_pylist())
        print(f"{name}: {', '.join(f'{value} {count}' for value, count in sorted(counts.items()))}")
    if (corpus / PSEUDO).is_dir():
        print(f"pseudo masks: {opened.table(PSEUDO, ['id']).num_rows}")
    for reason, count in about.left_out.items():
        print(f"left out, {reason}: {count}")
    print(f"made by: {', '.join(f'{name} {version}' for name, version in about.made_by.items())}")


@app.command()
def check(corpus: Folder) -> None:
    """Look for leakage between splits, near-duplicates, blank images and masks that do not fit.

    The exit code is 1 if anything makes the corpus unfit for training and testing.
    """
    from rich.console import Console
    from rich.progress import Progress

    from vesalius.corpus.check import check_corpus
    from vesalius.corpus.store import Corpus

    opened = Corpus(corpus)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=len(opened))
        findings = list(check_corpus(opened, lambda done, _: bar.update(task, completed=done)))
    for finding in findings:
        print(f"{'SERIOUS' if finding.serious else 'look at'} {finding.kind}: {finding.where}: {finding.what}")
    serious = sum(finding.serious for finding in findings)
    print(f"{opened.info.images} images: {serious} serious findings, {len(findings) - serious} to look at")
    if serious:
        raise typer.Exit(1)


@app.command()
def interactive_masks(
    corpus: Folder,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="NAME|FOLDER", help="Whose everything mode.", show_default="over-segmentation"
        ),
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Clicks along each side of an image.")] = 32,
    min_quality: Annotated[
        float | None, typer.Option(help="Least predicted IoU of a mask.", show_default="the model's own")
    ] = None,
    min_stability: Annotated[
        float | None, typer.Option(help="Least stability of a mask.", show_default="the model's own")
    ] = None,
) -> None:
    """Draw dense pseudo masks for every image, apart from the true ones.

    Interrupted, the same command goes on where it was; another model or other settings start anew.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vesalius.corpus.interactive_masks import add_interactive_masks, over_segmentation
    from vesalius.corpus.store import Corpus

    opened = Corpus(corpus)
    digest, settings = None, ""
    propose = over_segmentation
    if model is not None:
        from vesalius.predict.everything import segment_everything
        from vesalius.predict.load import load_model

        predictor = load_model(model)
        digest, settings = predictor.digest, f"{points} {min_quality} {min_stability}"

        def propose(image: Slice) -> Iterator[NDArray[np.bool_]]:
            found = segment_everything(
                predictor,
                image,
                side=points,
                min_quality=min_quality,
                min_stability=min_stability,
            )
            return (entry.mask for entry in found)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("drawing", total=len(opened))
        count = add_interactive_masks(
            opened, propose, digest, lambda done, _: bar.update(task, completed=done), settings
        )
    print(f"{corpus}: {count} pseudo masks for {len(opened)} images")


@app.command()
def figures(
    corpus: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the figures.")],
    seed: Annotated[int, typer.Option(help="Chooses the images of the contact sheet.")] = 0,
) -> None:
    """Draw a corpus's statistics and a sheet of samples."""
    import numpy as np

    from vesalius.corpus.figures import write_figures
    from vesalius.corpus.store import Corpus

    for path in write_figures(Corpus(corpus), output, np.random.default_rng(seed)):
        print(path)


@app.command()
def merge(
    corpora: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="Folders of corpora.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the new corpus.")],
    name: Annotated[str | None, typer.Option(help="Of the new corpus.", show_default="that of its folder")] = None,
) -> None:
    """Make one corpus of several."""
    from vesalius.corpus.merge import merge as run
    from vesalius.corpus.store import Corpus

    made = run([Corpus(folder) for folder in corpora], output, name or output.name)
    print(f"{output}: {made.images} images, {made.masks} masks")


@app.command()
def split(
    corpus: Folder,
    shares: Annotated[
        tuple[float, float, float], typer.Option(help="Of cases in training, validation and test; they sum to 1.")
    ],
    seed: Annotated[int, typer.Option(help="Another one gives another split.")] = 0,
) -> None:
    """Split a corpus anew, by case; its files are changed."""
    from vesalius.corpus.merge import split as run
    from vesalius.corpus.split import SPLITS

    counts = run(corpus, shares, seed)
    for name, count in sorted(counts.items()):
        print(f"{name}: {count} images")
    for name, share in zip(SPLITS, shares, strict=True):
        if share and name not in counts:
            print(
                f"warning: {name} has no image, though its share is {share:g}: too few cases fell to it; "
                "give it a larger share, or try another --seed"
            )


@app.command()
def export(
    corpus: Folder,
    format_: Annotated[str, typer.Option("--format", metavar="LAYOUT", help="Layout to write.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the files.")],
) -> None:
    """Write a corpus in a layout that other tools read."""
    from vesalius.core.errors import ConfigError
    from vesalius.corpus.layouts import layout, layout_names
    from vesalius.corpus.store import Corpus

    known = {str(name): name for name in layout_names()}
    if format_ not in known:
        raise ConfigError(f"there is no layout {format_!r}", remedy=f"use {', '.join(known)}")
    opened = Corpus(corpus)
    layout(known[format_]).write(opened.stream(), output, opened.info.name)
    print(f"{output}: {opened.info.images} images, {opened.info.masks} masks")
