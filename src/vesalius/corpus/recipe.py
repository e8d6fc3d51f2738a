"""Recipes: which raw data to curate, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator

from vesalius.core.config import Config
from vesalius.io.intensity import window_range
from vesalius.vocabulary.modalities import find_modality

LayoutName = Literal[
    "pairs",
    "msd",
    "nnunet",
    "monai",
    "coco",
    "sa1b",
    "yolo",
    "sa-med2d-20m",
    "sam-med2d",
    "imis",
    "cosmos",
    "dicom",
]


class DatasetRecipe(Config):
    """One data set of a recipe.

    Attributes:
        name: Of the data set, as the corpus names it.
        layout: How its files lie.
        root: Its folder, relative to the recipe's own folder or to ``--root``.
        modality: Of all its images, where the files do not say it themselves; under the vocabulary's name if that
            knows it.
        images: Pattern of the image files below ``root``, where the layout leaves that open.
        labels: The same for label files; ``{stem}`` stands for the image's file name without suffix, ``{case}`` for
            what ``case`` finds, ``{split}`` for the folder such as ``train`` or ``test`` that the image lies in.
        instances: The same for instance maps, one value per object.
        case: Regular expression whose first group, on an image's path below ``root``, is its case; by default each
            image is a case of its own.
        channels: Names of the channels or time points of its 4-D files, such as ``["flair", "t1"]``; where one is
            the name of a modality, it is the modality of that channel.
        window: Grey window of grey images, for profiles that use one: ``soft_tissue``, ``lung``, ``brain``, ``bone`` or
            ``LEVEL/WIDTH``; by default that of ``vesalius.io.intensity``.
        targets: Label value (or name in the files) -> target. Layouts that name their labels need none.
        ignore: Label values that mean neither background nor a target, such as 255.
        labelled_only: Whether images whose label files are missing are left out and counted, instead of rejected.
        keep_split: Whether training, validation and test stay as the layout has them, where it has more than one.
        profile: Rules to apply; by default the recipe's.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")
    layout: LayoutName
    root: Path
    modality: str | None = None
    images: str | None = None
    labels: str | None = None
    instances: str | None = None
    case: str | None = None
    channels: tuple[str, ...] = ()
    window: str | None = None
    targets: dict[str, str] = Field(default_factory=dict)
    ignore: tuple[int, ...] = ()
    labelled_only: bool = False
    keep_split: bool = True
    profile: str | None = None

    @field_validator("modality")
    @classmethod
    def _one_name(cls, modality: str | None) -> str | None:
        found = find_modality(modality) if modality else None
        return found.name if found else modality

    @field_validator("window")
    @classmethod
    def _makes_sense(cls, window: str | None) -> str | None:
        if window is not None:
            window_range(window)
        return window


class Recipe(Config):
    """What ``vesalius curate`` reads.

    Attributes:
        name: Of the corpus.
        profile: Rules to apply to each data set that names none of its own.
        datasets: The data sets, in the order of the corpus; ``[[datasets]]`` in TOML.
    """

    name: str
    profile: str = "sa-med2d"
    datasets: tuple[DatasetRecipe, ...] = Field(min_length=1)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Reads a recipe; profiles of one's own are looked for beside it, and then in the working folder."""
        recipe = super().from_toml(path)

        def placed(profile: str) -> str:
            beside = Path(path).parent / profile
            return beside.as_posix() if profile.endswith(".toml") and beside.is_file() else profile

        datasets = tuple(
            dataset.model_copy(update={"profile": placed(dataset.profile)}) if dataset.profile else dataset
            for dataset in recipe.datasets
        )
        return recipe.model_copy(update={"profile": placed(recipe.profile), "datasets": datasets})
