"""New weights, the same in every framework: drawn on the host, each tensor from its own stream."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.models.saving import save_folder
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import Head, Kind, Shape, kind_of, parameter_shapes


def write_initial(
    folder: Path,
    config: GPT2Config,
    head: Head,
    seed: int,
    known: Mapping[str, LazyTensor] = MappingProxyType({}),
) -> None:
    """Write a model whose weights are new, but for those that are known by their canonical names.

    New ones are normal with standard deviation `initializer_range`, and for the projections
    `c_proj`, which add to the residual stream, that divided by sqrt(2 n_layer) (GPT-2 paper,
    section 2.3); biases 0, layer norms 1 and 0. A tensor's numbers come from the seed and its name
    (Philox).
    """
    shapes = parameter_shapes(config, head)
    float32 = np.dtype(np.float32)
    tensors = {
        name: known.get(name)
        or LazyTensor(shape, float32, partial(_drawn, name, shape, config, seed))
        for name, shape in shapes.items()
    }
    save_folder(folder, config, tensors, head)


def _drawn(name: str, shape: Shape, config: GPT2Config, seed: int) -> np.ndarray:
    """Return the new values of a tensor."""
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if kind_of(name) is Kind.LAYER_NORM:
        return np.ones(shape, np.float32)
    std = config.initializer_range
    if name.endswith("c_proj.weight"):
        std /= math.sqrt(2 * config.n_layer)
    stream = np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
    return np.random.Generator(stream).standard_normal(shape, np.float32) * np.float32(std)
