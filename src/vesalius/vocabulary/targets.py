"""Names of what is segmented: organs, their parts, lesions, cells, tools.

The facts are in ``targets.toml``, which says where each comes from. A name is looked up as it is, never guessed: case,
plurals, punctuation, British or American spelling and the place of the side (``kidney_right``, ``Right kidney``,
``kidney_r``) make no difference, anything else does.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SIDES = {"left": "left", "right": "right", "l": "left", "r": "right", "lt": "left", "rt": "right"}

# American word -> British word, both without a plural s.
SPELLINGS = {
    "celiac": "coeliac",
    "disk": "disc",
    "edema": "oedema",
    "esophagus": "oesophagus",
    "foetal": "fetal",
    "gray": "grey",
    "hematoma": "haematoma",
    "hemorrhage": "haemorrhage",
    "ischemic": "ischaemic",
    "leukocyte": "leucocyte",
    "peritumoral": "peritumoural",
    "tumor": "tumour",
    "vertebrae": "vertebra",
}


@dataclass(frozen=True)
class Target:
    """Something that is segmented.

    Attributes:
        name: Canonical name, such as "right kidney"; that of the label itself where it is not known.
        group: IMed-361M's abdomen, skeleton, head and neck, thorax, pelvis or lesion; "other" for cells and tools.
        organ: What it is part of, or what a lesion lies in.
        body_part: head and neck, thorax, abdomen, pelvis, limb or skin; None where it spans several.
        laterality: "left", "right" or None. A name that has its side in it for good ("left ventricle") has none.
        snomed: SNOMED CT code, without the side; None where it is not certain.
        synonyms: Other names, with the code in IMed-361M's table 1 (A11).
        known: Whether the vocabulary has it.
    """

    name: str
    group: str | None = None
    organ: str | None = None
    body_part: str | None = None
    laterality: str | None = None
    snomed: str | None = None
    synonyms: tuple[str, ...] = ()
    known: bool = True


@cache
def targets() -> dict[str, Target]:
    """All targets by name; of one that has two sides, it, its left and its right."""
    with (Path(__file__).parent / "targets.toml").open("rb") as file:
        rows = tomllib.load(file)["target"]
    found: dict[str, Target] = {}
    codes: set[str] = set()
    for row in rows:
        # A code belongs to the first of its rows: S05 is the rib, not each of the twelve.
        code = {row["imed"]} - codes if "imed" in row else set()
        codes |= code
        about = {key: row.get(key) for key in ("group", "organ", "body_part", "snomed")}
        for side in (None, "left", "right") if row.get("sided") else (None,):
            name = f"{side} {row['name']}" if side else row["name"]
            synonyms = tuple(f"{side} {other}" if side else other for other in row.get("synonyms", ()))
            found[name] = Target(name, **about, laterality=side, synonyms=(*synonyms, *(() if side else code)))
    return found


@cache
def _index() -> dict[tuple[str, str | None], tuple[str, ...]]:
    """Key of each name and synonym -> names of the targets that claim it."""
    index: dict[tuple[str, str | None], dict[str, None]] = {}
    for target in targets().values():
        for name in (target.name, *target.synonyms):
            index.setdefault(_key(name), {})[target.name] = None
    return {key: tuple(names) for key, names in index.items()}


def find_target(name: str) -> Target | None:
    """The target of this name or synonym, or None.

    A name that stands for two targets gives None as well: "T10" is the tenth thoracic vertebra, and IMed-361M's code
    of the lung.
    """
    names = _index().get(_key(name), ())
    return targets()[names[0]] if len(names) == 1 else None


def target_of(label: str) -> Target:
    """The target of any label; one that is not known keeps its own name, and ``known`` is False."""
    return find_target(label) or Target(label, known=False)


def similar_targets(name: str, limit: int = 8) -> list[Target]:
    """Known targets whose names look like this one, for a person to choose from; the likeliest first."""
    from difflib import SequenceMatcher

    words, side = _key(name)
    scores: dict[str, float] = {}
    for (other, other_side), names in _index().items():
        # A word in common counts for more than letters in common; the wrong side is never suggested.
        if other_side not in (None, side):
            continue
        shared = bool(set(words.split()) & set(other.split()))
        score = SequenceMatcher(None, words, other).ratio() + 0.5 * shared + 0.1 * (other_side == side)
        for found in names:
            scores[found] = max(score, scores.get(found, 0.0))
    best = sorted((found for found in scores if scores[found] >= 0.7), key=lambda found: (-scores[found], found))
    return [targets()[found] for found in best[:limit]]


def _key(name: str) -> tuple[str, str | None]:
    """Words without their plural s in one spelling, and the side; what compares equal is one name."""
    words = [_singular(word) for word in re.split(r"[\W_]+", name.casefold()) if word]
    sides = [SIDES[word] for word in words if word in SIDES]
    if len(sides) != 1:
        return " ".join(words), None
    return " ".join(word for word in words if word not in SIDES), sides[0]


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return SPELLINGS.get(word, word)
