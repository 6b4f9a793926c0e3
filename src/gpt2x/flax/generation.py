"""`generate` in Flax; `engine.py` runs the model for it.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, S
slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.flax.cache import KVCache
from gpt2x.flax.engine import (
    CompiledStrategy,
    Prompt,
    Static,
    SteppedEngine,
    run_fused,
)
from gpt2x.flax.ops import JAX_OPS
from gpt2x.flax.outputs import generation_output
from gpt2x.generation import driver, random, results
from gpt2x.generation.lengths import bucket
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2x.generation.plan import Plan, eos_tokens, make_plan, pad_token, resolve_config
from gpt2x.generation.prompt import bos_token, infer_mask, padding_first, refuse_arguments
from gpt2x.generation.seeds import streams
from gpt2x.generation.strategies import BeamSearch, Settings
from gpt2x.generation.streamers import as_streamer
from gpt2x.models import checks

# Arguments of a call that generation sets itself, or that make no sense in it.
_OWN_ARGUMENTS = (
    "params",
    "dropout_rng",
    "train",
    "labels",
    "mc_labels",
    "shift_labels",
    "num_items_in_batch",
    "ignore_index",
    "cache_position",
    "logits_to_keep",
    "return_dict",
    "unknown",
)


class GenerationMixin:
    """Gives a model with a language-model head the method `generate`."""

    config: Any
    generation_config: GenerationConfig
    _with_params: Callable[..., Any]
    init_cache: Callable[..., KVCache]
    __call__: Callable[..., Any]

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
        inputs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continue the prompts.

        The whole loop is compiled once, for a bucket of prompt lengths and one of total lengths
        (powers of two), a batch size and a strategy. Other settings (temperature, seed ...) are
        values. Inside `jax.jit` it becomes part of the computation: the result then has all
        `max_length` columns, ids are not checked, and what needs the host (streamers, stopping
        criteria, `prefix_allowed_tokens_fn`, attentions, hidden states) is refused.

        Args:
            input_ids: token ids of the prompts, int [B, T]; also as `inputs=`. Padding on the right
                is moved to the left, in the result too; not inside `jax.jit`, where it is to be
                there already. None or [B, 0] starts from bos.
            generation_config: how to decode; by default the model's own. Its fields may also be
                given as keywords, which come first.
            prng_key: a key of `jax.random`, in place of `seed`: ``PRNGKey(s)`` is seed s.
            trace: False takes every step on its own, the processors on concrete arrays.
            params: parameters to use in place of the model's own.
            logits_processor: functions ``(input_ids [R, S], scores [R, V], cur_len) -> scores``,
                which come after the built-in ones; one of a built-in's class takes its place.
            stopping_criteria: functions ``(input_ids, scores) -> bool [R]`` that end rows.
            prefix_allowed_tokens_fn: ``(prompt index, tokens [length]) -> allowed token ids``.
            assistant_model, negative_prompt_ids, negative_prompt_attention_mask, custom_generate:
                not available; must be left out.
            streamer: an object with `put` and `end` (see `gpt2x.generation.streamers`), or a
                function of each step's tokens. Not for beam search.
            use_model_defaults: see `gpt2x.generation.plan.resolve_config`.
            seed: makes sampling repeatable, in every backend and batch alike: row r draws from
                stream (seed, r); a list gives each row its own (seed, row). None draws a seed from
                numpy's global generator (`numpy.random.seed`), since JAX has none.
            tokenizer: needed by `stop_strings`.
            **kwargs: fields of the config, and arguments of the model: `attention_mask` [B, T] (1
                for text, 0 for padding; by default 0 where the prompt holds `pad_token_id`, if that
                is not an eos), `inputs_embeds` [B, T, E] (the result then holds new tokens only,
                unless ids are given too), `past_key_values` (the prompt must hold the whole text),
                `position_ids`, `token_type_ids`, `encoder_hidden_states` ...

        Returns:
            Token ids, int32 [B x num_return_sequences, length], prompts included, as a
            `FlaxGeneratedTokens`: an array that is also its own `.sequences`. Rows that end early
            are filled with `pad_token_id` (or the first eos). With `return_dict_in_generate`, a
            `FlaxGenerateDecoderOnlyOutput` or `FlaxGenerateBeamDecoderOnlyOutput`.

        Raises:
            InvalidInputError: before anything is computed, if an argument is unknown, or cannot be
                used with the others or with this prompt.
        """
        refuse_arguments(
            assistant_model=assistant_model,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            custom_generate=custom_generate,
        )
        model = self._with_params(params)
        config, arguments = resolve_config(
            self.generation_config, generation_config, kwargs, self._arguments(), use_model_defaults
        )
        given = {"inputs": inputs, "input_ids": input_ids}
        # What is prepared on the host compiles nothing; inside `jax.jit` there are no values.
        leaves = jax.tree.leaves((model, given, arguments, prng_key))
        is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        input_ids, mask = self._prompt(given, config, arguments, is_traced)
        ops = JAX_OPS if is_traced else NUMPY_OPS
        batch, width = input_ids.shape
        embeds = arguments.get("inputs_embeds")
        hidden = 0 if embeds is None else embeds.shape[1] - width
        plan = make_plan(
            config,
            batch_size=batch,
            prompt_length=width,
            n_positions=self.config.n_positions,
            vocab_size=self.config.vocab_size,
            hidden_length=hidden,
            buckets=not is_traced,
            user_processors=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            tokenizer=tokenizer,
            with_length=True,
        )
        streamer = as_streamer(streamer)
        if streamer is not None and config.num_beams > 1:
            raise InvalidInputError(
                "Beam search cannot be streamed: its texts change until it ends. Set num_beams=1."
            )
        records = config.return_dict_in_generate and (
            config.output_attentions or config.output_hidden_states
        )
        is_stepwise = streamer is not None or plan.strategy.host or records or not trace
        if is_stepwise and is_traced:
            raise InvalidInputError(
                "Inside jax.jit, generate cannot return to the host after each step, as streamers, "
                "stopping criteria, prefix_allowed_tokens_fn, trace=False and returned attentions "
                "or hidden states need it. Call it outside: it compiles its steps itself."
            )
        # The last token is never run, and the model has no position for one beyond its last.
        slots = min(plan.strategy.capacity + hidden, self.config.n_positions)
        keys = _keys(ops, seed, prng_key, plan.rows) if plan.samples else ()
        ids_mask = None if mask is None else mask[:, hidden:]
        if not is_traced:
            room = bucket(width, self.config.n_positions) - width
            input_ids = np.pad(input_ids, [(0, 0), (0, room)])
            if ids_mask is not None:
                ids_mask = np.pad(ids_mask, [(0, 0), (0, room)], constant_values=1)
        settings = plan.settings(ops, input_ids, ids_mask, keys)
        past = model.base_model._open_cache(arguments.get("past_key_values"), use_cache=False)
        if past is not None:
            checks.check_past_key(self.config, past.key_spec, batch)
        arguments["past_key_values"] = past
        prompt = _make_prompt(input_ids, mask, width + hidden, hidden, slots, arguments)
        if not is_traced:
            settings, prompt = jax.tree.map(_device_array, (settings, prompt))
        static = Static.of(plan, slots)
        if is_stepwise:
            output = _run_stepwise(model, plan, static, prompt, settings, streamer, trace)
        else:
            returns_cache = bool(config.return_dict_in_generate and config.use_cache)
            state, cache = run_fused(
                model, prompt, settings, static=static, returns_cache=returns_cache
            )
            if is_traced:
                return _traced_result(plan, state, cache, settings)
            output = _result(plan, settings, state, past_key_values=cache)
        return output

    def prepare_inputs_for_generation(
        self, input_ids: Array, max_length: int, attention_mask: Array | None = None
    ) -> dict[str, Any]:
        """Return what a decoding loop of your own passes to the model beside its prompt [B, T].

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
        """Return those arguments for the next token, which goes on from the cache returned."""
        return {
            **model_kwargs,
            "past_key_values": model_outputs.past_key_values,
            "position_ids": model_kwargs["position_ids"][:, -1:] + 1,
        }

    def compute_transition_scores(
        self,
        sequences: Any,
        scores: tuple[Array, ...],
        beam_indices: Array | None = None,
        normalize_logits: bool = False,
    ) -> Array:
        """Return the score of each generated token; see `gpt2x.generation.results`."""
        sequences = jnp.asarray(sequences)
        return results.transition_scores(JAX_OPS, sequences, scores, beam_indices, normalize_logits)

    def _arguments(self) -> list[str]:
        """Return the names of the call's arguments that `generate` passes on."""
        names = inspect.signature(self.__call__).parameters
        return [name for name in names if name not in _OWN_ARGUMENTS]

    def _prompt(
        self,
        given: dict[str, Any],
        config: GenerationConfig,
        arguments: dict[str, Any],
        is_traced: bool,
    ) -> tuple[Any, Any]:
        """Return the prompt's ids [B, T] and its mask [B, T or T'], or None if nothing is padding.

        Both on the host, unless anything is traced. Takes them out of `arguments`.
        """
        if all(value is not None for value in given.values()):
            raise InvalidInputError("Give the prompt as inputs or as input_ids, not as both.")
        arguments.pop("input_ids", None)
        input_ids = _on_host(next((v for v in given.values() if v is not None), None))
        mask = _on_host(arguments.pop("attention_mask", None))
        embeds = arguments.get("inputs_embeds")
        if input_ids is not None and input_ids.ndim != 2:
            raise InvalidInputError(
                "The prompt must be an array of token ids of shape [batch, length]; got "
                f"{tuple(input_ids.shape)}."
            )
        if embeds is not None:
            embeds = arguments["inputs_embeds"] = _on_host(embeds)
            checks.check_shape("inputs_embeds", embeds, [(None, None, self.config.n_embd)])
        if input_ids is None or (input_ids.shape[1] == 0 and embeds is None):
            arrays = [value for value in (input_ids, embeds, mask) if value is not None]
            batch = arrays[0].shape[0] if arrays else 1
            bos = [] if embeds is not None else [bos_token(config)]
            input_ids = np.array([bos] * batch, np.int32).reshape(batch, -1)
            mask = mask if embeds is not None else None
        if is_traced:
            if mask is None and embeds is None:
                mask = _traced_mask(input_ids, config)
            return jnp.asarray(input_ids, jnp.int32), mask
        ids = input_ids
        checks.check_ids("input_ids", input_ids, self.config.vocab_size, lambda _: ids)
        if mask is None and embeds is None:
            mask = infer_mask(ids, config)
        if mask is not None:
            width = ids.shape[1] if embeds is None else embeds.shape[1]
            checks.check_shape("attention_mask", mask, [(ids.shape[0], width)])
            ids, mask = padding_first(
                ids,
                mask,
                arguments,
                host=lambda array: array,
                take=lambda array, columns: np.take_along_axis(_on_host(array), columns, axis=1),
            )
            mask = None if (mask != 0).all() else (mask != 0).astype(np.int32)
        return ids.astype(np.int32), mask


def _make_prompt(
    input_ids: Any,
    mask: Any,
    length: int,
    hidden: int,
    slots: int,
    arguments: dict[str, Any],
) -> Prompt:
    """Gather what an engine starts from; `length` are the model's columns of the prompt."""
    given = {"attention_mask": mask, **arguments}
    columns = {
        name: _every_column(name, _on_host(given.pop(name)), slots)
        for name in ("attention_mask", "position_ids", "token_type_ids")
        if given.get(name) is not None
    }
    given.pop("attention_mask", None)
    embeds = given.pop("inputs_embeds", None)
    past = given.pop("past_key_values")
    if embeds is not None and isinstance(embeds, np.ndarray):
        room = bucket(embeds.shape[1], slots) - embeds.shape[1]
        embeds = np.pad(embeds, [(0, 0), (0, room), (0, 0)])
    if past is not None:
        start = past.length
        if isinstance(start, int):
            if start >= length:
                raise InvalidInputError(
                    f"past_key_values hold {start} tokens and the prompt {length}; pass the whole "
                    "text as the prompt, which must go on beyond the cached part."
                )
            # What is run has to fit behind what is cached: writes beyond the end would slip back.
            end = min(start + bucket(length - start, slots), slots)
            input_ids = _cut(input_ids, start, end)
            embeds = None if embeds is None else _cut(embeds, start, end)
        past = past.extend(max(slots, past.max_length))
    return Prompt(
        input_ids=input_ids,
        inputs_embeds=embeds,
        length=jnp.asarray(length, jnp.int32),
        hidden=jnp.asarray(hidden, jnp.int32),
        columns=columns,
        fixed={name: jnp.asarray(value) for name, value in given.items()},
        past=past,
    )


def _cut(array: Any, start: int, end: int) -> Any:
    """Return columns `start` to `end` of [B, W, ...], with zeros where there are none."""
    cut = array[:, start:end]
    room = [(0, 0)] * array.ndim
    room[1] = (0, end - start - cut.shape[1])
    return (np if isinstance(cut, np.ndarray) else jnp).pad(cut, room)


def _run_stepwise(
    model: Any,
    plan: Plan,
    static: Static,
    prompt: Prompt,
    settings: Settings,
    streamer: Any,
    trace: bool,
) -> Any:
    """Decode step by step, seeing the host in between."""
    engine = SteppedEngine(model, static, prompt)
    strategy: Any = plan.strategy
    if trace and not strategy.host:
        strategy = CompiledStrategy(strategy)
    on_tokens = None
    if streamer is not None:
        streamer.put(np.asarray(settings.prompt)[:, : plan.prompt_length])

        def on_tokens(tokens: Array) -> None:
            streamer.put(np.asarray(tokens))

    carry = driver.stepwise(JAX_OPS, strategy, engine, settings, on_tokens)
    if streamer is not None:
        streamer.end()
    returns = plan.config.return_dict_in_generate and plan.config.use_cache
    return _result(
        plan,
        settings,
        carry.state,
        attentions=tuple(engine.attentions) or None,
        hidden_states=tuple(engine.hidden_states) or None,
        past_key_values=carry.cache if returns else None,
    )


def _result(plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
    """Return the result of a loop; cut on the host, where a new length compiles nothing."""
    past = records.pop("past_key_values")
    settings, state = jax.device_get((settings, state))
    output = results.result(NUMPY_OPS, plan, settings, state, **records)
    output = jax.device_put(generation_output(output))
    if past is not None:
        output.past_key_values = past
    return output


def _traced_result(plan: Plan, state: Any, cache: KVCache | None, settings: Settings) -> Any:
    """Return the result inside `jax.jit`, where shapes cannot depend on where the loop ended."""
    strategy = plan.strategy
    sequences = strategy.sequences(JAX_OPS, state, settings)
    if not plan.config.return_dict_in_generate:
        return generation_output(sequences)
    common = {
        "sequences": sequences,
        "scores": tuple(state.scores) if strategy.keep_scores else None,
        "logits": tuple(state.logits) if strategy.keep_logits else None,
        "past_key_values": cache,
    }
    if not isinstance(strategy, BeamSearch):
        return generation_output(GenerateDecoderOnlyOutput(**common))
    rows, count = sequences.shape[0], strategy.num_return_sequences
    ranks = state.ranks[:, :count].reshape(rows)
    return generation_output(
        GenerateBeamDecoderOnlyOutput(
            **common,
            sequences_scores=ranks if strategy.keep_scores else None,
            beam_indices=state.origins[:, :count].reshape(rows, strategy.steps),
        )
    )


def _keys(ops: Any, seed: Any, prng_key: Array | None, rows: int) -> tuple[Any, Any]:
    """Return the keys of the rows' streams of random numbers."""
    if seed is not None and prng_key is not None:
        raise InvalidInputError("seed= and prng_key= say the same; pass one of them.")
    if prng_key is not None:
        if jnp.issubdtype(prng_key.dtype, jax.dtypes.prng_key):
            prng_key = jax.random.key_data(prng_key)
        words = prng_key.reshape(-1)
        low, high = words[-1:], words[-2:-1]  # PRNGKey(s) holds the halves of s, the high one first
        if isinstance(words, jax.core.Tracer):
            return random.row_keys(JAX_OPS, (low, high), JAX_OPS.arange(rows))
        seed = int(np.asarray(low)[0]) | int(np.asarray(high)[0]) << 32
    if seed is None:
        low, high = np.random.randint(0, 2**32, 2, np.uint64).tolist()
        seed = low | high << 32
    return streams(seed, rows).keys(ops)


def _on_host(value: Any) -> Any:
    """Return an array on the host, integers as int32; what is traced stays as it is."""
    if value is None or isinstance(value, jax.core.Tracer):
        return value
    value = np.asarray(value)
    if value.dtype.kind == "b":
        return value.astype(np.int32)
    return value


def _device_array(value: Any) -> Any:
    """Return a scalar or array in the one dtype that its kind has: others would compile again."""
    if isinstance(value, Array):
        return value
    value = np.asarray(value)
    kinds = {"b": np.bool_, "i": np.int32, "f": np.float32}
    return value.astype(kinds.get(value.dtype.kind, value.dtype), copy=False)


def _every_column(name: str, given: Any, slots: int) -> Any:
    """Continue what is given for the prompt's columns, [B, T'], to all of them, [B, S]."""
    xp = np if isinstance(given, np.ndarray) else jnp
    columns = xp.arange(slots)
    last = xp.minimum(columns, given.shape[1] - 1)
    repeated = given[:, last]
    if name == "attention_mask":
        return xp.where(columns < given.shape[1], repeated, 1)
    return repeated + (columns - last) if name == "position_ids" else repeated


def _traced_mask(input_ids: Any, config: GenerationConfig) -> Array | None:
    """Return the mask of a traced prompt that came without one, as `infer_mask` does."""
    pad = pad_token(config)
    if pad is None or pad in eos_tokens(config):
        return None
    return (input_ids != pad).astype(jnp.int32)
