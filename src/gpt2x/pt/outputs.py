"""The output classes, registered as pytrees so that torch.func, export and DDP see inside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

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
    "BaseModelOutputWithPastAndCrossAttentions",
    "CausalLMOutputWithCrossAttentions",
    "GPT2DoubleHeadsModelOutput",
    "SequenceClassifierOutputWithPast",
    "TokenClassifierOutput",
    "QuestionAnsweringModelOutput",
]


@dataclass(eq=False, repr=False)
class GPT2DoubleHeadsModelOutput(DoubleHeadsModelOutput):
    __doc__ = DoubleHeadsModelOutput.__doc__


def _register(output_class: type[ModelOutput]) -> None:
    def flatten(output: Any) -> tuple[list[Any], tuple[str, ...]]:
        return list(output.values()), tuple(output)

    def unflatten(values: Any, names: tuple[str, ...]) -> ModelOutput:
        return output_class(**dict(zip(names, values, strict=True)))

    pytree.register_pytree_node(
        output_class,
        flatten,
        unflatten,
        serialized_type_name=f"gpt2x.pt.{output_class.__name__}",
    )


for _output_class in (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
    QuestionAnsweringModelOutput,
):
    _register(_output_class)
