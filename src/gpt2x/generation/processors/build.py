"""From a config to its logits processors, in transformers' order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpt2x.config.generation import GenerationConfig
from gpt2x.config.watermarking import SynthIDTextWatermarkingConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.processors.base import BuiltInProcessor, UserProcessor
from gpt2x.generation.processors.constraints import (
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from gpt2x.generation.processors.diversity import HammingDiversityLogitsProcessor
from gpt2x.generation.processors.guidance import ClassifierFreeGuidance
from gpt2x.generation.processors.history import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)
from gpt2x.generation.processors.synthid import SynthIDTextWatermarkLogitsProcessor
from gpt2x.generation.processors.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from gpt2x.generation.processors.watermark import WatermarkLogitsProcessor

Length = Any  # an int, or a traced scalar


def build_processors(
    config: GenerationConfig,
    *,
    eos: list[int],
    prompt_length: Length,
    max_length: Length,
    min_length: Length,
    rows_per_prompt: int,
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
    user_processors: Sequence[Any] = (),
    with_length: bool = False,
) -> list[BuiltInProcessor]:
    """Return the processors of every strategy; the users' come last.

    A user's processor of the same class as a built-in one takes its place instead.
    """
    built: list[BuiltInProcessor] = []
    if _is_on(config.guidance_scale, 1.0):
        built.append(ClassifierFreeGuidance(config.guidance_scale))
    if config.sequence_bias is not None:
        built.append(SequenceBiasLogitsProcessor(config.sequence_bias))
    if config.diversity_penalty:
        groups = config.num_beams, config.num_beam_groups
        built.append(HammingDiversityLogitsProcessor(config.diversity_penalty, *groups))
    if _is_on(config.encoder_repetition_penalty, 1.0):
        penalty = config.encoder_repetition_penalty
        built.append(EncoderRepetitionPenaltyLogitsProcessor(penalty, prompt_length))
    if _is_on(config.repetition_penalty, 1.0):
        built.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        built.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        size = config.encoder_no_repeat_ngram_size
        built.append(EncoderNoRepeatNGramLogitsProcessor(size, prompt_length))
    if config.bad_words_ids is not None:
        built.append(NoBadWordsLogitsProcessor(config.bad_words_ids, eos or None))
    if eos and (not isinstance(min_length, int) or min_length > 0):
        built.append(MinLengthLogitsProcessor(min_length, eos))
    if eos and config.min_new_tokens:
        built.append(MinNewTokensLengthLogitsProcessor(prompt_length, config.min_new_tokens, eos))
    if prefix_allowed_tokens_fn is not None:
        built.append(PrefixConstrainedLogitsProcessor(prefix_allowed_tokens_fn, rows_per_prompt))
    if config.forced_bos_token_id is not None:
        built.append(ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        built.append(ForcedEOSTokenLogitsProcessor(max_length, config.forced_eos_token_id))
    if config.remove_invalid_values:
        built.append(InfNanRemoveLogitsProcessor())
    if config.exponential_decay_length_penalty is not None and eos:
        decay = config.exponential_decay_length_penalty
        built.append(ExponentialDecayLengthPenalty(decay, eos, prompt_length))
    if config.suppress_tokens:
        built.append(SuppressTokensLogitsProcessor(config.suppress_tokens))
    if config.begin_suppress_tokens:
        begin = _begin_index(prompt_length, config.forced_bos_token_id is not None)
        built.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin))
    merged = _merge(built, user_processors, with_length)
    return [processor.after_prompt(prompt_length) for processor in merged]


def build_warpers(
    config: GenerationConfig, min_tokens_to_keep: int = 1
) -> tuple[list[BuiltInProcessor], TopKLogitsWarper | None, list[BuiltInProcessor]]:
    """Return the processors of sampling: those before top-k, top-k itself, and those after it."""
    before: list[BuiltInProcessor] = []
    after: list[BuiltInProcessor] = []
    kept: dict[str, Any] = {"min_tokens_to_keep": min_tokens_to_keep}
    if _is_on(config.temperature, 1.0):
        before.append(TemperatureLogitsWarper(config.temperature))
    top_k = TopKLogitsWarper(config.top_k, **kept) if _is_on(config.top_k, 0) else None
    if _is_on(config.top_p, 1.0):
        after.append(TopPLogitsWarper(config.top_p, **kept))
    if config.min_p is not None:
        after.append(MinPLogitsWarper(config.min_p, **kept))
    if _is_on(config.typical_p, 1.0):
        after.append(TypicalLogitsWarper(config.typical_p, **kept))
    if _is_on(config.epsilon_cutoff, 0.0):
        after.append(EpsilonLogitsWarper(config.epsilon_cutoff, **kept))
    if _is_on(config.eta_cutoff, 0.0):
        after.append(EtaLogitsWarper(config.eta_cutoff, **kept))
    return before, top_k, after


def build_last(
    config: GenerationConfig, vocab_size: int, prompt_length: Length
) -> list[BuiltInProcessor]:
    """Return the processors that come after those of sampling: watermark and normalisation."""
    last: list[BuiltInProcessor] = []
    watermark = config.watermarking_config
    if isinstance(watermark, SynthIDTextWatermarkingConfig):
        synthid = SynthIDTextWatermarkLogitsProcessor(**watermark.to_dict())
        last.append(synthid.after_prompt(prompt_length))
    elif watermark is not None:
        last.append(WatermarkLogitsProcessor(vocab_size, **watermark.to_dict()))
    if config.renormalize_logits:
        last.append(LogitNormalization())
    return last


def _is_on(value: Any, off: float) -> bool:
    """Return whether a field asks for its processor; a traced value always does."""
    if value is None:
        return False
    return value != off if isinstance(value, bool | int | float) else True


def _begin_index(prompt_length: Length, forces_bos: bool) -> Length:
    """Return where `begin_suppress_tokens` applies: after a forced bos, if there is one."""
    if forces_bos and isinstance(prompt_length, int) and prompt_length == 1:
        return prompt_length + 1
    return prompt_length


def _merge(
    built: list[BuiltInProcessor], user_processors: Sequence[Any], with_length: bool
) -> list[BuiltInProcessor]:
    replacements: dict[type, Any] = {}
    for processor in user_processors:
        if not callable(processor):
            raise InvalidInputError(
                f"logits_processor must hold callables, but holds {processor!r}."
            )
        replacements.setdefault(type(processor), processor)
    merged = [replacements.get(type(processor), processor) for processor in built]
    used = {id(processor) for processor in merged}
    merged += [processor for processor in user_processors if id(processor) not in used]
    return [_as_built_in(processor, with_length) for processor in merged]


def _as_built_in(processor: Any, with_length: bool) -> BuiltInProcessor:
    # If a user's subclass overrides __call__, that is called instead of `apply`.
    if isinstance(processor, BuiltInProcessor):
        kind = type(processor)
        if issubclass(_definer(kind, "apply"), _definer(kind, "__call__")):
            return processor
    return UserProcessor(processor, with_length)


def _definer(kind: type, name: str) -> type:
    """Return the class that gives `kind` its method `name`."""
    return next(base for base in kind.__mro__ if name in vars(base))
