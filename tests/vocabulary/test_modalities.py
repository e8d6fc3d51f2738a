import tomllib
from pathlib import Path

import pytest

from vesalius.vocabulary import modalities as module
from vesalius.vocabulary.modalities import DICOM_MODALITIES, find_modality, modalities

ROWS = tomllib.loads((Path(module.__file__).parent / "modalities.toml").read_text(encoding="utf-8"))["modality"]


@pytest.mark.parametrize(("paper", "count"), [("sa_med2d", 10), ("imed", 14), ("cosmos", 18)])
def test_every_modality_of_a_paper_is_there_once(paper, count):
    named = [row for row in ROWS if paper in row]
    assert len(named) == count
    assert all(find_modality(row[paper]).name == row["name"] for row in named)


def test_names_are_canonical_and_claimed_once():
    claims = {}
    for modality in modalities().values():
        assert modality.name == modality.name.lower()
        for name in (modality.name, *modality.synonyms):
            claims.setdefault(module._key(name), set()).add(modality.name)
    assert {key: names for key, names in claims.items() if len(names) > 1} == {}


def test_names_of_dicom_modalities_are_in_the_vocabulary():
    assert set(DICOM_MODALITIES.values()) <= modalities().keys()


@pytest.mark.parametrize(
    ("name", "lineage"),
    [
        ("T1-GD MRI", ("mr_t1ce", "mr_t1", "mr")),
        ("Cine-MRI", ("mr_cine", "mr_cardiac", "mr")),
        ("electron microscopy", ("electron_microscopy", "microscopy")),
        ("X-Ray", ("xray",)),
    ],
)
def test_a_modality_knows_what_it_is_a_kind_of(name, lineage):
    assert find_modality(name).lineage == lineage


@pytest.mark.parametrize("name", ["", "photograph", "mr_t9"])
def test_an_unknown_modality_is_none(name):
    assert find_modality(name) is None
