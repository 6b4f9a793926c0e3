"""`generate` in Flax; `engine.py` runs the model for it.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, S
slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax import nnx
from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.flax.cache import KVCache
from gpt2x.flax.engine import CompiledEngine, CompiledLoop, JaxEngine, compiled_strategy
from gpt2x.flax.ops import JAX_OPS
from gpt2x.flax.outputs import FlaxGeneratedTokens, generation_output
from gpt2x.generation import random, results
from gpt2x.generation.documentation import GENERATING, HEALING
from gpt2x.generation.driver import CompiledStrategy, Loop
from gpt2x.generation.engine import (
    DriverEngine,
    Extras,
    FusedLoop,
    Prompts,
    StaticArguments,
    assemble,
)
from gpt2x.generation.generate import generate, heal_tokens
from gpt2x.generation.host import Host
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Ops
from gpt2x.generation.plan import Plan
from gpt2x.generation.prefill import PREFILLING, prefill
from gpt2x.generation.results import TransitionScores
from gpt2x.generation.strategies import Settings, Strategy
from gpt2x.models import checks
from gpt2x.models.pretrained import documented
from gpt2x.models.views import view_of

_DTYPES = {"b": np.bool_, "i": np.int32, "f": np.float32}

_OWN = """
    prng_key: a key of `jax.random`, in place of `seed`: ``PRNGKey(s)`` is seed s.
    trace: False runs step by step, with processors on concrete arrays."""

_PARAMS = """
    params: parameters to use in place of the model's own."""


class JaxHost(Host):
    """A Flax model, for one call of `generate`; see `gpt2x.generation.host`."""

    tracer = "jax.jit"
    widens = True

    def __init__(
        self, model: Any, given: Mapping[str, Any], prng_key: Array | None, trace: bool
    ) -> None:
        super().__init__(model, model.__call__, JAX_OPS)
        self._prng_key = prng_key
        self.fuses = trace
        leaves = jax.tree.leaves((model, dict(given), prng_key))
        self.is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        self.widens = not self.is_traced

    def read(self, name: str, value: Any) -> Any:
        if isinstance(value, jax.core.Tracer):
            return value
        value = np.asarray(value)
        return value.astype(np.int32) if value.dtype.kind == "b" else value

    def embeddings(self, value: Any) -> Any:
        return self.read("inputs_embeds", value)

    def to_run(self, array: Any, start: Any, slots: Any) -> Any:
        if isinstance(start, int):
            return super().to_run(array, start, slots)
        return jnp.roll(array, -start, axis=1)  # the cached columns come last, and are dropped

    def to_device(self, value: Any) -> Any:
        # Each kind has one dtype: another would compile again.
        if not isinstance(value, np.ndarray | int | float):
            return value
        value = np.asarray(value)
        return value.astype(_DTYPES.get(value.dtype.kind, value.dtype), copy=False)

    def to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def argument(self, value: Any) -> Array:
        return jnp.asarray(value)

    @property
    def itemsize(self) -> int:
        return jnp.dtype(self.model.dtype).itemsize

    def available_memory(self) -> int | None:
        arrays = (leaf for leaf in jax.tree.leaves(self.model) if isinstance(leaf, Array))
        device, *others = next((array.devices() for array in arrays), jax.devices()[:1])
        if others:
            return None  # of a sharded model, each device runs a part of each row
        if device.platform == "cpu":
            return super().available_memory()
        stats = device.memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None

    def joined(self, results: list[Any], join: Callable[[Ops, list[Any]], Any]) -> Any:
        # On the host, where parts of other lengths compile nothing.
        on_host = jax.device_get(results)
        if not isinstance(on_host[0], FlaxGeneratedTokens):
            return jax.device_put(join(NUMPY_OPS, on_host))
        tokens = join(NUMPY_OPS, [part.sequences for part in on_host])
        return FlaxGeneratedTokens(jax.device_put(tokens))

    def draw_seed(self) -> int:
        low, high = np.random.randint(0, 2**32, 2, np.uint64).tolist()
        return low | high << 32

    def keys(self, seed: Any, rows: int) -> tuple[Any, Any]:
        prng_key = self._prng_key
        if prng_key is None:
            return super().keys(seed, rows)
        if seed is not None:
            raise InvalidInputError("seed= and prng_key= say the same; pass one of them.")
        if jnp.issubdtype(prng_key.dtype, jax.dtypes.prng_key):
            prng_key = jax.random.key_data(prng_key)
        words = prng_key.reshape(-1)
        low, high = words[-1:], words[-2:-1]  # PRNGKey(s) holds the halves of s, the high one first
        if isinstance(words, jax.core.Tracer):
            return random.row_keys(JAX_OPS, (low, high), JAX_OPS.arange(rows))
        return super().keys(int(np.asarray(low)[0]) | int(np.asarray(high)[0]) << 32, rows)

    def open_past(self, past: Any, batch: int) -> KVCache | None:
        cache = self.model.base_model._open_cache(past, use_cache=False)
        if cache is not None:
            checks.check_past_key(self.model.config, cache.key_spec, None)
        return cache

    def early_exit(self, count: int) -> Any:
        body = self.model.base_model
        part = view_of(body, h=nnx.List(list(body.h)[:count]))
        return view_of(self.model, **{self.model.base_model_prefix: part})

    def fused(self, static: StaticArguments, prompts: Prompts, settings: Settings) -> Loop:
        if self.is_traced:
            return FusedLoop(self.ops, JaxEngine, self.models, static, prompts, settings)
        return CompiledLoop(self.models, static, prompts, settings)

    def stepper(
        self, plan: Plan, static: StaticArguments, prompts: Prompts
    ) -> tuple[DriverEngine, Strategy | CompiledStrategy]:
        strategy = static.strategy
        engine = assemble(self.ops, CompiledEngine, self.models, static, prompts, self.keep)
        is_compiled = self.fuses and not strategy.host
        return engine, compiled_strategy(strategy) if is_compiled else strategy

    def keep(self, extras: Extras, count: int, columns: int) -> Extras:
        # On the host: cutting to a new length on the device would compile something each time.
        return super().keep(jax.device_get(extras), count, columns)

    def result(self, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
        if self.is_traced:
            return generation_output(super().result(plan, settings, state, **records))
        # Cut on the host too; what stays on the device is the cache.
        past = records.pop("past_key_values")
        settings, state = jax.device_get((settings, state))
        output = results.result(NUMPY_OPS, plan, settings, state, **records)
        output = jax.device_put(generation_output(output))
        if past is not None:
            output.past_key_values = past
        return output


class GenerationMixin(TransitionScores):
    """Gives a model with a language-model head the method `generate`."""

    config: Any
    generation_config: GenerationConfig
    _with_params: Callable[..., Any]
    init_cache: Callable[..., KVCache]
    __call__: Callable[..., Any]

    @documented(
        GENERATING.format(
            processors="(input_ids [R, S], scores [R, V], cur_len) -> scores",
            generator="numpy's global generator (`numpy.random.seed`), since JAX has none",
            more=_OWN + _PARAMS,
        )
    )
    def generate(
        self,
        input_ids: Any = None,
        generation_config: GenerationConfig | None = None,
        prng_key: Array | None = None,
        trace: bool = True,
        params: Mapping[str, Any] | None = None,
        logits_processor: Any = None,
        *,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Callable[[int, Array], list[int]] | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Any = None,
        negative_prompt_attention_mask: Any = None,
        use_model_defaults: bool | None = None,
        custom_generate: Any = None,
        seed: int | list[tuple[int, int]] | None = None,
        tokenizer: Any = None,
        regex: str | None = None,
        json_schema: Mapping[str, Any] | str | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
        batch_size: int | None = None,
        inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continue the prompts.

        The whole loop is compiled once, for a bucket of prompt lengths and one of total lengths
        (powers of two), a batch size and a strategy. Other settings (temperature, seed ...) are
        values. Inside `jax.jit` it becomes part of the computation: the result then has all
        `max_length` columns, ids are not checked, and options that need the host (streamers,
        stopping criteria, `prefix_allowed_tokens_fn`, grammars, attentions, hidden states) raise.

        The ids are a `FlaxGeneratedTokens`: an array whose `.sequences` is the array itself.
        """
        negative = {
            "negative_prompt_ids": negative_prompt_ids,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
        }
        prompt = {"input_ids": input_ids, "inputs": inputs}
        kwargs |= {name: value for name, value in prompt.items() if value is not None}
        return generate(
            self.generation_host({**kwargs, **negative}, prng_key, trace, params),
            kwargs=kwargs,
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            streamer=streamer,
            **negative,
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

    @documented(PREFILLING.format(more=_PARAMS))
    def prefill(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        past_key_values: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> KVCache:
        """Compute a prompt once, for many calls of `generate`."""
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        kwargs["past_key_values"] = past_key_values
        return prefill(self.generation_host(kwargs, params=params), kwargs)

    @documented(HEALING)
    def heal_tokens(self, input_ids: Any, tokenizer: Any = None) -> Array:
        """Choose the last token of each prompt again, among those that begin with its text."""
        return heal_tokens(self.generation_host(), input_ids, tokenizer)

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, attention_mask: Array | None = None
    ) -> dict[str, Any]:
        """Return the model's arguments beside a prompt [B, T] for your own decoding loop.

        As in transformers: an empty static cache of `max_length` as `past_key_values`, an
        `attention_mask` [B, max_length] that is one behind the prompt, and `position_ids` [B, T].
        """
        B, T = input_ids.shape
        if max_length < T:
            raise InvalidInputError(
                f"max_length is {max_length}; the prompt alone has {T} tokens, padding included."
            )
        if attention_mask is None:
            attention_mask = jnp.ones((B, T), jnp.int32)
        attended = jnp.asarray(attention_mask).astype(bool).astype(jnp.int32)
        return {
            "past_key_values": self.init_cache(B, max_length),
            "attention_mask": jnp.pad(attended, [(0, 0), (0, max_length - T)], constant_values=1),
            "position_ids": jnp.maximum(attended.cumsum(axis=-1) - 1, 0),
        }

    def update_inputs_for_generation(
        self, model_outputs: Any, model_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return those arguments for the next token, which continues the returned cache."""
        return {
            **model_kwargs,
            "past_key_values": model_outputs.past_key_values,
            "position_ids": model_kwargs["position_ids"][:, -1:] + 1,
        }

    def generation_host(
        self,
        given: Mapping[str, Any] | None = None,
        prng_key: Array | None = None,
        trace: bool = True,
        params: Mapping[str, Any] | None = None,
    ) -> JaxHost:
        """Return the host with which `gpt2x.generation.generate.steps` runs this model.

        given: the arguments of `generate`, which may be traced; the other parameters are its own.
        """
        return JaxHost(self._with_params(params), given or {}, prng_key, trace)
