"""Regions that may overlap, packed into few layers that do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vesalius.corpus.scans import Layer
from vesalius.io.regions import Region


def pack(regions: Sequence[Region], shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """Puts each region into the first layer where it overlaps nothing; objects and classes lie in layers of their own.

    Args:
        regions: The regions, each with a value of its own; one without pixels is left out.
        shape: (Z, Y, X) of the scan.
    """
    layers: list[Layer] = []
    most = max((region.value for region in regions), default=0)
    for region in regions:
        if not region.planes:
            continue
        layer = next((layer for layer in layers if layer.objects == region.one and _has_room(layer, region)), None)
        if layer is None:
            layer = Layer(np.zeros(shape, np.min_scalar_type(most)), {}, region.one)
            layers.append(layer)
        for index, part in region.planes.items():
            layer.values[index][part.where][part.mask] = region.value
        layer.names[region.value] = region.name  # type: ignore[index]
    return tuple(layers)


def _has_room(layer: Layer, region: Region) -> bool:
    return not any(layer.values[index][part.where][part.mask].any() for index, part in region.planes.items())
