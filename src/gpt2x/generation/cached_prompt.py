"""Prompts whose beginning is in a cache: whether they begin with it, and at which columns.

A cache holds the first columns of every row. In a batch that is padded on the left, a prefix that
the prompts share stands at other columns in each row; padding then moves behind the prefix, which
changes nothing, since the mask hides it and positions follow from the mask.

B prompts, T columns of their ids, S columns of the cache.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError
from gpt2x.generation.host import Host
from gpt2x.generation.ops import Ops
from gpt2x.models.cache import CacheMixin
from gpt2x.models.checks import check_shape, show
from gpt2x.models.prompt_cache import CachedText


def cached_text(past: Any) -> CachedText | None:
    """Return the tokens of a user's past, if they are known."""
    return past.text if isinstance(past, CacheMixin) else None


def behind_text(
    text: CachedText, input_ids: np.ndarray, mask: Any, given: dict[str, Any]
) -> tuple[np.ndarray, Any]:
    """Put the columns of the cache first: [pad | cached | own] becomes [cached | pad | own].

    Args:
        text: of the cache, of one row for all prompts or of one for each.
        input_ids: int [B, T].
        mask: [B, T], zero at padding, or None for no padding.
        given: arguments of the model; `position_ids` and `token_type_ids` move with the columns.

    Raises:
        InvalidInputError: if a prompt does not begin with the cached tokens, or ends with them.
    """
    order = _column_order(text, input_ids, mask)
    if order is None:
        return input_ids, mask
    for name in ("position_ids", "token_type_ids"):
        if name in given:
            check_shape(name, given[name], [order.shape, (1, order.shape[1])])
            every = np.broadcast_to(given[name], order.shape)
            given[name] = np.take_along_axis(every, order, axis=1)
    moved = np.take_along_axis(input_ids, order, axis=1)
    return moved, None if mask is None else np.take_along_axis(mask, order, axis=1)


def _column_order(
    text: CachedText, input_ids: np.ndarray, mask: np.ndarray | None
) -> np.ndarray | None:
    """Return the columns of each row in their new order, int [B, T]; None if they stay."""
    is_text = np.ones(input_ids.shape, bool) if mask is None else mask != 0
    rows, length = text.input_ids.shape
    if rows not in (1, len(input_ids)):
        return None  # refused where the cache is given its rows
    if length < input_ids.shape[1] and (is_text[:, :length] == text.is_text).all():
        same = input_ids[:, :length] == text.input_ids
        if (same | ~text.is_text).all():
            return None
    cached = [np.broadcast_to(array, (len(input_ids), length)) for array in text]
    rows_of = zip(input_ids, is_text, *cached, strict=True)
    order = [_row_order(row, *arrays) for row, arrays in enumerate(rows_of)]
    return np.stack(order)


def _row_order(
    row: int, ids: np.ndarray, is_text: np.ndarray, cached: np.ndarray, is_cached: np.ndarray
) -> np.ndarray:
    """Return the columns of a row in their new order, int [T]."""
    columns, padding = np.flatnonzero(is_text), np.flatnonzero(~is_text)
    wanted = cached[is_cached]
    own = len(columns) - len(wanted)
    if own <= 0:
        raise InvalidInputError(
            f"past_key_values hold {len(wanted)} tokens and prompt {row} only {len(columns)}; pass "
            "the whole text as the prompt, which must go on beyond the cached part."
        )
    found = ids[columns[: len(wanted)]]
    if (found != wanted).any():
        at = int((found != wanted).argmax())
        raise InvalidInputError(
            f"Prompt {row} does not begin with the text of past_key_values: token {at} is "
            f"{found[at]}, and {wanted[at]} in the cache. Pass the whole text as the prompt, or "
            f"cut the cache to what they share with past_key_values.crop({at})."
        )
    room = len(cached) - len(wanted)
    if len(padding) < room:
        raise InvalidInputError(
            f"past_key_values hold {room} columns of padding in row {row}, and prompt {row} has "
            f"{len(padding)}; pass the cached columns, padding included, and then the rest."
        )
    first = np.empty(len(cached), np.int64)
    first[is_cached], first[~is_cached] = columns[: len(wanted)], padding[:room]
    return np.concatenate([first, padding[room:], columns[len(wanted) :]])


def open_past(host: Host, past: Any, batch: Any) -> Any:
    """Return a user's past as a cache that the call may change, or None if it holds nothing."""
    if isinstance(past, CacheMixin):
        past.check_model(host.model.config)
        if not past.is_initialized and not past.has_cross:
            return None
    return host.open_past(past, batch)


def for_rows(cache: Any, batch: Any) -> Any:
    """Return a cache with a row for each of B prompts; one row is copied for all of them."""
    is_one = isinstance(cache.batch_size, int) and cache.batch_size == 1
    return cache.fork(batch) if is_one and not (isinstance(batch, int) and batch == 1) else cache


def taken_rows(ops: Ops, cache: Any, rows: np.ndarray) -> Any:
    """Return a cache of the prompts of these numbers, int [b]; one row stays one for all of them.

    What was given stays as it is, and so does the memory that it shares.
    """
    buffers = cache.keys if cache.is_initialized else cache.cross_keys
    part = copy.copy(cache)
    return part if buffers[0].shape[0] == 1 else part.reorder(ops.constant(rows, "int"))


def check_rows(cache: Any, batch: Any) -> None:
    """Raise unless a cache has one row, or one for each of B prompts, as far as this is known."""
    rows = cache.batch_size
    if isinstance(rows, int) and isinstance(batch, int) and rows not in (0, 1, batch):
        _, heads, _, width = cache.keys[0].shape
        length = cache.length if isinstance(cache.length, int) else None
        raise InvalidInputError(
            f"past_key_values has keys of shape {show((rows, heads, length, width))}; it must be "
            f"{show((batch, heads, None, width))}, a row for each prompt, or have one row for all "
            "of them. cache.fork(n) copies each row n times."
        )
