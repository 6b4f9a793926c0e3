"""The engine that runs a model for the decoding loop, and its arguments.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpt2x.generation import driver
from gpt2x.generation.ops import Array, Ops, Scalar, is_scalar
from gpt2x.generation.plan import Plan
from gpt2x.generation.records import Call, Extras, by_token
from gpt2x.generation.registry import ops_for
from gpt2x.generation.strategies import Needs, Outputs, Request, Settings, Strategy


def is_encoders(name: str, value: Any) -> bool:
    """Return whether an argument of a model comes from an encoder, with a row for each prompt."""
    return name.startswith("encoder")


class Prompt(NamedTuple):
    """The arrays that an engine starts from; a pytree, so that compiled functions take it.

    Attributes:
        input_ids: int [B, W], without the tokens in `past`; columns behind the prompt are ignored.
        inputs_embeds: [B, W', E] in place of the ids, without those in `past`, or ().
        length: int scalar, the columns of the model's input: T, or those of the embeddings.
        embeds_only: int scalar, the number of columns that have embeddings but no ids.
        columns: arguments of the model with a value for each column, [B, S].
        fixed: arguments of the model that are the same at every step.
        past: a `KVCache` with the beginning of the prompt, or (). It has one row or B, until the
            prompts are on the device.
    """

    input_ids: Array
    inputs_embeds: Any
    length: int | Scalar
    embeds_only: int | Scalar
    columns: dict[str, Array]
    fixed: dict[str, Any]
    past: Any

    @property
    def has_embeds(self) -> bool:
        """Whether the prompt is given as embeddings."""
        return not isinstance(self.inputs_embeds, tuple)

    @property
    def has_past(self) -> bool:
        """Whether the beginning of the prompt is already in a cache."""
        return not isinstance(self.past, tuple)

    @property
    def structure(self) -> tuple[Hashable, ...]:
        """Return the names of the parts that are given, without their values."""
        return self.has_embeds, self.has_past, tuple(self.columns), tuple(self.fixed)

    def with_rows(
        self,
        rows: Callable[[Array], Array],
        of_rows: Callable[[str, Any], bool] = is_encoders,
    ) -> Prompt:
        """Return a prompt with the rows that a function takes of each array; the past stays.

        of_rows: whether a fixed argument, by name and value, has rows.
        """
        return self._replace(
            input_ids=rows(self.input_ids),
            inputs_embeds=rows(self.inputs_embeds) if self.has_embeds else (),
            columns={name: rows(value) for name, value in self.columns.items()},
            fixed={
                name: rows(value) if of_rows(name, value) else value
                for name, value in self.fixed.items()
            },
        )


class Prompts(NamedTuple):
    """The prompts of the contexts that a call runs; a pytree.

    Attributes:
        main: of the model.
        negative: of the second context of classifier-free guidance, or ().
        assistant: of the assistant, or ().
    """

    main: Prompt
    negative: Any = ()
    assistant: Any = ()

    @property
    def structure(self) -> tuple[Hashable, ...]:
        """Return the names of the parts that are given, without their values."""
        return tuple(prompt.structure if prompt else None for prompt in self)

    def map(self, function: Callable[[Prompt], Any]) -> Prompts:
        """Return what a function makes of each prompt that is given."""
        made: list[Any] = [function(prompt) if prompt else () for prompt in self]
        return Prompts(*made)


_NO_STRATEGY = Strategy(capacity=0, steps=0)


class StaticArguments(NamedTuple):
    """The parameters that shape a computation, besides its arrays' shapes; hashable.

    Attributes:
        strategy: the strategy.
        needs: what is asked of the model: the strategy's, or those of its assistant.
        slots: S, columns of the cache.
        other_slots: the same for the negative prompts and for the assistant; 0 without.
        use_cache, output_attentions, output_hidden_states: options of the model.
    """

    strategy: Strategy
    needs: Needs
    slots: int | Scalar
    other_slots: tuple[int | Scalar, int | Scalar]
    use_cache: bool
    output_attentions: bool
    output_hidden_states: bool

    @classmethod
    def of(
        cls,
        plan: Plan,
        slots: int | Scalar,
        other_slots: tuple[int | Scalar, int | Scalar] = (0, 0),
    ) -> StaticArguments:
        """Return those of a plan, with room for what a request takes beyond the text."""
        config, needs = plan.config, plan.strategy.needs
        negative, assistant = other_slots
        returns_more = bool(config.return_dict_in_generate)
        return cls(
            plan.strategy,
            needs,
            slots + needs.spare,
            (negative + needs.spare, assistant),
            bool(config.use_cache),
            returns_more and bool(config.output_attentions),
            returns_more and bool(config.output_hidden_states),
        )

    @property
    def of_model(self) -> StaticArguments:
        """Those of a call of the model alone, the same whatever functions the strategy calls."""
        return self._replace(strategy=_NO_STRATEGY)

    @property
    def negative(self) -> StaticArguments:
        """Those of the second context of classifier-free guidance."""
        needs = Needs(self.needs.columns, self.needs.siblings)
        return self._other(needs, self.other_slots[0])

    @property
    def assistant(self) -> StaticArguments:
        """Those of the assistant."""
        return self._other(Needs(), self.other_slots[1])

    def _other(self, needs: Needs, slots: int | Scalar) -> StaticArguments:
        return StaticArguments(self.strategy, needs, slots, (0, 0), self.use_cache, False, False)

    @property
    def records(self) -> tuple[str, ...]:
        """The outputs of every step that the result has and the loop does not carry."""
        asked = {"attentions": self.output_attentions, "hidden_states": self.output_hidden_states}
        return tuple(name for name, is_asked in asked.items() if is_asked)

    @property
    def options(self) -> dict[str, bool]:
        """The arguments of the model that are the same at every step."""
        reads_states = self.needs.hidden_states or bool(self.needs.layers)
        return {
            "use_cache": self.use_cache,
            "output_attentions": self.output_attentions,
            "output_hidden_states": self.output_hidden_states or reads_states,
            "return_dict": True,
        }


def extras_of(outputs: Mapping[str, Any]) -> Extras:
    """Return the outputs of a model that `generate` can return."""
    return {name: outputs[name] for name in ("attentions", "hidden_states") if name in outputs}


def text_columns(ops: Ops, prompt: Prompt, width: int | Scalar) -> Array:
    """Return which of the prompts' columns are neither padding nor behind them: bool [B, width]."""
    rows = ops.shape(prompt.input_ids)[0]
    is_text = ops.full((rows, width), True, "bool") & (ops.arange(width) < prompt.length)[None, :]
    mask = prompt.columns.get("attention_mask")
    return is_text if mask is None else is_text & (mask[:, :width] != 0)


def placed(
    ops: Ops,
    prompt: Prompt,
    starts: Array,
    count: int,
    slots: int | Scalar,
    n_positions: int,
    siblings: bool,
) -> dict[str, Array]:
    """Return the model's arguments for tokens that have columns of their own in each row.

    Args:
        ops: the framework's.
        prompt: of the rows.
        starts: int [R], the column of each row's first token.
        count: k, tokens of each row.
        slots: S, columns of the cache that the model sees.
        n_positions: of the model. Tokens beyond are run, at the last position, and then rejected.
        siblings: see `Needs`.

    Returns:
        attention_mask bool [R, 1, k, S], position_ids int [R, k], and token_type_ids if given.
    """
    columns = starts[:, None] + ops.arange(count)[None, :]  # [R, k]
    keys = ops.arange(slots)[None, None, :]
    visible = keys <= columns[:, :, None]  # [R, k, S]
    place = columns
    if siblings:
        place = ops.minimum(columns, columns[:, :1] + 1)
        visible = (keys < place[:, :, None]) | (keys == columns[:, :, None])
    mask = prompt.columns.get("attention_mask")
    if mask is not None:
        # Tokens beyond the text may have made a cache longer than the mask, which ends with text.
        index = (
            ops.minimum(ops.arange(slots), ops.shape(mask)[1] - 1)[None, :] + 0 * starts[:, None]
        )
        visible = visible & (ops.take_along(mask, index) != 0)[:, None, :]
    arguments = {"attention_mask": visible[:, None]}
    for name in ("position_ids", "token_type_ids"):
        if name in prompt.columns:
            given = prompt.columns[name]
            arguments[name] = ops.take_along(given, ops.minimum(place, ops.shape(given)[1] - 1))
    if "position_ids" not in arguments:
        hidden = 0 if mask is None else ops.sum(ops.cast(mask == 0, "int"), axis=-1)[:, None]
        arguments["position_ids"] = place - hidden
    arguments["position_ids"] = ops.minimum(arguments["position_ids"], n_positions - 1)
    return arguments


def embedded(ops: Ops, prompt: Prompt, columns: Array, tokens: Array) -> Array:
    """Return the embeddings at columns int [R, k]: the prompts' own, or else those of `tokens`.

    A prompt may be embeddings without ids; `tokens` [R, k, E] then say nothing of its last column,
    which contrastive search runs again.
    """
    rows, width, size = ops.shape(prompt.inputs_embeds)
    index = ops.arange(rows)[:, None] * width + ops.minimum(columns, width - 1)
    given = ops.take(ops.reshape(prompt.inputs_embeds, (rows * width, size)), index)
    is_given = (columns < prompt.length)[:, :, None]
    return ops.where(is_given, ops.cast_like(given, tokens), tokens)


class ModelEngine(Protocol):
    """A model with a language-model head; each backend wraps its own.

    The cache is a `KVCache` of S slots or, with `use_cache=False`, the tokens so far, which every
    step runs again.
    """

    def prefill(self, prompt: Prompt) -> tuple[Outputs, Any, Extras]:
        """Run the prompts.

        Returns the outputs after each prompt's last token, of B rows, the cache, and what else the
        model returned.
        """
        ...

    def decode(
        self, prompt: Prompt, tokens: Array, cache: Any, start: int | Scalar | Array
    ) -> tuple[Outputs, Any, Extras]:
        """Run more tokens of each row, int [R, k]; `start` as in `Request`.

        Returns the same as `prefill`, of R rows.
        """
        ...


class PromptedEngine:
    """A model's engine with its prompt, as `driver.Engine`.

    Args:
        ops: the framework's.
        engine: runs the model.
        static: of the call.
        prompt: of the call.
        keep: returns the extras to keep, from those of a call, its number of tokens and the columns
            so far; None keeps nothing.
    """

    def __init__(
        self,
        ops: Ops,
        engine: ModelEngine,
        static: StaticArguments,
        prompt: Prompt,
        keep: Callable[[Extras, int, int], Extras] | None = None,
    ) -> None:
        self._ops = ops
        self._engine = engine
        self._static = static
        self._prompt = prompt
        self._keep = keep
        self._calls: list[Call] = []

    def prefill(self) -> tuple[Outputs, Any]:
        """Run the prompts; see `driver.Engine`."""
        prompt = self._prompt
        outputs, cache, extras = self._engine.prefill(prompt)
        if self._static.needs.hidden_states:
            width = self._ops.shape(outputs.hidden_states)[1]
            outputs = outputs._replace(is_text=text_columns(self._ops, prompt, width))
        if self._keeps:
            start = int(prompt.past.length) if prompt.has_past else 0
            self._record(extras, start, int(prompt.length) - start)
        return outputs, cache

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Run more tokens of each row; see `driver.Engine`."""
        tokens, start, _ = request
        outputs, cache, extras = self._engine.decode(self._prompt, tokens, cache, start)
        if self._keeps:
            starts = self._ops.to_numpy(start) + int(self._prompt.embeds_only)
            if self._static.use_cache:
                self._record(extras, starts, tokens.shape[1])
            else:  # all columns were run again
                self._record(extras, 0, int(starts) + 1)
        return outputs, cache

    def assist(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Raise: there is no assistant."""
        raise NotImplementedError("only an AssistedEngine has an assistant")

    def expand(self, cache: Any, origins: Array) -> Any:
        """Run the rows of the text from here on; see `driver.Engine`."""
        self._prompt = self._prompt.with_rows(lambda x: self._ops.take(x, origins))
        self._calls = [
            call._replace(extras=self._expanded(call.extras, origins)) for call in self._calls
        ]
        return self.reorder(cache, origins)

    def reorder(self, cache: Any, parents: Array) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        is_cache = self._static.use_cache
        return cache.reorder(parents) if is_cache else self._ops.take(cache, parents)

    def records(self, length: int | Scalar | Array) -> dict[str, Any]:
        """Return the outputs of `StaticArguments.records`: of each step one array per layer.


        Args:
            length: the columns of the text, for all rows or int [R].
        """
        steps = [call.extras for call in self._calls]
        if self._keeps and self._static.needs.columns > 1:
            before = int(self._prompt.embeds_only)
            lengths = self._ops.to_numpy(length) + before
            steps = by_token(self._calls, int(self._prompt.length), lengths)
        return {
            name: tuple(step[name] for step in steps if name in step) or None
            for name in self._static.records
        }

    @property
    def _keeps(self) -> bool:
        """Whether there are outputs to keep; then calls are run one by one."""
        return self._keep is not None and bool(self._static.records)

    def _expanded(self, extras: Extras, origins: Array) -> Extras:
        """Copy the outputs of a call for each row, origins[r]; they may be on the host."""
        rows = self._ops.to_numpy(origins)
        return {
            name: tuple(ops_for(x).take(x, ops_for(x).constant(rows, "int")) for x in layers)
            for name, layers in extras.items()
        }

    def _record(self, extras: Extras, starts: int | np.ndarray, count: int) -> None:
        """Keep the outputs of a call of `count` tokens, from columns `starts` on."""
        if self._keep is None:
            return
        kept = {name: extras[name] for name in self._static.records if name in extras}
        kept = self._keep(kept, count, int(np.max(starts)) + count)
        self._calls.append(Call(starts, count, kept))


class GuidedEngine:
    """An engine beside a second context of the same model, for classifier-free guidance.

    Both continue with the same tokens. The cache is that of both.

    Args:
        main: runs the prompts.
        negative: runs the negative prompts.
        shift: columns of a negative prompt beyond those of a prompt.
    """

    def __init__(self, main: PromptedEngine, negative: PromptedEngine, shift: Any) -> None:
        self._main = main
        self._negative = negative
        self._shift = shift

    def prefill(self) -> tuple[Outputs, Any]:
        """Run the prompts of both; see `driver.Engine`."""
        outputs, cache = self._main.prefill()
        negative, other = self._negative.prefill()
        return outputs._replace(unconditional=negative.logits), (cache, other)

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Run the same tokens in both; see `driver.Engine`."""
        outputs, main = self._main.decode(request, cache[0])
        shifted = request._replace(start=request.start + self._shift)
        negative, other = self._negative.decode(shifted, cache[1])
        return outputs._replace(unconditional=negative.logits), (main, other)

    def assist(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Raise: there is no assistant."""
        return self._main.assist(request, cache)

    def expand(self, cache: Any, origins: Array) -> Any:
        """Run the rows of the text in both; see `driver.Engine`."""
        return self._main.expand(cache[0], origins), self._negative.expand(cache[1], origins)

    def reorder(self, cache: Any, parents: Array) -> Any:
        """Let row r continue row parents[r] in both; see `driver.Engine`."""
        return self._main.reorder(cache[0], parents), self._negative.reorder(cache[1], parents)

    def records(self, length: int | Scalar | Array) -> dict[str, Any]:
        """Return the outputs of the prompts' context; see `PromptedEngine.records`."""
        return self._main.records(length)


class AssistedEngine:
    """An engine with an assistant, a model that proposes tokens. The cache is that of both."""

    def __init__(self, main: PromptedEngine | GuidedEngine, assistant: PromptedEngine) -> None:
        self._main = main
        self._assistant = assistant

    def prefill(self) -> tuple[Outputs, Any]:
        """Run the prompts by both models; see `driver.Engine`."""
        outputs, cache = self._main.prefill()
        _, other = self._assistant.prefill()
        return outputs, (cache, other)

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Run tokens by the model; see `driver.Engine`."""
        outputs, main = self._main.decode(request, cache[0])
        return outputs, (main, cache[1])

    def assist(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Run tokens by the assistant; see `driver.Engine`."""
        outputs, other = self._assistant.decode(request, cache[1])
        return outputs, (cache[0], other)

    def expand(self, cache: Any, origins: Array) -> Any:
        """Run the rows of the text in both; see `driver.Engine`."""
        return self._main.expand(cache[0], origins), self._assistant.expand(cache[1], origins)

    def reorder(self, cache: Any, parents: Array) -> Any:
        """Let row r continue row parents[r] in both; see `driver.Engine`."""
        return self._main.reorder(cache[0], parents), self._assistant.reorder(cache[1], parents)

    def records(self, length: int | Scalar | Array) -> dict[str, Any]:
        """Return the model's own outputs; see `PromptedEngine.records`."""
        return self._main.records(length)


DriverEngine = PromptedEngine | GuidedEngine | AssistedEngine


def assemble(
    ops: Ops,
    make: Callable[[Any, StaticArguments], ModelEngine],
    models: tuple[Any, ...],
    static: StaticArguments,
    prompts: Prompts,
    keep: Callable[[Extras, int, int], Extras] | None = None,
) -> DriverEngine:
    """Return the engine for the contexts of a call.

    Args:
        ops: the framework's.
        make: returns a model's engine.
        models: the model and, if there is one, its assistant.
        static: of the call.
        prompts: of the call.
        keep: see `PromptedEngine`.
    """
    model, main = models[0], prompts.main
    engine: Any = PromptedEngine(ops, make(model, static), static, main, keep)
    if prompts.negative:
        static_of_negative = static.negative
        shift = prompts.negative.length - (main.length - main.embeds_only)
        negative = PromptedEngine(
            ops, make(model, static_of_negative), static_of_negative, prompts.negative
        )
        engine = GuidedEngine(engine, negative, shift)
    if prompts.assistant:
        static_of_assistant = static.assistant
        assistant = PromptedEngine(
            ops, make(models[1], static_of_assistant), static_of_assistant, prompts.assistant
        )
        engine = AssistedEngine(engine, assistant)
    return engine


def past_of(ops: Ops, static: StaticArguments, prompts: Prompts, carry: driver.Carry) -> Any:
    """Return the model's cache after the last step, for the result of `generate`."""
    cache = carry.cache
    for other in (prompts.negative, prompts.assistant):
        cache = cache[0] if other else cache
    if static.needs.columns == 1:
        return cache
    length = carry.state.length
    if not is_scalar(length):
        length = -ops.max(-length, axis=0)  # rows differ: what all of them have run
    return cache.at(length - 1 + prompts.main.embeds_only)


class FusedLoop(driver.Loop):
    """The loop of a call for a compiler, as `driver.Loop`: `run` is a pure function.

    Args:
        ops, make, models, static, prompts: see `assemble`.
        settings: of the call.
    """

    def __init__(
        self,
        ops: Ops,
        make: Callable[[Any, StaticArguments], ModelEngine],
        models: tuple[Any, ...],
        static: StaticArguments,
        prompts: Prompts,
        settings: Settings,
    ) -> None:
        self._ops = ops
        self._strategy = static.strategy
        self._assemble = partial(assemble, ops, make, models, static)
        self._prompts = prompts
        self._settings = settings

    def run(
        self, carry: driver.Carry | None = None, until: int | Scalar | None = None
    ) -> driver.Carry:
        """Take steps; see `driver.Loop`."""
        ops, strategy, settings, prompts = self._ops, self._strategy, self._settings, self._prompts
        if carry is not None and strategy.rows_per_prompt > 1:
            origins = driver.row_origins(ops, strategy, settings)
            prompts = prompts.map(
                lambda prompt: prompt.with_rows(lambda array: ops.take(array, origins))
            )
        engine = self._assemble(prompts)
        return driver.fused(ops, strategy, engine, settings, carry, until)
