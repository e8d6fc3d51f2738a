"""Parameter values and an image that are the same on every machine, made from names, shapes and seeds alone."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
EMBEDDINGS = ("pos_embed", "rel_pos", "token", "embed.weight", "embeddings.")


def manifest(name):
    """Names and shapes of a published layout."""
    return {key: tuple(shape) for key, shape in json.loads((HERE / f"manifest_{name}.json").read_text()).items()}


def outputs(name):
    """Stored outputs of a published network, by name."""
    with np.load(HERE / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def parameter(name, shape):
    """Values of one parameter, float32, seeded by its name."""
    drawn = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    drawn = np.asarray(drawn, dtype=np.float32)
    if len(shape) < 2:
        values = 1 + 0.05 * drawn if name.endswith("weight") else 0.02 * drawn
    elif "gaussian_matrix" in name:
        values = drawn
    elif any(part in name for part in EMBEDDINGS):
        values = 0.2 * drawn
    else:
        values = drawn / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def state_dict(shapes):
    """Values of all parameters."""
    return {name: parameter(name, shape) for name, shape in shapes.items()}


def image(height, width, seed=7):
    """(height, width, 3) uint8: smooth blobs."""
    rng = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = []
    for _ in range(3):
        channel = np.zeros((height, width))
        for _ in range(6):
            cy, cx = rng.uniform(0, height), rng.uniform(0, width)
            sigma, height_of_blob = rng.uniform(0.05, 0.25) * max(height, width), rng.uniform(-1, 1)
            channel += height_of_blob * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma * sigma))
        channels.append(channel)
    out = np.stack(channels, axis=-1)
    out = (out - out.min()) / (out.max() - out.min())
    return np.floor(255 * out + 0.5).astype(np.uint8)
