"""The interface of a decoding strategy: a pure `init` and `step` over a state of fixed shapes.

A strategy neither loops nor touches the model or its cache. Each step takes the logits of the
tokens that it last asked for, and returns a new state and the next request. The driver
(`gpt2x.generation.driver`) loops; a backend may compile the loop, since shapes never change.

Letters: B prompts, K beams, R rows given to the model (B, B x returned sequences or B x K),
L capacity of the token buffer, N steps for which scores are kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.outputs import GenerateDecoderOnlyOutput
from gpt2x.generation.processors import Context, Processors
from gpt2x.generation.processors.base import Identity

State = Any
NO_PROCESSORS = Processors(())


class Settings(NamedTuple):
    """The inputs of a strategy that can change without compiling again."""

    prompt: Array  # int [R, T], T >= prompt_length; columns beyond it are ignored
    real: Array  # bool [R, L]; False where the prompt is padding
    prompt_length: int | Scalar  # columns of the prompt, padding included
    max_length: int | Scalar  # columns at which generation ends, at most L
    eos: Array  # int [E]; may be empty
    fill: int | Scalar  # token that fills the columns after an eos
    keys: Any  # two word arrays [R], the streams of random numbers; () if nothing is random
    processors: Sequence[Any]  # values of `Strategy.processors`
    warpers: Sequence[Any]  # values of `Strategy.warpers`
    top_k: int | Scalar  # candidates to keep; only read if `Strategy.width` > 0
    length_penalty: float | Scalar  # exponent of the length in a beam's score
    own: Any = ()  # a NamedTuple of what only one strategy reads


class Needs(NamedTuple):
    """What a strategy asks of the model at every step; static.

    Attributes:
        columns: k, the tokens of each row in a request.
        siblings: whether the tokens after the first are alternatives: each sees the text and the
            first, but not the others.
        hidden_states: whether steps read the last layer's hidden states.
        layers: the layers whose input steps read as logits, as `lm_head` reads it; L for the last
            layer's output.
        drafts: whether an assistant is run before each step but the first.
    """

    columns: int = 1
    siblings: bool = False
    hidden_states: bool = False
    layers: tuple[int, ...] = ()
    drafts: bool = False

    @property
    def spare(self) -> int:
        """Columns beyond the text that alternatives take, of which one is kept at most."""
        return self.columns - 1 if self.siblings else 0


class Outputs(NamedTuple):
    """What the model returns for a request, or for the prompts; () for what is not asked for.

    Attributes:
        logits: float [R, V] after the last token of each row; [R, k, V] for a request of k > 1.
        hidden_states: float [R, k, E]; for prompts, of all of their columns W.
        is_text: bool [R, W], for prompts: which of these columns are not padding.
        layer_logits: float [R, layers, V] at the last token.
        unconditional: the logits of the second context of classifier-free guidance.
    """

    logits: Array
    hidden_states: Any = ()
    is_text: Any = ()
    layer_logits: Any = ()
    unconditional: Any = ()

    def taken(self, ops: Ops, rows: Array) -> Outputs:
        """Return those of the given rows, int [any number]."""
        return Outputs(*(x if isinstance(x, tuple) else ops.take(x, rows) for x in self))


class Request(NamedTuple):
    """The next inputs of the model.

    Attributes:
        tokens: int [R, k].
        start: the column of the text at which the first of them stands: a scalar, or int [R].
        parents: int [R], the row whose past each row continues; () if its own.
    """

    tokens: Array
    start: int | Scalar | Array
    parents: Any = ()


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """The static part of a strategy: everything that shapes the computation; hashable.

    capacity: columns L of the token buffer.
    steps: N, the most steps for which scores, logits or beam indices are kept.
    rows_per_prompt: R / B.
    num_eos: E, the number of eos tokens.
    criteria: functions ``(input_ids [R, length], scores) -> bool [R]`` that stop rows; they run
        on the host, so such a strategy cannot be compiled.
    """

    capacity: int
    steps: int
    rows_per_prompt: int = 1
    num_eos: int = 0
    processors: Processors = NO_PROCESSORS
    keep_scores: bool = False
    keep_logits: bool = False
    criteria: tuple[Identity, ...] = ()

    reorders = False  # whether requests name parents
    samples = False  # whether steps draw random numbers
    needs = Needs()  # of the model
    #: The reason why tokens cannot be streamed, for the error; None if they can.
    unstreamable: ClassVar[str | None] = None
    #: The class of the result of `generate(return_dict_in_generate=True)`.
    output_class: ClassVar[type[Any]] = GenerateDecoderOnlyOutput

    @property
    def host(self) -> bool:
        """Whether steps call functions that need concrete arrays."""
        return bool(self.criteria) or self.processors.host

    def init(self, ops: Ops, settings: Settings, vocab_size: int) -> State:
        """Return the state before the first step."""
        raise NotImplementedError

    def step(
        self, ops: Ops, state: State, outputs: Outputs, settings: Settings
    ) -> tuple[State, Request]:
        """Take what the model returned for the last request, or for the prompts."""
        raise NotImplementedError

    def draft_request(self, ops: Ops, state: State) -> Request:
        """Return what the assistant runs next; only called while `state.drafting`."""
        raise NotImplementedError

    def draft(self, ops: Ops, state: State, outputs: Outputs, settings: Settings) -> State:
        """Take what the assistant returned, logits [R, V]."""
        raise NotImplementedError

    def request(self, ops: Ops, state: State) -> Request:
        """Return what the model runs next, after drafting; only called if `needs.drafts`."""
        raise NotImplementedError

    def settled(self, ops: Ops, state: State) -> int | Scalar:
        """Return how many columns of every row's text are final."""
        return state.length

    def sequences(self, ops: Ops, state: State, settings: Settings) -> Array:
        """Return the best text so far, prompt included: int [returned rows, L]."""
        raise NotImplementedError

    def generated(self, ops: Ops, state: State, settings: Settings) -> int:
        """Return the number of new tokens of the longest text returned; the state is concrete."""
        return int(ops.to_numpy(state.length).max()) - int(settings.prompt_length)

    def output_fields(self, ops: Ops, state: State, generated: int) -> dict[str, Any]:
        """Return the fields of `output_class` that only this strategy has.

        Args:
            ops: the framework's.
            state: the last one.
            generated: number of new columns in the result.
        """
        return {}

    # ---- shared parts of init and step --------------------------------------------------------

    def prompt_buffer(self, ops: Ops, settings: Settings, fill: int | Scalar) -> Array:
        """Return the token buffer [R, L]: the prompt, then `fill`."""
        rows, width = ops.shape(settings.prompt)
        rest = ops.full((rows, self.capacity - width), 0, "int")
        buffer = ops.concat([settings.prompt, rest], axis=1)
        columns = ops.arange(self.capacity)[None, :]
        return ops.where(columns < settings.prompt_length, buffer, fill)

    def record(self, ops: Ops, kept: bool, rows: int | Scalar, vocab_size: int) -> Any:
        """Return a buffer [N, R, V] for scores or logits, or () if they are not kept."""
        return ops.full((self.steps, rows, vocab_size), 0.0, "float") if kept else ()

    def keep(
        self, ops: Ops, state: State, step: int | Scalar, scores: Array, logits: Array
    ) -> tuple[Any, Any]:
        """Return the state's records with a step's scores and logits, float [R, V], if kept."""
        kept_scores, kept_logits = state.scores, state.logits
        if self.keep_scores:
            kept_scores = ops.write(kept_scores, step, scores, axis=0)
        if self.keep_logits:
            kept_logits = ops.write(kept_logits, step, logits, axis=0)
        return kept_scores, kept_logits

    def is_eos(self, ops: Ops, tokens: Array, settings: Settings) -> Array:
        """Return which tokens are eos: int [R, C] -> bool [R, C]."""
        if self.num_eos == 0:
            return tokens != tokens
        return ops.any(tokens[:, :, None] == settings.eos[None, None, :], axis=-1)

    def stopped_by_criteria(self, ops: Ops, tokens: Array, record: Any, steps: int) -> Array:
        """Apply the criteria to texts int [R, length] and the scores of `steps`: bool [R]."""
        scores = tuple(record[step] for step in range(int(steps))) if self.keep_scores else None
        rows = ops.shape(tokens)[0]
        stopped = ops.full((rows,), False, "bool")
        for criterion in self.criteria:
            stopped = stopped | as_rows(ops, criterion.value(tokens, scores), rows)
        return stopped


def context_of(
    tokens: Array, length: int | Scalar, settings: Settings, outputs: Outputs
) -> Context:
    """Return what processors may read beside the scores."""
    return Context(tokens, settings.real, length, unconditional=outputs.unconditional)


def as_rows(ops: Ops, stop: Any, rows: int) -> Array:
    """Return a criterion's answer, a bool or bool [R], as bool [R]."""
    if isinstance(stop, bool):
        return ops.full((rows,), stop, "bool")
    return ops.cast(stop, "bool")
