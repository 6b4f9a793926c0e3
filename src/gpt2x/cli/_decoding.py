"""From the options of `gpt2x generate` to the arguments of a model's `generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2x.config.generation_fields import DEFAULTS, SAMPLING_FIELDS
from gpt2x.errors import InvalidInputError, check_choice

_EARLY_STOPPING: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


def decoding_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the command that are fields of GenerationConfig, where given.

    Whoever asks for a search wants no draws, and whoever sets an option of sampling wants them.
    """
    fields = {n: v for n, v in parameters.items() if n in DEFAULTS and v not in (None, [], ())}
    for name, read in _READERS.items():
        if name in fields:
            fields[name] = read(fields[name])
    if parameters.get("stop"):
        fields["stop_strings"] = list(parameters["stop"])
    if parameters.get("watermark"):
        from gpt2x.generation import WatermarkingConfig

        fields["watermarking_config"] = WatermarkingConfig()
    if "do_sample" not in fields:
        if (
            fields.get("num_beams", 1) > 1
            or fields.get("penalty_alpha")
            or parameters.get("force_words")
        ):
            fields["do_sample"] = False
        elif not fields.keys().isdisjoint(SAMPLING_FIELDS):
            fields["do_sample"] = True
    if fields.get("do_sample") is False:  # the model's own would be reported to have no effect
        fields = {name: DEFAULTS[name] for name in SAMPLING_FIELDS} | fields
    return fields


def word_fields(parameters: Mapping[str, Any], ids: Callable[[str], list[int]]) -> dict[str, Any]:
    """Return the fields of GenerationConfig that hold words as tokens.

    Args:
        parameters: of the command.
        ids: returns the tokens of a text.
    """
    fields: dict[str, Any] = {}
    if parameters.get("bad_words"):
        fields["bad_words_ids"] = [ids(words) for words in parameters["bad_words"]]
    if parameters.get("force_words"):
        # Within a text, a word has the token that begins with a space.
        fields["force_words_ids"] = [
            ids(words if words[:1].isspace() else f" {words}")
            for words in parameters["force_words"]
        ]
    return fields


def grammar_arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `generate` that say what form a text must have.

    Raises:
        InvalidInputError: if a file is not UTF-8 text.
    """
    arguments: dict[str, Any] = {}
    if parameters.get("regex") is not None:
        arguments["regex"] = parameters["regex"]
    if parameters.get("choices"):
        arguments["choices"] = list(parameters["choices"])
    if parameters.get("json_schema") is not None:
        schema = parameters["json_schema"]
        is_schema = schema.lstrip().startswith("{")
        arguments["json_schema"] = schema if is_schema else read_text(Path(schema))
    if parameters.get("grammar") is not None:
        arguments["grammar"] = read_text(parameters["grammar"])
    return arguments


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text.

    Raises:
        InvalidInputError: if it is not UTF-8.
        OSError: if it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text: {error}.") from error


def _early_stopping(text: str) -> bool | str:
    check_choice("--early-stopping", text, _EARLY_STOPPING)
    return _EARLY_STOPPING[text]


def _layers(text: str) -> str | list[int]:
    """Read the layers of DoLa: a name, or numbers with commas between them."""
    if text in ("low", "high"):
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InvalidInputError(
            f"--dola-layers is {text!r}; allowed are low, high, or numbers of layers such as 0,2."
        ) from None


#: How the fields are read that the command line has in other words.
_READERS: dict[str, Callable[[str], Any]] = {
    "early_stopping": _early_stopping,
    "dola_layers": _layers,
}
