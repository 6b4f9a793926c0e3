"""Constraints of constrained beam search: what every text must contain.

They have the arguments and methods of transformers 4.49's. `generate` takes a `PhrasalConstraint`
or a `DisjunctiveConstraint`, of which it makes arrays (`strategies/automaton.py`); their methods
are for callers who follow a text themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gpt2x.errors import InvalidInputError

#: A trie of token ids: each continues with the tries that follow it.
Trie = dict[int, Any]


class Constraint(ABC):
    """Something that a text must contain, and how far it has come.

    Repeating ``constraint.update(constraint.advance())`` must fulfil it.

    Attributes:
        seqlen: the most tokens that fulfil it.
        completed: whether it is fulfilled.
    """

    seqlen: int
    completed: bool

    def __init__(self) -> None:
        self.test()

    def test(self) -> None:
        """Fulfil the constraint, to check its methods.

        Raises:
            InvalidInputError: if it does not advance, is not fulfilled in 10,000 steps, or has
                tokens remaining when it is.
        """
        for step in range(10_000):
            if step == 1:
                self.reset()
            advance = self.advance()
            if not self.does_advance(advance):
                raise InvalidInputError(
                    f"{type(self).__name__} is not defined correctly: does_advance(advance()) must "
                    "be True."
                )
            _, completed, _ = self.update(advance)
            if completed:
                break
        else:
            raise InvalidInputError(
                f"{type(self).__name__} is not defined correctly: 10,000 calls of update(advance())"
                " did not fulfil it."
            )
        if self.remaining() != 0:
            raise InvalidInputError(
                f"{type(self).__name__} is not defined correctly: remaining() must be 0 once it is "
                f"fulfilled, but is {self.remaining()}."
            )

    @abstractmethod
    def advance(self) -> Any:
        """Return the token id, or the list of them, that makes progress; None if there is none."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Return whether a token makes progress."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take the next token of the text.

        Returns whether it made progress, whether it fulfilled the constraint, and whether it undid
        the progress so far.
        """

    @abstractmethod
    def reset(self) -> None:
        """Undo the progress."""

    @abstractmethod
    def remaining(self) -> int:
        """Return how many tokens are still needed, at most."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Constraint:
        """Return a copy, with its progress if `stateful`."""


class PhrasalConstraint(Constraint):
    """A text must contain these tokens, one after the other.

    token_ids: a non-empty list of token ids.
    """

    def __init__(self, token_ids: list[int]) -> None:
        _check_phrase("token_ids", token_ids)
        self.token_ids = token_ids
        self.seqlen = len(token_ids)
        self.fulfilled_idx = -1  # the last of `token_ids` that the text has
        self.completed = False

    def advance(self) -> int | None:
        return None if self.completed else self.token_ids[self.fulfilled_idx + 1]

    def does_advance(self, token_id: int) -> bool:
        _check_token(token_id)
        return token_id == self.advance()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.fulfilled_idx += 1
        self.completed = self.fulfilled_idx == self.seqlen - 1
        return True, self.completed, False

    def reset(self) -> None:
        self.completed = False
        self.fulfilled_idx = -1

    def remaining(self) -> int:
        return self.seqlen - (self.fulfilled_idx + 1)

    def copy(self, stateful: bool = False) -> PhrasalConstraint:
        new = PhrasalConstraint(self.token_ids)
        if stateful:
            new.fulfilled_idx = self.fulfilled_idx
            new.completed = self.completed
        return new


class DisjunctiveConstraint(Constraint):
    """A text must contain one of several phrases.

    nested_token_ids: a non-empty list of non-empty lists of token ids; none may begin with another.
    """

    def __init__(self, nested_token_ids: list[list[int]]) -> None:
        if not isinstance(nested_token_ids, list) or not nested_token_ids:
            raise InvalidInputError(
                f"`nested_token_ids` must be a non-empty list of lists of token ids, but is "
                f"{nested_token_ids!r}."
            )
        for token_ids in nested_token_ids:
            _check_phrase("nested_token_ids", token_ids)
        self.token_ids = nested_token_ids
        self.trie = token_trie(nested_token_ids)
        self.seqlen = max(map(len, nested_token_ids))
        self.current_seq: list[int] = []
        self.completed = False

    def advance(self) -> list[int] | None:
        return self._next_tokens() or None

    def does_advance(self, token_id: int) -> bool:
        _check_token(token_id)
        return token_id in self._next_tokens()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.current_seq.append(token_id)
        self.completed = not self._next_tokens()
        return True, self.completed, False

    def reset(self) -> None:
        self.completed = False
        self.current_seq = []

    def remaining(self) -> int:
        return 0 if self.completed else self.seqlen - len(self.current_seq)

    def copy(self, stateful: bool = False) -> DisjunctiveConstraint:
        new = DisjunctiveConstraint(self.token_ids)
        if stateful:
            new.current_seq = list(self.current_seq)
            new.completed = self.completed
        return new

    def _next_tokens(self) -> list[int]:
        level = self.trie
        for token in self.current_seq:
            level = level[token]
        return list(level)


class ConstraintListState:
    """The progress of a text through several constraints, one at a time.

    A token that breaks off a constraint sends it to the end of those that are pending.

    Attributes:
        constraints: as given, without progress.
        complete_constraints: those that are fulfilled.
        inprogress_constraint: the one that the text is in the middle of, or None.
        pending_constraints: the others, in the order in which they are tried.
        completed: whether all are fulfilled.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        if not constraints:
            raise InvalidInputError("`constraints` must hold at least one constraint.")
        self.constraints = constraints
        self.max_seqlen = max(constraint.seqlen for constraint in constraints)
        self.n_constraints = len(constraints)
        self.init_state()

    def init_state(self) -> None:
        """Undo all progress."""
        self.completed = False
        self.complete_constraints: list[Constraint] = []
        self.inprogress_constraint: Constraint | None = None
        self.pending_constraints = [constraint.copy() for constraint in self.constraints]

    def get_bank(self) -> int:
        """Return a measure of the progress: `max_seqlen` for each fulfilled constraint, and less
        for the one in progress.
        """
        bank = len(self.complete_constraints) * self.max_seqlen
        if self.inprogress_constraint is not None:
            bank += self.max_seqlen - self.inprogress_constraint.remaining()
        return bank

    def advance(self) -> list[int] | None:
        """Return the tokens that make progress: those of the constraint in progress, or else the
        first ones of all pending constraints.
        """
        active = [self.inprogress_constraint] if self.inprogress_constraint else []
        tokens: list[int] = []
        for constraint in active or self.pending_constraints:
            advance = constraint.advance()
            tokens += [advance] if isinstance(advance, int) else advance or []
        return tokens or None

    def reset(self, token_ids: Sequence[int] | None) -> None:
        """Start again with a text, or without one."""
        self.init_state()
        for token in token_ids or ():
            self.add(token)
            if self.completed:
                break

    def add(self, token_id: int) -> tuple[bool, bool]:
        """Take the next token; return whether it fulfilled a constraint, and made progress.

        Once all constraints are fulfilled, that is (True, False).
        """
        _check_token(token_id)
        if self.completed:
            return True, False
        if self.inprogress_constraint is not None:
            return self._continue(self.inprogress_constraint, token_id)
        for index, constraint in enumerate(self.pending_constraints):
            if constraint.does_advance(token_id):
                del self.pending_constraints[index]
                self.inprogress_constraint = constraint
                return self._continue(constraint, token_id)
        return False, False

    def _continue(self, constraint: Constraint, token_id: int) -> tuple[bool, bool]:
        stepped, complete, reset = constraint.update(token_id)
        if reset:
            self.pending_constraints.append(constraint.copy())
            self.inprogress_constraint = None
        if complete:
            self.complete_constraints.append(constraint)
            self.inprogress_constraint = None
            self.completed = not self.pending_constraints
        return complete, stepped

    def copy(self, stateful: bool = True) -> ConstraintListState:
        """Return a copy, with the progress if `stateful`."""
        new = ConstraintListState(self.constraints)
        if stateful:
            new.complete_constraints = [c.copy(stateful=True) for c in self.complete_constraints]
            if self.inprogress_constraint is not None:
                new.inprogress_constraint = self.inprogress_constraint.copy(stateful=True)
            new.pending_constraints = [c.copy() for c in self.pending_constraints]
            new.completed = self.completed
        return new


def token_trie(phrases: list[list[int]]) -> Trie:
    """Return phrases as a trie; raise InvalidInputError if one begins with another."""
    root: Trie = {}
    for phrase in phrases:
        level = root
        for token in phrase:
            level = level.setdefault(token, {})
    if _leaves(root) != len(phrases):
        raise InvalidInputError(
            "None of the lists in `nested_token_ids` may begin with another, or equal it, but they "
            f"are {phrases}."
        )
    return root


def _leaves(trie: Trie) -> int:
    return sum(map(_leaves, trie.values())) if trie else 1


def _check_phrase(name: str, token_ids: Any) -> None:
    is_ids = isinstance(token_ids, list) and all(
        isinstance(token, int) and token >= 0 for token in token_ids
    )
    if not is_ids or not token_ids:
        raise InvalidInputError(
            f"`{name}` must hold a non-empty list of token ids (integers of at least 0), but holds "
            f"{token_ids!r}."
        )


def _check_token(token_id: Any) -> None:
    if not isinstance(token_id, int):
        raise TypeError(f"`token_id` must be an int, but is {token_id!r}.")
