"""Splits by case, so that no patient is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

SPLITS = ("train", "val", "test")


def place_of(case: str) -> float:
    """A number in [0, 1) for a case, from its name alone, so that adding cases moves no other.

    The data set's name plays no part: patients who appear in two sets under one name stay on one side.
    """
    digest = hashlib.sha256(case.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(case: str, val_share: float = 0.2) -> str:
    """``"train"`` or ``"val"`` for a case.

    Args:
        case: Name of the patient, recording, volume or image.
        val_share: Expected share of cases in validation.
    """
    return "val" if place_of(case) < val_share else "train"


def split_among(case: str, shares: Sequence[float]) -> str:
    """``"train"``, ``"val"`` or ``"test"`` for a case.

    Args:
        case: Name of the patient, recording, volume or image.
        shares: Expected shares of cases in training, validation and test, which sum to 1.
    """
    _, val, test = shares
    place = place_of(case)
    return "test" if place < test else "val" if place < test + val else "train"


def lent_cases(cases: Iterable[str]) -> set[str]:
    """The training cases that are for validation where no split is: a tenth, by name, and of fewer than ten none."""
    names = set(cases)
    # The place of the bare name decides splits elsewhere, and there these cases would be alike.
    return set(sorted(names, key=lambda case: place_of(f"validation {case}"))[: len(names) // 10])
