"""The engines that run a TensorFlow model for the decoding core: in one graph, or step by step.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

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
from gpt2x.generation.ops import Ops, is_scalar
from gpt2x.generation.strategies import Outputs, Settings, Strategy
from gpt2x.tf.cache import KVCache
from gpt2x.tf.ops import TENSORFLOW_OPS as OPS


class TensorFlowEngine:
    """A model with a language-model head, as `gpt2x.generation.engine.ModelEngine`.

    The cache is a `KVCache` of S slots or, with `use_cache=False`, the tokens so far, int32 [R, S],
    which every step runs again.
    """

    def __init__(self, model: Any, static: StaticArguments) -> None:
        self._model = model
        self._static = static
        self._keeps_logits = "logits_to_keep" in model._call_parameters

    def prefill(self, prompt: Prompt) -> tuple[Outputs, Any, Extras]:
        """Run the prompts; see `ModelEngine`."""
        slots = self._static.slots
        if not self._static.use_cache:
            # Ids are at their columns, behind those that have only embeddings.
            behind = slots - prompt.embeds_only - OPS.shape(prompt.input_ids)[1]
            text = tf.pad(prompt.input_ids, [[0, 0], [prompt.embeds_only, behind]])
            return self._run_text(prompt, text, prompt.length)
        if prompt.has_past:
            past, start = prompt.past, prompt.past.length
        else:
            rows = OPS.shape(prompt.input_ids)[0]
            layers = len(self._model.base_model.h)
            dtype = self._model.get_input_embeddings().compute_dtype
            spare = self._static.needs.spare
            past = KVCache.create(self._model.config, rows, slots - spare, dtype, spare, layers)
            start = 0
        inputs = {"input_ids": prompt.input_ids}
        if prompt.has_embeds:
            inputs = {"inputs_embeds": prompt.inputs_embeds}
        outputs, cache, extras = self._run(prompt, inputs, past, start, prompt.length - start - 1)
        # The text will overwrite the columns behind the prompt.
        return outputs, cache.crop(prompt.length), extras

    def decode(
        self, prompt: Prompt, tokens: tf.Tensor, cache: Any, start: int | tf.Tensor
    ) -> tuple[Outputs, Any, Extras]:
        """Run more tokens of each row; see `ModelEngine`."""
        if tokens.shape[1] != 1 or not is_scalar(start):
            return self._run_placed(prompt, tokens, cache, start)
        if self._static.use_cache:
            return self._run(prompt, {"input_ids": tokens}, cache, cache.length, 0)
        column = start + prompt.embeds_only
        return self._run_text(prompt, OPS.write(cache, column, tokens[:, 0], axis=1), column + 1)

    def _run(
        self,
        prompt: Prompt,
        inputs: dict[str, tf.Tensor],
        cache: KVCache | None,
        start: int | tf.Tensor,
        last: int | tf.Tensor,
    ) -> tuple[Outputs, Any, Extras]:
        """Run columns from `start` on; return the outputs of the one at `last`."""
        (tensor,) = inputs.values()
        count = OPS.shape(tensor)[1]
        arguments = dict(prompt.fixed)
        for name, column in prompt.columns.items():
            if name != "attention_mask":
                # Behind a past, padding may stand beyond the last column.
                places = tf.minimum(start + tf.range(count), OPS.shape(column)[1] - 1)
                arguments[name] = tf.gather(column, places, axis=1)
            elif isinstance(start, int):
                arguments[name] = column[:, : start + count]
            else:  # the model masks unfilled columns
                arguments[name] = column
        is_one, row = tf.get_static_value(count) == 1, last
        if not is_one and self._keeps_logits:
            arguments["logits_to_keep"], row = tf.reshape(last, [1]), 0
        outputs = self._model(**inputs, **arguments, past_key_values=cache, **self._static.options)
        logits = outputs.logits[:, 0] if is_one else tf.gather(outputs.logits, row, axis=1)
        return self._outputs(outputs, logits, last), outputs.past_key_values, extras_of(outputs)

    def _run_placed(
        self, prompt: Prompt, tokens: tf.Tensor, cache: KVCache, start: int | tf.Tensor
    ) -> tuple[Outputs, Any, Extras]:
        """Run tokens [R, k] at columns of their own in each row."""
        rows, count = OPS.shape(tokens)
        starts = start + prompt.embeds_only + tf.zeros([rows], tf.int32)
        columns = placed(
            OPS,
            prompt,
            starts,
            count,
            cache.max_length,
            self._model.config.n_positions,
            self._static.needs.siblings,
        )
        arguments = {**self._placed_inputs(prompt, tokens, starts), **prompt.fixed, **columns}
        outputs = self._model(**arguments, past_key_values=cache.at(starts), **self._static.options)
        is_one = self._static.needs.columns == 1
        logits = outputs.logits[:, -1] if is_one else outputs.logits
        cache = outputs.past_key_values.at(cache.length)  # the next request says where it starts
        return self._outputs(outputs, logits, count - 1), cache, extras_of(outputs)

    def _placed_inputs(
        self, prompt: Prompt, tokens: tf.Tensor, starts: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Return tokens [R, k] as inputs of the model, or as embeddings [R, k, E]."""
        if not (prompt.has_embeds and self._static.needs.siblings):
            return {"input_ids": tokens}
        columns = starts[:, None] + tf.range(OPS.shape(tokens)[1])
        new = self._model.get_input_embeddings()(tokens)
        return {"inputs_embeds": embedded(OPS, prompt, columns, new)}

    def _outputs(self, outputs: Any, logits: tf.Tensor, last: int | tf.Tensor) -> Outputs:
        """Return what the strategy needs; `last` is the column of the last token."""
        needs = self._static.needs
        found = Outputs(tf.cast(logits, tf.float32))
        if needs.hidden_states:
            states = tf.cast(outputs.hidden_states[-1], tf.float32)
            found = found._replace(hidden_states=states)
        if needs.layers:
            states = [tf.gather(outputs.hidden_states[i], last, axis=1) for i in needs.layers]
            layer_logits = self._model._next_token_logits(
                tf.stack(states, axis=1)
            )  # [R, layers, V]
            found = found._replace(layer_logits=tf.cast(layer_logits, tf.float32))
        return found

    def _run_text(
        self, prompt: Prompt, text: tf.Tensor, length: int | tf.Tensor
    ) -> tuple[Outputs, tf.Tensor, Extras]:
        """Run all tokens [R, S] without a cache; return the outputs of the last of `length`."""
        inputs, slots = {"input_ids": text}, self._static.slots
        if prompt.has_embeds:
            room = [[0, 0], [0, slots - OPS.shape(prompt.inputs_embeds)[1]], [0, 0]]
            given = tf.range(slots)[:, None] < prompt.length  # [S, 1]
            embedded = self._model.get_input_embeddings()(text)
            embeds = tf.where(given, tf.pad(prompt.inputs_embeds, room), embedded)
            inputs = {"inputs_embeds": embeds}
        outputs, _, extras = self._run(prompt, inputs, None, 0, length - 1)
        return outputs, text, extras


class TracedFunctions:
    """The functions that a model's eager `generate` has traced, by key.

    Not a dictionary: Keras would track one that is an attribute of a model.
    """

    def __init__(self) -> None:
        self._functions: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the function of a key, made on first use."""
        if key not in self._functions:
            self._functions[key] = make()
        return self._functions[key]

    def clear(self) -> None:
        """Drop all functions, after the model's weights were replaced."""
        self._functions.clear()


class TracedLoop(Loop):
    """The loop of a call, as `driver.Loop`: a function with the prompts, and one without.

    Args:
        models, static, prompts, settings: of the call.
        owner: holds the functions: the model that generates.
        key: all that shapes them, except their arguments' sizes.
        jit_compile: whether XLA compiles them.
    """

    def __init__(
        self,
        models: tuple[Any, ...],
        static: StaticArguments,
        prompts: Prompts,
        settings: Settings,
        *,
        owner: Any,
        key: Hashable,
        jit_compile: bool,
    ) -> None:
        self._call = models, static, jit_compile
        self._arguments = prompts, settings
        self._functions = owner._functions
        self._key = key

    def run(self, carry: Carry | None = None, until: int | None = None) -> Carry:
        """Take steps; see `driver.Loop`."""
        end = tf.constant(tf.int32.max if until is None else until, tf.int32)
        first, spec = self._functions.get(("loop", self._key), self._trace)
        if carry is None:
            return first(*self._arguments, end)
        later, _ = self._functions.get(("later", self._key), lambda: self._trace(spec))
        return later(*self._arguments, end, carry)

    def _trace(self, *carry: Carry) -> tuple[Any, Carry]:
        """Return a function for any batch, prompt and `until`, and the specs of what it returns.

        carry: the specs of a carry, if the function takes one.
        """
        models, static, jit_compile = self._call

        def decode(
            prompts: Prompts, settings: Settings, until: tf.Tensor, carry: Carry | None = None
        ) -> Carry:
            loop = FusedLoop(OPS, TensorFlowEngine, models, static, prompts, settings)
            return loop.run(carry, until)

        function = tf.function(decode, autograph=False, jit_compile=jit_compile)
        # Once for all sizes: later, more special calls use this trace too.
        specs = (*_of_any_size(*self._arguments), tf.TensorSpec((), tf.int32), *carry)
        return function, function.get_concrete_function(*specs).structured_outputs


def _of_any_size(prompts: Prompts, settings: Settings) -> tuple[Prompts, Settings]:
    """Return the specs of the arguments, of any batch and width."""
    return (
        prompts.map(_prompt_of_any_size),
        tf.nest.map_structure(_spec, settings)._replace(
            prompt=_spec(settings.prompt, 0, 1),
            real=_spec(settings.real, 0),
            keys=tuple(_spec(words, 0) for words in settings.keys),
        ),
    )


def _prompt_of_any_size(prompt: Prompt) -> Prompt:
    fixed = {
        name: _spec(value, 0, 1) if name.startswith("encoder") else _spec(value)
        for name, value in prompt.fixed.items()
    }
    return Prompt(
        input_ids=_spec(prompt.input_ids, 0, 1),
        inputs_embeds=_spec(prompt.inputs_embeds, 0, 1) if prompt.has_embeds else (),
        length=_spec(prompt.length),
        embeds_only=_spec(prompt.embeds_only),
        columns={name: _spec(value, 0) for name, value in prompt.columns.items()},
        fixed=fixed,
        past=tf.nest.map_structure(lambda value: _spec(value, 0), prompt.past),
    )


def _spec(value: tf.Tensor, *axes: int) -> tf.TensorSpec:
    """Return the spec of a tensor, of any size along `axes`."""
    shape = [None if axis in axes else size for axis, size in enumerate(value.shape)]
    return tf.TensorSpec(shape, value.dtype)


class TracedEngine:
    """The engine, each call a traced function, so that the host sees every step.

    Args:
        model: the model.
        static: of the call.
        owner: holds the functions: the model that generates.
        key: all that shapes them, except their arguments' sizes.
        jit_compile: whether XLA compiles them.
    """

    def __init__(
        self,
        model: Any,
        static: StaticArguments,
        *,
        owner: Any,
        key: Hashable,
        jit_compile: bool,
    ) -> None:
        static = static.of_model
        engine = TensorFlowEngine(model, static)
        key = (key, static, model is owner)
        self.prefill = traced(owner, ("prefill", key), engine.prefill, jit_compile)
        self.decode = traced(owner, ("decode", key), engine.decode, jit_compile)


def traced(
    owner: Any, key: Hashable, function: Callable[..., Any], jit_compile: bool
) -> Callable[..., Any]:
    """Return the owner's traced function of a key."""
    return owner._functions.get(
        key,
        lambda: tf.function(
            function, autograph=False, reduce_retracing=True, jit_compile=jit_compile
        ),
    )


def traced_strategy(
    owner: Any, strategy: Strategy, key: Hashable, jit_compile: bool
) -> CompiledStrategy:
    """Return a strategy with `step` and `draft` traced."""

    def step(*arguments: Any) -> Any:
        return strategy.step(OPS, *arguments)

    def draft(*arguments: Any) -> Any:
        return strategy.draft(OPS, *arguments)

    def run_step(ops: Ops, state: Any, outputs: Outputs, settings: Settings) -> Any:
        rank = outputs.logits.shape.rank  # lower after the prompt than after several tokens
        return traced(owner, ("step", rank, key), step, jit_compile)(state, outputs, settings)

    run_draft = traced(owner, ("draft", key), draft, jit_compile)
    return CompiledStrategy(
        strategy,
        strategy.init,
        run_step,
        lambda ops, *arguments: run_draft(*arguments),
    )
