"""`generate` in TensorFlow; `engine.py` runs the model for it.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, S
slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.config.generation import GenerationConfig
from gpt2x.generation import random
from gpt2x.generation.documentation import GENERATING, HEALING
from gpt2x.generation.driver import CompiledStrategy, Loop
from gpt2x.generation.engine import DriverEngine, FusedLoop, Prompts, StaticArguments, assemble
from gpt2x.generation.generate import generate, heal_tokens
from gpt2x.generation.host import Host
from gpt2x.generation.plan import Plan
from gpt2x.generation.prefill import PREFILLING, prefill
from gpt2x.generation.processors.base import Identity
from gpt2x.generation.results import TransitionScores
from gpt2x.generation.seeds import is_integer
from gpt2x.generation.strategies import Settings, Strategy
from gpt2x.models.pretrained import documented
from gpt2x.models.views import view_of
from gpt2x.tf.cache import KVCache
from gpt2x.tf.engine import (
    TensorFlowEngine,
    TracedEngine,
    TracedFunctions,
    TracedLoop,
    traced_strategy,
)
from gpt2x.tf.ops import TENSORFLOW_OPS as OPS
from gpt2x.tf.outputs import generation_output

_DTYPES = {"b": np.bool_, "i": np.int32, "f": np.float32}

_JIT_COMPILE = """
    jit_compile: compile the eager call with XLA: faster steps, after a compilation of seconds for
        each power of two of the prompt's and the text's length."""


class TensorFlowHost(Host):
    """A TensorFlow model, for one call of `generate`; see `gpt2x.generation.host`."""

    tracer = "tf.function"

    def __init__(self, model: Any, jit_compile: bool) -> None:
        super().__init__(model, model.call, OPS)
        self._jit_compile = jit_compile
        self.is_traced = not tf.executing_eagerly()
        self.widens = jit_compile and not self.is_traced  # XLA compiles for each width

    def read(self, name: str, value: Any) -> Any:
        if self.is_traced:
            value = tf.convert_to_tensor(value)
            is_whole = value.dtype.is_integer or value.dtype.is_bool
            return tf.cast(value, tf.int32) if is_whole else value
        value = np.asarray(value)
        return value.astype(np.int32) if value.dtype.kind == "b" else value

    def embeddings(self, value: Any) -> tf.Tensor:
        return tf.convert_to_tensor(value)

    def to_device(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray | int | float):
            return value
        value = np.asarray(value)
        return tf.constant(value, _DTYPES.get(value.dtype.kind, value.dtype))

    def to_host(self, array: tf.Tensor) -> np.ndarray:
        return array.numpy()

    def argument(self, value: Any) -> tf.Tensor:
        return tf.convert_to_tensor(value)

    @property
    def itemsize(self) -> int:
        return tf.as_dtype(self.model.compute_dtype).size

    def available_memory(self) -> int | None:
        # TensorFlow does not say what an accelerator has left.
        device = tf.DeviceSpec.from_string(self.model.weights[0].value.device)
        return super().available_memory() if device.device_type == "CPU" else None

    def draw_seed(self) -> int:
        return _whole(tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32).numpy()[::-1])

    def keys(self, seed: Any, rows: Any) -> tuple[Any, Any]:
        if isinstance(seed, list | tuple) and len(seed) == 2 and all(map(is_integer, seed)):
            seed = _whole(seed)
        if not self.is_traced and tf.is_tensor(seed):
            seed = _whole(seed.numpy().reshape(-1))
        in_graph = self.is_traced and (seed is None or tf.is_tensor(seed))
        if not in_graph and (isinstance(rows, int) or not is_integer(seed)):
            listed = len(seed) if isinstance(seed, list | tuple) else 1
            return super().keys(seed, rows if isinstance(rows, int) else listed)
        if seed is None:  # drawn at each run of the graph, not once at its tracing
            seed = tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
        elif not tf.is_tensor(seed):
            seed = tf.constant(np.array(random.split_seed(int(seed)), np.uint32).view(np.int32))
        elif seed.shape.num_elements() == 2:
            seed = tf.cast(tf.reverse(seed, [0]), tf.int32)
        else:
            seed = tf.bitcast(tf.cast(tf.reshape(seed, []), tf.int64), tf.int32)
        words = OPS.words(seed)  # the low and the high half
        return random.row_keys(OPS, (words[:1], words[1:]), OPS.arange(rows))

    def open_past(self, past: Any, batch: Any) -> KVCache | None:
        if isinstance(past, tuple | list) and len(past) == 0:
            return None
        return past.fork() if isinstance(past, KVCache) else KVCache.from_tuple(past)

    def early_exit(self, count: int) -> Any:
        def make() -> Any:
            body = self.model.base_model
            part = view_of(body, h=body.h[:count])
            return view_of(self.model, **{self.model.base_model_prefix: part})

        # The same object every time, since the assistant is part of the key of a trace.
        return self.model._functions.get(("early exit", count), make)

    def fused(self, static: StaticArguments, prompts: Prompts, settings: Settings) -> Loop:
        if self.is_traced or tf.config.functions_run_eagerly():
            return FusedLoop(OPS, TensorFlowEngine, self.models, static, prompts, settings)
        return TracedLoop(
            self.models,
            static,
            prompts,
            settings,
            owner=self.model,
            key=self._key(static, prompts),
            jit_compile=self._jit_compile,
        )

    def stepper(
        self, plan: Plan, static: StaticArguments, prompts: Prompts
    ) -> tuple[DriverEngine, Strategy | CompiledStrategy]:
        key, jit_compile, strategy = self._key(static, prompts), self._jit_compile, static.strategy
        make = functools.partial(
            TracedEngine,
            owner=self.model,
            key=self._key(static.of_model, prompts),
            jit_compile=jit_compile,
        )
        engine = assemble(OPS, make, self.models, static, prompts, self.keep)
        if strategy.host:
            return engine, strategy
        return engine, traced_strategy(self.model, strategy, key, jit_compile)

    def _key(self, static: StaticArguments, prompts: Prompts) -> Hashable:
        """Return the key of a computation: all that shapes it, except its arguments' sizes."""
        assistants = tuple(map(Identity, self.models[1:]))
        return static, prompts.structure, assistants, self._jit_compile

    def result(self, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
        return generation_output(super().result(plan, settings, state, **records))


def _whole(halves: Any) -> int:
    """Return the number of an upper and a lower half, or of a single one of 64 bits."""
    values = [int(half) for half in halves]
    if len(values) == 1:
        return values[0] % 2**64
    upper, lower = (half % 2**32 for half in values)
    return upper << 32 | lower


class GenerationMixin(TransitionScores):
    """Gives a model with a language-model head the method `generate`."""

    config: Any
    generation_config: GenerationConfig
    call: Callable[..., Any]

    #: transformers' scripts ask for this before they compile.
    supports_xla_generation = True

    @tf.autograph.experimental.do_not_convert
    @documented(
        GENERATING.format(
            processors="(input_ids [R, capacity], scores [R, V], cur_len) -> scores",
            generator="TensorFlow's global generator (`tf.random.set_seed`), at each call",
            more=_JIT_COMPILE,
        )
    )
    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Callable[[int, tf.Tensor], list[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Any = None,
        negative_prompt_attention_mask: Any = None,
        use_model_defaults: bool | None = None,
        custom_generate: Any = None,
        *,
        seed: Any = None,
        tokenizer: Any = None,
        regex: str | None = None,
        json_schema: Mapping[str, Any] | str | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
        batch_size: int | None = None,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continue the prompts.

        An eager call traces the whole loop once, for any batch and prompt, and again if its form
        changes: for a longer text (in powers of two), another strategy or other processors.
        Other settings (temperature, seed ...) are values. Inside `tf.function`, with or without
        `jit_compile=True`, it becomes part of the graph: the result then has all `max_length`
        columns, ids are not checked, and options that need the host (streamers, stopping criteria,
        `prefix_allowed_tokens_fn`, grammars) raise.

        `seed` may also be an int64 scalar there. transformers' pair of integers, also as a tensor
        [2], is one number: its upper and lower half.
        """
        return generate(
            self.generation_host(jit_compile),
            kwargs=kwargs if inputs is None else {"inputs": inputs, **kwargs},
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            synced_gpus=synced_gpus,
            assistant_model=assistant_model,
            streamer=streamer,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            use_model_defaults=use_model_defaults,
            custom_generate=custom_generate,
            seed=seed,
            tokenizer=tokenizer,
            regex=regex,
            json_schema=json_schema,
            choices=choices,
            grammar=grammar,
            batch_size=batch_size,
        )

    @tf.autograph.experimental.do_not_convert
    @documented(PREFILLING.format(more=_JIT_COMPILE))
    def prefill(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        *,
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> KVCache:
        """Compute a prompt once, for many calls of `generate`."""
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        host = self.generation_host(jit_compile)
        return prefill(host, {**kwargs, "past_key_values": past_key_values})

    @documented(HEALING)
    def heal_tokens(self, input_ids: Any, tokenizer: Any = None) -> tf.Tensor:
        """Choose the last token of each prompt again, among those that begin with its text."""
        return heal_tokens(self.generation_host(), input_ids, tokenizer)

    def prepare_inputs_for_generation(
        self,
        inputs: tf.Tensor,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the model's inputs for one step of your own decoding loop.

        `generate` does not call it: its loop is one graph, which makes its inputs itself.

        Args:
            inputs: all ids so far, int [B, T].
            past_key_values: the keys and values of all but the last; None or () before the first
                step. With them, ids, types and positions are those of the last column.
            use_cache: passed on.
            **kwargs: `attention_mask` [B, T], `token_type_ids` [B, T] and `position_ids` (counted
                along the mask by default); others are ignored.
        """
        mask, types = kwargs.get("attention_mask"), kwargs.get("token_type_ids")
        positions = kwargs.get("position_ids")
        is_step = past_key_values is not None and len(past_key_values) > 0
        if positions is None and mask is not None:
            positions = tf.cumsum(mask, axis=-1, exclusive=True)
            positions = positions[:, -1:] if is_step else positions
        if is_step:
            inputs, types = (x if x is None else x[:, -1:] for x in (inputs, types))
        return {
            "input_ids": inputs,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "token_type_ids": types,
        }

    def generation_host(self, jit_compile: bool = False) -> TensorFlowHost:
        """Return the host with which `gpt2x.generation.generate.steps` runs this model."""
        return TensorFlowHost(self, jit_compile)

    @functools.cached_property
    def _functions(self) -> TracedFunctions:
        return TracedFunctions()
