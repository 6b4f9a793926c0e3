"""The one table of weight names and layouts.

All code that moves weights uses *canonical* names and layouts: those of transformers' PyTorch GPT-2
without the leading ``transformer.`` (``h.0.attn.c_attn.weight``, ``lm_head.weight``). A projection
of a block is stored (in, out), a head (out, in). `PYTORCH`, `TENSORFLOW` and `FLAX` translate
canonical names to the parameter names of that backend in transformers 4.57, and say how its layout
differs. Each is one table, read in both directions.

>>> TENSORFLOW.spell("h.0.attn.c_attn.bias")
'transformer/h_._0/attn/c_attn/bias'
>>> TENSORFLOW.canonical("transformer/h_._0/attn/c_attn/bias")
'h.0.attn.c_attn.bias'
>>> FLAX.layout("h.0.attn.c_attn.weight")
<Layout.TRANSPOSED: 'transposed'>
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2x.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np

    from gpt2x.config import GPT2Config

Shape = tuple[int, ...]


class Layout(enum.Enum):
    """How a backend stores a parameter, compared with the canonical layout."""

    SAME = "same"
    TRANSPOSED = "transposed"  # [a, b] is stored [b, a]
    ROW = "row"  # [n] is stored [1, n]

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """Return a view of a canonical array in this layout."""
        if self is Layout.TRANSPOSED:
            return array.T
        return array[None, :] if self is Layout.ROW else array

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """Return a view of an array of this layout in the canonical one."""
        if self is Layout.TRANSPOSED:
            return array.T
        # transformers writes a bias [1, n] but also reads [n]; so does this.
        return array.reshape(-1) if self is Layout.ROW else array

    def shape(self, canonical: Shape) -> Shape:
        """Return the stored shape of a parameter of this canonical shape."""
        if self is Layout.TRANSPOSED:
            return canonical[::-1]
        return (1, *canonical) if self is Layout.ROW else canonical


class Kind(enum.Enum):
    """The kind of module of a parameter, which determines its leaf names and layouts."""

    EMBEDDING = "embedding"
    LAYER_NORM = "layer norm"
    CONV1D = "conv1d"  # a projection of the blocks: canonical weight (in, out)
    LINEAR = "linear"  # a head: canonical weight (out, in)
    LOW_RANK = "low-rank term"  # of an adapter, in a projection: A [r, in], B [out, r]


KIND_OF_MODULE: Mapping[str, Kind] = {
    "wte": Kind.EMBEDDING,
    "wpe": Kind.EMBEDDING,
    "ln_1": Kind.LAYER_NORM,
    "ln_cross_attn": Kind.LAYER_NORM,
    "ln_2": Kind.LAYER_NORM,
    "ln_f": Kind.LAYER_NORM,
    "c_attn": Kind.CONV1D,
    "q_attn": Kind.CONV1D,
    "c_proj": Kind.CONV1D,
    "c_fc": Kind.CONV1D,
    "lm_head": Kind.LINEAR,
    "score": Kind.LINEAR,
    "classifier": Kind.LINEAR,
    "qa_outputs": Kind.LINEAR,
    "summary": Kind.LINEAR,
    "lora": Kind.LOW_RANK,
}

HEAD_MODULES = ("lm_head", "multiple_choice_head", "score", "classifier", "qa_outputs")

BODY_PREFIX = "transformer"

Leaf = tuple[str, Layout]

_FACTORS: Mapping[tuple[Kind, str], Leaf] = {
    (Kind.LOW_RANK, factor): (factor, Layout.SAME) for factor in ("A", "B")
}


@dataclass(frozen=True)
class Spelling:
    """How one backend writes canonical names: ``spell``, ``canonical`` and ``layout``."""

    separator: str
    layer: str  # how "h.0" is written, as a format of the layer's number
    leaves: Mapping[tuple[Kind, str], Leaf]

    def spell(self, name: str, *, prefix: bool = True) -> str:
        """Translate a canonical name; `prefix` puts the body under ``transformer``, as in heads."""
        *modules, parameter = name.split(".")
        leaf, _ = self.leaves[kind_of(name), parameter]
        body = self.separator.join([*modules, leaf])
        if modules[0] == "h":
            layer = self.layer.format(modules[1])
            body = self.separator.join([layer, *modules[2:], leaf])
        if prefix and modules[0] not in HEAD_MODULES:
            return self.separator.join([BODY_PREFIX, body])
        return body

    def canonical(self, name: str) -> str:
        """Translate a name of `spell` back, with or without the prefix.

        Raises InvalidInputError for a name that no GPT-2 parameter has.
        """
        path = name.removeprefix(BODY_PREFIX + self.separator)
        layer = re.match(re.escape(self.layer).replace(r"\{\}", r"(\d+)") + self.separator, path)
        if layer:
            path = self.separator.join(["h", layer[1], path[layer.end() :]])
        *modules, leaf = path.split(self.separator)
        kind = KIND_OF_MODULE.get(modules[-1]) if modules else None
        for (leaf_kind, parameter), (spelled, _) in self.leaves.items():
            if leaf_kind is kind and spelled == leaf:
                return ".".join([*modules, parameter])
        raise InvalidInputError(f"{name!r} is not the name of a GPT-2 parameter.")

    def layout(self, name: str) -> Layout:
        """Return the layout in which this backend stores a parameter, by its canonical name."""
        _, layout = self.leaves[kind_of(name), name.rpartition(".")[2]]
        return layout


PYTORCH = Spelling(
    separator=".",
    layer="h.{}",
    leaves={
        **{(kind, name): (name, Layout.SAME) for kind in Kind for name in ("weight", "bias")},
        **_FACTORS,
    },
)

TENSORFLOW = Spelling(
    separator="/",
    layer="h_._{}",
    leaves={
        (Kind.EMBEDDING, "weight"): ("embeddings", Layout.SAME),
        (Kind.LAYER_NORM, "weight"): ("gamma", Layout.SAME),
        (Kind.LAYER_NORM, "bias"): ("beta", Layout.SAME),
        (Kind.CONV1D, "weight"): ("weight", Layout.SAME),
        (Kind.CONV1D, "bias"): ("bias", Layout.ROW),
        (Kind.LINEAR, "weight"): ("kernel", Layout.TRANSPOSED),
        (Kind.LINEAR, "bias"): ("bias", Layout.SAME),
        **_FACTORS,
    },
)

FLAX = Spelling(
    separator="/",
    layer="h/{}",
    leaves={
        (Kind.EMBEDDING, "weight"): ("embedding", Layout.SAME),
        (Kind.LAYER_NORM, "weight"): ("scale", Layout.SAME),
        (Kind.LAYER_NORM, "bias"): ("bias", Layout.SAME),
        (Kind.CONV1D, "weight"): ("kernel", Layout.TRANSPOSED),
        (Kind.CONV1D, "bias"): ("bias", Layout.SAME),
        (Kind.LINEAR, "weight"): ("kernel", Layout.TRANSPOSED),
        (Kind.LINEAR, "bias"): ("bias", Layout.SAME),
        **_FACTORS,
    },
)


def kind_of(name: str) -> Kind:
    """Return the kind of module of a parameter, by its canonical name.

    Raises InvalidInputError for a name that no GPT-2 parameter has.
    """
    modules = name.split(".")[:-1]
    kind = KIND_OF_MODULE.get(modules[-1]) if modules else None
    if kind is None:
        raise InvalidInputError(f"{name!r} is not the name of a GPT-2 parameter.")
    return kind


# DistributedDataParallel puts one before the whole name; torch.compile, FSDP and activation
# checkpointing put theirs before the modules that they wrap.
_OUTER_WRAPPER = "module."
_WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OLD_NORM_NAMES = {"gamma": "weight", "beta": "bias"}
_BUFFER = re.compile(r"h\.\d+\.(attn|crossattention)\.(bias|masked_bias)")


def without_wrappers(name: str) -> str:
    """Remove the prefixes of PyTorch's wrappers from a key.

    >>> without_wrappers("module._orig_mod.transformer.h.0._orig_mod.ln_1.bias")
    'transformer.h.0.ln_1.bias'
    """
    name = _WRAPPER.sub("", name)
    while name.startswith(_OUTER_WRAPPER):
        name = name.removeprefix(_OUTER_WRAPPER)
    return name


def canonical_pytorch_name(name: str) -> str | None:
    """Return the canonical name of a key of any PyTorch GPT-2 state dict.

    Prefixes of wrappers and ``transformer.`` are removed, and the LayerNorm names of early
    checkpoints (``gamma``, ``beta``) replaced. Returns None for a causal-mask buffer of old
    checkpoints (``attn.bias``, ``attn.masked_bias``), which is not a weight. A key that is not a
    name of GPT-2 is returned as it is, for the caller to report.
    """
    stripped = without_wrappers(name).removeprefix(BODY_PREFIX + ".")
    module, _, parameter = stripped.rpartition(".")
    if KIND_OF_MODULE.get(module.rpartition(".")[2]) is Kind.LAYER_NORM:
        stripped = f"{module}.{_OLD_NORM_NAMES.get(parameter, parameter)}"
    return None if _BUFFER.fullmatch(stripped) else stripped


class Head(enum.Enum):
    """The head of a model class; its value is part of the class names of the three backends."""

    NONE = "Model"
    LM = "LMHeadModel"
    DOUBLE = "DoubleHeadsModel"
    SEQUENCE_CLASSIFICATION = "ForSequenceClassification"
    TOKEN_CLASSIFICATION = "ForTokenClassification"
    QUESTION_ANSWERING = "ForQuestionAnswering"

    @property
    def architecture(self) -> str:
        """The name in ``architectures`` of config.json, the same for every backend."""
        return f"GPT2{self.value}"


def parameter_shapes(config: GPT2Config, head: Head = Head.NONE) -> dict[str, Shape]:
    """Canonical name and shape of every parameter of a model, in the order of the forward pass.

    A tied ``lm_head.weight`` is the same parameter as ``wte.weight``, so it is not listed.
    """
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    shapes: dict[str, Shape] = {
        "wte.weight": (config.vocab_size, width),
        "wpe.weight": (config.n_positions, width),
    }

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def conv1d(name: str, n_in: int, n_out: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (n_in, n_out), (n_out,)

    for layer in (f"h.{index}" for index in range(config.n_layer)):
        norm(f"{layer}.ln_1")
        conv1d(f"{layer}.attn.c_attn", width, 3 * width)
        conv1d(f"{layer}.attn.c_proj", width, width)
        if config.add_cross_attention:
            norm(f"{layer}.ln_cross_attn")
            conv1d(f"{layer}.crossattention.c_attn", width, 2 * width)
            conv1d(f"{layer}.crossattention.q_attn", width, width)
            conv1d(f"{layer}.crossattention.c_proj", width, width)
        norm(f"{layer}.ln_2")
        conv1d(f"{layer}.mlp.c_fc", width, inner)
        conv1d(f"{layer}.mlp.c_proj", inner, width)
    norm("ln_f")
    shapes.update(_head_shapes(config, head))
    return shapes


def _head_shapes(config: GPT2Config, head: Head) -> dict[str, Shape]:
    width, labels = config.n_embd, config.num_labels
    shapes: dict[str, Shape] = {}
    if head in (Head.LM, Head.DOUBLE) and not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    if head is Head.DOUBLE and config.summary_use_proj:
        # One score per choice, whatever num_labels is: the choices are rows, not labels.
        n_out = 1 if config.summary_proj_to_labels else width
        shapes["multiple_choice_head.summary.weight"] = (n_out, width)
        shapes["multiple_choice_head.summary.bias"] = (n_out,)
    if head is Head.SEQUENCE_CLASSIFICATION:
        shapes["score.weight"] = (labels, width)
    if head is Head.TOKEN_CLASSIFICATION:
        shapes["classifier.weight"], shapes["classifier.bias"] = (labels, width), (labels,)
    if head is Head.QUESTION_ANSWERING:
        shapes["qa_outputs.weight"], shapes["qa_outputs.bias"] = (2, width), (2,)
    return shapes
