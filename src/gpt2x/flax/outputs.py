"""The output classes under Flax's names, registered as pytrees, serialisable by `jax.export`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from gpt2x.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2x.models.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    DoubleHeadsModelOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)


class _Replaceable:
    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, as with Flax's own dataclasses."""
        return replace(self, **changes)  # type: ignore[type-var]


class FlaxBaseModelOutputWithPastAndCrossAttentions(
    BaseModelOutputWithPastAndCrossAttentions, _Replaceable
):
    __doc__ = BaseModelOutputWithPastAndCrossAttentions.__doc__


class FlaxCausalLMOutputWithCrossAttentions(CausalLMOutputWithCrossAttentions, _Replaceable):
    __doc__ = CausalLMOutputWithCrossAttentions.__doc__


class FlaxGPT2DoubleHeadsModelOutput(DoubleHeadsModelOutput, _Replaceable):
    __doc__ = DoubleHeadsModelOutput.__doc__


class FlaxSequenceClassifierOutputWithPast(SequenceClassifierOutputWithPast, _Replaceable):
    __doc__ = SequenceClassifierOutputWithPast.__doc__


class FlaxTokenClassifierOutput(TokenClassifierOutput, _Replaceable):
    __doc__ = TokenClassifierOutput.__doc__


class FlaxQuestionAnsweringModelOutput(QuestionAnsweringModelOutput, _Replaceable):
    __doc__ = QuestionAnsweringModelOutput.__doc__


class FlaxGenerateDecoderOnlyOutput(GenerateDecoderOnlyOutput, _Replaceable):
    __doc__ = GenerateDecoderOnlyOutput.__doc__


class FlaxGenerateBeamDecoderOnlyOutput(GenerateBeamDecoderOnlyOutput, _Replaceable):
    __doc__ = GenerateBeamDecoderOnlyOutput.__doc__


# Other names of these two in transformers.
FlaxGreedySearchOutput = FlaxGenerateDecoderOnlyOutput
FlaxSampleOutput = FlaxGenerateDecoderOnlyOutput
FlaxBeamSearchOutput = FlaxGenerateBeamDecoderOnlyOutput


def _register(output_class: Any) -> None:
    def flatten(output: ModelOutput) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return output.to_tuple(), tuple(output)

    def flatten_with_keys(output: ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
        keys = [(jax.tree_util.GetAttrKey(name), output[name]) for name in output]
        return keys, tuple(output)

    def unflatten(names: tuple[str, ...], values: Iterable[Any]) -> ModelOutput:
        return output_class(**dict(zip(names, values, strict=True)))

    jax.tree_util.register_pytree_with_keys(output_class, flatten_with_keys, unflatten, flatten)
    export.register_pytree_node_serialization(
        output_class,
        serialized_name=f"gpt2x.flax.{output_class.__name__}",
        serialize_auxdata=lambda names: ",".join(names).encode(),
        deserialize_auxdata=lambda data: tuple(data.decode().split(",")),
    )


for _output_class in _Replaceable.__subclasses__():  # those above; the next has one field
    _register(_output_class)


@jax.tree_util.register_dataclass
@dataclass(eq=False, repr=False)
class FlaxGeneratedTokens(_Replaceable):
    """Token ids that `generate` returns, int32 [rows, length].

    transformers' Flax models return an object with `sequences`; its other models, and those of
    gpt2x, return an array. This can be used as either. `numpy.asarray` and `jax.numpy` take it.

    >>> tokens = FlaxGeneratedTokens(jax.numpy.array([[5, 6, 7]]))
    >>> tokens.sequences.shape == tokens.shape, tokens[0].tolist()
    (True, [5, 6, 7])
    """

    sequences: Array

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "sequences":
            raise AttributeError(name)
        return getattr(self.sequences, name)

    def __getitem__(self, index: Any) -> Array:
        if isinstance(index, str) and index == "sequences":
            return self.sequences
        return self.sequences[index]

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Array]:
        return iter(self.sequences)

    def __eq__(self, other: object) -> Any:
        return self.sequences == jnp.asarray(other)

    def __ne__(self, other: object) -> Any:
        return self.sequences != jnp.asarray(other)

    __hash__ = None  # type: ignore[assignment]  # as an array's

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.sequences, dtype=dtype, copy=copy)

    def __jax_array__(self) -> Array:
        return self.sequences

    def __repr__(self) -> str:
        return repr(self.sequences)


def generation_output(output: Any) -> Any:
    """Convert an output of the decoding core to Flax's classes."""
    for core, ours in (
        (GenerateDecoderOnlyOutput, FlaxGenerateDecoderOnlyOutput),
        (GenerateBeamDecoderOnlyOutput, FlaxGenerateBeamDecoderOnlyOutput),
    ):
        if isinstance(output, core):
            return ours(**output)
    return FlaxGeneratedTokens(output)
