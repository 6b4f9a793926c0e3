"""What a model returns: fields by attribute, by key, by index, or as a tuple.

Each backend's `outputs.py` registers these classes with its framework under its own names. Arrays
are that framework's; a field that was not asked for is None and is left out of keys, indices and
tuples, as in transformers' `ModelOutput`. Letters: B batch, T query length, V vocabulary, E n_embd,
H heads, S key length, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self


class ModelOutput:
    """Base of the outputs: read as a mapping from the fields that are not None, in order.

    >>> output = TokenClassifierOutput(logits=[0.5])
    >>> output.logits is output["logits"] is output[0]
    True
    >>> output.to_tuple(), "loss" in output
    (([0.5],), False)
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()  # the fields: dataclasses set it

    # The methods of a mapping without its class: TensorFlow would rebuild a `Mapping` from pairs of
    # names and values, which these classes do not take.
    keys = Mapping.keys
    values = Mapping.values
    items = Mapping.items
    get = Mapping.get
    __contains__ = Mapping.__contains__

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None."""
        return tuple(self[name] for name in self)

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        value = getattr(self, key) if key in self.__dict__ else None
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self.__dict__.items() if value is not None)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        named = ", ".join(f"{name}={self[name]!r}" for name in self)
        return f"{type(self).__name__}({named})"

    # Compared and hashed by identity: comparing arrays gives no single bool.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @classmethod
    def of(cls, body: ModelOutput, **own: Any) -> Self:
        """Return an output with fields of its own; the others are those of the body's output."""
        # Not `fields(cls)`, which torch.compile cannot read.
        taken = {name: getattr(body, name) for name in cls.__match_args__ if name not in own}
        return cls(**taken, **own)


@dataclass(eq=False, repr=False)
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Output of the body.

    Attributes:
        last_hidden_state: [B, T, E], after the final layer norm.
        past_key_values: keys and values of every layer, in the form in which they were given.
        hidden_states: L + 1 arrays [B, T, E]: the embeddings, then each block's output; the last
            one after the final layer norm.
        attentions: L arrays [B, H, T, S] of attention weights.
        cross_attentions: L arrays [B, H, T, encoder length].
    """

    last_hidden_state: Any = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    cross_attentions: Any = None


@dataclass(eq=False, repr=False)
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Output of the language model: loss (scalar), logits [B, T, V], and those of the body."""

    loss: Any = None
    logits: Any = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None
    cross_attentions: Any = None


@dataclass(eq=False, repr=False)
class DoubleHeadsModelOutput(ModelOutput):
    """Output of the double-heads model, for C choices.

    Attributes:
        loss: scalar, of the language model.
        mc_loss: scalar, of the choice.
        logits: [B, C, T, V].
        mc_logits: [B, C].
        past_key_values: as the body returns them.
        hidden_states: as the body returns them.
        attentions: as the body returns them.
    """

    loss: Any = None
    mc_loss: Any = None
    logits: Any = None
    mc_logits: Any = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class SequenceClassifierOutputWithPast(ModelOutput):
    """Output of the sequence classifier: loss (scalar), logits [B, labels], those of the body."""

    loss: Any = None
    logits: Any = None
    past_key_values: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class TokenClassifierOutput(ModelOutput):
    """Output of the token classifier: loss (scalar), logits [B, T, labels], those of the body."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None
    attentions: Any = None


@dataclass(eq=False, repr=False)
class QuestionAnsweringModelOutput(ModelOutput):
    """Output of the span finder: loss (scalar), start and end logits [B, T], those of the body."""

    loss: Any = None
    start_logits: Any = None
    end_logits: Any = None
    hidden_states: Any = None
    attentions: Any = None
