"""Prompts: a user's inputs, checked, with defaults, converted for the decoding loop.

B prompts, T columns of their ids, T' columns that the model is given (T, or those of embeddings), W
columns that they are padded to, S slots of the cache, E n_embd.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.cached_prompt import behind_text, cached_text, check_rows, open_past
from gpt2x.generation.engine import Prompt
from gpt2x.generation.host import Host
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.plan import AVAILABLE, eos_tokens, pad_token
from gpt2x.generation.registry import ops_for
from gpt2x.generation.tokens import existing_tokens
from gpt2x.models.checks import check_ids, check_shape


def refuse_arguments(**arguments: Any) -> None:
    """Raise InvalidInputError for arguments of transformers' `generate` that are not available."""
    given = [name for name, value in arguments.items() if value is not None and value is not False]
    if given:
        raise InvalidInputError(
            f"generate() was given {given[0]}, which is not available. Available are {AVAILABLE}."
        )


def bos_token(config: GenerationConfig) -> int:
    """Return the token that an empty prompt starts with."""
    tokens = existing_tokens(config.bos_token_id)
    if not tokens:
        raise InvalidInputError(
            "An empty prompt starts with bos_token_id, which is not set; set it or pass a prompt."
        )
    return tokens[0]


def infer_mask(input_ids: np.ndarray, config: GenerationConfig) -> np.ndarray | None:
    """Return the mask of a prompt that came without one: int [B, T]; None if nothing is padding.

    The pad token marks padding, unless it is an eos too: then it may be part of the text.
    """
    mask = traced_mask(NUMPY_OPS, input_ids, config)
    return None if mask is None or mask.all() else mask


def traced_mask(ops: Ops, input_ids: Array, config: GenerationConfig) -> Array | None:
    """Return the mask of a prompt whose values are not known: int [B, T], 0 at the pad token.

    None if no token marks padding; see `infer_mask`.
    """
    pad = pad_token(config)
    if pad is None or pad in eos_tokens(config):
        return None
    return ops.cast(input_ids != pad, "int")


def read_prompt(
    host: Host, config: GenerationConfig, arguments: dict[str, Any]
) -> tuple[Array, Array | None]:
    """Return the prompt's ids [B, T] and its mask [B, T'], or None if nothing is padding.

    Takes both, and `inputs`, out of `arguments`, and leaves the embeddings as arrays in them.
    """
    given = [arguments.pop(name, None) for name in ("inputs", "input_ids")]
    if all(value is not None for value in given):
        raise InvalidInputError("Give the prompt as inputs or as input_ids, not as both.")
    input_ids, mask = (
        None if value is None else host.read(name, value)
        for name, value in (
            ("input_ids", given[0] if given[1] is None else given[1]),
            ("attention_mask", arguments.pop("attention_mask", None)),
        )
    )
    if input_ids is not None and len(input_ids.shape) != 2:
        raise InvalidInputError(
            "The prompt must hold token ids of shape [batch, length]; got the shape "
            f"{tuple(input_ids.shape)}."
        )
    for name in ("position_ids", "token_type_ids"):
        if name in arguments:
            arguments[name] = host.read(name, arguments[name])
    embeds = arguments.get("inputs_embeds")
    if embeds is not None:
        embeds = arguments["inputs_embeds"] = host.embeddings(embeds)
        check_shape("inputs_embeds", embeds, [(None, None, host.model.config.n_embd)])
    if input_ids is None or (input_ids.shape[1] == 0 and embeds is None):
        arrays = [array for array in (input_ids, embeds, mask) if array is not None]
        rows = ops_for(arrays[0]).shape(arrays[0])[0] if arrays else 1
        width, token = (1, bos_token(config)) if embeds is None else (0, 0)
        input_ids = host.prompt_ops.full((rows, width), token, "int")
        mask = None if embeds is None else mask
    if host.is_traced:
        if mask is None and embeds is None:
            mask = traced_mask(host.ops, input_ids, config)
        return host.ops.cast(input_ids, "int"), mask
    return _checked(host, config, input_ids, mask, arguments)


def _checked(
    host: Host,
    config: GenerationConfig,
    input_ids: np.ndarray,
    mask: np.ndarray | None,
    arguments: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Check a prompt on the host and move its padding to the left."""
    embeds = arguments.get("inputs_embeds")
    check_ids("input_ids", input_ids, host.model.config.vocab_size, lambda ids: ids)
    if mask is None and embeds is None:
        mask = infer_mask(input_ids, config)
    if mask is not None:
        width = input_ids.shape[1] if embeds is None else embeds.shape[1]
        check_shape("attention_mask", mask, [(input_ids.shape[0], width)])
        input_ids, mask = padding_first(input_ids, mask, arguments)
        mask = None if (mask != 0).all() else (mask != 0).astype(np.int32)
    return input_ids.astype(np.int32), mask


def padding_first(
    input_ids: np.ndarray, attention_mask: np.ndarray, arguments: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Move the padding at the end of prompts to their start: a text is continued after its end.

    Args:
        input_ids: int [B, T].
        attention_mask: [B, T], nonzero at text; or [B, T'] beside `inputs_embeds`.
        arguments: the model's other arguments; those that go with the columns move with them.

    Returns:
        The ids and the mask, as they were given if every row ends with text.

    Raises:
        InvalidInputError: if a row holds no text, or if what stands in a fixed order was given.
    """
    is_text = attention_mask != 0
    if is_text[:, -1].all():
        return input_ids, attention_mask
    empty = np.flatnonzero(~is_text.any(axis=1))
    if empty.size:
        raise InvalidInputError(
            f"attention_mask marks all of prompt {empty[0]} as padding, so there is nothing to "
            "continue; leave that prompt out, or let it begin with bos_token_id."
        )
    for name in ("inputs_embeds", "past_key_values"):
        if name in arguments and cached_text(arguments[name]) is None:
            raise InvalidInputError(
                f"attention_mask marks the end of prompt {np.argmin(is_text[:, -1])} as padding, "
                f"which has to come first where {name} are given; pad prompts on the left "
                '(tokenizer.padding_side = "left").'
            )
    width = is_text.shape[1]
    padding = is_text[:, ::-1].argmax(axis=1)[:, None]  # columns at the end of each row
    columns = (np.arange(width) - padding) % width
    for name in ("position_ids", "token_type_ids"):
        if name in arguments:
            check_shape(name, arguments[name], [columns.shape])
            arguments[name] = np.take_along_axis(arguments[name], columns, axis=1)
    return (
        np.take_along_axis(input_ids, columns, axis=1),
        np.take_along_axis(attention_mask, columns, axis=1),
    )


def make_prompt(
    host: Host,
    input_ids: Array,
    mask: Array | None,
    slots: int | Scalar,
    arguments: dict[str, Any],
    spare: int = 0,
    reads_past: bool = True,
) -> Prompt:
    """Gather what an engine starts from.

    Args:
        host: of the call.
        input_ids: int [B, T].
        mask: int [B, T'], or None.
        slots: S, without `spare`.
        arguments: the model's other arguments.
        spare: see `Needs.spare`.
        reads_past: whether columns in `past_key_values` are read; if not, they are run again.
    """
    ops, given = host.prompt_ops, dict(arguments)
    batch, width = ops.shape(input_ids)
    embeds = given.pop("inputs_embeds", None)
    length = width if embeds is None else ops_for(embeds).shape(embeds)[1]
    past = given.pop("past_key_values", None)
    if past is not None:
        text = None if host.is_traced or embeds is not None else cached_text(past)
        if text is not None:
            input_ids, mask = behind_text(text, input_ids, mask, given)
        past = open_past(host, past, batch)
    start = 0
    if past is not None:
        start = past.length
        if isinstance(start, int) and isinstance(length, int) and start >= length:
            raise InvalidInputError(
                f"past_key_values hold {start} tokens and the prompt {length}; pass the whole "
                "text as the prompt, which must go on beyond the cached part."
            )
        check_rows(past, batch)
        if not reads_past:
            _check_can_run_again(past, given)
            past, start = None, 0
    if mask is None and host.buckets and not host.is_traced:
        mask = ops.full((batch, length), 1, "int")  # one computation, with padding or without
    if mask is not None:
        given["attention_mask"] = mask
    for name in ("position_ids", "token_type_ids"):
        if name in given:
            _check_columns(name, given[name], batch, length, start)
    columns: dict[str, Array] = {
        name: _every_column(ops, name, given.pop(name), batch, length, slots + spare)
        for name in ("attention_mask", "position_ids", "token_type_ids")
        if name in given
    }
    if past is not None and host.widens:
        # New columns may be padded beyond the last slot, where the model counts no positions.
        positions = np.maximum((columns["attention_mask"] != 0).cumsum(axis=-1) - 1, 0)
        columns.setdefault("position_ids", positions)
    return Prompt(
        input_ids=host.to_run(input_ids, start, slots),
        inputs_embeds=() if embeds is None else host.to_run(embeds, start, slots),
        length=ops.scalar(length, "int"),
        embeds_only=ops.scalar(length - width, "int"),
        columns=columns,
        fixed={name: host.argument(value) for name, value in given.items()},
        past=() if past is None else past,
    )


def _check_can_run_again(past: Any, arguments: dict[str, Any]) -> None:
    """Raise if a past holds what the prompt does not have."""
    if past.has_cross and "encoder_hidden_states" not in arguments:
        raise InvalidInputError(
            "Contrastive search runs the whole prompt again, for its hidden states, and so needs "
            "the encoder_hidden_states of past_key_values."
        )


def _check_columns(name: str, array: Array, *sizes: Any) -> None:
    """Raise unless an array holds all of the prompt's columns, or those that no cache holds."""
    batch, length, start = (size if isinstance(size, int) else None for size in sizes)
    new = None if length is None or start is None else length - start
    check_shape(name, array, [(rows, T) for T in (length, new) for rows in (batch, 1)])


def _every_column(
    ops: Ops,
    name: str,
    given: Array,
    batch: int | Scalar,
    length: int | Scalar,
    slots: int | Scalar,
) -> Array:
    """Continue what is given for the last of the prompt's columns to all of them: [B, S]."""
    rows, width = ops.shape(given)
    columns = ops.arange(slots) - (length - width)
    last = ops.minimum(ops.maximum(columns, 0), width - 1)
    index = ops.full((rows, 1), 0, "int") + last[None, :]
    repeated = ops.take_along(given, index)
    if name == "attention_mask":
        repeated = ops.where((columns < width)[None, :], repeated, 1)
    elif name == "position_ids":
        repeated = repeated + ops.maximum(columns - last, 0)[None, :]
    if isinstance(rows, int) and rows == 1:
        return ops.take(repeated, ops.arange(batch) * 0)
    return repeated
