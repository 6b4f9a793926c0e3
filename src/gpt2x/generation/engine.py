"""The engine that runs a model for the decoding loop, and its arguments.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol

from gpt2x.generation import driver
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.plan import Plan
from gpt2x.generation.registry import ops_for
from gpt2x.generation.strategies import Settings, Strategy

#: Outputs of a call beside logits and cache: for each name, one array per layer.
Extras = dict[str, tuple[Array, ...]]


class Prompt(NamedTuple):
    """The arrays that an engine starts from; a pytree, so that compiled functions take it.

    Attributes:
        input_ids: int [B, W], without the tokens in `past`; columns behind the prompt are ignored.
        inputs_embeds: [B, W', E] in place of the ids, without those in `past`, or ().
        length: int scalar, the columns of the model's input: T, or those of the embeddings.
        embeds_only: int scalar, the number of columns that have embeddings but no ids.
        columns: arguments of the model with a value for each column, [B, S].
        fixed: arguments of the model that are the same at every step.
        past: a `KVCache` with the beginning of the prompt, or ().
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

    def expanded(self, ops: Ops, origins: Array) -> Prompt:
        """Copy the arrays of each row's prompt, origins[r], for the row."""

        def rows(value: Array) -> Array:
            return ops.take(value, origins)

        return self._replace(
            input_ids=rows(self.input_ids),
            inputs_embeds=rows(self.inputs_embeds) if self.has_embeds else (),
            columns={name: rows(value) for name, value in self.columns.items()},
            fixed={
                name: rows(value) if name.startswith("encoder") else value
                for name, value in self.fixed.items()
            },
        )


class StaticArguments(NamedTuple):
    """The parameters that shape a computation, besides its arrays' shapes; hashable.

    Attributes:
        strategy: the strategy.
        slots: S, columns of the cache.
        use_cache, output_attentions, output_hidden_states: options of the model.
    """

    strategy: Strategy
    slots: int | Scalar
    use_cache: bool
    output_attentions: bool
    output_hidden_states: bool

    @classmethod
    def of(cls, plan: Plan, slots: int | Scalar) -> StaticArguments:
        """Return those of a plan."""
        config = plan.config
        returns_more = bool(config.return_dict_in_generate)
        return cls(
            plan.strategy,
            slots,
            bool(config.use_cache),
            returns_more and bool(config.output_attentions),
            returns_more and bool(config.output_hidden_states),
        )

    @property
    def records(self) -> bool:
        """Whether the result has outputs of every step that the loop does not carry."""
        return self.output_attentions or self.output_hidden_states

    @property
    def options(self) -> dict[str, bool]:
        """The arguments of the model that are the same at every step."""
        return {
            "use_cache": self.use_cache,
            "output_attentions": self.output_attentions,
            "output_hidden_states": self.output_hidden_states,
            "return_dict": True,
        }


def extras_of(outputs: Mapping[str, Any]) -> Extras:
    """Return the outputs of a model that `generate` can return."""
    return {name: outputs[name] for name in ("attentions", "hidden_states") if name in outputs}


class ModelEngine(Protocol):
    """A model with a language-model head; each backend wraps its own.

    The cache is a `KVCache` of S slots or, with `use_cache=False`, the tokens so far, which every
    step runs again.
    """

    def prefill(self, prompt: Prompt) -> tuple[Array, Any, Extras]:
        """Run the prompts.

        Returns the logits after each prompt's last token, float32 [B, V], the cache, and the other
        outputs.
        """
        ...

    def decode(
        self, prompt: Prompt, tokens: Array, cache: Any, length: int | Scalar
    ) -> tuple[Array, Any, Extras]:
        """Run another token of each row, int [R], at column ``length - 1`` of the text.

        Returns the same as `prefill`, with logits [R, V].
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

    Attributes:
        attentions: for each call, the requested attention weights.
        hidden_states: for each call, the requested hidden states.
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
        self._use_cache = static.use_cache
        self._prompt = prompt
        self._keep = keep if static.records else None
        self._is_expanded = static.strategy.rows_per_prompt == 1
        self._columns = 0
        self.attentions: list[tuple[Array, ...]] = []
        self.hidden_states: list[tuple[Array, ...]] = []

    def prefill(self) -> tuple[Array, Any]:
        """Run the prompts; see `driver.Engine`."""
        logits, cache, extras = self._engine.prefill(self._prompt)
        if self._keep is not None:
            self._columns = int(self._prompt.length)
            past = int(self._prompt.past.length) if self._prompt.has_past else 0
            self._record(extras, self._columns - past)
        return logits, cache

    def decode(self, tokens: Array, cache: Any, length: int | Scalar) -> tuple[Array, Any]:
        """Run another token of each row; see `driver.Engine`."""
        logits, cache, extras = self._engine.decode(self._prompt, tokens, cache, length)
        self._columns += 1
        self._record(extras, 1 if self._use_cache else self._columns)
        return logits, cache

    def reorder(self, cache: Any, parents: Array) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        if not self._is_expanded:  # at first prompts become rows; later rows change places
            self._is_expanded = True
            self._prompt = self._prompt.expanded(self._ops, parents)
            for record in (self.attentions, self.hidden_states):
                record[:] = [tuple(self._rows(layer, parents) for layer in step) for step in record]
        return cache.reorder(parents) if self._use_cache else self._ops.take(cache, parents)

    def _rows(self, layer: Array, origins: Array) -> Array:
        """Copy a record [B, ...], which may be on the host, for each row."""
        ops = ops_for(layer)
        return ops.take(layer, ops.constant(self._ops.to_numpy(origins), "int"))

    def _record(self, extras: Extras, count: int) -> None:
        if self._keep is not None:
            kept = self._keep(extras, count, self._columns)
            if "attentions" in kept:
                self.attentions.append(kept["attentions"])
            if "hidden_states" in kept:
                self.hidden_states.append(kept["hidden_states"])


def fused(
    ops: Ops,
    engine: ModelEngine,
    static: StaticArguments,
    prompt: Prompt,
    settings: Settings,
    returns_cache: bool,
) -> tuple[Any, Any]:
    """Decode in one loop; return the last state, and the cache (or ())."""
    prompted = PromptedEngine(ops, engine, static, prompt)
    carry = driver.fused(ops, static.strategy, prompted, settings)
    return carry.state, carry.cache if returns_cache else ()
