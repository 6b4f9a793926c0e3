"""What a request's texts have to match: `regex`, `json_schema`, `response_format`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpt2x.errors import MissingBackendError
from gpt2x.generation.grammar import Grammar
from gpt2x.generation.plan import eos_tokens
from gpt2x.generation.processors.guided import GrammarLogitsProcessor
from gpt2x.serve.failures import RequestError
from gpt2x.serve.messages import ResponseFormat, Sampling
from gpt2x.serve.models import ServedModel
from gpt2x.serve.writing import Allowed


def constraint_of(body: Sampling) -> tuple[str, dict[str, Any]]:
    """Return the field that constrains the texts, and the argument of `generate` for it.

    Both are empty if there is none. Raises RequestError for more than one.
    """
    given = {
        "regex": body.regex,
        "json_schema": body.json_schema,
        "response_format": _schema_of(getattr(body, "response_format", None)),
    }
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return "", {}
    if len(names) > 1:
        message = f"{' and '.join(names)} are given; a text can follow one of them."
        raise RequestError(400, message, names[0])
    name = names[0]
    return name, {"regex" if name == "regex" else "json_schema": given[name]}


def grammar_of(model: ServedModel, body: Sampling) -> Callable[[], Allowed] | None:
    """Return what makes the function of a text that says which tokens may follow.

    Raises RequestError for a grammar that cannot be used.
    """
    name, argument = constraint_of(body)
    if not name:
        return None
    eos = eos_tokens(model.model.generation_config)
    try:
        grammar = Grammar.of(model.tokenizer, **argument)
        assert grammar is not None, "one is given"
        matcher = grammar.matcher(model.vocab_size, eos)
    except (ValueError, RecursionError, MissingBackendError) as error:
        raise RequestError(400, f"{name}: {error}", name) from error

    def start() -> Allowed:
        reader = GrammarLogitsProcessor(matcher, 0, eos)

        def allowed(new: Sequence[int]) -> np.ndarray:
            found: np.ndarray = reader.allowed([np.array(new, np.int32)], model.vocab_size)[0]
            return found

        return allowed

    return start


def _schema_of(form: ResponseFormat | None) -> dict[str, Any] | None:
    """Return the schema that an answer has to follow; None if it may be any text."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        message = "response_format of the type json_schema needs json_schema."
        raise RequestError(400, message, "response_format")
    schema: dict[str, Any] = form.json_schema.schema
    return schema
