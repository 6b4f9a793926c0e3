"""The engines that run a TensorFlow model for the decoding core: in one graph, or step by step.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, W
columns that it is padded to, S slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tensorflow as tf

from gpt2x.generation.driver import CompiledStrategy
from gpt2x.generation.engine import Extras, Prompt, StaticArguments, extras_of, fused
from gpt2x.generation.strategies import Settings
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

    def prefill(self, prompt: Prompt) -> tuple[tf.Tensor, Any, Extras]:
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
            dtype = self._model.get_input_embeddings().compute_dtype
            past, start = KVCache.create(self._model.config, rows, slots, dtype), 0
        inputs = {"input_ids": prompt.input_ids}
        if prompt.has_embeds:
            inputs = {"inputs_embeds": prompt.inputs_embeds}
        logits, cache, extras = self._run(prompt, inputs, past, start, prompt.length - start - 1)
        # The text will overwrite the columns behind the prompt.
        return logits, cache.crop(prompt.length), extras

    def decode(
        self, prompt: Prompt, tokens: tf.Tensor, cache: Any, length: int | tf.Tensor
    ) -> tuple[tf.Tensor, Any, Extras]:
        """Run another token of each row; see `ModelEngine`."""
        if self._static.use_cache:
            return self._run(prompt, {"input_ids": tokens[:, None]}, cache, cache.length, 0)
        column = length - 1 + prompt.embeds_only
        return self._run_text(prompt, OPS.write(cache, column, tokens, axis=1), column + 1)

    def _run(
        self,
        prompt: Prompt,
        inputs: dict[str, tf.Tensor],
        cache: KVCache | None,
        start: int | tf.Tensor,
        last: int | tf.Tensor,
    ) -> tuple[tf.Tensor, Any, Extras]:
        """Run columns from `start` on; return the logits of the one at `last`, float32 [R, V]."""
        (tensor,) = inputs.values()
        rows, count = OPS.shape(tensor)[:2]
        arguments = dict(prompt.fixed)
        for name, column in prompt.columns.items():
            if name != "attention_mask":
                arguments[name] = tf.slice(column, [0, start], [rows, count])
            elif isinstance(start, int):
                arguments[name] = column[:, : start + count]
            else:  # the model masks unfilled columns
                arguments[name] = column
        is_one = tf.get_static_value(count) == 1
        if not is_one and "logits_to_keep" in self._model._call_parameters:
            arguments["logits_to_keep"], last = tf.reshape(last, [1]), 0
        outputs = self._model(**inputs, **arguments, past_key_values=cache, **self._static.options)
        logits = outputs.logits[:, 0] if is_one else tf.gather(outputs.logits, last, axis=1)
        return tf.cast(logits, tf.float32), outputs.past_key_values, extras_of(outputs)

    def _run_text(
        self, prompt: Prompt, text: tf.Tensor, length: int | tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Extras]:
        """Run all tokens [R, S] without a cache; return the logits of the last of `length`."""
        inputs, slots = {"input_ids": text}, self._static.slots
        if prompt.has_embeds:
            room = [[0, 0], [0, slots - OPS.shape(prompt.inputs_embeds)[1]], [0, 0]]
            given = tf.range(slots)[:, None] < prompt.length  # [S, 1]
            embedded = self._model.get_input_embeddings()(text)
            embeds = tf.where(given, tf.pad(prompt.inputs_embeds, room), embedded)
            inputs = {"inputs_embeds": embeds}
        logits, _, extras = self._run(prompt, inputs, None, 0, length - 1)
        return logits, text, extras


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


def trace_fused(
    model: Any, static: StaticArguments, returns_cache: bool, jit_compile: bool, *arguments: Any
) -> Any:
    """Trace a loop for any batch and width; `arguments` are a prompt and the settings."""

    def decode(prompt: Prompt, settings: Settings) -> tuple[Any, Any]:
        engine = TensorFlowEngine(model, static)
        return fused(OPS, engine, static, prompt, settings, returns_cache)

    function = tf.function(decode, autograph=False, jit_compile=jit_compile)
    # Once for every batch and prompt: later, more special calls use this trace too.
    function.get_concrete_function(*_of_any_size(*arguments))
    return function


def _of_any_size(prompt: Prompt, settings: Settings) -> tuple[Prompt, Settings]:
    """Return the specs of the arguments, of any batch and width."""

    def spec(value: tf.Tensor, *axes: int) -> tf.TensorSpec:
        shape = [None if axis in axes else size for axis, size in enumerate(value.shape)]
        return tf.TensorSpec(shape, value.dtype)

    fixed = {
        name: spec(value, 0, 1) if name.startswith("encoder") else spec(value)
        for name, value in prompt.fixed.items()
    }
    return (
        Prompt(
            input_ids=spec(prompt.input_ids, 0, 1),
            inputs_embeds=spec(prompt.inputs_embeds, 0, 1) if prompt.has_embeds else (),
            length=spec(prompt.length),
            embeds_only=spec(prompt.embeds_only),
            columns={name: spec(value, 0) for name, value in prompt.columns.items()},
            fixed=fixed,
            past=tf.nest.map_structure(lambda value: spec(value, 0), prompt.past),
        ),
        tf.nest.map_structure(spec, settings)._replace(
            prompt=spec(settings.prompt, 0, 1),
            real=spec(settings.real, 0),
            keys=tuple(spec(words, 0) for words in settings.keys),
        ),
    )


class TracedEngine:
    """The engine, each call a traced function, so that the host sees every step."""

    def __init__(
        self, model: Any, static: StaticArguments, key: Hashable, jit_compile: bool
    ) -> None:
        engine = TensorFlowEngine(model, static)

        def traced(name: str, function: Callable[..., Any]) -> Any:
            return model._functions.get(
                (name, key),
                lambda: tf.function(
                    function, autograph=False, reduce_retracing=True, jit_compile=jit_compile
                ),
            )

        self.prefill = traced("prefill", engine.prefill)
        self.decode = traced("decode", engine.decode)
        self._step = traced("step", lambda *arguments: static.strategy.step(OPS, *arguments))
        self._strategy = static.strategy

    def strategy(self) -> CompiledStrategy:
        """Return the strategy with its `step` traced."""
        strategy = self._strategy
        return CompiledStrategy(
            strategy.rows_per_prompt,
            strategy.reorders,
            strategy.init,
            lambda ops, *arguments: self._step(*arguments),
        )
