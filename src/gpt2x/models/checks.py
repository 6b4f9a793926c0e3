"""Checks of the inputs of a model, written once for the three backends.

They run before anything is computed and raise InvalidInputError with the same words everywhere.
Shapes are always checked; a dimension of None (unknown in a traced graph) fits any size. Values are
checked if reading them is free: each backend passes `values`, a function from its arrays to numpy
arrays, or to None for arrays that are traced or on an accelerator.

Letters: B batch, T query length, S key length (past and new), V vocab_size, P n_positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError, unknown_arguments

#: Reads an array of the backend on the host, or returns None.
Values = Callable[[Any], np.ndarray | None]

Shape = tuple[int | None, ...]

#: The loss ignores labels with this value.
IGNORE_INDEX = -100


def reject_unknown(
    function: Callable[..., Any], keywords: Mapping[str, Any], known: Iterable[str] = ()
) -> None:
    """Raise if a function was called with keywords that it does not have.

    Args:
        function: the function.
        keywords: the keywords beyond its named arguments (its `**unknown`).
        known: further keywords that it takes.
    """
    unknown = [name for name in keywords if name not in known]
    if unknown:
        parameters = inspect.signature(function).parameters.values()
        allowed = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        raise InvalidInputError(
            unknown_arguments(function.__qualname__, unknown, [*allowed, *known])
        )


def check_config(owner: str, config: Any) -> None:
    """Check the config that a model of the class `owner` is built from."""
    if not isinstance(config, GPT2Config):
        raise InvalidInputError(
            f"{owner} is built from a GPT2Config; got {type(config).__name__}. "
            "To load a model by name, use from_pretrained."
        )
    config.validate()
    if any(config.pruned_heads.values()):
        raise InvalidInputError(
            "The config has pruned_heads, which a model can only be loaded with: from_pretrained "
            "restores them, with weights of zero. For a new model set pruned_heads={}."
        )


def check_model_inputs(
    config: GPT2Config,
    values: Values,
    *,
    input_ids: Any,
    inputs_embeds: Any,
    past_length: int | None,
    past_key: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    cache_position: Any = None,
    head_mask: Any = None,
    encoder_hidden_states: Any = None,
    encoder_attention_mask: Any = None,
) -> None:
    """Check the inputs of a body's forward call; None means that an argument was not given.

    Args:
        config: of the model.
        values: see the module.
        input_ids: integers in [0, V), of shape [B, T] or with more leading dimensions.
        inputs_embeds: [B, T, n_embd], in place of `input_ids`.
        past_length: positions in the cache; None if only the graph knows.
        past_key: a layer's keys in the cache, [B, H, any, n_embd / H].
        attention_mask: shaped as the input with S for T, or [B or 1, H or 1, T or 1, S].
        token_type_ids: integers in [0, V), shaped as the input.
        position_ids: integers in [0, P), shaped as the input or [1, T].
        cache_position: [T]; must be the positions that follow the cache.
        head_mask: [H], [L, H] or rank 5, see the model.
        encoder_hidden_states: [B, encoder length, n_embd].
        encoder_attention_mask: [B, encoder length], [B, T, encoder length] or rank 4.

    Raises:
        InvalidInputError: for the first error.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise InvalidInputError(
            f"Pass either input_ids or inputs_embeds; {given} of them was given."
        )
    if inputs_embeds is not None:
        check_shape("inputs_embeds", inputs_embeds, [(None, None, config.n_embd)])
        shape: Shape = tuple(inputs_embeds.shape)[:-1]
    else:
        shape = tuple(input_ids.shape)
        if len(shape) < 2:
            raise InvalidInputError(
                f"input_ids has shape {show(shape)}; it must be [batch, length]. Add the batch "
                "dimension to a single text."
            )
        check_ids("input_ids", input_ids, config.vocab_size, values)
    length = check_length(config, shape[-1], past_length)

    if past_key is not None:
        check_past_key(config, past_key, _product(shape[:-1]))
    if attention_mask is not None:
        check_attention_mask(config, attention_mask, shape, length)
    if token_type_ids is not None:
        check_shape("token_type_ids", token_type_ids, [shape])
        check_ids("token_type_ids", token_type_ids, config.vocab_size, values)
    if position_ids is not None:
        check_shape("position_ids", position_ids, [shape, (1, shape[-1]), (shape[-1],)])
        check_ids("position_ids", position_ids, config.n_positions, values, size="n_positions")
    if cache_position is not None:
        check_cache_position(cache_position, past_length, shape[-1], values)
    if head_mask is not None:
        check_head_mask(config, head_mask)
    check_encoder(config, shape, encoder_hidden_states, encoder_attention_mask)


def check_array(name: str, value: Any) -> None:
    """Raise unless a value has a shape and a dtype; a list does not."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise InvalidInputError(f"{name} must be an array; got {type(value).__name__}.")


def check_shape(name: str, array: Any, allowed: Iterable[Shape]) -> None:
    """Raise unless the array has one of the shapes; None fits any size."""
    check_array(name, array)
    shape, allowed = tuple(array.shape), list(allowed)
    if not any(fits(shape, wanted) for wanted in allowed):
        listed = " or ".join(dict.fromkeys(show(wanted) for wanted in allowed))
        raise InvalidInputError(f"{name} has shape {show(shape)}; it must be {listed}.")


def check_ids(name: str, ids: Any, limit: int, values: Values, *, size: str = "vocab_size") -> None:
    """Raise unless ids are integers in [0, limit), where `limit` is the config's field `size`."""
    check_integers(name, ids)
    array = values(ids)
    if array is None or array.size == 0:
        return
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0 or highest >= limit:
        wrong = lowest if lowest < 0 else highest
        raise InvalidInputError(
            f"{name} holds {wrong}; {size} is {limit}, so allowed are 0 to {limit - 1}."
        )


def check_integers(name: str, array: Any) -> None:
    """Raise unless the array's dtype is an integer type."""
    if "int" not in str(array.dtype):
        raise InvalidInputError(f"{name} must be integers; its dtype is {array.dtype}.")


def check_length(config: GPT2Config, new: int | None, past_length: int | None) -> int | None:
    """Raise if the text does not fit the positions; return its whole length S."""
    if new == 0:
        raise InvalidInputError("The input holds no tokens; pass at least one.")
    if new is None or past_length is None:
        return None
    if past_length + new > config.n_positions:
        past = f"{past_length} cached and " if past_length else ""
        raise InvalidInputError(
            f"The input is too long: {past}{new} new tokens, but n_positions is "
            f"{config.n_positions}. Shorten the text."
        )
    return past_length + new


def check_attention_mask(
    config: GPT2Config, attention_mask: Any, shape: Shape, length: int | None
) -> None:
    """Raise unless the mask covers past and new tokens of an input of `shape`."""
    mask = tuple(attention_mask.shape)
    if len(mask) == 4 and len(shape) != 4:
        batch, queries = _product(shape[:-1]), shape[-1]
        allowed = [
            (rows, heads, T, length)
            for rows in (batch, 1)
            for heads in (1, config.n_head)
            for T in (queries, 1)
        ]
        if not any(fits(mask, wanted) for wanted in allowed):
            raise InvalidInputError(
                f"attention_mask has shape {show(mask)}; one of rank 4 must broadcast to "
                f"{show((batch, config.n_head, queries, length))} (batch, heads, new tokens, past "
                "and new tokens)."
            )
        return
    wanted = (*shape[:-1], length)
    if not fits(mask, wanted):
        raise InvalidInputError(
            f"attention_mask has shape {show(mask)}; it must be {show(wanted)}, one entry for "
            "every past and new token, or of rank 4."
        )


def check_cache_position(
    cache_position: Any, past_length: int | None, new: int | None, values: Values
) -> None:
    """Raise unless cache_position [T] are the positions that follow the cache."""
    check_shape("cache_position", cache_position, [(new,)])
    array = values(cache_position)
    if (
        array is not None
        and past_length is not None
        and not np.array_equal(array, np.arange(past_length, past_length + len(array)))
    ):
        raise InvalidInputError(
            f"cache_position is {array.tolist()}; tokens are appended to the cache, so it must "
            f"count from {past_length} to {past_length + len(array) - 1}. Use position_ids to "
            "place tokens elsewhere."
        )


def check_past_key(config: GPT2Config, past_key: Any, batch: int | None) -> None:
    """Raise unless the keys of a layer, [B, H, any, n_embd / H], are of `batch` rows."""
    wanted = (batch, config.n_head, None, config.n_embd // config.n_head)
    check_shape("past_key_values (keys of a layer)", past_key, [wanted])


def check_head_mask(config: GPT2Config, head_mask: Any) -> None:
    """Raise unless the head mask is [H], [L, H] or, fully spelled out, [L, B, H, T, S]."""
    layers, heads = config.n_layer, config.n_head
    shape = tuple(head_mask.shape)
    if len(shape) == 5 and shape[0] in (layers, None):
        return
    check_shape("head_mask", head_mask, [(heads,), (layers, heads)])


def check_encoder(
    config: GPT2Config, shape: Shape, hidden_states: Any, attention_mask: Any
) -> None:
    """Raise unless the encoder's states fit the model's cross-attention."""
    if hidden_states is None:
        return
    if not config.add_cross_attention:
        raise InvalidInputError(
            "encoder_hidden_states needs a model with cross-attention; build it from a config with "
            "add_cross_attention=True."
        )
    batch = _product(shape[:-1])
    check_shape("encoder_hidden_states", hidden_states, [(batch, None, config.n_embd)])
    if attention_mask is not None and len(attention_mask.shape) != 4:
        length = tuple(hidden_states.shape)[1]
        allowed: list[Shape] = [(batch, length), (batch, shape[-1], length)]
        check_shape("encoder_attention_mask", attention_mask, allowed)


def check_labels(
    name: str,
    labels: Any,
    allowed: Iterable[Shape],
    classes: int,
    values: Values,
    ignore_index: int = IGNORE_INDEX,
) -> None:
    """Raise unless labels are integers of the right shape, in [0, classes) or `ignore_index`."""
    check_shape(name, labels, allowed)
    check_integers(name, labels)
    array = values(labels)
    if array is None:
        return
    wrong = array[(array != ignore_index) & ((array < 0) | (array >= classes))]
    if wrong.size:
        raise InvalidInputError(
            f"{name} holds {int(wrong[0])}; allowed are 0 to {classes - 1}, and {ignore_index} for "
            "labels that the loss ignores."
        )


def check_targets(
    name: str,
    labels: Any,
    logits: Shape,
    values: Values,
    ignore_index: int = IGNORE_INDEX,
    *,
    or_column: bool = False,
) -> None:
    """Raise unless labels [...] are classes of logits that have the shape [..., classes].

    `or_column` also allows [..., 1].
    """
    *leading, classes = tuple(logits)
    allowed = [(*leading,), (*leading, 1)] if or_column else [(*leading,)]
    check_labels(name, labels, allowed, cast(int, classes), values, ignore_index)


def check_logits_to_keep(labels: Any, shift_labels: Any, logits_to_keep: Any) -> None:
    """Raise if labels need logits that are not computed."""
    keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
    if isinstance(logits_to_keep, int) and logits_to_keep < 0:
        raise InvalidInputError(
            f"logits_to_keep is {logits_to_keep}; pass how many of the last positions to keep, 0 "
            "for all, or their indices."
        )
    if labels is not None and shift_labels is None and not keeps_all:
        raise InvalidInputError(
            "labels need the logits of every position; leave out logits_to_keep, or pass "
            "shift_labels for the positions kept."
        )


def check_problem(
    problem_type: str | None, num_labels: int, labels: Any, batch: int | None, values: Values
) -> str:
    """Return the problem type of a call with labels; if it is None, the labels determine it.

    One label is regression; integers are classes; anything else is one 0/1 number per label.
    """
    check_array("labels", labels)
    is_integer = "int" in str(labels.dtype)
    if problem_type is None:
        several = "single_label_classification" if is_integer else "multi_label_classification"
        problem_type = "regression" if num_labels == 1 else several
    if problem_type == "single_label_classification":
        check_labels("labels", labels, [(batch,), (batch, 1)], num_labels, values)
    elif num_labels == 1 and problem_type == "regression":
        check_shape("labels", labels, [(batch,), (batch, 1)])
    else:
        check_shape("labels", labels, [(batch, num_labels)])
    return problem_type


def check_positions(
    name: str, positions: Any, allowed: Iterable[Shape], length: int | None, values: Values
) -> None:
    """Raise unless token positions are integers in [0, length) of the right shape."""
    check_shape(name, positions, allowed)
    check_integers(name, positions)
    array = values(positions)
    if length is not None and array is not None and array.size:
        wrong = array[(array < 0) | (array >= length)]
        if wrong.size:
            raise InvalidInputError(
                f"{name} holds {int(wrong.flat[0])}; the input has positions 0 to {length - 1}."
            )


def check_span(start_positions: Any, end_positions: Any, batch: int | None) -> bool:
    """Return whether a span is given, one start and one end per row; raise if only one is."""
    if (start_positions is None) != (end_positions is None):
        raise InvalidInputError("Pass both start_positions and end_positions, or neither.")
    if start_positions is None:
        return False
    for name, positions in (
        ("start_positions", start_positions),
        ("end_positions", end_positions),
    ):
        check_shape(name, positions, [(batch,), (batch, 1)])
        check_integers(name, positions)
    return True


def check_can_pool(config: GPT2Config, has_mask: bool, batch: int | None) -> None:
    """Raise if the last token of each row cannot be found: several rows, no mask, no pad id."""
    if not has_mask and config.pad_token_id is None and batch not in (None, 1):
        raise InvalidInputError(
            f"Cannot find the last token of {batch} rows: pass attention_mask, or set "
            "config.pad_token_id."
        )


def fits(shape: Shape, wanted: Shape) -> bool:
    """Whether a shape is the one that is wanted; None fits any size."""
    return len(shape) == len(wanted) and all(
        size is None or want is None or size == want
        for size, want in zip(shape, wanted, strict=True)
    )


def _product(sizes: Shape) -> int | None:
    total = 1
    for size in sizes:
        if size is None:
            return None
        total *= size
    return total


def show(shape: Shape) -> str:
    """Return a shape as messages have it."""
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
