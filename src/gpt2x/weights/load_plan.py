"""Matching the tensors of a checkpoint with the parameters of a model."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2x.errors import InvalidInputError, WeightsError
from gpt2x.weights.infer import same_values
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.table import HEAD_MODULES, PYTORCH, Head, Shape, parameter_shapes

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config
    from gpt2x.formats.base import Checkpoint

_TENSORS_OF_A_BLOCK = 8  # at least: two norms, an attention and an MLP


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a floating dtype's name; bfloat16 is that of ml_dtypes."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def check_depth(config: GPT2Config, checkpoint: Mapping[str, LazyTensor], name: str) -> None:
    """Raise WeightsError for a config with far more blocks than the checkpoint has.

    Called before a model or a list of its parameters is made: a number in a file must not fill the
    memory.
    """
    if config.n_layer > max(1000, len(checkpoint) // _TENSORS_OF_A_BLOCK):
        raise WeightsError(
            f"{name!r} has a config of n_layer={config.n_layer}, but only {len(checkpoint)} "
            "tensors. Correct the config."
        )


@dataclass
class LoadingInfo:
    """The mismatches of a load, by transformers' names for the class (``transformer.wte.weight``).

    Attributes:
        missing_keys: parameters of the model that the checkpoint lacks; they are initialised.
        unexpected_keys: tensors of the checkpoint that the model does not have.
        mismatched_keys: (name, shape in the checkpoint, shape in the model), with
            `ignore_mismatched_sizes`; they are initialised.
        error_msgs: always empty, since errors are raised; transformers has it.
    """

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    error_msgs: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, list[Any]]:
        """The dictionary that ``output_loading_info=True`` returns."""
        return dict(vars(self))


@dataclass
class LoadPlan:
    """The tensors of a checkpoint for the parameters of a model.

    Attributes:
        tensors: canonical name -> tensor, with the shape of the parameter.
        info: what does not match.
        new: canonical names of the parameters to initialise.
    """

    tensors: dict[str, LazyTensor]
    info: LoadingInfo
    new: list[str]

    def arrays(self, dtype: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Read the tensors one after another, in the named dtype or that of the file."""
        wanted = None if dtype is None else numpy_dtype(dtype)
        for name, tensor in self.tensors.items():
            yield name, tensor.read(wanted)


def plan_load(
    checkpoint: Checkpoint | Mapping[str, LazyTensor],
    config: GPT2Config,
    head: Head,
    *,
    owner: str | None = None,
    name: str | None = None,
    ignore_mismatched_sizes: bool = False,
    strict: bool = False,
    others: Collection[str] = (),
) -> LoadPlan:
    """Match a checkpoint's tensors with the parameters of a model.

    A missing head is initialised and named in a warning, and so is cross-attention if the
    checkpoint has none. Left-over tensors are named in another warning; other missing weights
    raise. A tied ``lm_head.weight`` is never missing. If the checkpoint has one that differs from
    the embedding, the embedding counts, as in transformers, with a warning.

    Args:
        checkpoint: canonical name -> tensor.
        config: of the model; its shapes are what the tensors must have.
        head: of the model.
        owner: name of the model's class, for messages; by default that of transformers.
        name: source of the checkpoint, for messages.
        ignore_mismatched_sizes: initialise parameters whose tensor has another shape; by default
            they raise.
        strict: raise if anything is missing, left over or mismatched.
        others: names that are not GPT-2's but that the caller can load.

    Raises:
        WeightsError: naming all body weights that are missing, or all tensors of another shape, or
            with `strict` everything that does not match.
    """
    owner = owner or head.architecture
    name = name or str(getattr(checkpoint, "path", "the checkpoint"))
    expected = parameter_shapes(config, head)
    found = {key: checkpoint[key] for key in expected if key in checkpoint}
    mismatched = [key for key, tensor in found.items() if tensor.shape != expected[key]]
    missing = [key for key in expected if key not in found]
    left_over = [key for key in checkpoint if key not in expected and key not in others]
    has_lm_head = head in (Head.LM, Head.DOUBLE)
    if has_lm_head and config.tie_word_embeddings and "lm_head.weight" in left_over:
        left_over.remove("lm_head.weight")
        if not same_values(checkpoint["lm_head.weight"], checkpoint["wte.weight"]):
            warnings.warn(
                f"{name!r} has an lm_head.weight that differs from wte.weight, but "
                f"tie_word_embeddings makes {owner} use wte.weight for both. Pass "
                "tie_word_embeddings=False to use the checkpoint's own output layer.",
                stacklevel=3,
            )

    body_missing = [key for key in missing if not _may_be_new(key, found)]
    if body_missing:
        raise WeightsError(
            f"{name!r} lacks {len(body_missing)} of the weights of {owner}: {_list(body_missing)}. "
            "It is incomplete, or of another architecture than its config says."
        )
    if mismatched and not ignore_mismatched_sizes:
        sizes = [f"{k} is {found[k].shape}, the model's {expected[k]}" for k in mismatched]
        raise WeightsError(
            f"{name!r} does not fit the config of {owner}: size mismatch for {_list(sizes, '; ')}. "
            "Correct the config, or pass ignore_mismatched_sizes=True to initialise them."
        )

    def public(key: str) -> str:
        return _public_name(key, head)

    info = LoadingInfo(
        [public(key) for key in missing],
        [public(key) for key in left_over],
        [(public(key), found[key].shape, expected[key]) for key in mismatched],
    )
    new = [*missing, *mismatched]
    if strict and (new or left_over):
        raise WeightsError(
            f"{name!r} does not match {owner} exactly (strict=True). Missing: {_list(missing)}. "
            f"Left over: {_list(left_over)}. Of another shape: {_list(mismatched)}."
        )
    if new:
        or_mismatched = " (or had another shape there)" if mismatched else ""
        warnings.warn(
            f"Some weights of {owner} were not in {name!r}{or_mismatched} and are newly "
            f"initialised: {_list([public(key) for key in new])}. "
            "Train the model before you use it.",
            stacklevel=3,
        )
    if left_over:
        warnings.warn(
            f"Some weights of {name!r} were not used by {owner}: {_list(info.unexpected_keys)}.",
            stacklevel=3,
        )
    tensors = {key: tensor for key, tensor in found.items() if key not in mismatched}
    return LoadPlan(tensors, info, new)


def _may_be_new(key: str, found: Mapping[str, LazyTensor]) -> bool:
    """Return whether a weight may be missing: one of a head, or all of cross-attention."""
    if key.partition(".")[0] in HEAD_MODULES:
        return True
    return _is_cross_attention(key) and not any(map(_is_cross_attention, found))


def _is_cross_attention(key: str) -> bool:
    return ".crossattention." in key or ".ln_cross_attn." in key


def _public_name(key: str, head: Head) -> str:
    try:
        return PYTORCH.spell(key, prefix=head is not Head.NONE)
    except InvalidInputError:
        return key  # not a name of GPT-2: reported under its name in the checkpoint


def _list(names: list[str], separator: str = ", ") -> str:
    return separator.join(names) or "none"
