"""From the last state of a strategy to what `generate` returns."""

from __future__ import annotations

from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.plan import Plan
from gpt2x.generation.registry import ops_for
from gpt2x.generation.strategies import Settings


def result(ops: Ops, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
    """Return the texts, int [returned rows, length], or an output object with more.

    Args:
        ops: the framework's.
        plan: of the call.
        settings: of the call.
        state: the last one. It must be concrete: texts are cut where the longest of them ends.
        **records: `attentions`, `hidden_states` and `past_key_values`, for the output object.
    """
    steps = int(ops.to_numpy(state.length).max()) - plan.prompt_length
    generated = plan.strategy.generated(ops, state, settings)
    sequences = plan.strategy.sequences(ops, state, settings)[:, : plan.prompt_length + generated]
    return _output(ops, plan, state, sequences, steps, generated, records)


def traced_result(ops: Ops, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
    """Return the same inside a traced function, where shapes cannot depend on where a loop ended.

    Texts have all `max_length` columns, and scores and logits all steps.
    """
    steps = plan.strategy.steps
    sequences = plan.strategy.sequences(ops, state, settings)
    return _output(ops, plan, state, sequences, steps, steps, records)


def _output(
    ops: Ops,
    plan: Plan,
    state: Any,
    sequences: Array,
    steps: Any,
    generated: Any,
    records: dict[str, Any],
) -> Any:
    strategy = plan.strategy
    if not plan.config.return_dict_in_generate:
        return sequences
    return strategy.output_class(
        sequences=sequences,
        scores=_per_step(state.scores, steps) if strategy.keep_scores else None,
        logits=_per_step(state.logits, steps) if strategy.keep_logits else None,
        **strategy.output_fields(ops, state, generated),
        **records,
    )


def _per_step(record: Array, steps: Any) -> Any:
    """Return what was kept [N, R, V] as one array a step; as it is where only a graph knows N."""
    return tuple(record[step] for step in range(steps)) if isinstance(steps, int) else record


class TransitionScores:
    """Gives a model the method `compute_transition_scores`."""

    def compute_transition_scores(
        self,
        sequences: Array,
        scores: tuple[Array, ...],
        beam_indices: Array | None = None,
        normalize_logits: bool = False,
    ) -> Array:
        """Return the score of each generated token: float [rows, generated].

        Args:
            sequences: int [rows, length], as `generate` returned them.
            scores: of `generate`: for each step, float [R, V].
            beam_indices: of beam search, int [rows, generated]; tokens after a text's end score 0.
            normalize_logits: whether to take log_softmax of the scores first.
        """
        if not scores:
            raise InvalidInputError("scores are empty; call generate with output_scores=True.")
        ops = ops_for(scores[0])
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
