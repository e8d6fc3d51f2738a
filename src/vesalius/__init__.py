"""Promptable segmentation of medical images: a box, some clicks or a rough mask goes in; the outline comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module. Loaded on first use, so that `vesalius --help` does not wait for torch.
_PUBLIC = {
    "Geometry": "vesalius.core.geometry",
    "Prediction": "vesalius.core.types",
    "Prompt": "vesalius.core.types",
    "Slice": "vesalius.core.types",
    "VesaliusError": "vesalius.core.errors",
    "Volume": "vesalius.core.types",
    "load_model": "vesalius.predict.load",
    "propagate": "vesalius.predict.propagate",
    "read_slice": "vesalius.io.read",
    "read_volume": "vesalius.io.read",
    "segment_everything": "vesalius.predict.everything",
    "write_mask": "vesalius.io.write",
}
__all__ = sorted([*_PUBLIC, "__version__"])

if TYPE_CHECKING:
    from vesalius.core.errors import VesaliusError as VesaliusError
    from vesalius.core.geometry import Geometry as Geometry
    from vesalius.core.types import Prediction as Prediction
    from vesalius.core.types import Prompt as Prompt
    from vesalius.core.types import Slice as Slice
    from vesalius.core.types import Volume as Volume
    from vesalius.io.read import read_slice as read_slice
    from vesalius.io.read import read_volume as read_volume
    from vesalius.io.write import write_mask as write_mask
    from vesalius.predict.everything import segment_everything as segment_everything
    from vesalius.predict.load import load_model as load_model
    from vesalius.predict.propagate import propagate as propagate


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vesalius' has no attribute {name!r}")
