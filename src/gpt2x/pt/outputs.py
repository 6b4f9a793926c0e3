"""The output classes, registered as pytrees so that torch.func, export and DDP see inside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from gpt2x.models import outputs
from gpt2x.models.outputs import ModelOutput

# Its methods are `ModelOutput`'s; that they are typed otherwise does not concern type checkers.
_dict: Any = dict


class _Dict(ModelOutput, _dict):
    """An output that is a `dict`, as in transformers' PyTorch models.

    transformers' Trainer, accelerate and `torch.nn.DataParallel` recognise outputs as dictionaries,
    and make new ones from a dict or from pairs of names and values. Reading is that of
    `gpt2x.models.outputs.ModelOutput`; the dict has the same entries, for code that reads it
    directly.
    """

    def __post_init__(self) -> None:
        first, *rest = self.__dict__.items()
        name, value = first
        if isinstance(value, Mapping | Iterator) and all(other is None for _, other in rest):
            setattr(self, name, None)
            for field, part in dict(value).items():
                setattr(self, field, part)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if value is None:
            dict.pop(self, name, None)
        else:
            dict.__setitem__(self, name, value)

    def _refuse(self, *arguments: Any, **keywords: Any) -> Any:
        raise TypeError("The fields of an output can be set, but not added or removed.")

    __delitem__ = pop = popitem = setdefault = update = clear = _refuse


# Decorated, so that their constructors call `_Dict.__post_init__`.
@dataclass(eq=False, repr=False)
class BaseModelOutputWithPastAndCrossAttentions(
    outputs.BaseModelOutputWithPastAndCrossAttentions, _Dict
):
    __doc__ = outputs.BaseModelOutputWithPastAndCrossAttentions.__doc__


@dataclass(eq=False, repr=False)
class CausalLMOutputWithCrossAttentions(outputs.CausalLMOutputWithCrossAttentions, _Dict):
    __doc__ = outputs.CausalLMOutputWithCrossAttentions.__doc__


@dataclass(eq=False, repr=False)
class GPT2DoubleHeadsModelOutput(outputs.DoubleHeadsModelOutput, _Dict):
    __doc__ = outputs.DoubleHeadsModelOutput.__doc__


@dataclass(eq=False, repr=False)
class SequenceClassifierOutputWithPast(outputs.SequenceClassifierOutputWithPast, _Dict):
    __doc__ = outputs.SequenceClassifierOutputWithPast.__doc__


@dataclass(eq=False, repr=False)
class TokenClassifierOutput(outputs.TokenClassifierOutput, _Dict):
    __doc__ = outputs.TokenClassifierOutput.__doc__


@dataclass(eq=False, repr=False)
class QuestionAnsweringModelOutput(outputs.QuestionAnsweringModelOutput, _Dict):
    __doc__ = outputs.QuestionAnsweringModelOutput.__doc__


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


for _output_class in _Dict.__subclasses__():
    _register(_output_class)
