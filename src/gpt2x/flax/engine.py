"""The engines that run a Flax model for the decoding core: in one computation, or step by step.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from flax import nnx
from gpt2x.flax.cache import KVCache
from gpt2x.flax.cpu.products import attention_dtype
from gpt2x.flax.ops import JAX_OPS as OPS
from gpt2x.generation.driver import Carry, CompiledStrategy, Loop
from gpt2x.generation.engine import (
    Extras,
    FusedLoop,
    Prompt,
    Prompts,
    StaticArguments,
    embedded,
    extras_of,
    placed,
)
from gpt2x.generation.ops import is_scalar
from gpt2x.generation.strategies import Outputs, Settings, Strategy

_END = np.iinfo(np.int32).max  # columns that no text has


class JaxEngine:
    """A model with a language-model head, as `gpt2x.generation.engine.ModelEngine`.

    The cache is a `KVCache` of S slots or, with `use_cache=False`, the tokens so far, int32 [R, S],
    which every step runs again.
    """

    def __init__(self, model: Any, static: StaticArguments) -> None:
        self._model = model
        self._static = static
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.__call__).parameters

    def prefill(self, prompt: Prompt) -> tuple[Outputs, Any, Extras]:
        """Run the prompts; see `ModelEngine`."""
        slots = self._static.slots
        if not self._static.use_cache:
            text = jnp.pad(prompt.input_ids, [(0, 0), (0, slots - prompt.input_ids.shape[1])])
            # Ids are at their columns, behind those that have only embeddings.
            text = jnp.roll(text, prompt.embeds_only, axis=1)
            return self._run_text(prompt, text, prompt.length)
        if prompt.has_past:
            start = prompt.past.offset
            # At a column of each row: padding that does not fit is dropped there.
            cache = prompt.past.at(jnp.full(prompt.input_ids.shape[0], start))
        else:
            rows = prompt.input_ids.shape[0]
            layers = len(self._model.base_model.h)
            dtype = attention_dtype(self._model.dtype, rows)
            spare = self._static.needs.spare
            cache = KVCache.create(self._model.config, rows, slots - spare, dtype, spare, layers)
            start = 0
        inputs = {"input_ids": prompt.input_ids}
        if prompt.has_embeds:
            inputs = {"inputs_embeds": prompt.inputs_embeds}
        outputs, cache, extras = self._run(prompt, inputs, cache, start, prompt.length - start - 1)
        # The text will overwrite the columns behind the prompt.
        return outputs, cache.at(prompt.length), extras

    def decode(
        self, prompt: Prompt, tokens: Array, cache: Any, start: int | Array
    ) -> tuple[Outputs, Any, Extras]:
        """Run more tokens of each row; see `ModelEngine`."""
        if tokens.shape[1] > 1 or not is_scalar(start):
            return self._run_placed(prompt, tokens, cache, start)
        if self._static.use_cache:
            return self._run(prompt, {"input_ids": tokens}, cache, cache.offset, 0)
        column = start + prompt.embeds_only
        return self._run_text(prompt, OPS.write(cache, column, tokens[:, 0], axis=1), column + 1)

    def _run(
        self,
        prompt: Prompt,
        inputs: dict[str, Array],
        cache: KVCache | None,
        start: int | Array,
        last: int | Array,
    ) -> tuple[Outputs, Any, Extras]:
        """Run columns from `start` on; return the outputs of the one at `last`."""
        (array,) = inputs.values()
        count = array.shape[1]
        arguments = dict(prompt.fixed)
        for name, column in prompt.columns.items():
            if name == "attention_mask":  # the model masks unfilled columns
                arguments[name] = column
            else:
                # Behind a past, padding may stand beyond the last column.
                places = start + jnp.arange(count)
                arguments[name] = jnp.take(column, places, axis=1, mode="clip")
        row = last
        if count != 1 and self._keeps_logits:
            arguments["logits_to_keep"], row = jnp.reshape(last, (1,)), 0
        outputs = self._model(
            **inputs, **arguments, past_key_values=cache, train=False, **self._static.options
        )
        logits = lax.dynamic_index_in_dim(outputs.logits, row, axis=1, keepdims=False)
        return self._outputs(outputs, logits, last), outputs.past_key_values, extras_of(outputs)

    def _run_placed(
        self, prompt: Prompt, tokens: Array, cache: KVCache, start: int | Array
    ) -> tuple[Outputs, Any, Extras]:
        """Run tokens [R, k] at columns of their own in each row."""
        rows, count = tokens.shape
        starts = start + prompt.embeds_only + jnp.zeros(rows, jnp.int32)
        columns = placed(
            OPS,
            prompt,
            starts,
            count,
            cache.max_length,
            self._model.config.n_positions,
            self._static.needs.siblings,
        )
        inputs = self._placed_inputs(prompt, tokens, starts)
        outputs = self._model(
            **inputs,
            **{**prompt.fixed, **columns},
            past_key_values=cache.at(starts),
            train=False,
            **self._static.options,
        )
        is_one = self._static.needs.columns == 1
        logits = outputs.logits[:, -1] if is_one else outputs.logits
        cache = outputs.past_key_values.at(cache.offset)  # the next request says where it starts
        return self._outputs(outputs, logits, count - 1), cache, extras_of(outputs)

    def _placed_inputs(self, prompt: Prompt, tokens: Array, starts: Array) -> dict[str, Array]:
        """Return tokens [R, k] as inputs of the model, or as embeddings [R, k, E]."""
        if not (prompt.has_embeds and self._static.needs.siblings):
            return {"input_ids": tokens}
        columns = starts[:, None] + jnp.arange(tokens.shape[1])
        new = jnp.take(self._model.get_input_embeddings().embedding[...], tokens, axis=0)
        return {"inputs_embeds": embedded(OPS, prompt, columns, new)}

    def _outputs(self, outputs: Any, logits: Array, last: int | Array) -> Outputs:
        """Return what the strategy needs; `last` is the column of the last token."""
        needs = self._static.needs
        found = Outputs(logits.astype(jnp.float32))
        if needs.hidden_states:
            states = outputs.hidden_states[-1].astype(jnp.float32)
            found = found._replace(hidden_states=states)
        if needs.layers:
            states = [
                lax.dynamic_index_in_dim(outputs.hidden_states[layer], last, axis=1)
                for layer in needs.layers
            ]
            layer_logits = self._model._next_token_logits(jnp.concatenate(states, axis=1))
            found = found._replace(layer_logits=layer_logits.astype(jnp.float32))
        return found

    def _run_text(
        self, prompt: Prompt, text: Array, length: int | Array
    ) -> tuple[Outputs, Array, Extras]:
        """Run all tokens [R, S] without a cache; return the outputs of the last of `length`."""
        inputs, slots = {"input_ids": text}, self._static.slots
        if prompt.has_embeds:
            room = [(0, 0), (0, slots - prompt.inputs_embeds.shape[1]), (0, 0)]
            given = jnp.arange(slots)[:, None] < prompt.length  # [S, 1]
            embedded = jnp.take(self._model.get_input_embeddings().embedding[...], text, axis=0)
            inputs = {
                "inputs_embeds": jnp.where(given, jnp.pad(prompt.inputs_embeds, room), embedded)
            }
        outputs, _, extras = self._run(prompt, inputs, None, 0, length - 1)
        return outputs, text, extras


def in_compute_dtype(model: Any) -> Any:
    """Return the model with parameters in its computation dtype, cast once for all steps."""

    def cast(variable: Any) -> Any:
        value = variable.get_value()
        return (
            variable if value.dtype == model.dtype else variable.replace(value.astype(model.dtype))
        )

    return jax.tree.map(cast, model, is_leaf=lambda node: isinstance(node, nnx.Param))


@partial(jax.jit, static_argnames="static", donate_argnames="carry")
def run_loop(
    models: tuple[Any, ...],
    prompts: Prompts,
    settings: Settings,
    carry: Carry | None,
    until: int,
    *,
    static: StaticArguments,
) -> Carry:
    """Run `FusedLoop.run`."""
    models = tuple(map(in_compute_dtype, models))
    return FusedLoop(OPS, JaxEngine, models, static, prompts, settings).run(carry, until)


class CompiledLoop(Loop):
    """The loop of a call, as `driver.Loop`: a computation with the prompts, and one without.

    Each is compiled once, whatever is asked for. A carry is donated: its cache stays where it is.
    """

    def __init__(
        self, models: tuple[Any, ...], static: StaticArguments, prompts: Prompts, settings: Settings
    ) -> None:
        self._arguments = models, prompts, settings
        self._static = static

    def run(self, carry: Carry | None = None, until: int | None = None) -> Carry:
        """Take steps; see `driver.Loop`."""
        end = np.int32(_END if until is None else until)
        return run_loop(*self._arguments, carry, end, static=self._static)


@partial(jax.jit, static_argnames="static")
def run_prefill(
    model: Any, prompt: Prompt, *, static: StaticArguments
) -> tuple[Outputs, Any, Extras]:
    """Run `JaxEngine.prefill`."""
    return JaxEngine(model, static).prefill(prompt)


@partial(jax.jit, static_argnames="static", donate_argnames="cache")
def run_decode(
    model: Any, prompt: Prompt, tokens: Array, cache: Any, start: Array, *, static: StaticArguments
) -> tuple[Outputs, Any, Extras]:
    """Run `JaxEngine.decode`."""
    return JaxEngine(model, static).decode(prompt, tokens, cache, start)


@partial(jax.jit, static_argnames="strategy")
def run_init(logits: Array, settings: Settings, *, strategy: Strategy) -> Any:
    """Run a strategy's `init`."""
    return strategy.init(OPS, settings, logits.shape[-1])


@partial(jax.jit, static_argnames="strategy")
def run_step(state: Any, outputs: Outputs, settings: Settings, *, strategy: Strategy) -> Any:
    """Run a strategy's `step`."""
    return strategy.step(OPS, state, outputs, settings)


@partial(jax.jit, static_argnames="strategy")
def run_draft(state: Any, outputs: Outputs, settings: Settings, *, strategy: Strategy) -> Any:
    """Run a strategy's `draft`."""
    return strategy.draft(OPS, state, outputs, settings)


class CompiledEngine:
    """The engine with each call a separate computation, so that the host sees every step."""

    def __init__(self, model: Any, static: StaticArguments) -> None:
        self._model = model
        self._static = static.of_model

    def prefill(self, prompt: Prompt) -> tuple[Outputs, Any, Extras]:
        """Run the prompts; see `ModelEngine`."""
        return run_prefill(self._model, prompt, static=self._static)

    def decode(
        self, prompt: Prompt, tokens: Array, cache: Any, start: Array
    ) -> tuple[Outputs, Any, Extras]:
        """Run more tokens of each row; see `ModelEngine`."""
        return run_decode(self._model, prompt, tokens, cache, start, static=self._static)


def compiled_strategy(strategy: Strategy) -> CompiledStrategy:
    """Return a strategy whose `init`, `step` and `draft` are computations."""

    def init(ops: Any, settings: Settings, vocab_size: int) -> Any:
        return run_init(np.empty((0, vocab_size), np.float32), settings, strategy=strategy)

    def step(ops: Any, state: Any, outputs: Outputs, settings: Settings) -> Any:
        return run_step(state, outputs, settings, strategy=strategy)

    def draft(ops: Any, state: Any, outputs: Outputs, settings: Settings) -> Any:
        return run_draft(state, outputs, settings, strategy=strategy)

    return CompiledStrategy(strategy, init, step, draft)
