"""Splits by case, so that no patient is on both sides."""

from __future__ import annotations

import hashlib


def split_of(case: str, val_share: float = 0.2) -> str:
    """``"train"`` or ``"val"`` for a case, from its name alone, so that adding cases moves no other.

    The data set's name plays no part: patients who appear in two sets under one name stay on one side.

    Args:
        case: Name of the patient, recording, volume or image.
        val_share: Expected share of cases in validation.
    """
    digest = hashlib.sha256(case.encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_share * 2**64 else "train"
