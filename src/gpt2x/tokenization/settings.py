"""What a tokenizer is set to, beside its vocabulary: names, defaults and allowed values."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.tokenization.options import NO_MAX_LENGTH, SIDES
from gpt2x.tokenization.special_tokens import ADDITIONAL, NAMED_TOKENS

END_OF_TEXT = "<|endoftext|>"

#: What can be set beside special tokens and `add_bos_token`, and the defaults.
SETTINGS: dict[str, Any] = {
    "errors": "replace",
    "add_prefix_space": False,
    "model_max_length": NO_MAX_LENGTH,
    "padding_side": "right",
    "truncation_side": "right",
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": False,
    "pad_token_type_id": 0,
    "chat_template": None,
    "name_or_path": "",
    "verbose": True,
}

#: Every constructor argument that does not say where the vocabulary is.
KNOWN = (
    *NAMED_TOKENS,
    ADDITIONAL,
    "extra_special_tokens",
    "added_tokens_decoder",
    "add_bos_token",
    "max_len",
    *SETTINGS,
)

#: The settings that are saved only where they are not the default.
OPTIONAL = ("split_special_tokens", "model_input_names", "pad_token_type_id")


def complete_settings(given: Mapping[str, Any], add_prefix_space: bool) -> dict[str, Any]:
    """Return the value of each of SETTINGS.

    Args:
        given: constructor arguments by name, others than settings included.
        add_prefix_space: the default of the setting, as the vocabulary's file says.

    Raises:
        InvalidInputError: for a value that is not allowed.
    """
    defaults = {
        **SETTINGS,
        "add_prefix_space": add_prefix_space,
        "model_max_length": given.get("max_len", NO_MAX_LENGTH),  # its name in transformers 2
    }
    values = {name: given.get(name, default) for name, default in defaults.items()}
    values["model_input_names"] = list(values["model_input_names"])
    values["chat_template"] = _named_templates(values["chat_template"])
    for side in ("padding_side", "truncation_side"):
        check_choice(side, values[side], SIDES)
    try:
        codecs.lookup_error(values["errors"])
    except (LookupError, TypeError):
        raise InvalidInputError(
            f"errors is {values['errors']!r}; allowed are the error handlers of bytes.decode: "
            "'replace', 'strict', 'ignore', 'backslashreplace'."
        ) from None
    return values


def _named_templates(chat_template: Any) -> Any:
    """Turn the list in which tokenizer_config.json holds several templates into a dictionary."""
    if not isinstance(chat_template, (list, tuple)):
        return chat_template
    try:
        return {entry["name"]: entry["template"] for entry in chat_template}
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            "chat_template must be a template, a dictionary of templates by name, or a list of "
            'dictionaries with the keys "name" and "template".'
        ) from error
