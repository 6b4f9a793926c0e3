"""Constrained beam search: every text contains given phrases (arXiv:1804.06609).

Beside the best continuations, each step considers every token that brings a beam closer to its
constraints. All are sorted into *banks* by how far they have come, and the next beams are the best
of each bank in turn. A text may end once it fulfils all constraints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.beam_constraints import (
    Constraint,
    DisjunctiveConstraint,
    PhrasalConstraint,
)
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.strategies.automaton import (
    Automaton,
    Progress,
    added,
    advances,
    banks,
)
from gpt2x.generation.strategies.base import Settings
from gpt2x.generation.strategies.hypotheses import (
    LOWEST,
    NEG_INF,
    Beams,
    Continuations,
    HypothesesState,
    HypothesisBeams,
)


@dataclass(frozen=True, kw_only=True)
class ConstrainedBeamSearch(HypothesisBeams):
    """Search for texts that contain what `settings.own`, an `Automaton`, asks for.

    Tokens of the prompt count, padding does not.
    """

    def progress(self, ops: Ops, settings: Settings) -> Any:
        automaton: Automaton = settings.own
        rows = ops.shape(settings.prompt)[0]
        prompts = rows // self.num_beams
        firsts = ops.arange(prompts) * self.num_beams
        tokens, real = ops.take(settings.prompt, firsts), ops.take(settings.real, firsts)
        column = ops.full((prompts, 1), 0, "int")
        node = ops.full((prompts,), 0, "int")

        def read(state: Any) -> Any:
            index, progress = state
            token = ops.take_along(tokens, column + index)[:, 0]
            is_text = ops.take_along(ops.cast(real, "int"), column + index) > 0
            after = added(ops, automaton, progress, token)
            node = ops.where(is_text[:, 0], after.node, progress.node)
            return index + 1, Progress(node, ops.where(is_text, after.places, progress.places))

        start = Progress(node, column + automaton.places[None, :])
        _, progress = ops.while_loop(
            lambda state: state[0] < settings.prompt_length, read, (ops.scalar(0, "int"), start)
        )
        origins = ops.arange(rows) // self.num_beams
        return Progress(ops.take(progress.node, origins), ops.take(progress.places, origins))

    def advanced(self, ops: Ops, progress: Any, beams: Beams, settings: Settings) -> Any:
        before = Progress(*(ops.take(part, beams.rows) for part in progress))
        return added(ops, settings.own, before, beams.tokens)

    @property
    def may_stop(self) -> bool:
        # A phrase may hold an eos.
        return super().may_stop or self.num_eos > 0

    def may_end(self, ops: Ops, progress: Any) -> Array | bool:
        return (progress.node == 0) & ops.all(progress.places < 0, axis=-1)

    def chosen(
        self,
        ops: Ops,
        state: HypothesesState,
        found: Continuations,
        totals: Array,
        settings: Settings,
    ) -> Beams:
        automaton: Automaton = settings.own
        prompts, beams, vocab_size = ops.shape(totals)
        own = Beams(*(ops.reshape(part, (prompts * beams,)) for part in found.next))
        ahead = self.advanced(ops, state.progress, own, settings)
        own_banks = ops.reshape(banks(ops, automaton, ahead), (prompts, beams))

        # 1. The tokens that advance each beam: [B, F], F = K x (S + A).
        tokens, exists, new_banks = advances(ops, automaton, state.progress)
        tokens = ops.maximum(tokens, 0)
        count = ops.shape(tokens)[1]
        scores = ops.take_along(ops.reshape(totals, (prompts * beams, vocab_size)), tokens)
        origins = (ops.arange(beams * count) // count)[None, :]  # [1, F]
        wide = (prompts, beams * count)
        tokens, exists, new_banks, scores = (
            ops.reshape(part, wide) for part in (tokens, exists, new_banks, scores)
        )
        exists = exists & ~self._known(ops, state, found.next, tokens, exists, origins)
        rows = (ops.arange(prompts) * beams)[:, None] + origins

        # 2. Sort all by bank, and within a bank by score.
        joined = Beams(
            ops.concat([found.next.scores, scores], axis=1),
            ops.concat([found.next.tokens, tokens], axis=1),
            ops.concat([found.next.rows, rows], axis=1),
        )
        all_banks = ops.concat([own_banks, new_banks], axis=1)
        all_exist = ops.concat([found.next.rows >= 0, exists], axis=1)
        order = _in_turn(ops, all_banks, joined.scores, all_exist, beams)
        best = Beams(*(ops.take_along(part, order) for part in joined))

        # 3. Where nothing advances, the order stays as it was.
        changes = ops.any(exists, axis=-1)[:, None]
        return Beams(
            *(ops.where(changes, new, old) for new, old in zip(best, found.next, strict=True))
        )

    def _known(
        self,
        ops: Ops,
        state: HypothesesState,
        own: Beams,
        tokens: Array,
        exists: Array,
        origins: Array,
    ) -> Array:
        """Return which advanced texts [B, F] equal an own one, or an earlier one of them."""
        prompts, beams = ops.shape(own.tokens)
        count = ops.shape(tokens)[1]
        texts = ops.reshape(state.open_tokens, (prompts, beams, self.capacity))
        same = ops.all(texts[:, :, None, :] == texts[:, None, :, :], axis=-1)  # [B, K, K]
        same = ops.reshape(ops.cast(same, "int"), (prompts * beams, beams))
        # Beam i of prompt b is row b x K + i of `same`; row by row for each advanced text.
        starts = (ops.arange(prompts) * beams)[:, None]
        same = ops.reshape(ops.take(same, starts + origins), (prompts * count, beams))

        def equal(other_origins: Array, other_tokens: Array) -> Array:
            width = ops.shape(other_tokens)[1]
            spread = ops.full((prompts, count, 1), 0, "int") + other_origins[:, None, :]
            parents = ops.take_along(same, ops.reshape(spread, (prompts * count, width)))
            parents = ops.reshape(parents, (prompts, count, width)) > 0
            return parents & (tokens[:, :, None] == other_tokens[:, None, :])

        is_own = ops.any(equal(own.rows - starts, own.tokens), axis=-1)
        places = ops.arange(count)
        is_earlier = places[None, None, :] < places[None, :, None]
        repeats = equal(origins + starts * 0, tokens) & exists[:, None, :] & is_earlier
        return is_own | ops.any(repeats, axis=-1)


def _in_turn(ops: Ops, bank: Array, scores: Array, exists: Array, count: int) -> Array:
    """Return the best of each bank, then the second of each, ...: int [B, count].

    As in transformers, the sum ``100 x bank + score`` sorts the candidates, and a bank is a run of
    equal ones in that order.
    """
    prompts, size = ops.shape(bank)
    order = ops.cast(bank, "float") * 100.0 + scores
    order = ops.where(exists, ops.maximum(order, LOWEST), NEG_INF)
    _, index = ops.top_k(order, size)
    bank = ops.take_along(bank, index)
    exists = ops.take_along(ops.cast(exists, "int"), index) > 0

    places = ops.arange(size)
    changes = ops.concat([bank[:, :1] >= 0, bank[:, 1:] != bank[:, :-1]], axis=1)
    starts = ops.where(changes, ops.full((prompts, 1), 0, "int") + places[None, :], 0)
    is_before = places[None, None, :] <= places[None, :, None]
    start = ops.max(ops.where(is_before, starts[:, None, :], 0), axis=-1)  # [B, size]
    turn = ops.where(exists, places[None, :] - start, size)
    _, first = ops.top_k(-(turn * size + places[None, :]), count)
    return ops.take_along(index, first)


def constraints_of(config: Any, vocab_size: int) -> list[Constraint]:
    """Return the constraints that a `GenerationConfig` asks for, `constraints` first.

    Raises:
        InvalidInputError: if they cannot be used, or not with the other options.
    """
    if config.constraints is None and config.force_words_ids is None:
        return []
    found = [*_given(config.constraints), *map(_forced, _words(config.force_words_ids))]
    for name, allowed in (("do_sample", False), ("num_beam_groups", 1)):
        value = getattr(config, name)
        if value != allowed:
            raise InvalidInputError(
                f"Constrained beam search (constraints, force_words_ids) needs {name}={allowed}, "
                f"but {name} is {value}."
            )
    if config.num_beams == 1:
        raise InvalidInputError(
            "Constrained beam search (constraints, force_words_ids) needs num_beams > 1."
        )
    for constraint in found:
        words = constraint.token_ids
        phrases = [words] if isinstance(constraint, PhrasalConstraint) else words
        largest = max(map(max, phrases))
        if largest >= vocab_size:
            raise InvalidInputError(
                f"A constraint holds token id {largest}, but the vocabulary has the ids 0 to "
                f"{vocab_size - 1}."
            )
    return found


def _given(constraints: Any) -> list[Any]:
    if constraints is None:
        return []
    kinds = (PhrasalConstraint, DisjunctiveConstraint)
    is_list = isinstance(constraints, list | tuple) and len(constraints) > 0
    if not is_list or any(type(constraint) not in kinds for constraint in constraints):
        raise InvalidInputError(
            "constraints must be a non-empty list of PhrasalConstraint and DisjunctiveConstraint "
            f"objects, but is {constraints!r}. Classes of your own cannot be used."
        )
    return list(constraints)


def _words(force_words_ids: Any) -> list[Any]:
    if force_words_ids is None:
        return []
    if not isinstance(force_words_ids, list) or not force_words_ids:
        raise _refused(force_words_ids)
    return force_words_ids


def _forced(word: Any) -> Constraint:
    if not isinstance(word, list) or not word:
        raise _refused(word)
    try:
        is_choice = isinstance(word[0], list)
        return DisjunctiveConstraint(word) if is_choice else PhrasalConstraint(word)
    except InvalidInputError as error:
        raise InvalidInputError(f"force_words_ids cannot be used: {error}") from None


def _refused(value: Any) -> InvalidInputError:
    return InvalidInputError(
        "force_words_ids must be a non-empty list; each item is a phrase, as a list of token ids, "
        f"or a list of phrases of which one is enough. It holds {value!r}."
    )
