"""From the last state of a strategy to what `generate` returns."""

from __future__ import annotations

from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2x.generation.plan import Plan
from gpt2x.generation.strategies import BeamSearch, BeamState, Settings


def result(
    ops: Ops,
    plan: Plan,
    settings: Settings,
    state: Any,
    *,
    attentions: Any = None,
    hidden_states: Any = None,
    past_key_values: Any = None,
) -> Any:
    """Return the texts, int [returned rows, length], or an output object with more.

    The state must be concrete: texts are cut where the longest of them ends.
    """
    config, strategy = plan.config, plan.strategy
    steps = written = int(state.length) - plan.prompt_length
    if isinstance(strategy, BeamSearch):
        written = _generated_length(ops, state, strategy.num_return_sequences)
    sequences = strategy.sequences(ops, state, settings)[:, : plan.prompt_length + written]
    if not config.return_dict_in_generate:
        return sequences
    common = {
        "sequences": sequences,
        "scores": _per_step(state.scores, steps) if strategy.keep_scores else None,
        "logits": _per_step(state.logits, steps) if strategy.keep_logits else None,
        "attentions": attentions,
        "hidden_states": hidden_states,
        "past_key_values": past_key_values,
    }
    if not isinstance(strategy, BeamSearch):
        return GenerateDecoderOnlyOutput(**common)
    count = strategy.num_return_sequences
    origins = state.origins[:, :count, :written]
    return GenerateBeamDecoderOnlyOutput(
        **common,
        beam_indices=ops.reshape(origins, (ops.shape(sequences)[0], written)),
        sequences_scores=(
            ops.reshape(state.ranks[:, :count], (ops.shape(sequences)[0],))
            if strategy.keep_scores
            else None
        ),
    )


def _generated_length(ops: Ops, state: BeamState, count: int) -> int:
    """Return how many tokens the longest returned beam has."""
    origins = ops.to_numpy(state.origins[:, :count])
    return int((origins >= 0).sum(axis=-1).max())


def _per_step(record: Array, steps: int) -> tuple[Array, ...]:
    return tuple(record[step] for step in range(steps))


def transition_scores(
    ops: Ops,
    sequences: Array,
    scores: tuple[Array, ...],
    beam_indices: Array | None = None,
    normalize_logits: bool = False,
) -> Array:
    """Return the score of each generated token: float [rows, generated].

    Args:
        ops: the framework's.
        sequences: int [rows, length], as `generate` returned them.
        scores: of `generate`: for each step, float [R, V].
        beam_indices: of beam search, int [rows, generated]; tokens after a text's end score 0.
        normalize_logits: whether to take log_softmax of the scores first.
    """
    if not scores:
        raise InvalidInputError("scores are empty; call generate with output_scores=True.")
    length = ops.shape(sequences)[1]
    steps = len(scores)
    if beam_indices is not None:
        origins = ops.to_numpy(beam_indices)
        steps = int((origins >= 0).sum(axis=-1).max())
    columns = []
    for step in range(steps):
        step_scores = ops.log_softmax(scores[step]) if normalize_logits else scores[step]
        tokens = ops.cast(sequences[:, length - steps + step], "int")[:, None]
        if beam_indices is None:
            columns.append(ops.take_along(step_scores, tokens))
            continue
        origin = ops.cast(beam_indices[:, step], "int")
        chosen = ops.take_along(ops.take(step_scores, ops.maximum(origin, 0)), tokens)
        columns.append(ops.where((origin >= 0)[:, None], chosen, 0.0))
    return ops.concat(columns, axis=1)
