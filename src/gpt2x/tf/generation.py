"""`generate` in TensorFlow; `engine.py` runs the model for it.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, S
slots of the cache, V vocabulary, E n_embd.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation import driver, random, results
from gpt2x.generation.lengths import bucket
from gpt2x.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gpt2x.generation.plan import Plan, eos_tokens, make_plan, pad_token, resolve_config
from gpt2x.generation.prompt import bos_token, infer_mask, padding_first, refuse_arguments
from gpt2x.generation.seeds import streams
from gpt2x.generation.strategies import BeamSearch, Settings
from gpt2x.generation.streamers import as_streamer
from gpt2x.models import checks
from gpt2x.tf.cache import KVCache
from gpt2x.tf.engine import Prompt, SteppedEngine, TensorFlowEngine
from gpt2x.tf.ops import TENSORFLOW_OPS as OPS
from gpt2x.tf.outputs import generation_output

# Arguments of `call` that generation sets itself, or that make no sense in it.
_OWN_ARGUMENTS = (
    "labels",
    "mc_labels",
    "shift_labels",
    "num_items_in_batch",
    "ignore_index",
    "logits_to_keep",
    "return_dict",
    "training",
)


class TracedFunctions:
    """The functions that a model's eager `generate` has traced, by what they were traced for.

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
        """Forget all, after the model's weights were replaced."""
        self._functions.clear()


class GenerationMixin:
    """Gives a model with a language-model head the method `generate`."""

    config: Any
    generation_config: GenerationConfig
    call: Callable[..., Any]

    #: transformers' scripts ask for this before they compile.
    supports_xla_generation = True

    @tf.autograph.experimental.do_not_convert
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
        jit_compile: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continue the prompts.

        Called eagerly, it traces the whole loop once, for any batch and prompt, and once more for
        what changes its form: a longer text (in powers of two), another strategy or processor, a
        mask. Other settings (temperature, seed ...) are values. Inside `tf.function`, with
        `jit_compile=True` or without, it becomes part of the graph: the result then has all
        `max_length` columns, ids are not checked, and what needs the host (streamers, stopping
        criteria, `prefix_allowed_tokens_fn`) is refused.

        Args:
            inputs: token ids of the prompts, int [B, T]; also as `input_ids=`. Padding on the
                right is moved to the left, in the result too; not inside `tf.function`, where it
                is to be there already. None or [B, 0] starts from bos.
            generation_config: how to decode; by default the model's own. Its fields may also be
                given as keywords, which come first.
            logits_processor: functions ``(input_ids [R, capacity], scores [R, V], cur_len) ->
                scores``, which come after the built-in ones; one of a built-in's class takes its
                place.
            stopping_criteria: functions ``(input_ids, scores) -> bool [R]`` that end rows.
            prefix_allowed_tokens_fn: ``(prompt index, tokens [length]) -> allowed token ids``.
            synced_gpus, assistant_model, negative_prompt_ids, negative_prompt_attention_mask,
                custom_generate: not available; must be left out.
            streamer: an object with `put` and `end` (see `gpt2x.generation.streamers`), or a
                function of each step's tokens. Not for beam search.
            use_model_defaults: see `gpt2x.generation.plan.resolve_config`.
            seed: makes sampling repeatable, in every backend and batch alike: row r draws from
                stream (seed, r); a list gives each row its own (seed, row). Inside `tf.function` it
                may be an int64 scalar. transformers' pair of integers, also as a tensor [2], is one
                number: its upper and lower half. None draws a seed from TensorFlow's global
                generator (`tf.random.set_seed`), at each call.
            tokenizer: needed by `stop_strings`.
            jit_compile: compile the eager call with XLA: faster steps, after a compilation of
                seconds for each power of two of the prompt's and the text's length.
            **kwargs: fields of the config, and arguments of the model: `attention_mask` [B, T] (1
                for text, 0 for padding; by default 0 where the prompt holds `pad_token_id`, if that
                is not an eos), `inputs_embeds` [B, T, E] (the result then holds new tokens only,
                unless ids are given too), `past_key_values` (the prompt must hold the whole text),
                `position_ids`, `token_type_ids`, `encoder_hidden_states` ...

        Returns:
            Token ids, int32 [B x num_return_sequences, length], prompts included; rows that end
            early are filled with `pad_token_id` (or the first eos). With
            `return_dict_in_generate`, a `GenerateDecoderOnlyOutput` or
            `GenerateBeamDecoderOnlyOutput`.

        Raises:
            InvalidInputError: before anything is computed, if an argument is unknown, or cannot be
                used with the others or with this prompt.
        """
        refuse_arguments(
            synced_gpus=synced_gpus,
            assistant_model=assistant_model,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            custom_generate=custom_generate,
        )
        config, arguments = resolve_config(
            self.generation_config, generation_config, kwargs, self._arguments(), use_model_defaults
        )
        input_ids, mask = self._prompt(inputs, config, arguments)
        is_eager = tf.executing_eagerly()
        batch, width = OPS.shape(input_ids)
        embeds = arguments.get("inputs_embeds")
        hidden = 0 if embeds is None else OPS.shape(embeds)[1] - width
        plan = make_plan(
            config,
            batch_size=batch,
            prompt_length=width,
            n_positions=self.config.n_positions,
            vocab_size=self.config.vocab_size,
            hidden_length=hidden,
            buckets=is_eager,
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
        is_stepwise = streamer is not None or plan.strategy.host or records
        if is_stepwise and not is_eager:
            raise InvalidInputError(
                "Inside tf.function, generate cannot return to the host after each step, as "
                "streamers, stopping criteria, prefix_allowed_tokens_fn and returned attentions "
                "or hidden states need it. Call it eagerly: it traces its steps itself."
            )
        if is_eager and jit_compile:  # XLA compiles for each width
            input_ids = _widened(input_ids, bucket(width, self.config.n_positions))
            if embeds is not None:
                room = bucket(width + hidden, self.config.n_positions)
                arguments["inputs_embeds"] = _widened(embeds, room)
        # The last token is never run, and the model has no position for one beyond its last.
        slots, limit = plan.strategy.capacity + hidden, self.config.n_positions
        slots = min(slots, limit) if isinstance(slots, int) else tf.minimum(slots, limit)
        keys = _keys(seed, plan.rows) if plan.samples else ()
        settings = plan.settings(OPS, input_ids, _mask_of_ids(mask, hidden, input_ids), keys)
        prompt = self._make_prompt(input_ids, mask, width + hidden, hidden, slots, arguments)
        if not is_eager:
            engine = TensorFlowEngine(self, plan, slots, prompt)
            return _traced_result(
                plan, driver.fused(OPS, plan.strategy, engine, settings), settings
            )
        run = self._run_stepwise if is_stepwise else self._run_fused
        output = run(plan, slots, prompt, settings, jit_compile, streamer)
        return generation_output(output)

    def prepare_inputs_for_generation(
        self,
        inputs: tf.Tensor,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the model's inputs for one step of a decoding loop of your own.

        `generate` does not call it: its loop is one graph, which makes its inputs itself.

        Args:
            inputs: all ids so far, int [B, T].
            past_key_values: the keys and values of all but the last; None or () before the first
                step. With them, ids, types and positions are those of the last column.
            use_cache: passed on.
            **kwargs: `attention_mask` [B, T], `token_type_ids` [B, T] and `position_ids`, which
                are counted along the mask if they are not given; others are left out.
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

    def compute_transition_scores(
        self,
        sequences: tf.Tensor,
        scores: tuple[tf.Tensor, ...],
        beam_indices: tf.Tensor | None = None,
        normalize_logits: bool = False,
    ) -> tf.Tensor:
        """Return the score of each generated token; see `gpt2x.generation.results`."""
        return results.transition_scores(OPS, sequences, scores, beam_indices, normalize_logits)

    def _run_fused(
        self,
        plan: Plan,
        slots: int,
        prompt: Prompt,
        settings: Settings,
        jit_compile: bool,
        streamer: None,
    ) -> Any:
        """Decode in one traced loop."""

        def decode(prompt: Prompt, settings: Settings) -> tuple[Any, Any]:
            engine = TensorFlowEngine(self, plan, slots, prompt)
            carry = driver.fused(OPS, plan.strategy, engine, settings)
            return carry.state, carry.cache if returns_cache else ()

        def trace() -> Any:
            function = tf.function(decode, autograph=False, jit_compile=jit_compile)
            # Once for every batch and prompt: later calls find this trace, as more special ones.
            function.get_concrete_function(*_of_any_size(prompt, settings))
            return function

        returns_cache = plan.config.return_dict_in_generate and plan.config.use_cache
        key = ("fused", returns_cache, *_trace_key(plan, slots, prompt, jit_compile))
        state, cache = self._functions.get(key, trace)(prompt, settings)
        past = cache if returns_cache else None
        return results.result(OPS, plan, settings, state, past_key_values=past)

    def _run_stepwise(
        self,
        plan: Plan,
        slots: int,
        prompt: Prompt,
        settings: Settings,
        jit_compile: bool,
        streamer: Any,
    ) -> Any:
        """Decode step by step, each step traced, seeing the host in between."""

        def prefill(prompt: Prompt) -> Any:
            engine = TensorFlowEngine(self, plan, slots, prompt)
            return *engine.prefill(), engine.extras

        def decode(prompt: Prompt, tokens: tf.Tensor, cache: Any, length: tf.Tensor) -> Any:
            engine = TensorFlowEngine(self, plan, slots, prompt)
            return *engine.decode(tokens, cache, length), engine.extras

        def step(state: Any, logits: tf.Tensor, settings: Settings) -> Any:
            return plan.strategy.step(OPS, state, logits, settings)

        key = _trace_key(plan, slots, prompt, jit_compile)
        options = {"autograph": False, "reduce_retracing": True, "jit_compile": jit_compile}
        traced = {
            name: self._functions.get(
                (name, *key), functools.partial(tf.function, function, **options)
            )
            for name, function in (("prefill", prefill), ("decode", decode), ("step", step))
        }
        engine = SteppedEngine(prompt, plan.config.use_cache, traced["prefill"], traced["decode"])
        on_tokens = None
        if streamer is not None:
            streamer.put(prompt.input_ids.numpy()[:, : plan.prompt_length])

            def on_tokens(tokens: tf.Tensor) -> None:
                streamer.put(tokens.numpy())

        carry = driver.stepwise(
            OPS,
            plan.strategy,
            engine,
            settings,
            on_tokens,
            None if plan.strategy.host else lambda ops, *arguments: traced["step"](*arguments),
        )
        if streamer is not None:
            streamer.end()
        returns = plan.config.return_dict_in_generate
        return results.result(
            OPS,
            plan,
            settings,
            carry.state,
            attentions=tuple(engine.attentions) or None,
            hidden_states=tuple(engine.hidden_states) or None,
            past_key_values=carry.cache if returns and plan.config.use_cache else None,
        )

    @functools.cached_property
    def _functions(self) -> TracedFunctions:
        return TracedFunctions()

    def _arguments(self) -> list[str]:
        """Return the names of `call`'s arguments that `generate` passes on."""
        names = inspect.signature(self.call).parameters
        return [name for name in names if name not in _OWN_ARGUMENTS]

    def _prompt(
        self, inputs: Any, config: GenerationConfig, arguments: dict[str, Any]
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Return the prompt's ids [B, T] and its mask [B, T or T'], or None if nothing is padding.

        Takes both out of `arguments`.
        """
        input_ids = arguments.pop("input_ids", None)
        if inputs is not None and input_ids is not None:
            raise InvalidInputError("Give the prompt as inputs or as input_ids, not as both.")
        input_ids = _integers(inputs if input_ids is None else input_ids)
        mask = _integers(arguments.pop("attention_mask", None))
        embeds = arguments.get("inputs_embeds")
        if input_ids is not None and input_ids.shape.rank != 2:
            raise InvalidInputError(
                "The prompt must be a tensor of token ids of shape [batch, length]; got "
                f"{tuple(input_ids.shape)}."
            )
        if embeds is not None:
            embeds = arguments["inputs_embeds"] = tf.convert_to_tensor(embeds)
            checks.check_shape("inputs_embeds", embeds, [(None, None, self.config.n_embd)])
        if input_ids is None or (input_ids.shape[1] == 0 and embeds is None):
            tensors = [value for value in (input_ids, embeds, mask) if value is not None]
            batch = OPS.shape(tensors[0])[0] if tensors else 1
            bos = [] if embeds is not None else [bos_token(config)]
            input_ids = tf.tile(tf.constant([bos], tf.int32), [batch, 1])
            mask = mask if embeds is not None else None
        if not tf.executing_eagerly():
            return input_ids, _traced_mask(input_ids, config) if mask is None else mask
        ids = input_ids.numpy()
        checks.check_ids("input_ids", input_ids, self.config.vocab_size, lambda _: ids)
        if mask is None and embeds is None:
            mask = _integers(infer_mask(ids, config))
        if mask is not None:
            width = input_ids.shape[1] if embeds is None else embeds.shape[1]
            checks.check_shape("attention_mask", mask, [(input_ids.shape[0], width)])
            input_ids, mask = padding_first(
                input_ids,
                mask,
                arguments,
                host=lambda array: array.numpy(),
                take=lambda array, columns: tf.gather(array, columns, batch_dims=1),
            )
            mask = None if (mask.numpy() != 0).all() else tf.cast(mask != 0, tf.int32)
        return input_ids, mask

    def _make_prompt(
        self,
        input_ids: tf.Tensor,
        mask: tf.Tensor | None,
        length: int | tf.Tensor,
        hidden: int | tf.Tensor,
        slots: int | tf.Tensor,
        arguments: dict[str, Any],
    ) -> Prompt:
        """Gather what an engine starts from; `length` are the model's columns of the prompt."""
        given = {"attention_mask": mask, **arguments}
        columns = {
            name: _every_column(name, _integers(given.pop(name)), slots)
            for name in ("attention_mask", "position_ids", "token_type_ids")
            if given.get(name) is not None
        }
        given.pop("attention_mask", None)
        embeds = given.pop("inputs_embeds", ())
        past = given.pop("past_key_values", ())
        if not isinstance(past, tuple | list) or len(past):
            cache = past.fork() if isinstance(past, KVCache) else KVCache.from_tuple(past)
            if isinstance(cache.length, int) and isinstance(length, int) and cache.length >= length:
                raise InvalidInputError(
                    f"past_key_values hold {cache.length} tokens and the prompt {length}; pass "
                    "the whole text as the prompt, which must go on beyond the cached part."
                )
            past = cache.extend(slots)
        return Prompt(
            input_ids=input_ids,
            inputs_embeds=embeds,
            length=OPS.scalar(length, "int"),
            hidden=OPS.scalar(hidden, "int"),
            columns=columns,
            fixed={name: tf.convert_to_tensor(value) for name, value in given.items()},
            past=past,
        )


def _trace_key(plan: Plan, slots: int, prompt: Prompt, jit_compile: bool) -> tuple[Hashable, ...]:
    """Return all that shapes a computation, but for the sizes of its arguments."""
    config = plan.config
    return (
        plan.strategy,
        slots,
        jit_compile,
        config.use_cache,
        config.output_attentions,
        config.output_hidden_states,
        tf.is_tensor(prompt.inputs_embeds),
        isinstance(prompt.past, KVCache),
        tuple(prompt.columns),
        tuple(prompt.fixed),
    )


def _of_any_size(prompt: Prompt, settings: Settings) -> tuple[Prompt, Settings]:
    """Return the specs of the arguments, of any batch and width."""

    def spec(value: tf.Tensor, *axes: int) -> tf.TensorSpec:
        shape = [None if axis in axes else size for axis, size in enumerate(value.shape)]
        return tf.TensorSpec(shape, value.dtype)

    fixed = {
        name: spec(value, 0, 1) if name.startswith("encoder") else spec(value)
        for name, value in prompt.fixed.items()
    }
    past, embeds = prompt.past, prompt.inputs_embeds
    return (
        Prompt(
            input_ids=spec(prompt.input_ids, 0, 1),
            inputs_embeds=spec(embeds, 0, 1) if tf.is_tensor(embeds) else (),
            length=spec(prompt.length),
            hidden=spec(prompt.hidden),
            columns={name: spec(value, 0) for name, value in prompt.columns.items()},
            fixed=fixed,
            past=tf.nest.map_structure(lambda value: spec(value, 0), past),
        ),
        tf.nest.map_structure(spec, settings)._replace(
            prompt=spec(settings.prompt, 0, 1),
            real=spec(settings.real, 0),
            keys=tuple(spec(words, 0) for words in settings.keys),
        ),
    )


def _keys(seed: Any, rows: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the keys of the rows' streams of random numbers."""
    if isinstance(seed, list | tuple) and len(seed) == 2 and all(map(_is_integer, seed)):
        upper, lower = (int(half) % 2**32 for half in seed)
        seed = upper << 32 | lower
    if seed is None:  # drawn when the graph runs, never once for all of its runs
        seed = tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
    elif tf.is_tensor(seed) and seed.shape.num_elements() == 2:
        seed = tf.cast(tf.reverse(seed, [0]), tf.int32)
    elif tf.is_tensor(seed):
        seed = tf.bitcast(tf.cast(tf.reshape(seed, []), tf.int64), tf.int32)
    elif isinstance(rows, int) or not _is_integer(seed):
        listed = len(seed) if isinstance(seed, list | tuple) else 1
        return streams(seed, rows if isinstance(rows, int) else listed).keys(OPS)
    else:
        halves = np.array(random.split_seed(int(seed)), np.uint32).view(np.int32)
        seed = tf.constant(halves)
    words = OPS.words(seed)  # the low and the high half
    return random.row_keys(OPS, (words[:1], words[1:]), OPS.arange(rows))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _integers(value: Any) -> tf.Tensor | None:
    """Return ids or a mask as int32; what is neither int nor bool is left to the checks."""
    if value is None:
        return None
    value = tf.convert_to_tensor(value)
    return tf.cast(value, tf.int32) if value.dtype.is_integer or value.dtype.is_bool else value


def _widened(tensor: tf.Tensor, width: int) -> tf.Tensor:
    """Append zeros to the second axis, up to `width`."""
    paddings = [[0, 0]] * tensor.shape.rank
    paddings[1] = [0, width - tensor.shape[1]]
    return tf.pad(tensor, paddings)


def _mask_of_ids(
    mask: tf.Tensor | None, hidden: int | tf.Tensor, input_ids: tf.Tensor
) -> tf.Tensor | None:
    """Return the mask of the columns of `input_ids`, out of one of all the model's columns."""
    if mask is None:
        return None
    mask = mask[:, hidden:]
    room = OPS.shape(input_ids)[1] - OPS.shape(mask)[1]
    return tf.pad(mask, [[0, 0], [0, room]], constant_values=1)


def _traced_mask(input_ids: tf.Tensor, config: GenerationConfig) -> tf.Tensor | None:
    """Return the mask of a prompt that came without one, as `infer_mask` does eagerly."""
    pad = pad_token(config)
    if pad is None or pad in eos_tokens(config):
        return None
    return tf.cast(input_ids != pad, tf.int32)


def _every_column(name: str, given: tf.Tensor, slots: int | tf.Tensor) -> tf.Tensor:
    """Continue what is given for the prompt's columns, [B, T'], to all of them, [B, S]."""
    width = OPS.shape(given)[1]
    columns = tf.range(slots)
    last = tf.minimum(columns, width - 1)
    repeated = tf.gather(given, last, axis=1)
    if name == "attention_mask":
        return tf.where(columns < width, repeated, 1)
    return repeated + (columns - last) if name == "position_ids" else repeated


def _traced_result(plan: Plan, carry: driver.Carry, settings: Settings) -> Any:
    """Return the result of a loop inside a graph, whose shapes cannot depend on where it ended."""
    strategy, state = plan.strategy, carry.state
    sequences = strategy.sequences(OPS, state, settings)
    if not plan.config.return_dict_in_generate:
        return sequences

    def per_step(record: tf.Tensor) -> Any:
        return tuple(tf.unstack(record)) if record.shape[0] is not None else record

    common = {
        "sequences": sequences,
        "scores": per_step(state.scores) if strategy.keep_scores else None,
        "logits": per_step(state.logits) if strategy.keep_logits else None,
        "past_key_values": carry.cache if plan.config.use_cache else None,
    }
    if not isinstance(strategy, BeamSearch):
        return generation_output(GenerateDecoderOnlyOutput(**common))
    rows, count = OPS.shape(sequences)[0], strategy.num_return_sequences
    ranks = tf.reshape(state.ranks[:, :count], [rows])
    return generation_output(
        GenerateBeamDecoderOnlyOutput(
            **common,
            sequences_scores=ranks if strategy.keep_scores else None,
            beam_indices=tf.reshape(state.origins[:, :count], [rows, strategy.steps]),
        )
    )
