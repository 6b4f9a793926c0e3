"""The recipe of `generate`, written once; a backend brings a `Host`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation import batches, custom
from gpt2x.generation.assistance import assistant_prompt, find_assistant
from gpt2x.generation.driver import Carry, Loop, StepLoop
from gpt2x.generation.engine import Prompts, StaticArguments, past_of
from gpt2x.generation.grammar import Grammar
from gpt2x.generation.guidance import negative_prompt
from gpt2x.generation.healing import NextLogits, check_tokenizer, heal, heal_each
from gpt2x.generation.host import Host, widened
from gpt2x.generation.lengths import bucket, smaller
from gpt2x.generation.ops import Array
from gpt2x.generation.plan import Plan, make_plan, resolve_config
from gpt2x.generation.prompt import make_prompt, read_prompt, refuse_arguments
from gpt2x.generation.registry import ops_for
from gpt2x.generation.run import Run, placed
from gpt2x.generation.strategies import Settings
from gpt2x.generation.streamers import BaseStreamer, as_streamer
from gpt2x.models.checks import check_ids, check_shape

# The most tokens of a chunk. A call of a compiled loop costs 1 to 3 ms beside the model: token by
# token, a tiny model streams 7 to 19 times as slowly as it writes the whole text in one call; in
# chunks of up to 16, 2 to 3 times; larger ones save little more (`benchmarks/streaming.py`). A
# reader does not see whether text comes 50 times or more often in a second, so chunks grow no
# further once they take that long. For GPT-2 124M on a CPU that is a single token.
CHUNK = 16
QUICK = 1 / 50  # seconds


def generate(
    host: Host,
    *,
    streamer: Any = None,
    batch_size: int | None = None,
    custom_generate: Any = None,
    **arguments: Any,
) -> Any:
    """Continue the prompts; the arguments are those of `check`.

    batch_size: the most prompts to run at once; None for all that fit into memory.
    custom_generate: a function that decodes in place of the strategies (see `custom.run_loop`).
    """
    streamer = as_streamer(streamer)
    loop = custom.loop_of(custom_generate)
    batches.check_batch_size(host, batch_size, streamer is not None, loop is not None)
    if loop is not None:
        return _custom(host, loop, streamer, **arguments)
    run = check(host, **arguments, is_streamed=streamer is not None)
    if streamer is not None:
        return _stream(host, placed(host, run), streamer)
    parts = batches.split(host, run, batch_size)
    if not parts:
        return _whole(host, placed(host, run))
    # One after the other: a part's own copy of a past is gone before the next is made.
    results = [_whole(host, placed(host, batches.part(host, run, prompts))) for prompts in parts]
    return batches.joined(host, run, parts, results)


def _custom(
    host: Host,
    loop: Callable[..., Any],
    streamer: BaseStreamer | None,
    *,
    kwargs: Mapping[str, Any],
    seed: Any = None,
    **arguments: Any,
) -> Any:
    """Prepare a call for a loop of the user's, and return what that returns."""
    own = custom.own_arguments(loop, kwargs)
    others = {name: value for name, value in kwargs.items() if name not in own}
    # The loop draws by itself: no seed is taken from the global generator.
    run = check(host, kwargs=others, seed=0 if seed is None else seed, **arguments)
    if run.prompts.negative:
        raise InvalidInputError(
            "guidance_scale cannot be combined with custom_generate, whose function runs the model "
            "itself; leave one of them out."
        )
    if streamer is not None:
        streamer.put(host.to_host(host.to_device(run.input_ids)))
    return custom.run_loop(host, run, loop, own)


def _whole(host: Host, run: Run) -> Any:
    """Run the loop to the end; return the result."""
    loop, carry = _loop(host, run), None
    while carry is None or (run.is_stepwise and bool(carry.state.running)):
        with host.running(run.plan):
            carry = loop.run(carry)
    return _result(host, run, loop, carry)


def steps(host: Host, *, chunk: int = 1, **arguments: Any) -> Generator[Array, None, Any]:
    """Continue the prompts step by step: yield the tokens of each, int [R], as streamers get them.

    Each is yielded before the model computes on it. With a larger `chunk`, a compiled loop computes
    up to so many tokens of each row at once, and they are yielded before the next ones are
    computed; for `generate(streamer=...)` it is `CHUNK`. The first token is always computed alone,
    and the next chunks grow as long as they are quick. Where steps must return to the host (in
    PyTorch, and for functions of users, criteria and grammars) `chunk` has no effect.

    The other arguments are those of `prepare`, which checks them before this function returns. The
    generator returns the result of `generate`; it may be closed at any step.
    """
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise InvalidInputError(f"chunk must be an integer of at least 1; got {chunk!r}.")
    return _steps(host, prepare(host, **arguments, is_streamed=True), chunk)


def _steps(host: Host, run: Run, chunk: int = CHUNK) -> Generator[Array, None, Any]:
    """Run the loop in chunks; yield the tokens of each step, on the host, int [R]."""
    loop, shown = _loop(host, run), run.plan.prompt_length
    for carry in _chunks(host, run, loop, chunk):
        settled = int(carry.settled)
        if settled > shown:
            tokens = host.to_host(carry.state.tokens)  # at once: a chunk waits for the device once
            for column in range(shown, settled):
                yield tokens[:, [column]][:, 0]  # a copy
            shown = settled
    return _result(host, run, loop, carry)


def _chunks(host: Host, run: Run, loop: Loop, chunk: int) -> Iterator[Carry]:
    """Run the loop in chunks of up to `chunk` tokens; yield after each.

    A chunk has twice the tokens of the last if that was quick, else half of them. The chunks, but
    not the code between them, run in a context of `host.running`.
    """
    carry, until, count = None, 0, 1
    while carry is None or bool(carry.state.running):
        began = time.perf_counter()
        with host.running(run.plan):
            carry = loop.run(carry, until)
            settled = int(carry.settled)  # waits for the device
        is_quick = time.perf_counter() - began < QUICK
        yield carry
        until, count = settled + count, min(2 * count, chunk) if is_quick else max(count // 2, 1)


def _loop(host: Host, run: Run) -> Loop:
    """Return the loop of a call: on the host, or fused."""
    if not run.is_stepwise:
        return host.fused(run.static, run.prompts, run.settings)
    engine, strategy = host.stepper(run.plan, run.static, run.prompts)
    return StepLoop(host.ops, strategy, engine, run.settings)


def _result(host: Host, run: Run, loop: Loop, carry: Carry) -> Any:
    """Return the result of `generate` after the last step."""
    records = loop.records(carry.state.length)
    past = past_of(host.ops, run.static, run.prompts, carry) if run.returns_cache else None
    return host.result(run.plan, run.settings, carry.state, **records, past_key_values=past)


def _stream(host: Host, run: Run, streamer: BaseStreamer) -> Any:
    """Pass the tokens to a streamer, and return the result."""
    streamer.put(host.to_host(host.to_device(run.input_ids)))
    tokens = _steps(host, run)
    while True:
        try:
            chosen = next(tokens)
        except StopIteration as end:
            streamer.end()
            return end.value
        streamer.put(chosen)


def prepare(host: Host, **arguments: Any) -> Run:
    """Check a call of `generate` and bring its arrays to the device; the model has not run yet.

    The arguments are those of `check`.
    """
    return placed(host, check(host, **arguments))


def check(
    host: Host,
    *,
    kwargs: Mapping[str, Any],
    generation_config: GenerationConfig | None = None,
    use_model_defaults: bool | None = None,
    seed: Any = None,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
    tokenizer: Any = None,
    regex: str | None = None,
    json_schema: Mapping[str, Any] | str | None = None,
    choices: Sequence[str] | None = None,
    grammar: str | None = None,
    negative_prompt_ids: Any = None,
    negative_prompt_attention_mask: Any = None,
    assistant_model: Any = None,
    is_streamed: bool = False,
    **unavailable: Any,
) -> Run:
    """Check a call of `generate` and gather its arrays, most of them still on the host.

    Args:
        host: the model.
        kwargs: the prompt as `inputs` or `input_ids`, fields of the config, and arguments of the
            model.
        is_streamed: whether a streamer receives the tokens of each step.
        **unavailable: arguments of transformers' `generate` that are not available.

        The others are those of a backend's `generate`.

    Raises:
        InvalidInputError: if an argument is unknown, or cannot be used with the others or with
            this prompt.
    """
    refused = {name: kwargs.get(name) for name in ("assistant_tokenizer", "synced_gpus")}
    refuse_arguments(**{**refused, **unavailable})
    model, ops = host.model, host.prompt_ops
    allowed = ["inputs", *host.argument_names()]
    config, arguments = resolve_config(
        model.generation_config, generation_config, kwargs, allowed, use_model_defaults
    )
    input_ids, mask = read_prompt(host, config, arguments)
    batch, width = ops.shape(input_ids)
    assistant = find_assistant(host, config, assistant_model, arguments)
    embeds = arguments.get("inputs_embeds")
    embeds_only = 0 if embeds is None else ops_for(embeds).shape(embeds)[1] - width
    options: dict[str, Any] = {
        "batch_size": batch,
        "n_positions": model.config.n_positions,
        "vocab_size": model.config.vocab_size,
        "n_layer": model.config.n_layer,
        "is_tied": model.config.tie_word_embeddings,
        "embeds_only": embeds_only,
        "buckets": host.buckets and not host.is_traced,
        "user_processors": logits_processor,
        "stopping_criteria": stopping_criteria,
        "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
        "tokenizer": tokenizer,
        "grammar": Grammar.of(
            tokenizer, regex=regex, json_schema=json_schema, choices=choices, grammar=grammar
        ),
        "with_length": host.with_length,
        "assistant": assistant,
    }
    plan = make_plan(config, prompt_length=width, **options)
    if config.token_healing:  # all else has been checked; the length may change
        input_ids, mask = _healed(host, input_ids, mask, tokenizer, arguments, plan.fill)
        plan = make_plan(config, prompt_length=input_ids.shape[1], **options)
    # The last token is never run, and the model has no positions beyond its last.
    slots = smaller(ops, plan.strategy.capacity + embeds_only, model.config.n_positions)
    needs = plan.strategy.needs
    negative = negative_prompt(
        host, plan, input_ids, negative_prompt_ids, negative_prompt_attention_mask
    )
    assisted = assistant_prompt(host, plan, input_ids, mask, arguments)
    others = [given or ((), 0) for given in (negative, assisted)]
    static = StaticArguments.of(plan, slots, (others[0][1], others[1][1]))
    is_stepwise = bool(plan.strategy.host or static.records or not host.fuses)
    _check_steps(host, plan, is_streamed, is_streamed or is_stepwise)
    # A seed is checked even where nothing is drawn.
    keys = host.keys(seed, plan.rows) if plan.samples or seed is not None else ()
    settings = _settings(host, plan, slots, input_ids, mask, keys if plan.samples else ())
    if not static.use_cache:
        arguments.pop("past_key_values", None)  # every step runs the whole text
    reads_past = not needs.hidden_states  # which no cache has
    main = make_prompt(host, input_ids, mask, slots, arguments, needs.spare, reads_past)
    prompts = Prompts(main, others[0][0], others[1][0])
    returns_cache = bool(config.return_dict_in_generate and config.use_cache)
    return Run(plan, static, settings, prompts, input_ids, is_stepwise, returns_cache)


def _check_steps(host: Host, plan: Plan, is_streamed: bool, returns: bool) -> None:
    """Raise if steps must return to the host and cannot."""
    if is_streamed and plan.strategy.unstreamable is not None:
        raise InvalidInputError(plan.strategy.unstreamable)
    if returns and host.is_traced:
        raise InvalidInputError(
            f"Inside {host.tracer}, generate cannot return to the host after each step, as "
            "streamers, stopping criteria, prefix_allowed_tokens_fn, grammars, watermarks, "
            "trace=False and returned attentions or hidden states need it. Call it outside: it "
            "compiles its steps itself."
        )


def heal_tokens(host: Host, input_ids: Any, tokenizer: Any) -> Any:
    """Return prompts with their last tokens healed, as arrays of the framework; see `heal`."""
    check_tokenizer(tokenizer)
    ids = host.read("input_ids", input_ids)
    check_shape("input_ids", ids, [(None, None)])
    check_ids("input_ids", ids, host.model.config.vocab_size, lambda ids: ids)
    return host.argument(host.to_device(heal(_next_logits(host), ids, tokenizer)))


def _healed(
    host: Host,
    input_ids: Array,
    mask: Array | None,
    tokenizer: Any,
    arguments: Mapping[str, Any],
    fill: int,
) -> tuple[Array, Array | None]:
    """Return the prompts healed, and their mask; `fill` is their padding if they have none.

    Raises:
        InvalidInputError: if this cannot be done here, or an argument goes with the tokens given.
    """
    check_tokenizer(tokenizer)
    if host.is_traced:
        raise InvalidInputError(
            f"Inside {host.tracer}, token_healing cannot read the prompts; heal them outside, with "
            "model.heal_tokens(input_ids, tokenizer)."
        )
    for name in ("inputs_embeds", "past_key_values", "position_ids", "token_type_ids"):
        if name in arguments:
            raise InvalidInputError(
                f"token_healing changes the prompts, so {name} cannot be given with it."
            )
    input_ids, mask = heal_each(_next_logits(host), input_ids, mask, tokenizer, fill)
    return input_ids, None if mask.all() else mask


def _next_logits(host: Host) -> NextLogits:
    def next_logits(input_ids: np.ndarray, pad: int | None) -> np.ndarray:
        config = GenerationConfig(
            max_new_tokens=1, pad_token_id=pad, output_logits=True, return_dict_in_generate=True
        )
        output = generate(
            host,
            kwargs={"input_ids": host.to_device(input_ids)},
            generation_config=config,
            use_model_defaults=False,
        )
        return host.ops.to_numpy(output.logits[0])[0]

    return next_logits


def _settings(
    host: Host, plan: Plan, slots: Any, input_ids: Array, mask: Array | None, keys: Any
) -> Settings:
    """Return the values of the strategy; the prompt is padded if sizes are rounded up."""
    ops = host.prompt_ops
    width = ops.shape(input_ids)[1]
    if mask is not None:
        mask = mask[:, ops.shape(mask)[1] - width :]
    if host.widens:
        width = bucket(width, min(slots, plan.strategy.capacity))
        input_ids = widened(input_ids, width)
        mask = None if mask is None else widened(mask, width)
    return plan.settings(ops, input_ids, mask, keys)
