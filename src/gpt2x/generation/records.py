"""The attentions and hidden states that `generate` returns: from the model's calls to tokens.

R rows, k tokens of each row in a call, T columns of the prompt, L of the text, S of the cache, H
heads, E n_embd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt2x.generation.ops import Array
from gpt2x.generation.registry import ops_for

#: Outputs of a call beside logits and cache: for each name, one array per layer.
Extras = dict[str, tuple[Array, ...]]


class Call(NamedTuple):
    """What a call of the model returned.

    Attributes:
        starts: the column of each row's first token, int [R] or for all rows.
        width: k.
        extras: `attentions` [R, H, k, S] and `hidden_states` [R, k, E] of each layer.
    """

    starts: int | np.ndarray
    width: int
    extras: Extras


def by_token(calls: Sequence[Call], prompt_length: int, lengths: int | np.ndarray) -> list[Extras]:
    """Return the outputs of the prompt, and of each new token but the last alone.

    A column may have been run several times: with a draft that was wrong, or with candidates. Its
    last call has the token of the text.

    Args:
        calls: the first is that of the prompt.
        prompt_length: T.
        lengths: the columns of each row's text, int [R] or for all rows.

    Returns:
        The outputs of the prompt, then for each column from T on `attentions` [R, H, 1, column + 1]
        and `hidden_states` [R, 1, E] of each layer, 0 where the row has no further token.
    """
    prompt, *later = calls
    extras, columns = [prompt.extras], range(prompt_length, int(np.max(lengths)) - 1)
    count = len(next(iter(prompt.extras.values()))[0])
    lengths = np.broadcast_to(lengths, count)
    later = [call._replace(starts=np.broadcast_to(call.starts, count)) for call in later]
    for column, rows in zip(columns, _owners(later, columns).T, strict=True):
        owners = [later[call] for call in rows]
        extras.append(
            {
                name: tuple(
                    _of_column(owners, name, layer, column, lengths) for layer in range(len(layers))
                )
                for name, layers in prompt.extras.items()
            }
        )
    return extras


def _owners(calls: Sequence[Call], columns: range) -> np.ndarray:
    """Return the number of the last call that ran each column: int [R, columns]."""
    if not columns:
        return np.zeros((0, 0), np.intp)
    starts = np.stack([call.starts for call in calls], axis=1)[:, None]  # [R, 1, calls]
    ends = starts + np.array([call.width for call in calls])
    column = np.array(columns)[:, None]
    runs = (starts <= column) & (column < ends)  # [R, columns, calls]
    return len(calls) - 1 - runs[:, :, ::-1].argmax(axis=2)


def _of_column(
    owners: Sequence[Call], name: str, layer: int, column: int, lengths: np.ndarray
) -> Array:
    """Return a layer's output at a column of every row; owners[r] ran it for row r."""
    pieces = []
    for row, call in enumerate(owners):
        array = call.extras[name][layer][row : row + 1]
        token = min(max(column - int(np.asarray(call.starts)[row]), 0), call.width - 1)
        here = slice(token, token + 1)
        piece = array[:, here] if name == "hidden_states" else array[:, :, here, : column + 1]
        pieces.append(piece if column < lengths[row] - 1 else piece * 0)
    return ops_for(pieces[0]).concat(pieces, axis=0)
