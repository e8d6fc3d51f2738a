"""The demonstration: real medical images that the dependencies carry, with prompts chosen by looking at them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from vesalius.core.errors import ReadError, VesaliusError, WriteError
from vesalius.core.types import Prediction, Prompt, Slice

if TYPE_CHECKING:
    from rich.console import Console

    from vesalius.predict.predictor import Predictor

_PACKAGES = {"skimage": "scikit-image", "nibabel": "nibabel", "pydicom": "pydicom"}
_CELL = 480


@dataclass(frozen=True)
class Case:
    """One image of the demonstration.

    Attributes:
        name: Stem of the files written for it.
        title: What is outlined.
        modality: How the image was made, for people.
        package: Import name of the installed package that carries the image.
        file: Path inside that package.
        credit: Where the image comes from.
        prompts: One per object.
        suffix: Format of the mask, the image's own where masks can be written in it.
        view: (x0, y0, x1, y1): the part shown on the contact sheet, where objects are small; None for all of it.
        index: Slice of a volume.
        time: Time point of a series or film.
        window: Grey window, where not the usual one.
    """

    name: str
    title: str
    modality: str
    package: str
    file: str
    credit: str
    prompts: tuple[Prompt, ...]
    suffix: str
    view: tuple[int, int, int, int] | None = None
    index: int | None = None
    time: int | None = None
    window: str | None = None


CASES = (
    Case(
        name="retina_disc",
        title="Optic disc",
        modality="fundus",
        package="skimage",
        file="data/retina.jpg",
        credit="scikit-image: retina; Häggström, Medical gallery of Mikael Häggström 2014 (CC0)",
        prompts=(Prompt(box=(118, 545, 310, 755)),),
        suffix=".png",
        view=(0, 430, 440, 870),
    ),
    Case(
        name="microaneurysms",
        title="Microaneurysms",
        modality="fundus",
        package="skimage",
        file="data/microaneurysms.png",
        credit="scikit-image: microaneurysms; Budai et al. 2013, HRF database (CC0)",
        prompts=(Prompt(box=(13, 19, 20, 26)), Prompt(box=(46, 69, 52, 74))),
        suffix=".png",
    ),
    Case(
        name="gland",
        title="Colonic gland",
        modality="histology",
        package="skimage",
        file="data/ihc.png",
        credit="scikit-image: ihc; Center for Microscopy And Molecular Imaging (no known copyright restrictions)",
        prompts=(Prompt(box=(251, 302, 384, 509), points=[(274, 482)], labels=[0]),),
        suffix=".png",
    ),
    Case(
        name="cell",
        title="Cell",
        modality="microscopy",
        package="skimage",
        file="data/cell.png",
        credit="scikit-image: cell; quantitative phase image from a digital hologram (CC0)",
        prompts=(Prompt(points=[(428, 375)]),),
        suffix=".png",
    ),
    Case(
        name="vertebra",
        title="Vertebra, canal",
        modality="CT",
        package="pydicom",
        file="data/test_files/CT_small.dcm",
        credit="pydicom: CT_small.dcm; NEMA sample images, WG-04",
        prompts=(Prompt(box=(41, 6, 79, 49)), Prompt(box=(47, 40, 70, 62))),
        suffix=".dcm",
        window="bone",
    ),
    Case(
        name="frontal_lobes",
        title="Frontal lobes",
        modality="CT",
        package="pydicom",
        file="data/test_files/J2K_pixelrep_mismatch.dcm",
        credit="pydicom: J2K_pixelrep_mismatch.dcm",
        prompts=(Prompt(box=(225, 80, 297, 173)),),
        suffix=".dcm",
    ),
    Case(
        name="kidneys",
        title="Kidneys, aorta",
        modality="MR",
        package="pydicom",
        file="data/test_files/examples_overlay.dcm",
        credit="pydicom: examples_overlay.dcm; cropped from a Siemens sample",
        prompts=(Prompt(box=(118, 188, 186, 250)), Prompt(box=(288, 197, 348, 253)), Prompt(points=[(255, 167)])),
        suffix=".dcm",
    ),
    Case(
        name="brain",
        title="Brain, ventricles",
        modality="MR EPI",
        package="nibabel",
        file="tests/data/example4d.nii.gz",
        credit="nibabel: example4d.nii.gz",
        prompts=(Prompt(box=(31, 4, 97, 90)), Prompt(box=(53, 32, 73, 59))),
        suffix=".nii.gz",
        index=18,
        time=0,
    ),
    Case(
        name="left_ventricle",
        title="Left ventricle",
        modality="ultrasound",
        package="pydicom",
        file="data/test_files/examples_ybr_color.dcm",
        credit="pydicom: examples_ybr_color.dcm",
        prompts=(Prompt(box=(159, 60, 205, 127)),),
        suffix=".png",  # frames of a film state no positions, so no DICOM segmentation can refer to one
        view=(80, 15, 280, 215),
        time=27,
    ),
    Case(
        name="bladder",
        title="Bladder",
        modality="scintigraphy",
        package="pydicom",
        file="data/test_files/JPGExtended.dcm",
        credit="pydicom: JPGExtended.dcm; NEMA sample images, WG-04",
        prompts=(Prompt(box=(125, 407, 157, 431)),),
        suffix=".nii.gz",  # this file states no slice thickness, which a DICOM segmentation needs
        view=(60, 340, 220, 500),
    ),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One case, done.

    Attributes:
        case: The case.
        image: Its image.
        predictions: One per prompt.
        encode_seconds: Time to encode the image.
        first_seconds: Time of the first answer to all prompts, with the closer look that small objects may need.
        next_seconds: Time of a further answer to as many prompts.
    """

    case: Case
    image: Slice
    predictions: list[Prediction]
    encode_seconds: float
    first_seconds: float
    next_seconds: float


def find_image(case: Case) -> Path:
    """The case's image on this machine, found without importing the package that carries it.

    Raises:
        ReadError: The package is not installed, or came without its images.
    """
    spec = find_spec(case.package)
    if spec is None or not spec.submodule_search_locations:
        raise ReadError(
            f"{_PACKAGES[case.package]}, which carries images of the demo, is not installed",
            remedy='run: pip install "vesalius[demo]"',
        )
    path = Path(spec.submodule_search_locations[0]) / case.file
    if not path.is_file():
        raise ReadError(
            f"this installation of {_PACKAGES[case.package]} came without its image",
            path=path,
            remedy=f"reinstall it from PyPI: pip install --force-reinstall {_PACKAGES[case.package]}",
        )
    return path


def read_case(case: Case) -> Slice:
    """Reads the case's image.

    Raises:
        ReadError: It is not there.
    """
    from vesalius.io.read import read_slice

    return read_slice(find_image(case), index=case.index, time=case.time, window=case.window)


def run_demo(output: Path, model: Predictor, console: Console, cases: Sequence[Case] = CASES) -> list[Outcome]:
    """Segments every case and writes masks, overlays, a contact sheet and ``demo.json``; prints a table.

    One image is run before the clock starts, mirrored so that nothing of it is kept for later: the first call of any
    network also pays for its start.

    Args:
        output: Folder to write to; made if it does not exist. Files of the same names are replaced.
        model: The model to show.
        console: Where progress and the table are printed.
        cases: What to segment.

    Raises:
        VesaliusError: An image is not there, or the folder cannot be written; nothing is written before all images
            are segmented.
    """
    from rich.progress import track

    if output.exists() and not output.is_dir():
        raise WriteError("is a file", path=output, remedy="name a folder")
    images = [read_case(case) for case in cases]
    model.predict(model.encode(images[0].rgb()[::-1]), [Prompt(points=[(0, 0)])])
    outcomes = [
        _run_case(case, image, model)
        for case, image in track(
            list(zip(cases, images, strict=True)), description="Segmenting", console=console, transient=True
        )
    ]
    made = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot be made ({error.strerror})", path=output) from error
    try:
        _write(output, outcomes, model)
    except VesaliusError:
        if made:
            output.rmdir()
        raise
    console.print(_table(outcomes, model))
    console.print(f"Masks, overlays and demo.json are beside {output / 'contact_sheet.png'}")
    return outcomes


def _run_case(case: Case, image: Slice, model: Predictor) -> Outcome:
    start = perf_counter()
    embedding = model.encode(image)
    encoded = perf_counter()
    predictions = model.predict(embedding, case.prompts)
    answered = perf_counter()
    model.predict(embedding, case.prompts)
    return Outcome(case, image, predictions, encoded - start, answered - encoded, perf_counter() - answered)


def _write(output: Path, outcomes: Sequence[Outcome], model: Predictor) -> None:
    from vesalius.io.write import write_mask
    from vesalius.predict.overlay import contact_sheet, draw_overlay
    from vesalius.predict.segment import all_or_nothing, object_map, record, write_png

    masks = {done.case.name: output / f"{done.case.name}_mask{done.case.suffix}" for done in outcomes}
    overlays = {done.case.name: output / f"{done.case.name}_overlay.png" for done in outcomes}
    sheet, log = output / "contact_sheet.png", output / "demo.json"
    records, pictures = [], []
    with all_or_nothing([*masks.values(), *overlays.values(), sheet, log]) as place:
        for done in outcomes:
            case, prompts = done.case, done.case.prompts
            write_mask(place[masks[case.name]], object_map(done.predictions), like=done.image)
            write_png(place[overlays[case.name]], draw_overlay(done.image, prompts, done.predictions))
            picture = draw_overlay(done.image, prompts, done.predictions, longest=_CELL, view=case.view)
            pictures.append((f"{case.title} ({case.modality})", picture))
            entry = record(done.image, prompts, done.predictions, model, time=case.time)
            entry |= {"name": case.name, "title": case.title, "modality": case.modality, "credit": case.credit}
            entry |= {"mask": masks[case.name].name, "overlay": overlays[case.name].name}
            records.append(entry)
        write_png(place[sheet], contact_sheet(pictures, columns=5))
        place[log].write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _table(outcomes: Sequence[Outcome], model: Predictor) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{model.name} on {len(outcomes)} images, run by {model.runs_by}",
        caption="IoU as the model predicts it. Milliseconds: encoding, the first answer, a further answer.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("case", "modality", "size", "prompts", "IoU"):
        table.add_column(column, no_wrap=column in ("modality", "size"))
    for column in ("encode", "first", "next"):
        table.add_column(column, justify="right")
    for done in outcomes:
        height, width = done.image.size
        table.add_row(
            done.case.title,
            done.case.modality,
            f"{width} x {height}",
            _describe(done.case.prompts),
            " ".join(f"{prediction.quality:.2f}" for prediction in done.predictions),
            f"{1000 * done.encode_seconds:.0f}",
            f"{1000 * done.first_seconds:.0f}",
            f"{1000 * done.next_seconds:.0f}",
        )
    return table


def _describe(prompts: Sequence[Prompt]) -> str:
    boxes = sum(1 for prompt in prompts if prompt.box is not None)
    clicks = sum(len(np.asarray(prompt.points)) for prompt in prompts)
    parts = [(boxes, "box", "boxes"), (clicks, "click", "clicks")]
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in parts if count)
