"""The options of drafts: what asks for them, what excludes them, and the strategy for them."""

from __future__ import annotations

from typing import Any, NamedTuple

from gpt2x.config.generation import GenerationConfig, GenerationMode
from gpt2x.config.generation_fields import DEFAULTS
from gpt2x.errors import InvalidInputError
from gpt2x.generation.strategies import Assisted, Confidence, Greedy, PromptLookup, Strategy

#: The most tokens that prompt lookup looks for, if `max_matching_ngram_size` is not given.
DEFAULT_NGRAM_SIZE = 2
#: How many times the first number of drafts a schedule that adapts it may reach; the size of a
#: request, and so the time of a call, follows from the most drafts that there may ever be.
MOST_GROWTH = 2


class AssistantOptions(NamedTuple):
    """How an assistant drafts; see `GenerationConfig`."""

    num_assistant_tokens: int
    num_assistant_tokens_schedule: str
    assistant_confidence_threshold: float

    @classmethod
    def of(cls, config: GenerationConfig, assistant: GenerationConfig) -> AssistantOptions:
        """Return the options of a call or, where it has the defaults, of its assistant."""

        def chosen(name: str) -> Any:
            own = getattr(config, name)
            return getattr(assistant, name) if own == DEFAULTS[name] else own

        return cls(*map(chosen, cls._fields))


def check_drafts(config: GenerationConfig, assistant: GenerationConfig | None) -> None:
    """Raise if drafts are asked for in two ways, or other options exclude them.

    Args:
        config: the merged options of a call.
        assistant: of the model that drafts, or None.
    """
    names = ("prompt_lookup_num_tokens", "assistant_early_exit")
    asked = [name for name in names if getattr(config, name) is not None]
    if assistant is not None and config.assistant_early_exit is None:
        asked.append("assistant_model")
    if not asked:
        return
    if len(asked) > 1:
        raise InvalidInputError(
            f"{asked[0]} and {asked[1]} are two ways to make drafts; choose one of them."
        )
    refused = {
        "num_beams > 1, whose beams change places": config.num_beams > 1,
        "use_cache=False, since it takes wrong drafts back from the cache": not config.use_cache,
        "contrastive search or DoLa (penalty_alpha, dola_layers), which choose in another way": (
            config.get_generation_mode() == GenerationMode.CONTRASTIVE_SEARCH
            or config.dola_layers is not None
        ),
    }
    for reason, is_given in refused.items():
        if is_given:
            raise InvalidInputError(
                f"{asked[0]} cannot be combined with {reason}; leave one of them out."
            )


def with_drafts(
    config: GenerationConfig, chooser: Greedy, assistant: GenerationConfig | None, **common: Any
) -> Strategy:
    """Return the strategy that speeds up `chooser`, or that itself if no drafts are asked for.

    `common` are the fields that both have.
    """
    if config.prompt_lookup_num_tokens is not None:
        return PromptLookup(
            chooser=chooser,
            num_drafts=_useful(config.prompt_lookup_num_tokens, common["steps"]),
            ngram_size=config.max_matching_ngram_size or DEFAULT_NGRAM_SIZE,
            **common,
        )
    if assistant is None:
        return chooser
    first, schedule, _ = AssistantOptions.of(config, assistant)
    adapts = schedule != "constant"
    return Assisted(
        chooser=chooser,
        num_drafts=_useful(first * MOST_GROWTH if adapts else first, common["steps"]),
        first_limit=first,
        adapts=adapts,
        **common,
    )


def confidence(config: GenerationConfig, assistant: GenerationConfig | None) -> Any:
    """Return what only `Assisted` reads of the options; () without an assistant."""
    if assistant is None:
        return ()
    options = AssistantOptions.of(config, assistant)
    return Confidence(float(options.assistant_confidence_threshold))


def _useful(wanted: int, steps: int | Any) -> int:
    """Return how many drafts a row may have: not more than it has steps, less the model's own."""
    return max(1, min(wanted, steps - 1)) if isinstance(steps, int) else wanted
