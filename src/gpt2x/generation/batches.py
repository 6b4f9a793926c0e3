"""Batches larger than memory allows: a call of `generate` in parts, and their results as one.

A part is a run of some of the prompts. Everything has been checked and prepared for all of them;
a part takes its rows of each array, with their streams of random numbers. So its texts are those
of one call, and parts of one size share one compilation.

B prompts of the call, b of a part, R rows given to the model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError, check_count
from gpt2x.generation.cached_prompt import taken_rows
from gpt2x.generation.engine import Prompt
from gpt2x.generation.host import Host, widened
from gpt2x.generation.memory import Context, Load, fitting_size
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.plan import Plan, values_of
from gpt2x.generation.registry import ops_for
from gpt2x.generation.run import Run
from gpt2x.generation.stopping import MaxTimeCriteria, StopStringCriteria
from gpt2x.models.checks import check_shape

#: Criteria whose answer for a row depends on no other row.
_BY_ROW = (MaxTimeCriteria, StopStringCriteria)


def check_batch_size(host: Host, batch_size: Any, is_streamed: bool, is_custom: bool) -> None:
    """Raise if a call cannot be run in parts of `batch_size` prompts."""
    check_count("batch_size", batch_size, 1)
    if batch_size is None:
        return
    if is_streamed:
        raise InvalidInputError(
            "batch_size runs some prompts after others, and a streamer takes each step of all "
            "prompts; leave one of them out, or call generate for a part of the prompts at a time."
        )
    if is_custom:
        raise InvalidInputError(
            "batch_size cannot be combined with custom_generate, whose function decodes all "
            "prompts itself; leave one of them out."
        )
    if host.is_traced:
        raise InvalidInputError(
            f"Inside {host.tracer}, the prompts are one batch; leave batch_size out, or pass it to "
            "generate outside."
        )


def split(host: Host, run: Run, batch_size: int | None) -> list[np.ndarray]:
    """Return the numbers of each part's prompts, int [b], in order; none if a run is not split.

    Where a computation is compiled for each number of rows, the last part is filled up with
    copies of the last prompt: their rows cost less than a compilation.

    Args:
        host: of the call.
        run: of the call, not yet on the device.
        batch_size: the most prompts of a part; None for as many as fit into memory.
    """
    batch = host.prompt_ops.shape(run.input_ids)[0]
    if batch_size is None:
        batch_size = _estimated_size(host, run, batch)
    if batch_size is None or batch_size >= batch:
        return []
    count = -(-batch // batch_size)
    size = -(-batch // count)
    parts = [np.arange(start, min(start + size, batch)) for start in range(0, batch, size)]
    if host.compiles_rows(run.plan.config):
        parts[-1] = np.minimum(parts[-1][0] + np.arange(size), batch - 1)
    return parts


# ---- the size of a part ---------------------------------------------------------------------


def _estimated_size(host: Host, run: Run, batch: Any) -> int | None:
    """Return how many prompts fit into memory; None if the call must not be split unasked."""
    if host.is_traced or batch < 2 or run.returns_cache or _reads_batch(run):
        return None
    return fitting_size(_load(host, run), batch, host.available_memory())


def _reads_batch(run: Run) -> bool:
    """Return whether functions of the user's may depend on which rows they are given together."""
    strategy = run.plan.strategy
    own_criteria = any(type(criterion.value) not in _BY_ROW for criterion in strategy.criteria)
    return own_criteria or strategy.processors.calls_users


def _load(host: Host, run: Run) -> Load:
    """Return what the memory of a run depends on."""
    static, strategy = run.static, run.plan.strategy
    contexts = [
        Context(owner.model.config, _width(prompt), slots, owner.itemsize)
        for owner, prompt, slots in zip(
            (host, host, host.assistant),
            run.prompts,
            (static.slots, *static.other_slots),
            strict=True,
        )
        if owner is not None and prompt
    ]
    records = strategy.steps * (int(strategy.keep_scores) + int(strategy.keep_logits))
    return Load(
        tuple(contexts),
        strategy.rows_per_prompt,
        static.needs.columns,
        static.use_cache,
        records,
    )


def _width(prompt: Prompt) -> int:
    """Return the columns that the model is run on at first."""
    given = prompt.inputs_embeds if prompt.has_embeds else prompt.input_ids
    return int(given.shape[1])


# ---- the parts ------------------------------------------------------------------------------


def part(host: Host, run: Run, prompts: np.ndarray) -> Run:
    """Return the run of the prompts of these numbers, int [b]; its result has no cache."""
    settings, per_prompt = run.settings, run.plan.strategy.rows_per_prompt
    rows = (prompts[:, None] * per_prompt + np.arange(per_prompt)).reshape(-1)
    processors = [processor.for_prompts(prompts) for processor in run.plan.processors]
    return run._replace(
        plan=replace(run.plan, rows=len(rows), processors=processors),
        settings=settings._replace(
            prompt=settings.prompt[rows],
            real=settings.real[rows],
            keys=tuple(words[rows] for words in settings.keys),
            processors=values_of(NUMPY_OPS, processors),
        ),
        prompts=run.prompts.map(lambda prompt: _taken(host, prompt, prompts)),
        input_ids=run.input_ids[prompts],
        returns_cache=False,
    )


def _taken(host: Host, prompt: Prompt, prompts: np.ndarray) -> Prompt:
    """Return the arrays of the prompts of these numbers, with their rows of a past."""
    batch = prompt.input_ids.shape[0]

    def rows(value: Array) -> Array:
        ops = ops_for(value)
        return ops.take(value, ops.constant(prompts, "int"))

    def of_rows(name: str, value: Any) -> bool:
        if not host.of_rows(name, value, batch):
            return False
        check_shape(name, value, [(batch, *value.shape[1:])])  # a part could fit by chance
        return True

    taken = prompt.with_rows(rows, of_rows)
    if not prompt.has_past:
        return taken
    return taken._replace(past=taken_rows(host.ops, prompt.past, prompts))


# ---- the results ----------------------------------------------------------------------------


def joined(host: Host, run: Run, parts: Sequence[np.ndarray], results: list[Any]) -> Any:
    """Return the result of a run from those of its parts, whose prompts have these numbers.

    Where a part ended before another, its texts are filled up as rows that have ended are, and its
    scores, logits, attentions and hidden states with zeros.
    """
    sizes = [len(prompts) for prompts in parts]
    left = len(run.input_ids) - sum(sizes[:-1])  # prompts of the last part, without copies
    kept = [*sizes[:-1], left]

    def join(ops: Ops, results: list[Any]) -> Any:
        joining = _Joining(ops, sizes, kept, run.plan)
        if not run.plan.config.return_dict_in_generate:
            return joining.texts(results)
        return type(results[0])(**joining.fields(results))

    return host.joined(results, join)


class _Joining:
    """Joins the results of parts.

    Args:
        ops: those of the results.
        sizes: prompts of each part.
        kept: how many of them the result keeps.
        plan: of the call.
    """

    def __init__(self, ops: Ops, sizes: list[int], kept: list[int], plan: Plan) -> None:
        self._ops = ops
        self._sizes = sizes
        self._kept = kept
        self._plan = plan

    def texts(self, texts: list[Array]) -> Array:
        """Join texts, int [returned rows, length]."""
        return self._rows(self._as_wide(texts, self._plan.fill))

    def fields(self, outputs: list[Any]) -> dict[str, Any]:
        """Join the fields of outputs."""
        own: dict[str, Callable[[list[Any]], Any]] = {
            "sequences": self.texts,
            "beam_indices": self._beam_indices,
        }
        return {
            name: own.get(name, self._records)([output[name] for output in outputs])
            for name in outputs[0]
        }

    def _beam_indices(self, indices: list[Array]) -> Array:
        """Join the rows of scores that tokens came from, -1 behind a text; number all rows."""
        first, numbered = 0, []
        for size, index in zip(self._kept, indices, strict=True):
            numbered.append(self._ops.where(index < 0, index, index + first))
            first += size * self._plan.strategy.rows_per_prompt
        return self._rows(self._as_wide(numbered, -1))

    def _records(self, records: list[Any]) -> Any:
        """Join arrays [rows, ...], or tuples (of steps, of layers) of them; None is missing."""
        known = next(record for record in records if record is not None)
        if not isinstance(known, tuple):
            return self._rows(self._filled_up(records))
        count = max(len(record) for record in records if record is not None)
        return tuple(
            self._records([_item(record, index) for record in records]) for index in range(count)
        )

    def _filled_up(self, arrays: list[Any]) -> list[Array]:
        """Put zeros where the array of a part is missing."""
        ops = self._ops
        known, size = next(
            (x, b) for x, b in zip(arrays, self._sizes, strict=True) if x is not None
        )
        rows, *shape = ops.shape(known)
        zeros = (ops.full((rows // size * b, *shape), 0.0, "float") for b in self._sizes)
        pairs = zip(arrays, zeros, strict=True)
        return [ops.cast_like(zero, known) if x is None else x for x, zero in pairs]

    def _as_wide(self, arrays: list[Array], fill: int) -> list[Array]:
        """Fill up int arrays [rows, columns] to the widest of them."""
        ops = self._ops
        width = max(ops.shape(array)[1] for array in arrays)
        return [widened(array, width, fill) for array in arrays]

    def _rows(self, arrays: list[Array]) -> Array:
        """Join arrays [rows, ...] of the parts, without the rows of copied prompts."""
        rows = [self._ops.shape(array)[0] for array in arrays]
        parts = zip(arrays, rows, self._sizes, self._kept, strict=True)
        return self._ops.concat([x[: count // b * kept] for x, count, b, kept in parts], axis=0)


def _item(record: tuple[Any, ...] | None, index: int) -> Any:
    return record[index] if record is not None and index < len(record) else None
