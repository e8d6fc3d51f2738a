import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from vesalius.core.errors import ConfigError
from vesalius.vocabulary import datasets as module
from vesalius.vocabulary.datasets import datasets, find_datasets, papers, select_datasets
from vesalius.vocabulary.modalities import modalities
from vesalius.vocabulary.targets import find_target

# What papers say only broadly, with no one target for it.
BROAD = {
    "abdominal organs", "abdominal tissues", "abdominal vessels", "brain growth", "brain regions", "brain tissues",
    "gland", "head and neck organs", "heart structures", "knee bone", "knee cartilage", "organs at risk",
    "whole-body organs",
}  # fmt: skip

USES = [use for found in datasets().values() for use in found.uses]


# Rows of the papers' tables, counted in the papers; COSMOS has 54 rows for its 53 sets (VerSe19 and VerSe20).
@pytest.mark.parametrize(
    ("paper", "table", "count"),
    [
        ("sa-med2d-20m", "2", 140),
        ("cosmos", "1", 54),
        ("imed-361m", "2", 110),
        ("imed-361m", "text", 3),
        ("medsam", "1", 25),
        ("medsam", "2", 26),
        ("medsam", "3", 18),
        ("medsam", "4", 15),
        ("sam-med2d", "4", 9),
    ],
)
def test_every_row_of_the_papers_is_there(paper, table, count):
    assert sum((use.paper, use.table) == (paper, table) for use in USES) == count
    assert papers()[paper]["rows"][table] == count


def test_no_row_is_there_twice():
    rows = Counter((use.paper, use.table, use.name, use.modalities) for use in USES)
    assert {row for row, count in rows.items() if count > 1} == set()


def test_columns_add_up_to_those_of_the_papers():
    release = Counter(use.redistributable for use in USES if use.paper == "sa-med2d-20m")
    assert release == {True: 86, False: 32, None: 22}
    # 83 ticks in IMed-361M's table 3, three of them for sets with two rows in table 2.
    release = Counter(use.redistributable for use in USES if (use.paper, use.table) == ("imed-361m", "2"))
    assert release == {True: 86, None: 24}
    # Rows by modality in IMed-361M; those of one paper by star in MedSAM.
    imed = Counter(use.modalities for use in USES if (use.paper, use.table) == ("imed-361m", "2"))
    assert imed["ultrasound",] == 5
    assert imed["mr_flair",] == 13
    assert sum(imed.values()) == 110
    starred = {use.name for use in USES if use.paper == "medsam" and use.roles == ("external",)}
    assert len(starred) == 14
    assert {"WORD", "ACDC", "Kvasir", "PAPILA"} < starred


def test_scans_that_medsam_counts():
    counts = {use.name: (use.count, use.unit) for use in USES if use.paper == "medsam"}
    assert counts["TotalSegmentator"] == (1204, "scans")
    assert counts["COVID-19 Radiography"] == (21165, "images")
    assert all(count and unit for count, unit in counts.values())


def test_entries_are_well_formed():
    for name, found in datasets().items():
        assert found.uses, name
        assert found.dimension in {None, "2D", "3D"}
        assert len(set(found.targets)) == len(found.targets)
        for target in found.targets:
            known = find_target(target)
            assert (known is not None and known.name == target) or target in BROAD, (name, target)
        for use in found.uses:
            assert use.paper in papers()
            assert use.roles in {("training", "internal"), ("external",)}
            assert set(use.modalities) <= modalities().keys()
            assert set(use.structures) <= {"head and neck", "thorax", "abdomen", "pelvis", "lesion", "other"}
            assert use.link is None or re.fullmatch(r"https?://\S+", use.link)
    named = {use.name for use in USES if use.paper == "sam-med2d"} | {"SegThor", "TotalSegmentatorMRI", "ISLES"}
    assert {use.name for use in USES if not use.modalities} <= named


def test_the_file_has_no_two_entries_of_one_name():
    rows = tomllib.loads((Path(module.__file__).parent / "datasets.toml").read_text(encoding="utf-8"))["dataset"]
    names = Counter(module._key(row["name"]) for row in rows)
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("amos22", ["AMOS 2022"]),
        ("AMOS-MR", ["AMOS 2022"]),
        ("MALBCV-Abdomen", ["BTCV"]),
        ("Warwick-QU", ["GlaS"]),
        ("m&ms", ["M&Ms"]),
        ("ISLES", ["ISLES"]),
        ("kits", ["KiTS19", "KiTS23"]),
        ("Private10", ["IMed-361M Private10", "SA-Med2D-20M Private10"]),
        ("nothing of the kind", []),
    ],
)
def test_every_name_finds_its_set(name, found):
    assert sorted(one.name for one in find_datasets(name)) == found


def test_papers_uses_are_merged():
    (word,) = find_datasets("word")
    assert word.papers == ("sa-med2d-20m", "cosmos", "imed-361m", "medsam")
    assert {use.paper: use.roles for use in word.uses}["medsam"] == ("external",)
    assert "https://github.com/hilab-git/word" in word.links
    assert word.modalities == ("ct",)


def test_select():
    assert len(select_datasets()) == len(datasets())
    flair = {found.name for found in select_datasets(modality="FLAIR")}
    assert "BraTS2021" in flair
    assert flair < {found.name for found in select_datasets(modality="mr")}
    fundus = select_datasets(modality="fundus", paper="medsam", dimension="2d")
    assert {found.name for found in fundus} == {"IDRiD", "PAPILA", "REFUGE"}


@pytest.mark.parametrize("asked", [{"modality": "smell"}, {"paper": "nature"}, {"dimension": "4D"}])
def test_what_cannot_be_selected_is_an_error(asked):
    with pytest.raises(ConfigError, match="there is no"):
        select_datasets(**asked)
