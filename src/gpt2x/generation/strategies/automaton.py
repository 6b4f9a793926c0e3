"""Constraints as arrays, so that constrained beam search compiles.

All constraints are one forest of tokens: a phrase is a chain, a choice of phrases a trie. The
progress of a text is the node that it has reached, and the order of the constraints that are
pending. Sizes are rounded up to powers of two: other constraints seldom compile again.

Letters: C constraints, S first tokens of all of them, A most tokens that follow a node (other than
a root), N nodes, M texts. Node 0 stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt2x.generation.beam_constraints import Constraint, DisjunctiveConstraint, Trie, token_trie
from gpt2x.generation.ops import Array, Ops, Scalar

FAR = 1 << 30


class Automaton(NamedTuple):
    """Constraints as arrays.

    Attributes:
        first_tokens, first_nodes, first_owners: int [S]; the tokens that begin a constraint, the
            nodes that they lead to, and the constraint of each. Tokens are -1 where there is none.
        next_tokens, next_nodes: int [N, A]; -1 and 0 where there is none.
        owners: int [N], the constraint of each node.
        is_end: int [N], 1 where a constraint is fulfilled.
        gains: int [N], the longest constraint's length less the tokens that are still needed.
        places: int [C], the order in which constraints are tried; -1 for none.
        total: the number of constraints.
        longest: the length of the longest.
    """

    first_tokens: Array
    first_nodes: Array
    first_owners: Array
    next_tokens: Array
    next_nodes: Array
    owners: Array
    is_end: Array
    gains: Array
    places: Array
    total: int | Scalar
    longest: int | Scalar


class Progress(NamedTuple):
    """How far texts have come."""

    node: Array  # int [M]: within the constraint in progress; 0 if none is
    places: Array  # int [M, C]: pending constraints are tried in ascending order; -1 if not pending


def automaton(constraints: Sequence[Constraint]) -> Automaton:
    """Return constraints as numpy arrays; they are phrasal or disjunctive ones."""
    longest = max(constraint.seqlen for constraint in constraints)
    first: list[tuple[int, int, int]] = []
    nodes: list[tuple[int, int, int]] = [(0, 0, 0)]  # owner, is_end, gain
    edges: list[tuple[int, int, int, int]] = []  # node, position, token, next node
    for owner, constraint in enumerate(constraints):
        level: list[tuple[int, Trie]] = [(0, _trie_of(constraint))]
        for gain in range(longest - constraint.seqlen + 1, longest + 1):
            following: list[tuple[int, Trie]] = []
            for node, trie in level:
                for position, (token, rest) in enumerate(trie.items()):
                    if node:
                        edges.append((node, position, token, len(nodes)))
                    else:
                        first.append((token, len(nodes), owner))
                    following.append((len(nodes), rest))
                    nodes.append((owner, int(not rest), gain))
            level = following
    branches = _rounded(1 + max((position for _, position, _, _ in edges), default=0))
    next_tokens = np.full((_rounded(len(nodes)), branches), -1, np.int32)
    next_nodes = np.zeros_like(next_tokens)
    for node, position, token, following_node in edges:
        next_tokens[node, position], next_nodes[node, position] = token, following_node
    first_tokens, first_nodes, first_owners = np.array(first, np.int32).T
    owners, is_end, gains = np.array(nodes, np.int32).T
    return Automaton(
        first_tokens=_padded(first_tokens, -1),
        first_nodes=_padded(first_nodes, 0),
        first_owners=_padded(first_owners, 0),
        next_tokens=next_tokens,
        next_nodes=next_nodes,
        owners=_padded(owners, 0),
        is_end=_padded(is_end, 0),
        gains=_padded(gains, 0),
        places=_padded(np.arange(len(constraints), dtype=np.int32), -1),
        total=len(constraints),
        longest=longest,
    )


def _trie_of(constraint: Any) -> Trie:
    if isinstance(constraint, DisjunctiveConstraint):
        return constraint.trie
    return token_trie([constraint.token_ids])


def _rounded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _padded(values: np.ndarray, fill: int) -> np.ndarray:
    return np.pad(values, (0, _rounded(len(values)) - len(values)), constant_values=fill)


def added(ops: Ops, automaton: Automaton, progress: Progress, token: Array) -> Progress:
    """Return the progress after another token of each text, int [M]."""
    node, places = progress
    is_busy = node > 0
    onward = following(ops, automaton, node, token)

    # Otherwise the first pending constraint that begins with the token is taken up.
    owners = ops.full((ops.shape(node)[0], 1), 0, "int") + automaton.first_owners[None, :]
    order = ops.take_along(places, owners)  # [M, S]
    begins = (automaton.first_tokens[None, :] == token[:, None]) & (order >= 0)
    begins = begins & ~is_busy[:, None]
    first = ops.argmax(-ops.where(begins, order, FAR))
    has_begun = ops.any(begins, axis=-1)
    begun = ops.where(has_begun, ops.take(automaton.first_nodes, first), 0)

    constraints = ops.arange(ops.shape(places)[1])[None, :]
    is_taken = (constraints == ops.take(automaton.first_owners, first)[:, None]) & has_begun[
        :, None
    ]
    is_broken = is_busy & (onward == 0)
    is_own = constraints == ops.take(automaton.owners, node)[:, None]
    last = ops.max(places, axis=-1)[:, None] + 1
    places = ops.where(is_own & is_broken[:, None], last, ops.where(is_taken, -1, places))

    reached = ops.where(is_busy, onward, begun)
    return Progress(ops.where(ops.take(automaton.is_end, reached) > 0, 0, reached), places)


def following(ops: Ops, automaton: Automaton, node: Array, token: Array) -> Array:
    """Return the node that a token leads to from a node, int [M] each; 0 for none."""
    fits = ops.take(automaton.next_tokens, node) == token[:, None]  # [M, A]
    return ops.max(ops.where(fits, ops.take(automaton.next_nodes, node), 0), axis=-1)


def fulfilled(ops: Ops, automaton: Automaton, progress: Progress) -> Array:
    """Return how many constraints each text fulfils: int [M]."""
    pending = ops.sum(ops.cast(progress.places >= 0, "int"), axis=-1)
    return automaton.total - pending - ops.cast(progress.node > 0, "int")


def banks(ops: Ops, automaton: Automaton, progress: Progress) -> Array:
    """Return a measure of the progress of each text, int [M]; more is better."""
    complete = fulfilled(ops, automaton, progress) * automaton.longest
    return complete + ops.take(automaton.gains, progress.node)


def advances(ops: Ops, automaton: Automaton, progress: Progress) -> tuple[Array, Array, Array]:
    """Return the tokens that make progress, whether each exists, and the banks that they lead to.

    int, bool and int [M, S + A]: the first tokens of the pending constraints, or those that follow
    in the constraint in progress.
    """
    node, places = progress
    texts, firsts = ops.shape(node)[0], ops.shape(automaton.first_tokens)[0]
    is_busy = (node > 0)[:, None]
    zeros = ops.full((texts, 1), 0, "int")
    owners = zeros + automaton.first_owners[None, :]
    begin = zeros + automaton.first_tokens[None, :]
    may_begin = (ops.take_along(places, owners) >= 0) & ~is_busy & (begin >= 0)
    each = ops.arange(texts * firsts) // firsts
    begun = Progress(ops.take(node, each), ops.take(places, each))
    begun = added(ops, automaton, begun, ops.reshape(begin, (texts * firsts,)))
    begun_banks = ops.reshape(banks(ops, automaton, begun), (texts, firsts))

    onward = ops.take(automaton.next_tokens, node)  # [M, A]
    tokens = ops.concat([begin, onward], axis=1)
    exists = ops.concat([may_begin, is_busy & (onward >= 0)], axis=1)
    return tokens, exists, ops.concat([begun_banks, _onward_banks(ops, automaton, progress)], 1)


def _onward_banks(ops: Ops, automaton: Automaton, progress: Progress) -> Array:
    """Return the banks of the tokens that follow in the constraint in progress: int [M, A].

    In transformers the copies of such a constraint share one list of tokens. So each of these
    tokens is taken as if those before it, as far as they fit, had been written too.
    """
    complete = fulfilled(ops, automaton, progress) * automaton.longest
    onward = ops.take(automaton.next_tokens, progress.node)
    node, reached = progress.node, []
    for position in range(ops.shape(automaton.next_tokens)[1]):
        next_node = following(ops, automaton, node, onward[:, position])
        reached.append(next_node)
        node = ops.where(next_node > 0, next_node, node)
    gain = ops.take(automaton.gains, node)
    columns = []
    for next_node in reached:
        is_end = ops.take(automaton.is_end, next_node) > 0
        more = ops.where(is_end, automaton.longest, ops.where(next_node > 0, gain, 0))
        columns.append((complete + more)[:, None])
    return ops.concat(columns, axis=1)
