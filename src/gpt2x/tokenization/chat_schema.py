"""The JSON schema of a tool, from a Python function's type hints and docstring.

Source: transformers 4.57, `get_json_schema`, whose schemas chat templates expect.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gpt2x.errors import InvalidInputError

_TYPES: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}

# Types of libraries that need not be installed, by module and name.
_FOREIGN_TYPES = {("PIL.Image", "Image"): "image", ("torch", "Tensor"): "audio"}

# What an argument's description may end with, such as (choices: ["tea", "coffee"]).
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)

_SECTION = re.compile(r"\n\s*(Args|Returns|Raises):\s*(?:\n|$)")
_ARGUMENT = re.compile(r"\s*(\w+):\s*(.*)")


def get_json_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Describe a function as a tool, in the form that chat templates take.

    Args:
        function: every argument needs a type hint and, in an ``Args:`` section of the docstring, a
            line ``name: what it is``. A line may end with ``(choices: ["a", "b"])``, which become
            the schema's ``enum``. A ``Returns:`` section becomes part of the schema.

    Returns:
        ``{"type": "function", "function": {"name", "description", "parameters"}}``, where
        ``parameters`` is a JSON schema.

    Raises:
        InvalidInputError: if a type hint or description is missing, or a type hint has no schema.
    """
    name = function.__name__
    doc = (inspect.getdoc(function) or "").strip()
    if not doc:
        raise InvalidInputError(
            f"The tool {name}() has no docstring; its description is taken from there."
        )
    sections = _sections(doc)
    descriptions = _arguments(sections.get("Args", ""))
    parameters = _parameters(function)
    returned = parameters["properties"].pop("return", None)
    for argument, schema in parameters["properties"].items():
        if argument not in descriptions:
            raise InvalidInputError(
                f"The docstring of the tool {name}() does not describe the argument {argument!r}. "
                f"Add a line '{argument}: what it is' to its section 'Args:'."
            )
        schema.update(_description(name, argument, descriptions[argument]))
    described = {"name": name, "description": sections[""], "parameters": parameters}
    if returned is not None:
        if "Returns" in sections:
            returned["description"] = sections["Returns"]
        described["return"] = returned
    return {"type": "function", "function": described}


# Docstrings ---------------------------------------------------------------------------------------


def _sections(doc: str) -> dict[str, str]:
    """Split a docstring into the text before its sections, under "", and the sections."""
    before, *rest = _SECTION.split("\n" + doc)
    sections = {"": before.strip()}
    for title, text in zip(rest[::2], rest[1::2], strict=True):
        sections.setdefault(title, text.strip())
    return sections


def _arguments(section: str) -> dict[str, str]:
    """Read the lines ``name: description``; a line without a name continues the one before."""
    descriptions: dict[str, str] = {}
    name = None
    for line in filter(str.strip, section.split("\n")):
        match = _ARGUMENT.match(line)
        if match:
            name = match[1]
            descriptions[name] = match[2].strip()
        elif name is not None:
            descriptions[name] = f"{descriptions[name]} {line.strip()}".strip()
    return descriptions


def _description(function: str, argument: str, text: str) -> dict[str, Any]:
    match = _CHOICES.search(text)
    if match is None:
        return {"description": text}
    try:
        choices = [choice.strip() for choice in json.loads(match[1])]
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"The choices of the argument {argument!r} of the tool {function}() are {match[1]}; "
            'they must be a JSON list of strings, such as (choices: ["tea", "coffee"]).'
        ) from error
    return {"enum": choices, "description": text[: match.start()].strip()}


# Type hints ---------------------------------------------------------------------------------------


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The schema of a function's arguments and, as the property "return", of what it returns."""
    required = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is parameter.empty:
            raise InvalidInputError(
                f"The argument {name!r} of the tool {function.__name__}() has no type hint."
            )
        if parameter.default is parameter.empty:
            required.append(name)
    hints = get_type_hints(function)
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(hint) for name, hint in hints.items()},
    }
    if required:
        schema["required"] = required
    return schema


def _schema(hint: Any) -> dict[str, Any]:
    """The schema of a type hint."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return _plain_schema(hint)
    if origin is Union or origin is types.UnionType:
        return _union_schema(args)
    if origin is Literal:
        return _literal_schema(hint, args)
    if origin is list:
        return {"type": "array", "items": _schema(args[0])} if args else {"type": "array"}
    if origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [_schema(arg) for arg in args]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    raise InvalidInputError(
        f"The type hint {hint} has no JSON schema. Allowed are int, float, str, bool, None, Any, "
        "lists, dictionaries, tuples of two and more, unions and literals of these."
    )


def _plain_schema(hint: Any) -> dict[str, Any]:
    if hint is Any:
        return {}
    where = (getattr(hint, "__module__", ""), getattr(hint, "__name__", ""))
    return {"type": _TYPES.get(hint) or _FOREIGN_TYPES.get(where, "object")}


def _union_schema(args: tuple[Any, ...]) -> dict[str, Any]:
    kinds = [_schema(arg) for arg in args if arg is not type(None)]
    if len(kinds) == 1:
        schema = kinds[0]
    elif all(isinstance(kind.get("type"), str) for kind in kinds):
        schema = {"type": sorted(kind["type"] for kind in kinds)}
    else:
        schema = {"anyOf": kinds}
    return {**schema, "nullable": True} if type(None) in args else schema


def _literal_schema(hint: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    names = [_TYPES.get(type(arg)) for arg in args]
    if None in names:
        raise InvalidInputError(
            f"The type hint {hint} has no JSON schema: a literal may hold int, float, str, bool "
            "and None."
        )
    distinct = list(dict.fromkeys(names))
    return {"type": distinct[0] if len(distinct) == 1 else distinct, "enum": list(args)}
