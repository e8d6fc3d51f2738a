"""The ``vesalius`` command: each subcommand turns its arguments into one call.

Exit codes: 0 done; 1 done, with something that its command lists as unfit; 2 a bad argument or bad input, told in one
sentence on standard error, with nothing written, or what the system refuses in the midst of work, told in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vesalius import __version__, cli_annotate, cli_corpus, cli_evaluation, cli_models, cli_training, cli_vocabulary
from vesalius.core.errors import PromptError, VesaliusError, WriteError
from vesalius.predict.propagation_rules import PropagationRules

if TYPE_CHECKING:
    from vesalius.predict.segment import Box, Click

# Package that is not always installed -> extra that brings it.
EXTRAS = {
    "fastapi": "server",
    "huggingface_hub": "hub",
    "jinja2": "report",
    "matplotlib": "plots",
    "pandas": "report",
    "peft": "tuning",
    "safetensors": "torch",
    "skimage": "demo",
    "torch": "torch",
    "transformers": "text",
    "uvicorn": "server",
}

app = typer.Typer(
    name="vesalius",
    help="Promptable segmentation of medical images: a box, clicks or a rough mask goes in; the outline comes out.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app)
app.command()(cli_corpus.curate)
app.add_typer(cli_corpus.app)
app.command()(cli_annotate.annotate)
app.command()(cli_training.train)
app.command()(cli_training.finetune)
app.command()(cli_evaluation.evaluate)
app.command()(cli_evaluation.report)
app.command()(cli_vocabulary.vocabulary)
app.command()(cli_vocabulary.datasets)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command line; ``arguments`` default to those of the process."""
    try:
        app(args=arguments, prog_name="vesalius")
    except VesaliusError as error:
        print("vesalius:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from error
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        told = f'vesalius: this needs {error.name}, which is not installed: pip install "vesalius[{extra}]"'
        print(told, file=sys.stderr)
        raise SystemExit(2) from error
    except OSError as error:
        # A full disk, a folder without permission, a file where a folder is wanted: whatever was being done.
        # Where a stand-in takes a file's place, that file is the second name.
        place = f"{error.filename2 or error.filename}: " if error.filename else ""
        told = error.strerror or str(error) or type(error).__name__
        print("vesalius:", " ".join(f"{place}{told}".split()), file=sys.stderr)
        raise SystemExit(2) from error


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vesalius {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|FOLDER", help="Model to use.", show_default="vesalius-tiny, bundled"),
]


Runtime = Annotated[
    str,
    typer.Option(
        metavar="auto|torch|onnx|openvino", help="What runs the model; auto is the fastest that gives the same masks."
    ),
]


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results; made if absent.")
    ] = Path("demo"),
    model: Model = None,
    runtime: Runtime = "auto",
) -> None:
    """Segment real medical images that come with the dependencies; needs no data and no network.

    Writes an overlay and a mask per image, contact_sheet.png and demo.json.
    """
    from rich.console import Console

    from vesalius.demo import run_demo
    from vesalius.predict.load import load_model

    run_demo(output, load_model(model, runtime=runtime), Console())  # type: ignore[arg-type]


File = Annotated[
    Path, typer.Argument(metavar="FILE", help="PNG, JPEG, TIFF, NIfTI, NRRD, MetaImage, DICOM file or series folder.")
]
SliceIndex = Annotated[int | None, typer.Option("--slice", metavar="N", help="Slice of a volume, from 0.")]
Axis = Annotated[str, typer.Option(metavar="x|y|z", help="Axis that the slice lies across.")]
Time = Annotated[int | None, typer.Option(metavar="N", help="Time point of a series or film, from 0.")]
Window = Annotated[
    str | None,
    typer.Option(metavar="NAME|LEVEL/WIDTH", help="Grey window: soft_tissue, lung, brain, bone, or such as 40/400."),
]
Modality = Annotated[
    str | None, typer.Option(metavar="NAME", help="What the file does not say, such as ct for a NIfTI file in HU.")
]


@app.command()
def segment(
    file: File,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="Box around an object, half-open. Repeat it: one object each."),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y[,+|-]", help="Click on the object (+) or on the background (-). Repeatable."),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rough outline: an image of the same size, not 0 inside.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the object, such as liver, for models that take words.")
    ] = None,
    slice_: SliceIndex = None,
    axis: Axis = "z",
    time: Time = None,
    window: Window = None,
    modality: Modality = None,
    model: Model = None,
    runtime: Runtime = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="Mask to write: .png .tif .nii .nii.gz .nrrd .mha or .dcm (a DICOM segmentation).",
        ),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture to write: image, prompts and outlines.")
    ] = None,
    json_: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE|-", help="Record to write: prompts, boxes, areas, predicted IoU. - prints it."
        ),
    ] = None,
) -> None:
    """Segment objects in one image from boxes, clicks, a rough mask or a name.

    With at most one box, everything describes one object. With several boxes each is an object, and a point belongs
    to the one box that it lies in (a point in none, or in several, is an error).

    Coordinates are pixels of the slice in the file's own order: x to the right, y down, from 0. A point x,y is the
    centre of that pixel; a box x0,y0,x1,y1 is half-open, so 3,5,4,6 holds the one pixel 3,5.

    One object is written as a mask (0 and 255 in pictures, 0 and 1 in scans). Several are numbered from 1 in the order
    of their boxes; a pixel that two outlines claim goes to the one with the higher predicted IoU.
    """
    from vesalius.predict.segment import SegmentJob, segment_file

    if out is None and overlay is None and json_ is None:
        raise WriteError("no output is named", remedy="give -o, --overlay or --json")
    job = SegmentJob(
        file=file,
        boxes=[parse_box(text) for text in box or []],
        clicks=[parse_point(text) for text in point or []],
        mask=mask,
        text=text,
        axis=axis,
        index=slice_,
        time=time,
        window=window,
        modality=modality,
        model=model,
        runtime=runtime,  # type: ignore[arg-type]
        out=out,
        overlay=overlay,
        record=None if json_ in (None, "-") else Path(json_),
    )
    result = segment_file(job)
    if json_ == "-":
        import json

        print(json.dumps(result, indent=2))
    else:
        for number, found in enumerate(result["objects"], start=1):
            print(_summary(number, found))
        print(f"{result['model']['name']}, run by {result['model']['runs_by']}")


@app.command()
def everything(
    file: File,
    slice_: SliceIndex = None,
    axis: Axis = "z",
    time: Time = None,
    window: Window = None,
    modality: Modality = None,
    model: Model = None,
    runtime: Runtime = "auto",
    side: Annotated[int, typer.Option(metavar="N", help="Clicks along each side of the image.")] = 32,
    min_quality: Annotated[
        float | None,
        typer.Option(help="Predicted IoU that an outline must exceed; 0 takes all.", show_default="the model's own"),
    ] = None,
    min_stability: Annotated[
        float | None,
        typer.Option(
            help="How much of an outline must be firm, as a share; 0 takes all.", show_default="the model's own"
        ),
    ] = None,
    max_overlap: Annotated[
        float, typer.Option(help="Outlines whose boxes have a larger IoU count as one; the best stays.")
    ] = 0.7,
    min_area: Annotated[
        int, typer.Option(metavar="PIXELS", help="Holes and parts that are smaller are filled and removed.")
    ] = 0,
    crop_layers: Annotated[
        int, typer.Option(metavar="N", help="Look at crops too: 2 x 2 in the first layer, 4 x 4 in the second, ...")
    ] = 0,
    crop_shrink: Annotated[
        int, typer.Option(metavar="N", help="Each layer has that many times fewer clicks along a side of a crop.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="Numbered outlines to write: .png .tif .nii .nii.gz .nrrd .mha or .dcm (a DICOM segmentation).",
        ),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Picture to write: image and outlines.")
    ] = None,
    json_: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE|-", help="COCO file to write, with run lengths and settings. - prints it."
        ),
    ] = None,
) -> None:
    """Outline everything in one image, from a grid of clicks.

    Outlines are numbered from 1, that of the highest predicted IoU first. In the map of numbers (-o) a small one lies
    on a large one; the COCO file (--json) has all of each, with its predicted IoU, its stability and its click.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from vesalius.predict.everything import EverythingConfig
    from vesalius.predict.everything_job import EverythingJob, outline_everything

    if out is None and overlay is None and json_ is None:
        raise WriteError("no output is named", remedy="give -o, --overlay or --json")
    job = EverythingJob(
        file=file,
        axis=axis,
        index=slice_,
        time=time,
        window=window,
        modality=modality,
        model=model,
        runtime=runtime,  # type: ignore[arg-type]
        out=out,
        overlay=overlay,
        record=None if json_ in (None, "-") else Path(json_),
        config=EverythingConfig.from_dict(
            {
                "side": side,
                "min_quality": min_quality,
                "min_stability": min_stability,
                "max_overlap": max_overlap,
                "min_area": min_area,
                "crop_layers": crop_layers,
                "crop_shrink": crop_shrink,
            }
        ),
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("clicks", total=None)
        result = outline_everything(job, lambda done, total: bar.update(task, completed=done, total=total))
    if json_ == "-":
        import json

        print(json.dumps(result, indent=2))
    else:
        found = result["annotations"]
        print(f"{len(found)} outline{'' if len(found) == 1 else 's'}")
        print(f"{result['model']['name']}, run by {result['model']['runs_by']}")


def _summary(number: int, found: dict[str, Any]) -> str:
    area = f"{found['area_px']} px"
    if found["area_mm2"] is not None:
        area += f", {found['area_mm2']:.4g} mm²"
    return f"object {number}: predicted IoU {found['predicted_iou']:.2f}, {area if found['area_px'] else 'empty'}"


@app.command()
def propagate(
    volume: Annotated[
        Path,
        typer.Argument(metavar="VOLUME", help="NIfTI, NRRD, MetaImage, TIFF, DICOM file or series folder."),
    ],
    slice_: Annotated[
        list[int] | None, typer.Option("--slice", metavar="N", help="Slice with a prompt, from 0. Repeatable.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="[N:]X0,Y0,X1,Y1", help="Box around the object, half-open, on slice N. Repeatable."),
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[N:]X,Y[,+|-]", help="Click on the object (+) or the background (-) of slice N. Repeatable."
        ),
    ] = None,
    absent: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Slice that the object is not on; it is not carried past it. Repeatable."),
    ] = None,
    axis: Annotated[str, typer.Option(metavar="x|y|z", help="Axis along which the object is carried.")] = "z",
    margin: Annotated[
        float, typer.Option(metavar="SHARE", help="The next box reaches past the outline by this share of its side.")
    ] = PropagationRules.margin,
    least_margin: Annotated[
        float, typer.Option(metavar="PX", help="And by at least this many pixels.")
    ] = PropagationRules.least_margin,
    trend: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Past the outermost slice with a prompt, how far its change from the next one goes on; 0: not at all.",
        ),
    ] = PropagationRules.trend,
    least_area: Annotated[
        int, typer.Option(metavar="PX", help="Stop at an outline smaller than this.")
    ] = PropagationRules.least_area,
    most_change: Annotated[
        float, typer.Option(metavar="RATIO", help="Stop at one that is this many times larger or smaller.")
    ] = PropagationRules.most_change,
    least_overlap: Annotated[
        float, typer.Option(metavar="DICE", help="Stop at one whose Dice with the last outline is below this.")
    ] = PropagationRules.least_overlap,
    least_quality: Annotated[
        float, typer.Option(metavar="IOU", help="Stop at one whose predicted IoU is below this.")
    ] = PropagationRules.least_quality,
    least_grey: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Stop at one whose mean grey value is less like the key slice's object than this."
        ),
    ] = PropagationRules.least_grey,
    least_contrast: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Stop at one that stands out less than this share of the key slice's."),
    ] = PropagationRules.least_contrast,
    time: Annotated[int | None, typer.Option(metavar="N", help="Time point of a series or film, from 0.")] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|LEVEL/WIDTH", help="Grey window: soft_tissue, lung, brain, bone, or such as 40/400."
        ),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the file does not say, such as ct for a NIfTI file in HU.")
    ] = None,
    model: Model = None,
    runtime: Runtime = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="Label volume to write: .nii .nii.gz .nrrd .mha .tif or .dcm (a DICOM segmentation).",
        ),
    ] = None,
    json_: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Record to write: per slice its origin, area, predicted IoU."),
    ] = None,
) -> None:
    """Outline one object in a volume from prompts on one or more slices, carried from slice to slice.

    With one --slice, every box and point belongs to it. With several, the boxes belong to them in the order given, and
    so do the points; or each names its slice itself: --box 30:60,70,180,190.

    Coordinates are pixels of the slice in the file's own order, as in segment. The label volume has the geometry of the
    input, 1 on the object.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from vesalius.predict.propagate_file import PropagateJob, propagate_file

    if out is None and json_ is None:
        raise WriteError("no output is named", remedy="give -o or --json")
    boxes: dict[int, Box] = {}
    for index, text in on_slices(box or [], slice_ or [], "box"):
        if index in boxes:
            raise PromptError(f"slice {index} has two boxes", remedy="give one box per slice: there is one object")
        boxes[index] = parse_box(text)
    clicks: dict[int, list[Click]] = {}
    for index, text in on_slices(point or [], slice_ or [], "point"):
        clicks.setdefault(index, []).append(parse_point(text))
    idle = sorted({*(slice_ or [])} - {*boxes, *clicks})
    if idle:
        raise PromptError(f"slice {idle[0]} has no prompt", remedy=f"give one, such as --box {idle[0]}:60,70,180,190")
    job = PropagateJob(
        file=volume,
        boxes=boxes,
        clicks=clicks,
        absent=absent or [],
        axis=axis,
        rules=PropagationRules(
            margin,
            least_margin,
            trend,
            least_area,
            most_change,
            least_overlap,
            least_quality,
            least_grey,
            least_contrast,
        ),
        time=time,
        window=window,
        modality=modality,
        model=model,
        runtime=runtime,  # type: ignore[arg-type]
        out=out,
        record=None if json_ in (None, "-") else Path(json_),
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("slices", total=None)
        result = propagate_file(job, lambda done, total: bar.update(task, completed=done, total=total))
    if json_ == "-":
        import json

        print(json.dumps(result, indent=2))
        return
    filled = [found["slice"] for found in result["slices"] if found["area_px"]]
    size = f"{result['voxels']} voxels"
    if result["volume_mm3"] is not None:
        size += f", {result['volume_mm3']:.4g} mm³"
    print(f"slices {filled[0]} to {filled[-1]}: {size}" if filled else "empty")
    for found in result["slices"]:
        if "prompt" in found and not found["area_px"]:
            print(f"slice {found['slice']}: nothing was found at its prompt, so nothing is carried past it")
        if found["stop"] is not None:
            stop = found["stop"]
            print(f"stopped at slice {found['slice']}: {stop['rule']} ({stop['value']:.3g}; limit {stop['limit']:.3g})")
    print(f"{result['model']['name']}, run by {result['model']['runs_by']}")


def on_slices(texts: Sequence[str], slices: Sequence[int], name: str) -> list[tuple[int, str]]:
    """The slice of each prompt, and the prompt, of ``"N:prompt"`` or, without a number, by the given slices.

    Args:
        texts: Prompts.
        slices: Of one, every prompt without a number is on it; of several, they are in their order.
        name: What the prompts are, for errors.

    Raises:
        PromptError: It is not clear which slice a prompt is on.
    """
    plain = [text for text in texts if ":" not in text]
    if plain and len(slices) != 1 and len(slices) != len(plain):
        raise PromptError(
            f"{name} {plain[0]!r} names no slice, and there are {len(slices)} slices for {len(plain)} such",
            remedy=f"give --slice once, as often as --{name}, or write the slice before it, as in 30:{plain[0]}",
        )
    order = iter(slices if len(slices) == len(plain) else [*slices] * len(plain))
    out = []
    for text in texts:
        number, colon, prompt = text.partition(":")
        if not colon:
            out.append((next(order), text))
        elif number.strip().isdecimal():
            out.append((int(number), prompt))
        else:
            raise PromptError(f"{name} {text!r} begins with no slice", remedy=f"write it as in 30:{prompt}")
    return out


def parse_box(text: str) -> Box:
    """(x0, y0, x1, y1) of ``"x0,y0,x1,y1"``.

    Raises:
        PromptError: It is not four numbers.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise PromptError(
            f"box {text!r} is not four numbers", remedy="give x0,y0,x1,y1 such as 60,70,180,190"
        ) from None
    return x0, y0, x1, y1


def parse_point(text: str) -> Click:
    """(x, y, label) of ``"x,y"`` or ``"x,y,+"`` (label 1), or ``"x,y,-"`` (label 0).

    Raises:
        PromptError: It is not two numbers and perhaps a sign.
    """
    parts = [part.strip() for part in text.split(",")]
    signs = {"+": 1, "-": 0}
    try:
        label = signs[parts.pop()] if len(parts) == 3 else 1
        x, y = (float(part) for part in parts)
    except (ValueError, KeyError):
        raise PromptError(
            f"point {text!r} is not two numbers and a sign", remedy="give x,y or x,y,+ or x,y,- such as 100,120,-"
        ) from None
    return x, y, label
