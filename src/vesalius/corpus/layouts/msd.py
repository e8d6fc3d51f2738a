"""Medical Segmentation Decathlon: a ``dataset.json`` with lists of NIfTI images and label maps.

Channels of a 4-D image become scans of their own, named and typed by ``modality`` of the JSON file. Images of ``test``
have no labels, as published; written here they have. Rows written here also state case and modality, and two more
lists, ``validation`` and ``unsplit``, hold what the Decathlon does not have.

Source: http://medicaldecathlon.com, ``dataset.json`` of each task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vesalius.core.errors import ReadError
from vesalius.corpus.layouts.datalist import LISTS, entries, index_at
from vesalius.corpus.layouts.listing import Rows, about
from vesalius.corpus.layouts.support import checked, dataset_name, writing, written_name
from vesalius.corpus.layouts.volumes import class_layers, label_map, read_channels, read_labels, write_pair
from vesalius.corpus.objects import LabelledImage
from vesalius.corpus.recipe import DatasetRecipe, LayoutName
from vesalius.corpus.scans import Entry, Scan

_INDEX = "dataset.json"
_FOLDERS = {"train": "Tr", "val": "Va", "test": "Ts", None: "Un"}


def find(dataset: DatasetRecipe, root: Path) -> list[Entry]:
    """Lists the images that ``dataset.json`` (or the file that the recipe's ``labels`` names) lists.

    Raises:
        ReadError: It is missing or damaged; two images have one name.
    """
    return checked(entries(root / (dataset.labels or _INDEX), dataset, root), root)


def read(entry: Entry, dataset: DatasetRecipe) -> Iterator[Scan]:
    """Reads the channels of an image, each with the labels.

    Raises:
        ReadError: A file is missing or damaged; a single slice where the JSON file states volumes.
        GeometryError: The label map lies on another grid than the image.
    """
    for name, volume, time in read_channels(entry, dataset):
        if entry.extra["solid"] and volume.voxels.shape[0] == 1:
            raise ReadError("has one slice among volumes", path=entry.image, remedy="take it out of the list")
        layers = [class_layers(read_labels(path, volume, time), entry.extra["labels"]) for path in entry.labels]
        yield Scan(name, volume, layers[0] if layers else ())


def guess(folder: Path) -> DatasetRecipe | None:
    """A recipe for a folder whose ``dataset.json`` names labels and modalities and lists scans."""
    content = index_at(folder / _INDEX)
    if content is None or not isinstance(content.get("labels"), dict) or "modality" not in content:
        return None
    rows = content.get("training") or content.get("test") or content.get("validation") or content.get("unsplit")
    first = rows[0] if rows else {}
    image = first.get("image") if isinstance(first, dict) else first
    label = str(first.get("label", "")) if isinstance(first, dict) else ""
    # nnU-Net's first version lists images under names that its files do not have, IMIS-Bench has stacks of masks.
    if not isinstance(image, str) or label.endswith(".npz") or has_channel_files(folder):
        return None
    return DatasetRecipe(name=dataset_name(folder), layout="msd", root=folder)


def has_channel_files(folder: Path) -> bool:
    """Whether images are named as nnU-Net names channels: ``imagesTr/case_0000.nii.gz``."""
    return any(folder.glob("imagesT[rs]/*_[0-9][0-9][0-9][0-9].*"))


def write(images: Iterable[LabelledImage], folder: Path, name: str) -> None:
    """Writes ``dataset.json``, and images and label maps of one slice: NIfTI, or PNG for colour.

    Raises:
        WriteError: The folder holds something or cannot be written, two images have one name, or targets overlap.
    """
    write_lists(images, folder, name, "msd", _INDEX, {value: key for key, value in LISTS.items() if key != "testing"})


def write_lists(
    images: Iterable[LabelledImage],
    folder: Path,
    name: str,
    layout: LayoutName,
    index: str,
    lists: dict[str | None, str],
) -> None:
    """The same for any layout with lists.

    Args:
        images: The images.
        folder: Where to write.
        name: Of the data set.
        layout: Of the error.
        index: Name of the JSON file.
        lists: Split -> name of its list.
    """
    classes: dict[str, int] = {}
    modalities: dict[str, None] = {}
    with writing(folder) as part:
        rows = Rows(part)
        for image in images:
            stem, ending = written_name(image), _FOLDERS[image.split]
            for kind in ("images", "labels"):
                (part / f"{kind}{ending}").mkdir(exist_ok=True)
            labels = label_map(image, classes, layout)
            suffix = write_pair(image, labels, part / f"images{ending}" / stem, part / f"labels{ending}" / stem)
            stated = about(image)
            modalities[stated["modality"] or "unknown"] = None
            rows.add(
                lists[image.split],
                {
                    "image": f"./images{ending}/{stem}{suffix}",
                    "label": f"./labels{ending}/{stem}{suffix}",
                    "case": stated["case"],
                    "modality": stated["modality"],
                },
            )
        head = {
            "name": name,
            "tensorImageSize": "2D",
            "modality": {"0": " or ".join(modalities)},
            "labels": {"0": "background"} | {str(value): target for target, value in classes.items()},
            "numTraining": rows.count["training"],
            "numTest": rows.count[lists["test"]],
        }
        used = {key: key for key in lists.values() if rows.count[key] or key == "training"}
        rows.write_lists(part / index, head, used)
