"""A TIFF that names another file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile


def sly_tiff(path: Path, named: str) -> None:
    """Writes an OME-TIFF of 12 x 16 pixels whose second slice is said to lie in another file."""
    files = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate((path.name, named))
    )
    sizes = 'SizeX="16" SizeY="12" SizeZ="2" SizeC="1" SizeT="1"'
    pixels = f'<Pixels ID="P" DimensionOrder="XYZCT" Type="uint8" {sizes}><Channel ID="C"/>{files}</Pixels>'
    xml = f'<?xml version="1.0"?><OME UUID="urn:uuid:0"><Image ID="I">{pixels}</Image></OME>'
    tifffile.imwrite(path, np.eye(12, 16, dtype=np.uint8), description=xml, metadata=None)
