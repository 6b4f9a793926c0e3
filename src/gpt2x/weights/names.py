"""Names in the files of the three frameworks -> canonical names and layouts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from gpt2x.errors import InvalidInputError
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import (
    BODY_PREFIX,
    FLAX,
    HEAD_MODULES,
    KIND_OF_MODULE,
    TENSORFLOW,
    Kind,
    Layout,
    canonical_pytorch_name,
)


class Place(NamedTuple):
    """The parameter of a tensor in a file: its canonical name, and the layout in the file."""

    name: str
    layout: Layout


#: Returns the place of a tensor by its name in a file; None for a buffer, which is not a weight.
Rename = Callable[[str], Place | None]

_ROOTS = (BODY_PREFIX, "wte", "wpe", "ln_f", *HEAD_MODULES)


def pytorch_name(source: str) -> Place | None:
    """Place a key of a PyTorch state dict."""
    name = canonical_pytorch_name(source)
    return None if name is None else Place(name, Layout.SAME)


def tensorflow_name(source: str) -> Place | None:
    """Place a variable of transformers' TensorFlow models.

    >>> tensorflow_name("tfgpt2lm_head_model/transformer/h_._0/attn/c_attn/bias:0")
    Place(name='h.0.attn.c_attn.bias', layout=<Layout.ROW: 'row'>)
    """
    parts = source.partition(":")[0].split("/")
    # The part before is the name of the model, which the user chose.
    starts = [i for i, p in enumerate(parts) if p in _ROOTS or re.fullmatch(r"h_\._\d+", p)]
    if starts:
        body = [i for i in starts if parts[i] == BODY_PREFIX]
        parts = parts[(body or starts)[-1] :]
    if parts[-2:] in (["wte", "weight"], ["wpe", "weight"]):  # before transformers 4.27
        parts[-1] = "embeddings"
    return _place(TENSORFLOW.canonical, TENSORFLOW.layout, "/".join(parts), source)


def flax_name(source: str) -> Place | None:
    """Place a parameter of transformers' Flax models, joined by slashes or by dots.

    >>> flax_name("transformer/h/0/ln_1/scale")
    Place(name='h.0.ln_1.weight', layout=<Layout.SAME: 'same'>)
    """
    path = source.replace(".", "/").removeprefix("params/")
    return _place(FLAX.canonical, FLAX.layout, path, source)


def _place(
    canonical: Callable[[str], str], layout: Callable[[str], Layout], path: str, source: str
) -> Place:
    try:
        name = canonical(path)
    except InvalidInputError:
        return Place(source, Layout.SAME)  # not a name of GPT-2: reported as left over
    return Place(name, layout(name))


def kind_of(name: str) -> Kind | None:
    """Return the kind of module of a parameter; None for a name that is not GPT-2's."""
    return KIND_OF_MODULE.get(name.rpartition(".")[0].rpartition(".")[2])


def is_projection(name: str) -> bool:
    """Whether this is a projection of a block: (in, out) here, (out, in) in most formats."""
    return kind_of(name) is Kind.CONV1D and name.endswith(".weight")


def out_in(name: str) -> Layout:
    """The layout of formats that store a block's projections (out, in), as `nn.Linear` does."""
    return Layout.TRANSPOSED if is_projection(name) else Layout.SAME


def to_canonical(tensor: LazyTensor, layout: Layout) -> LazyTensor:
    """Return the tensor in canonical layout; reading changes it."""
    if layout is Layout.TRANSPOSED and len(tensor.shape) == 2:
        return tensor.transposed()
    if layout is Layout.ROW:
        return tensor.reshaped(tensor.size)
    return tensor


def from_canonical(tensor: LazyTensor, layout: Layout) -> LazyTensor:
    """Return the tensor in the layout of a file; reading changes it."""
    if layout is Layout.TRANSPOSED:
        return tensor.transposed()
    return tensor.reshaped(*layout.shape(tensor.shape)) if layout is Layout.ROW else tensor
