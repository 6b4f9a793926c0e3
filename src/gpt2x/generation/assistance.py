"""The assistant of a call: the model that makes drafts, and its prompts.

B prompts, T columns of their ids, S slots of its cache.
"""

from __future__ import annotations

from typing import Any

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.engine import Prompt
from gpt2x.generation.host import Host
from gpt2x.generation.lengths import smaller
from gpt2x.generation.ops import Array, Scalar
from gpt2x.generation.plan import Plan
from gpt2x.generation.prompt import make_prompt


def find_assistant(
    host: Host, config: GenerationConfig, assistant_model: Any, arguments: dict[str, Any]
) -> GenerationConfig | None:
    """Give the host its assistant, and return that model's generation config; None without one.

    Args:
        host: of the call.
        config: the merged options.
        assistant_model: the user's, or None.
        arguments: of the model.

    Raises:
        InvalidInputError: if the model cannot be assisted by it.
    """
    layers = config.assistant_early_exit
    if assistant_model is None and layers is None:
        return None
    if "inputs_embeds" in arguments:
        raise InvalidInputError(
            "An assistant (assistant_model, assistant_early_exit) reads the ids of the prompt; "
            "pass input_ids, not inputs_embeds."
        )
    if assistant_model is None:
        n_layer = len(host.model.base_model.h)
        if layers >= n_layer:
            raise InvalidInputError(
                f"assistant_early_exit is {layers}, the number of the model's blocks that draft; "
                f"the model has {n_layer}, so it must be 1 to {n_layer - 1}."
            )
        assistant_model = host.early_exit(layers)
    else:
        _check_assistant(host, assistant_model)
    host.assistant = host.of(assistant_model)
    return assistant_model.generation_config


def _check_assistant(host: Host, assistant: Any) -> None:
    """Raise unless a user's assistant can draft for the model."""
    make_host = getattr(assistant, "generation_host", None)
    if make_host is None or type(make_host()) is not type(host):
        raise InvalidInputError(
            "assistant_model must be a model of gpt2x with a language-model head, in the framework "
            f"of the model that it assists ({type(host.model).__name__}); got "
            f"{type(assistant).__name__}."
        )
    own, other = host.model.config.vocab_size, assistant.config.vocab_size
    if own != other:
        raise InvalidInputError(
            f"The assistant has a vocabulary of {other} tokens and the model one of {own}; an "
            "assistant must have the model's tokenizer (assistant_tokenizer is not available)."
        )


def assistant_prompt(
    host: Host, plan: Plan, input_ids: Array, mask: Array | None, arguments: dict[str, Any]
) -> tuple[Prompt, int | Scalar] | None:
    """Return the assistant's prompts and the slots of its cache; None without an assistant.

    Args:
        host: of the call.
        plan: of the call.
        input_ids: the prompts, int [B, T].
        mask: int [B, T], or None.
        arguments: of the model; the assistant gets those that belong to tokens and, if it attends
            to an encoder, those of the encoder.

    Raises:
        InvalidInputError: if the assistant does not have positions enough.
    """
    if host.assistant is None:
        return None
    config = host.assistant.model.config
    if isinstance(plan.max_length, int) and plan.max_length - 1 > config.n_positions:
        raise InvalidInputError(
            f"A text of {plan.max_length} tokens needs an assistant of {plan.max_length - 1} "
            f"positions or more (n_positions); this one has {config.n_positions}. Lower the length "
            "or leave the assistant out."
        )
    slots = smaller(host.prompt_ops, plan.strategy.capacity, config.n_positions)
    given = {
        name: value
        for name, value in arguments.items()
        if name in ("position_ids", "token_type_ids")
        or (name.startswith("encoder") and config.add_cross_attention)
    }
    return make_prompt(host.assistant, input_ids, mask, slots, given), slots
