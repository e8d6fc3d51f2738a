"""Names of imaging modalities."""

from __future__ import annotations

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


def modality_name(code: str | None) -> str | None:
    """The name of a DICOM modality code, or None where the code is missing or says nothing."""
    return DICOM_MODALITIES.get((code or "").strip().upper())
