"""The output classes under Flax's names, registered as pytrees, serialisable by `jax.export`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
from jax import export

from gpt2x.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    DoubleHeadsModelOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)

__all__ = [
    "ModelOutput",
    "FlaxBaseModelOutputWithPastAndCrossAttentions",
    "FlaxCausalLMOutputWithCrossAttentions",
    "FlaxGPT2DoubleHeadsModelOutput",
    "FlaxSequenceClassifierOutputWithPast",
    "FlaxTokenClassifierOutput",
    "FlaxQuestionAnsweringModelOutput",
]


@dataclass(eq=False, repr=False)
class FlaxBaseModelOutputWithPastAndCrossAttentions(BaseModelOutputWithPastAndCrossAttentions):
    __doc__ = BaseModelOutputWithPastAndCrossAttentions.__doc__


@dataclass(eq=False, repr=False)
class FlaxCausalLMOutputWithCrossAttentions(CausalLMOutputWithCrossAttentions):
    __doc__ = CausalLMOutputWithCrossAttentions.__doc__


@dataclass(eq=False, repr=False)
class FlaxGPT2DoubleHeadsModelOutput(DoubleHeadsModelOutput):
    __doc__ = DoubleHeadsModelOutput.__doc__


@dataclass(eq=False, repr=False)
class FlaxSequenceClassifierOutputWithPast(SequenceClassifierOutputWithPast):
    __doc__ = SequenceClassifierOutputWithPast.__doc__


@dataclass(eq=False, repr=False)
class FlaxTokenClassifierOutput(TokenClassifierOutput):
    __doc__ = TokenClassifierOutput.__doc__


@dataclass(eq=False, repr=False)
class FlaxQuestionAnsweringModelOutput(QuestionAnsweringModelOutput):
    __doc__ = QuestionAnsweringModelOutput.__doc__


def _register(output_class: type[ModelOutput]) -> None:
    def flatten(output: ModelOutput) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return output.to_tuple(), tuple(output)

    def flatten_with_keys(output: ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
        return [(jax.tree_util.GetAttrKey(n), v) for n, v in output.items()], tuple(output)

    def unflatten(names: tuple[str, ...], values: Iterable[Any]) -> ModelOutput:
        return output_class(**dict(zip(names, values, strict=True)))

    jax.tree_util.register_pytree_with_keys(output_class, flatten_with_keys, unflatten, flatten)
    export.register_pytree_node_serialization(
        output_class,
        serialized_name=f"gpt2x.flax.{output_class.__name__}",
        serialize_auxdata=lambda names: ",".join(names).encode(),
        deserialize_auxdata=lambda data: tuple(data.decode().split(",")),
    )


for _output_class in (
    FlaxBaseModelOutputWithPastAndCrossAttentions,
    FlaxCausalLMOutputWithCrossAttentions,
    FlaxGPT2DoubleHeadsModelOutput,
    FlaxSequenceClassifierOutputWithPast,
    FlaxTokenClassifierOutput,
    FlaxQuestionAnsweringModelOutput,
):
    _register(_output_class)
