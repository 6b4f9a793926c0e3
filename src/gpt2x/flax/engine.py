"""The engines that run a Flax model for the decoding core: in one computation, or step by step.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from flax import nnx
from gpt2x.flax.cache import KVCache
from gpt2x.flax.cpu.products import attention_dtype
from gpt2x.flax.ops import JAX_OPS as OPS
from gpt2x.generation import driver
from gpt2x.generation.plan import Plan
from gpt2x.generation.strategies import Settings, Strategy


class Prompt(NamedTuple):
    """The arrays that an engine starts from; a pytree, so that jitted functions take it.

    Attributes:
        input_ids: int32 [B, W], without what `past` holds; what stands behind the prompt does not
            matter.
        inputs_embeds: [B, W', E] in place of the ids, or None.
        length: int32 scalar, the columns that the model is given: T, or those of the embeddings.
        hidden: int32 scalar, how many more those are than the ids.
        columns: for some arguments of the model, what they hold at each column: [B, S].
        fixed: arguments of the model that are the same at every step.
        past: a `KVCache` with the beginning of the prompt, or None.
    """

    input_ids: Array
    inputs_embeds: Array | None
    length: Array
    hidden: Array
    columns: dict[str, Array]
    fixed: dict[str, Any]
    past: KVCache | None

    def expanded(self, origins: Array) -> Prompt:
        """Give every row its own copy of what belongs to its prompt, origins[r]."""

        def rows(value: Array) -> Array:
            return jnp.take(value, origins, axis=0)

        embeds = self.inputs_embeds
        return self._replace(
            input_ids=rows(self.input_ids),
            inputs_embeds=None if embeds is None else rows(embeds),
            columns={name: rows(value) for name, value in self.columns.items()},
            fixed={
                name: rows(value) if name.startswith("encoder") else value
                for name, value in self.fixed.items()
            },
        )


class Static(NamedTuple):
    """What shapes a computation, beside the shapes of its arguments; hashable."""

    strategy: Strategy
    slots: int
    use_cache: bool
    output_attentions: bool
    output_hidden_states: bool

    @classmethod
    def of(cls, plan: Plan, slots: int) -> Static:
        config = plan.config
        return cls(
            plan.strategy,
            slots,
            bool(config.use_cache),
            bool(config.output_attentions),
            bool(config.output_hidden_states),
        )


class JaxEngine:
    """A model with a language-model head, as `gpt2x.generation.driver.Engine`.

    The cache is a `KVCache` of S slots or, with `use_cache=False`, the tokens so far, int32 [R, S],
    which every step runs again.
    """

    def __init__(self, model: Any, static: Static, prompt: Prompt) -> None:
        self._model = model
        self._static = static
        self._prompt = prompt
        self._is_expanded = static.strategy.rows_per_prompt == 1
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.__call__).parameters
        self._options = {
            "train": False,
            "use_cache": static.use_cache,
            "output_attentions": static.output_attentions,
            "output_hidden_states": static.output_hidden_states,
            "return_dict": True,
        }
        #: What the last call of the model returned beside logits and cache.
        self.extras: dict[str, tuple[Array, ...]] = {}

    def prefill(self) -> tuple[Array, Any]:
        """Run the prompts; see `driver.Engine`."""
        prompt, slots = self._prompt, self._static.slots
        if not self._static.use_cache:
            text = jnp.pad(prompt.input_ids, [(0, 0), (0, slots - prompt.input_ids.shape[1])])
            # Ids stand at their columns, behind those that have embeddings only.
            text = jnp.roll(text, prompt.hidden, axis=1)
            return self._run_text(text, prompt.length), text
        cache: Any = prompt.past
        start: Any = 0
        if cache is None:
            rows = prompt.input_ids.shape[0]
            dtype = attention_dtype(self._model.dtype, rows)
            cache = KVCache.create(self._model.config, rows, slots, dtype)
        else:
            start = cache.offset
        if prompt.inputs_embeds is None:
            inputs = {"input_ids": prompt.input_ids}
        else:
            inputs = {"inputs_embeds": prompt.inputs_embeds}
        logits, cache = self._run(inputs, cache, start, prompt.length - start - 1)
        # What stands behind the prompt is to be overwritten by the text.
        return logits, cache.at(prompt.length)

    def decode(self, tokens: Array, cache: Any, length: int | Array) -> tuple[Array, Any]:
        """Run one more token of each row; see `driver.Engine`."""
        if self._static.use_cache:
            return self._run({"input_ids": tokens[:, None]}, cache, cache.offset, 0)
        column = length - 1 + self._prompt.hidden
        text = OPS.write(cache, column, tokens, axis=1)
        return self._run_text(text, column + 1), text

    def reorder(self, cache: Any, parents: Array) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        if not self._is_expanded:  # first, prompts become rows; later, rows change places
            self._is_expanded = True
            self._prompt = self._prompt.expanded(parents)
        return reordered(cache, parents)

    def _run(
        self,
        inputs: dict[str, Array],
        cache: KVCache | None,
        start: int | Array,
        last: int | Array,
    ) -> tuple[Array, Any]:
        """Run columns from `start` on; return the logits of the one at `last`, float32 [R, V]."""
        (array,) = inputs.values()
        count = array.shape[1]
        arguments = dict(self._prompt.fixed)
        for name, column in self._prompt.columns.items():
            if name == "attention_mask":  # the model masks what is not filled yet
                arguments[name] = column
            else:
                arguments[name] = lax.dynamic_slice_in_dim(column, start, count, axis=1)
        if count != 1 and self._keeps_logits:
            arguments["logits_to_keep"], last = jnp.reshape(last, (1,)), 0
        outputs = self._model(**inputs, **arguments, past_key_values=cache, **self._options)
        self.extras = {
            name: outputs[name] for name in ("attentions", "hidden_states") if name in outputs
        }
        logits = lax.dynamic_index_in_dim(outputs.logits, last, axis=1, keepdims=False)
        return logits.astype(jnp.float32), outputs.past_key_values

    def _run_text(self, text: Array, length: int | Array) -> Array:
        """Run all tokens [R, S] without a cache; return the logits of the last of `length`."""
        embeds, slots = self._prompt.inputs_embeds, self._static.slots
        if embeds is None:
            return self._run({"input_ids": text}, None, 0, length - 1)[0]
        room = [(0, 0), (0, slots - embeds.shape[1]), (0, 0)]
        given = jnp.arange(slots)[:, None] < self._prompt.length  # [S, 1]
        embedded = jnp.take(self._model.get_input_embeddings().embedding[...], text, axis=0)
        embeds = jnp.where(given, jnp.pad(embeds, room), embedded)
        return self._run({"inputs_embeds": embeds}, None, 0, length - 1)[0]


def reordered(cache: Any, parents: Array) -> Any:
    """Return a cache of either kind with row r continuing row parents[r]."""
    return cache.reorder(parents) if isinstance(cache, KVCache) else jnp.take(cache, parents, 0)


def in_compute_dtype(model: Any) -> Any:
    """Return the model with parameters in the dtype it computes in, cast once for all steps."""

    def cast(variable: Any) -> Any:
        value = variable.get_value()
        return (
            variable if value.dtype == model.dtype else variable.replace(value.astype(model.dtype))
        )

    return jax.tree.map(cast, model, is_leaf=lambda node: isinstance(node, nnx.Param))


@partial(jax.jit, static_argnames=("static", "returns_cache"))
def run_fused(
    model: Any, prompt: Prompt, settings: Settings, *, static: Static, returns_cache: bool
) -> tuple[Any, KVCache | None]:
    """Decode in one loop that ends as soon as every row has; return the last state and cache."""
    engine = JaxEngine(in_compute_dtype(model), static, prompt)
    carry = driver.fused(OPS, static.strategy, engine, settings)
    return carry.state, carry.cache if returns_cache else None


@partial(jax.jit, static_argnames="static")
def run_prefill(model: Any, prompt: Prompt, *, static: Static) -> tuple[Array, Any, Any]:
    """Run `JaxEngine.prefill`; return its extras too."""
    engine = JaxEngine(model, static, prompt)
    return *engine.prefill(), engine.extras


@partial(jax.jit, static_argnames="static", donate_argnames="cache")
def run_decode(
    model: Any, prompt: Prompt, tokens: Array, cache: Any, length: Array, *, static: Static
) -> tuple[Array, Any, Any]:
    """Run `JaxEngine.decode`; return its extras too."""
    engine = JaxEngine(model, static, prompt)
    return *engine.decode(tokens, cache, length), engine.extras


@partial(jax.jit, static_argnames="strategy")
def run_init(logits: Array, settings: Settings, *, strategy: Strategy) -> Any:
    """Run a strategy's `init`."""
    return strategy.init(OPS, settings, logits.shape[-1])


@partial(jax.jit, static_argnames="strategy")
def run_step(state: Any, logits: Array, settings: Settings, *, strategy: Strategy) -> Any:
    """Run a strategy's `step`."""
    return strategy.step(OPS, state, logits, settings)


class SteppedEngine:
    """The same, each call a computation of its own, so that the host sees every step.

    Attributes:
        attentions: for each call, the attention weights that were asked for.
        hidden_states: for each call, the hidden states that were asked for.
    """

    def __init__(self, model: Any, static: Static, prompt: Prompt) -> None:
        self._model = model
        self._static = static
        self._prompt = prompt
        self._columns = int(prompt.length)
        self.attentions: list[Any] = []
        self.hidden_states: list[Any] = []

    def prefill(self) -> tuple[Array, Any]:
        """Run the prompts; see `driver.Engine`."""
        logits, cache, extras = run_prefill(self._model, self._prompt, static=self._static)
        past = 0 if self._prompt.past is None else self._prompt.past.length
        self._record(extras, self._columns - past)
        return logits, cache

    def decode(self, tokens: Array, cache: Any, length: Array) -> tuple[Array, Any]:
        """Run one more token of each row; see `driver.Engine`."""
        self._columns += 1
        logits, cache, extras = run_decode(
            self._model, self._prompt, tokens, cache, length, static=self._static
        )
        self._record(extras, 1 if self._static.use_cache else self._columns)
        return logits, cache

    def reorder(self, cache: Any, parents: Array) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        if parents.shape[0] != self._prompt.input_ids.shape[0]:
            self._prompt = self._prompt.expanded(parents)
            origins = np.asarray(parents)
            for record in (self.attentions, self.hidden_states):
                record[:] = [tuple(x[origins] for x in step) for step in record]
        return reordered(cache, parents)

    def _record(self, extras: dict[str, tuple[Array, ...]], count: int) -> None:
        """Keep what a call returned for its `count` tokens, without what was padded.

        On the host: cutting to a new length on the device would compile something each time.
        """
        extras = jax.device_get(extras)
        if "attentions" in extras:
            self.attentions.append(
                tuple(layer[:, :, :count, : self._columns] for layer in extras["attentions"])
            )
        if "hidden_states" in extras:
            self.hidden_states.append(tuple(layer[:, :count] for layer in extras["hidden_states"]))


class CompiledStrategy:
    """A strategy as the driver sees it, whose `init` and `step` are compiled."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.rows_per_prompt = strategy.rows_per_prompt
        self.reorders = strategy.reorders

    def init(self, ops: Any, settings: Settings, vocab_size: int) -> Any:
        """See `Strategy.init`."""
        logits = np.empty((0, vocab_size), np.float32)
        return run_init(logits, settings, strategy=self._strategy)

    def step(self, ops: Any, state: Any, logits: Array, settings: Settings) -> Any:
        """See `Strategy.step`."""
        return run_step(state, logits, settings, strategy=self._strategy)
