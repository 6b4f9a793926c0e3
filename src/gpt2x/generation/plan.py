"""From the arguments of `generate` to a plan; all options are checked before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2x.config.generation import GenerationConfig, GenerationMode
from gpt2x.config.generation_fields import DEFAULTS, UNUSED_ARGUMENTS
from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.generation.drafts import check_drafts, confidence, with_drafts
from gpt2x.generation.grammar import Grammar
from gpt2x.generation.lengths import bucket, shortest_length, total_length
from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.processors import BuiltInProcessor, Processors, to_device
from gpt2x.generation.processors.base import Identity, check_token_ids
from gpt2x.generation.processors.build import (
    build_last,
    build_processors,
    build_warpers,
)
from gpt2x.generation.processors.guided import GrammarLogitsProcessor
from gpt2x.generation.processors.warpers import TopKLogitsWarper
from gpt2x.generation.stopping import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StopStringCriteria,
)
from gpt2x.generation.strategies import (
    BeamSearch,
    ConstrainedBeamSearch,
    ContrastiveSearch,
    ContrastiveSettings,
    DoLaGreedy,
    DoLaSample,
    Greedy,
    GroupBeamSearch,
    Sample,
    Settings,
    Strategy,
)
from gpt2x.generation.strategies.automaton import automaton
from gpt2x.generation.strategies.constrained_beam import constraints_of
from gpt2x.generation.strategies.contrastive import check_contrastive
from gpt2x.generation.strategies.dola import dola_layers
from gpt2x.generation.strategies.group_beam import check_groups
from gpt2x.generation.tokens import existing_tokens

AVAILABLE = (
    "greedy search, sampling (do_sample=True), beam search (num_beams > 1), beam sampling (both), "
    "diverse beam search (num_beam_groups > 1), constrained beam search (force_words_ids), "
    "contrastive search (penalty_alpha and top_k > 1), DoLa (dola_layers) and speculation "
    "(prompt_lookup_num_tokens, assistant_model, assistant_early_exit)"
)


@dataclass(frozen=True)
class Plan:
    """What a call of `generate` will do.

    strategy: the static part; a compiled computation is built for it.
    config: the merged options of this call.
    rows: R, rows of the model's input after the prompts.
    own: what only this strategy reads, a NamedTuple of numbers and arrays; or ().
    """

    strategy: Strategy
    config: GenerationConfig
    rows: int | Any
    prompt_length: int | Any
    max_length: int | Any
    eos: list[int]
    fill: int
    processors: list[BuiltInProcessor]
    warpers: list[BuiltInProcessor]
    top_k: int | Any
    own: Any = ()

    @property
    def samples(self) -> bool:
        """Whether the strategy draws random numbers."""
        return self.strategy.samples

    def settings(
        self, ops: Ops, input_ids: Array, attention_mask: Array | None, keys: Any
    ) -> Settings:
        """Return the values of the strategy as arrays of the framework.

        Args:
            ops: the framework's.
            input_ids: int [B, T]; T may exceed `prompt_length`, for a bucket.
            attention_mask: int or bool [B, T], 0 at padding; None for none.
            keys: of `Streams.keys` for R rows, or () if `samples` is False.
        """
        strategy = self.strategy
        batch, width = ops.shape(input_ids)
        if attention_mask is None:
            real = ops.full((batch, strategy.capacity), True, "bool")
        else:
            rest = ops.full((batch, strategy.capacity - width), True, "bool")
            # Columns of the bucket beyond the prompt will hold generated text.
            beyond = (ops.arange(width) >= self.prompt_length)[None, :]
            real = ops.concat([(attention_mask != 0) | beyond, rest], axis=1)
        origins = ops.arange(batch * strategy.rows_per_prompt) // strategy.rows_per_prompt
        return Settings(
            prompt=ops.take(ops.cast(input_ids, "int"), origins),
            real=ops.take(real, origins),
            prompt_length=_scalar(ops, self.prompt_length),
            max_length=_scalar(ops, self.max_length),
            eos=ops.constant(self.eos, "int"),
            fill=ops.scalar(self.fill, "int"),
            keys=keys,
            processors=values_of(ops, self.processors),
            warpers=values_of(ops, self.warpers),
            top_k=_scalar(ops, self.top_k),
            length_penalty=ops.scalar(self.config.length_penalty, "float"),
            own=self.own and type(self.own)(*(to_device(ops, value) for value in self.own)),
        )


def resolve_config(
    model_config: GenerationConfig,
    generation_config: GenerationConfig | None,
    kwargs: Mapping[str, Any],
    model_arguments: Iterable[str],
    use_model_defaults: bool | None = None,
) -> tuple[GenerationConfig, dict[str, Any]]:
    """Merge the options of a call: `kwargs` before `generation_config` before the model's own.

    Args:
        model_config: `model.generation_config`; not changed.
        generation_config: the caller's, or None.
        kwargs: the other keyword arguments of `generate`.
        model_arguments: names in `kwargs` that go to the model (`attention_mask` ...).
        use_model_defaults: whether fields at their defaults in `generation_config` get the values
            of the model's config. None: if transformers 4.50 or later wrote that; otherwise only
            its special tokens.

    Returns the merged config and those of `kwargs` that go to the model and are not None.
    """
    if generation_config is None:
        config = copy.deepcopy(model_config)
    elif isinstance(generation_config, GenerationConfig):
        if use_model_defaults is None:
            use_model_defaults = model_config.is_since_4_50
        config = generation_config.with_defaults_of(
            model_config, tokens_only=not use_model_defaults
        )
    else:
        raise InvalidInputError(
            "generation_config must be a GenerationConfig; got "
            f"{type(generation_config).__name__}. Options may also be keywords of generate()."
        )
    allowed = list(model_arguments)
    unused = config.update(**kwargs)
    for name in UNUSED_ARGUMENTS:
        unused.pop(name, None)
    unknown = [name for name in unused if name not in allowed]
    if unknown:
        raise InvalidInputError(unknown_arguments("generate", unknown, [*allowed, *DEFAULTS]))
    return config, {name: value for name, value in unused.items() if value is not None}


def make_plan(
    config: GenerationConfig,
    *,
    batch_size: int | Any,
    prompt_length: int | Any,
    n_positions: int,
    vocab_size: int,
    n_layer: int = 0,
    is_tied: bool = True,
    embeds_only: int = 0,
    buckets: bool = False,
    user_processors: Sequence[Any] | Any = None,
    stopping_criteria: Sequence[Any] | Any = None,
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
    tokenizer: Any = None,
    grammar: Grammar | None = None,
    with_length: bool = False,
    assistant: GenerationConfig | None = None,
) -> Plan:
    """Check the options against the prompt and the model, and choose the strategy.

    Args:
        config: the merged options.
        batch_size: B; prompt_length: columns of the prompt, padding included.
        n_positions, vocab_size: of the model.
        n_layer, is_tied: of the model, for DoLa: its layers; whether its embedding is its output.
        embeds_only: see `total_length`.
        buckets: whether to round static sizes up, for a compiled computation (see `bucket`).
        user_processors, stopping_criteria: a list, or one callable.
        prefix_allowed_tokens_fn, tokenizer: as in transformers' `generate`.
        grammar: what new text must match.
        with_length: whether users' processors are called with `cur_len` (TensorFlow and Flax).
        assistant: the generation config of the model that makes drafts, if there is one.

    Raises:
        InvalidInputError: if something does not fit, or is not available.
    """
    is_contrastive = _check_strategy(config, vocab_size, assistant) == "contrastive_search"
    criteria = _as_list("stopping_criteria", stopping_criteria)
    config, eos, criteria = _limits_of_criteria(config, criteria)
    criteria += _criteria_of(config, tokenizer)
    # Contrastive search runs its last token too, as a candidate.
    longest = n_positions if is_contrastive else n_positions + 1
    max_length = total_length(config, prompt_length, n_positions, embeds_only, longest)
    min_length = shortest_length(config, prompt_length, max_length, embeds_only)

    beams = config.num_beams > 1
    rows_per_prompt = config.num_beams if beams else config.num_return_sequences
    # A small model's config may hold GPT-2's own 50256, which such a model never writes.
    possible_eos = [token for token in eos if token < vocab_size]
    processors, top_k, warpers = _processors(
        config,
        eos,
        vocab_size,
        grammar,
        eos=possible_eos,
        prompt_length=prompt_length,
        max_length=max_length,
        min_length=min_length,
        rows_per_prompt=rows_per_prompt // (config.num_beam_groups if beams else 1),
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        user_processors=_as_list("logits_processor", user_processors),
        with_length=with_length,
    )

    layers = () if config.dola_layers is None else dola_layers(config.dola_layers, n_layer, is_tied)
    strategy = _strategy(
        config,
        vocab_size,
        layers,
        warpers,
        top_k,
        assistant,
        **_sizes(max_length, prompt_length, longest - embeds_only, buckets),
        rows_per_prompt=rows_per_prompt,
        num_eos=len(eos),
        processors=Processors.of(processors),
        keep_scores=bool(config.output_scores and config.return_dict_in_generate),
        keep_logits=bool(config.output_logits and config.return_dict_in_generate),
        criteria=tuple(map(Identity, criteria)),
    )
    rows = batch_size * rows_per_prompt
    one_text = beams or (isinstance(rows, int) and rows == 1)
    some_end = bool(possible_eos or (criteria and not one_text))
    return Plan(
        strategy=strategy,
        config=config,
        rows=rows,
        prompt_length=prompt_length,
        max_length=max_length,
        eos=eos,
        fill=_fill(config, eos, isinstance(strategy, BeamSearch), vocab_size, some_end),
        processors=processors,
        warpers=warpers,
        top_k=top_k.top_k if top_k is not None else 0,
        own=_own_settings(config, vocab_size, assistant, is_contrastive),
    )


def _sizes(max_length: Any, prompt_length: Any, limit: int, buckets: bool) -> dict[str, Any]:
    """Return a strategy's `capacity` and `steps`, rounded up for a compiler if asked for."""
    sizes = {"capacity": max_length, "steps": max_length - prompt_length}
    return {name: bucket(size, limit) for name, size in sizes.items()} if buckets else sizes


def _check_strategy(
    config: GenerationConfig, vocab_size: int, assistant: GenerationConfig | None
) -> GenerationMode:
    """Check the options of all strategies; return the mode that they choose."""
    check_groups(config)
    constraints_of(config, vocab_size)
    check_drafts(config, assistant)
    mode = config.get_generation_mode()
    if mode == GenerationMode.CONTRASTIVE_SEARCH:
        check_contrastive(config, vocab_size)
    _check_dola(config, mode)
    return mode


def _own_settings(
    config: GenerationConfig,
    vocab_size: int,
    assistant: GenerationConfig | None,
    is_contrastive: bool,
) -> Any:
    """Return the values that only the strategy of the options reads, or ()."""
    if is_contrastive:
        return ContrastiveSettings(float(config.penalty_alpha))
    constraints = constraints_of(config, vocab_size)
    return automaton(constraints) if constraints else confidence(config, assistant)


def _processors(
    config: GenerationConfig,
    all_eos: list[int],
    vocab_size: int,
    grammar: Grammar | None,
    **built: Any,
) -> tuple[list[BuiltInProcessor], TopKLogitsWarper | None, list[BuiltInProcessor]]:
    """Return the processors, and for `Sample` its top-k and the processors after it.

    Args:
        config: the merged options.
        all_eos: the eos ids, those beyond the vocabulary too.
        vocab_size: of the model.
        grammar: what new text must match.
        **built: the arguments of `build_processors`.
    """
    processors = build_processors(config, **built)
    if grammar is not None:
        matcher = grammar.matcher(vocab_size, built["eos"])
        processors.append(GrammarLogitsProcessor(matcher, built["prompt_length"], built["eos"]))
    more, top_k, warpers = _filters(config, all_eos, vocab_size, built["prompt_length"])
    processors += more
    check_token_ids([*processors, *warpers], vocab_size)
    return processors, top_k, warpers


def _filters(
    config: GenerationConfig, eos: list[int], vocab_size: int, prompt_length: int | Any
) -> tuple[list[BuiltInProcessor], TopKLogitsWarper | None, list[BuiltInProcessor]]:
    """Return the last processors, and for `Sample` its top-k and the processors after it."""
    beams, last = config.num_beams > 1, build_last(config, vocab_size, prompt_length)
    if not config.do_sample:
        return last, None, []
    # Each beam keeps as many tokens as all beams may need to continue.
    before, top_k, after = build_warpers(config, max(2, 1 + len(eos)) if beams else 1)
    # What follows `Sample`'s top-k sees candidates without their ids, which a watermark needs.
    if beams or config.watermarking_config is not None:
        return [*before, *filter(None, [top_k]), *after, *last], None, []
    return before, top_k, [*after, *last]


def _strategy(
    config: GenerationConfig,
    vocab_size: int,
    layers: tuple[int, ...],
    warpers: list[BuiltInProcessor],
    top_k: TopKLogitsWarper | None,
    assistant: GenerationConfig | None,
    **common: Any,
) -> Strategy:
    """Return the strategy for the options."""
    if config.num_beams > 1:
        needed = max(2, 1 + common["num_eos"])
        if vocab_size < needed:
            raise InvalidInputError(
                f"Beam search with {common['num_eos']} eos tokens needs a vocabulary of more than "
                f"{needed - 1} tokens; it has {vocab_size}."
            )
        common |= {
            "num_beams": config.num_beams,
            "num_return_sequences": config.num_return_sequences,
            "early_stopping": config.early_stopping,
        }
        if config.get_generation_mode() == GenerationMode.CONSTRAINED_BEAM_SEARCH:
            return ConstrainedBeamSearch(**common)
        if config.num_beam_groups > 1:
            return GroupBeamSearch(num_beam_groups=config.num_beam_groups, **common)
        return BeamSearch(do_sample=config.do_sample, **common)
    if config.get_generation_mode() == GenerationMode.CONTRASTIVE_SEARCH:
        return ContrastiveSearch(width=config.top_k, **common)
    chooser: Greedy
    if config.do_sample:
        width = top_k.width if top_k is not None else 0
        drawing = {"warpers": Processors.of(warpers), "width": width, **common}
        chooser = DoLaSample(layers=layers, **drawing) if layers else Sample(**drawing)
    else:
        chooser = DoLaGreedy(layers=layers, **common) if layers else Greedy(**common)
    return with_drafts(config, chooser, assistant, **common)


def eos_tokens(config: GenerationConfig) -> list[int]:
    """Return the eos ids."""
    return existing_tokens(config.eos_token_id)


def pad_token(config: GenerationConfig) -> int | None:
    """Return the pad id: the config's, or else the first eos, or None."""
    pads = existing_tokens(config.pad_token_id)
    return next(iter([*pads, *eos_tokens(config)]), None)


def _check_dola(config: GenerationConfig, mode: GenerationMode) -> None:
    """Raise if DoLa is asked for with a strategy that it cannot change."""
    if config.dola_layers is not None and mode != GenerationMode.DOLA_GENERATION:
        raise InvalidInputError(
            "dola_layers works with greedy search and sampling only, and the other options ask for "
            f"{mode.replace('_', ' ')}; leave one of them out."
        )


def _limits_of_criteria(
    config: GenerationConfig, criteria: list[Any]
) -> tuple[GenerationConfig, list[int], list[Any]]:
    """Let criteria of the built-in kinds override the config, so that they can be compiled."""
    eos, others = eos_tokens(config), []
    for criterion in criteria:
        if type(criterion) is MaxLengthCriteria:
            config = copy.copy(config)
            config.max_length, config.max_new_tokens = criterion.max_length, None
        elif type(criterion) is EosTokenCriteria:
            eos = criterion.eos_token_id.tolist()
        else:
            others.append(criterion)
    return config, eos, others


def _criteria_of(config: GenerationConfig, tokenizer: Any) -> list[Any]:
    criteria: list[Any] = []
    if config.max_time is not None:
        criteria.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings is not None:
        if tokenizer is None:
            raise InvalidInputError(
                "stop_strings needs a tokenizer to recognise them; pass tokenizer= to generate()."
            )
        criteria.append(StopStringCriteria(tokenizer, config.stop_strings))
    return criteria


def _fill(
    config: GenerationConfig, eos: list[int], beams: bool, vocab_size: int, some_end: bool
) -> int:
    """Return the token that follows an eos; `some_end` if a row may end before the others."""
    pad = pad_token(config)
    if pad is None:
        pad = eos[0] if eos else 0
    if pad >= vocab_size:
        if not some_end:
            return 0  # it never occurs in the result
        raise InvalidInputError(
            f"pad_token_id is {pad}, but the vocabulary has the ids 0 to {vocab_size - 1}; rows "
            "that end could not be padded. Resize the embeddings or choose another pad_token_id."
        )
    # transformers' beam search treats a pad id of 0 as none; the texts must be the same here.
    return eos[0] if beams and eos and pad == 0 else pad


def _as_list(name: str, value: Any) -> list[Any]:
    if value is None:
        return []
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not all(callable(item) for item in items):
        raise InvalidInputError(f"{name} must be a callable or a list of callables; got {value!r}.")
    return items


def _scalar(ops: Ops, value: Any) -> Any:
    return ops.scalar(value, "int") if isinstance(value, int) else value


def values_of(ops: Ops, processors: Sequence[BuiltInProcessor]) -> tuple[dict[str, Any], ...]:
    """Return the values of processors as arrays of the framework."""
    return tuple(
        {name: to_device(ops, value) for name, value in processor.values.items()}
        for processor in processors
    )
