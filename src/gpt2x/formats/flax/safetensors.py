"""Writing safetensors of transformers' Flax models; `gpt2x.formats.safetensors` reads them."""

from __future__ import annotations

from gpt2x.formats.base import WeightsFormat
from gpt2x.formats.safetensors import write
from gpt2x.weights.table import FLAX

FORMAT = WeightsFormat(
    name="flax-safetensors",
    rank=130,
    place=5,
    weights="model.safetensors",
    write_file=lambda path, tensors, aliases, progress: write(
        path, tensors, {"format": "flax"}, progress
    ),
    spelling=FLAX,
    in_shards=False,
)
