"""Chat templates: Jinja in a sandbox, with the additions that templates of transformers expect.

Imported only to render a chat, since jinja2 is in an extra.
Source: transformers 4.57, `render_jinja_template`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gpt2x.errors import InvalidInputError

Span = tuple[int, int]


@dataclass
class _Progress:
    """The length of the text so far, and the blocks so far; see `render`."""

    length: int = 0
    generated: list[Span] = field(default_factory=list)


# Not kept in the environment: several threads may render the same compiled template.
_progress: ContextVar[_Progress | None] = ContextVar("_progress", default=None)


def render(template: str, variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
    """Return a chat's text, and first and last + 1 character of each ``{% generation %}`` block.

    Raises:
        jinja2.TemplateError: if the template raises it, is not valid, or does what the sandbox
            forbids.
        InvalidInputError: for other errors in the template.
    """
    try:
        return _render(template, variables)
    except TemplateError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"The chat template failed with {type(error).__name__}: {error}. Does it know messages "
            "of this kind?"
        ) from error


def _render(template: str, variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
    progress = _Progress()
    token = _progress.set(progress)
    try:
        parts = []
        for part in compiled(template).generate(**variables):
            parts.append(part)
            progress.length += len(part)
    finally:
        _progress.reset(token)
    return "".join(parts), progress.generated


@lru_cache
def compiled(template: str) -> Template:
    """Compile a template; cached, since a tokenizer renders the same one many times."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlocks, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def has_generation_blocks(template: str) -> bool:
    """Return whether a template marks the assistant's words."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None


class _GenerationBlocks(Extension):
    """The block ``{% generation %}``, which templates put around the assistant's words."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    @staticmethod
    def _note(caller: Callable[[], str]) -> str:
        text = caller()
        progress = _progress.get()
        if progress is not None:
            progress.generated.append((progress.length, progress.length + len(text)))
        return text


# What templates find beside Jinja's own --------------------------------------------------------


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for a language model; Jinja's own filter would escape it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
