import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vesalius.vocabulary import targets as module
from vesalius.vocabulary.targets import find_target, similar_targets, target_of, targets

ROWS = tomllib.loads((Path(module.__file__).parent / "targets.toml").read_text(encoding="utf-8"))["target"]


def words(text, between="|"):
    return [word.strip() for word in text.split(between)]


# IMed-361M's table 1 (appendix B of the supplement): last code of each group, and the codes marked * (left and right).
LAST = {"A": 21, "H": 27, "S": 10, "T": 14, "P": 10, "L": 24}
GROUPS = {"A": "abdomen", "H": "head and neck", "S": "skeleton", "T": "thorax", "P": "pelvis", "L": "lesion"}
STARRED = words(
    "A01 A03 A07 A08 A09 A11 H04 H05 H06 H10 H11 H12 H13 H14 H16 H18 H19 H20 "
    "H21 H22 S01 S02 S03 S04 S05 S07 T03 T05 T06 T07 T10 T12 T13 P01 P02 P03",
    " ",
)

# COSMOS 1050K, table 2: objects without their modality, as printed.
COSMOS = """Arota|Brain|Heart|Humerus|Kidney|Kidney Tumor|Left Atrium|Left Ventricular Myocardium|Liver|Lung|Lung Tumor|
Pancreas|Rib|Right Ventricle|Spleen|Stomach|Vertebra|Femur|Gall Bladder|Prostate|Spine|Tibia|Brain Tumor|Left Ventricle|
Thyroid Nodules|Eye|Tool|Polyp|Adenocarcinoma|Melanoma|Cell|Neural Structures"""

# MedSAM's supplement, tables 5 to 11: a choice of targets as printed.
MEDSAM = """COVID-19 Infection|Colon Cancer|Glioblastoma|Head-Neck Cancer|Intracranial Hemorrhage|Left Adrenal Gland|
Lymph Nodes|Pleural Effusion|Throat Cancer|Brainstem|Deep Grey Matter|Glioma Enhancing Tumor|Glioma Tumor Core|
Ischemic Stroke|Vestibular Schwannoma|Diabetic Macular Edema|Benign Breast Cancer|Malignant Thyroid Nodule|Fetal Head|
Pubic Symphysis|A Carotid L|Bone Mandible|Cricopharyngeus|Glnd Lacrimal R|Glnd Submand L|Larynx SG|OpticNrv L|Parotid R|
Nasopharynx Cancer|Skin Cancer|Glomeruli|Lung Opacity|Viral Pneumonia|Cervical Cancer"""


@pytest.mark.parametrize(
    "name", ["kidney_right", "Right kidney", "right kidney", "KIDNEY_R", "kidney, right", "r-kidney"]
)
def test_spellings_of_one_target(name):
    target = find_target(name)
    assert (target.name, target.laterality, target.organ, target.snomed) == (
        "right kidney", "right", "kidney", "64033007"
    )  # fmt: skip


def test_a_code_of_the_paper_is_the_target_without_a_side():
    assert find_target("A11") == find_target("Kidneys")
    assert find_target("A11").laterality is None
    assert find_target("S05").name == "rib"


@pytest.mark.parametrize(
    ("name", "canonical", "laterality"),
    [
        ("heart_atrium_left", "left atrium", None),
        ("vertebrae_T9", "vertebra T9", None),
        ("rib_left_9", "left rib 9", "left"),
        ("lung_upper_lobe_right", "right upper lobe of the lung", "right"),
        ("Liver Tumors", "liver tumour", None),
        ("esophagus", "oesophagus", None),
        ("peritumoral_edema", "peritumoural oedema", None),
    ],
)
def test_names_of_data_sets(name, canonical, laterality):
    assert (find_target(name).name, find_target(name).laterality) == (canonical, laterality)


def test_every_code_of_table_1_is_there_in_its_group():
    codes = {row["imed"]: row["group"] for row in ROWS if "imed" in row}
    assert codes == {f"{letter}{number:02}": GROUPS[letter] for letter in LAST for number in range(1, LAST[letter] + 1)}


def test_what_table_1_marks_with_a_star_has_two_sides():
    for code in STARRED:
        sided = [row.get("sided") for row in ROWS if row.get("imed") == code]
        assert sided, code
        assert all(sided), code
    for name in ("left atrium", "right atrium", "left ventricle", "right ventricle"):
        assert find_target(name).organ == "heart"


@pytest.mark.parametrize("name", words(COSMOS) + words(MEDSAM))
def test_objects_of_the_papers_are_known(name):
    assert find_target(name) is not None


def test_a_name_that_stands_for_two_targets_is_not_resolved():
    claimed = {key: names for key, names in module._index().items() if len(names) > 1}
    assert {key[0] for key in claimed} == {"t10", "t11", "t12", "t13"}
    assert find_target("T10") is None
    assert {"lung", "vertebra T10"} <= {target.name for target in similar_targets("T10")}


@pytest.mark.parametrize("name", ["", "kindey", "left", "left left kidney", "flux capacitor", "kidney left and right"])
def test_what_is_not_known_is_not_guessed(name):
    assert find_target(name) is None


def test_an_unknown_label_keeps_its_own_name():
    target = target_of("Structure 7 (pilot)")
    assert (target.name, target.known, target.group, target.snomed) == ("Structure 7 (pilot)", False, None, None)
    assert target_of("Liver").known
    assert target_of("Liver").name == "liver"


def test_near_misses_are_suggested_and_never_on_the_other_side():
    assert similar_targets("kindey left")[0].name == "left kidney"
    assert all(target.laterality != "right" for target in similar_targets("kindey left"))
    assert similar_targets("xyzzy") == []


def test_rows_are_canonical():
    names = [row["name"] for row in ROWS]
    assert len(names) == len(set(names))
    for row in ROWS:
        assert row["group"] in {*GROUPS.values(), "other"}
        assert row.get("body_part") in {None, "head and neck", "thorax", "abdomen", "pelvis", "limb", "skin"}
    assert all(find_target(name).name == name for name in targets())


def test_snomed_codes_have_this_meaning_in_pydicom():
    from pydicom.sr._concepts_dict import concepts

    def content(text):
        words, side = module._key(re.sub(r" \(.*\)$", "", text))
        return frozenset(words.split()) - {"of", "the", "structure"} | {side} - {None}

    meanings = {}
    for entry in concepts["SCT"].values():
        for code, (meaning, _) in entry.items():
            meanings.setdefault(code, set()).add(content(meaning))
    coded = [row for row in ROWS if "snomed" in row]
    assert len(coded) > 120
    for row in coded:
        names = {content(name) for name in (row["name"], *row.get("synonyms", ()))}
        assert names & meanings.get(row["snomed"], set()), row["name"]


def test_no_two_targets_share_a_code_but_those_of_one_meaning():
    by_code = {}
    for row in ROWS:
        if "snomed" in row:
            by_code.setdefault(row["snomed"], []).append(row["name"])
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}


def test_importing_reads_nothing():
    code = (
        "import sys; import vesalius.vocabulary.targets as t, vesalius.vocabulary.modalities as m;"
        "assert not t.targets.cache_info().currsize and not m.modalities.cache_info().currsize;"
        "assert not {'numpy', 'pydicom', 'pydantic', 'difflib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_labels_of_real_data_are_known():
    folder = os.environ.get("VESALIUS_DATA")
    if folder is None:
        pytest.skip("VESALIUS_DATA is not set")
    labels = set()
    for path in Path(folder).glob("pairs/*/set.json"):
        about = json.loads(path.read_text(encoding="utf-8"))
        labels |= set(about["labels"].values())
        labels |= set((about.get("labels_findings") or {"labels": {}})["labels"].values())
    for name in ("volumes/totalsegmentator_ct/labels.json", "imis_btcv/dataset.json"):
        labels |= set(json.loads((Path(folder) / name).read_text(encoding="utf-8"))["labels"].values())
    labels |= {"anterior hippocampus", "posterior hippocampus", "gross tumour volume", "brain tumour", "spine"}
    assert len(labels) > 150
    assert sorted(label for label in labels - {"background"} if find_target(label) is None) == []
