"""The second context of classifier-free guidance: its prompts.

B prompts, T columns of their ids, T' columns of the negative prompts, S slots of a cache.
"""

from __future__ import annotations

from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.engine import Prompt
from gpt2x.generation.host import Host
from gpt2x.generation.lengths import bucket, smaller
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.plan import Plan
from gpt2x.generation.prompt import make_prompt, read_prompt


def negative_prompt(
    host: Host, plan: Plan, input_ids: Array, ids: Any, mask: Any
) -> tuple[Prompt, int | Scalar] | None:
    """Return the prompts of the second context and the slots of its cache; None without guidance.

    Args:
        host: of the call.
        plan: of the call.
        input_ids: the prompts, int [B, T].
        ids: the user's negative prompts, int [B or 1, T']; None for each prompt's last token, as in
            transformers.
        mask: [B or 1, T'], nonzero at their text, or None.

    Raises:
        InvalidInputError: if they do not fit the options, the prompts or the model.
    """
    given = {"negative_prompt_ids": ids, "negative_prompt_attention_mask": mask}
    names = [name for name, value in given.items() if value is not None]
    if plan.config.guidance_scale in (None, 1, 1.0):
        if names:
            raise InvalidInputError(
                f"{names[0]} has no effect without guidance_scale; set it (1.5 is usual), or leave "
                f"{names[0]} out."
            )
        return None
    ops = host.prompt_ops
    batch, width = ops.shape(input_ids)
    if ids is None:
        ids = _last_tokens(input_ids, width, mask)
    else:
        ids, mask = _read(host, plan, ids, mask)
        ids, mask = (x if x is None else _for_each(ops, x, batch) for x in (ids, mask))
    length, n_positions = ops.shape(ids)[1], host.model.config.n_positions
    _check_length(plan, length, n_positions)
    if host.buckets and not host.is_traced:
        length = bucket(length, n_positions)
    slots = smaller(ops, length + plan.strategy.capacity, n_positions)
    return make_prompt(host, ids, mask, slots, {}, plan.strategy.needs.spare), slots


def _last_tokens(input_ids: Array, width: int | Scalar, mask: Any) -> Array:
    if mask is not None:
        raise InvalidInputError(
            "negative_prompt_attention_mask belongs to negative_prompt_ids, which are missing."
        )
    if isinstance(width, int) and width == 0:
        raise InvalidInputError(
            "guidance_scale with a prompt of inputs_embeds needs negative_prompt_ids."
        )
    return input_ids[:, -1:]


def _read(host: Host, plan: Plan, ids: Any, mask: Any) -> tuple[Array, Array | None]:
    """Read and check negative prompts as prompts are."""
    try:
        return read_prompt(host, plan.config, {"input_ids": ids, "attention_mask": mask})
    except InvalidInputError as error:
        raise InvalidInputError(f"In the negative prompts: {error}") from error


def _for_each(ops: Ops, array: Array, batch: int | Scalar) -> Array:
    """Repeat a single row for each prompt; raise for another number of rows."""
    rows = ops.shape(array)[0]
    if not isinstance(rows, int) or not isinstance(batch, int) or rows == batch:
        return array
    if rows != 1:
        raise InvalidInputError(
            f"negative_prompt_ids have {rows} rows for {batch} prompts; give one for each, or one "
            "for all."
        )
    return ops.take(array, ops.arange(batch) * 0)


def _check_length(plan: Plan, length: int | Scalar, n_positions: int) -> None:
    """Raise if the text behind the negative prompts does not fit the model."""
    if not all(isinstance(size, int) for size in (length, plan.max_length, plan.prompt_length)):
        return
    new = plan.max_length - plan.prompt_length
    if length + new > n_positions + 1:
        raise InvalidInputError(
            f"The negative prompt has {length} tokens, and {new} new ones follow it, but a model "
            f"with {n_positions} positions (n_positions) can write at most {n_positions + 1} in "
            "all; shorten the negative prompt or lower max_new_tokens."
        )
