"""The ``vesalius`` command: each subcommand turns its arguments into one call.

Exit codes: 0 done; 2 a bad argument or bad input, told in one sentence on standard error, with nothing written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vesalius import __version__, cli_corpus, cli_models, cli_training, cli_vocabulary
from vesalius.core.errors import PromptError, VesaliusError, WriteError

if TYPE_CHECKING:
    from vesalius.predict.segment import Box, Click

# Package that is not always installed -> extra that brings it.
EXTRAS = {
    "huggingface_hub": "hub",
    "matplotlib": "plots",
    "peft": "tuning",
    "safetensors": "torch",
    "skimage": "demo",
    "torch": "torch",
    "transformers": "text",
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
app.command()(cli_training.train)
app.command()(cli_training.finetune)
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
    min_quality: Annotated[float, typer.Option(help="Predicted IoU that an outline must exceed; 0 takes all.")] = 0.88,
    min_stability: Annotated[
        float, typer.Option(help="How much of an outline must be firm, as a share; 0 takes all.")
    ] = 0.95,
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


@app.command()
def evaluate(
    data: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Set of image and label pairs (with a set.json), or a folder of them."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results; made if absent.")
    ],
    model: Model = None,
    runtime: Runtime = "auto",
    split: Annotated[str, typer.Option(metavar="val|train", help="Which cases.")] = "val",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the clicks and of the choice of objects.")] = 0,
    max_objects_per_image: Annotated[
        int, typer.Option(metavar="N", help="Of an image with more objects, this many are drawn.")
    ] = 10,
) -> None:
    """Measure a model under a box and 1, 3 and 5 clicks, beside an ellipse in the box and GrabCut.

    Writes scores.csv (a row per object, model and prompt), run.json and report.md. Started again on the same folder,
    it goes on where it was stopped.
    """
    from vesalius.evaluation.evaluate import EvaluationConfig
    from vesalius.evaluation.evaluate import evaluate as score
    from vesalius.evaluation.report import write_report
    from vesalius.predict.load import load_model

    config = EvaluationConfig.from_dict(
        {"data": data, "split": split, "seed": seed, "max_objects": max_objects_per_image}
    )
    score(config, load_model(model, runtime=runtime), output)  # type: ignore[arg-type]
    print(write_report(output))
