"""Names of imaging modalities."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# DICOM's Modality codes (PS3.3 C.7.3.1.1.1) and the lower-case names used here. A code that says nothing about how
# the picture was made (OT, other) is left out.
DICOM_MODALITIES: dict[str, str] = {
    "CR": "xray",
    "CT": "ct",
    "DX": "xray",
    "ES": "endoscopy",
    "GM": "microscopy",
    "IO": "xray",
    "IVOCT": "oct",
    "IVUS": "ultrasound",
    "MG": "mammography",
    "MR": "mr",
    "NM": "nuclear_medicine",
    "OCT": "oct",
    "OP": "fundus",
    "OPT": "oct",
    "PT": "pet",
    "PX": "xray",
    "RF": "xray",
    "RG": "xray",
    "SM": "histopathology",
    "US": "ultrasound",
    "XA": "xray",
}

# Keys of modalities.toml that hold the name in a paper.
PAPER_KEYS = ("sa_med2d", "imed", "cosmos")


@dataclass(frozen=True)
class Modality:
    """A way of making a picture.

    Attributes:
        name: Canonical name, lower case, such as mr_t1.
        lineage: The name, then that of the modality it is a kind of, and so on to the top: ("mr_t1", "mr").
        synonyms: Other names, those of the papers among them.
    """

    name: str
    lineage: tuple[str, ...]
    synonyms: tuple[str, ...]


def modality_name(code: str | None) -> str | None:
    """The name of a DICOM modality code, or None where the code is missing or says nothing."""
    return DICOM_MODALITIES.get((code or "").strip().upper())


@cache
def modalities() -> dict[str, Modality]:
    """All modalities by name, parents before their children."""
    with (Path(__file__).parent / "modalities.toml").open("rb") as file:
        rows = tomllib.load(file)["modality"]
    found: dict[str, Modality] = {}
    for row in rows:
        name = row["name"]
        lineage = (name, *(found[row["parent"]].lineage if "parent" in row else ()))
        papers = (row[key] for key in PAPER_KEYS if key in row)
        found[name] = Modality(name, lineage, (*row.get("synonyms", ()), *dict.fromkeys(papers)))
    return found


@cache
def _index() -> dict[str, Modality]:
    return {_key(name): modality for modality in modalities().values() for name in (modality.name, *modality.synonyms)}


def find_modality(name: str) -> Modality | None:
    """The modality of this name or synonym (case, spaces, ``_`` and ``-`` do not matter), or None."""
    return _index().get(_key(name))


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
