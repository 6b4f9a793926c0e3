"""Schemas of tools, against those of transformers 4.57.6."""

from __future__ import annotations

import pytest

from golden.generator.tools import TOOLS
from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.chat_schema import get_json_schema
from support.golden_data import load_json

SCHEMAS = load_json("tokenizer/schemas.json")


@pytest.mark.parametrize("name", TOOLS)
def test_schema(name):
    assert get_json_schema(TOOLS[name]) == SCHEMAS[name]


def test_types_of_libraries_are_known_by_name():
    image = type("Image", (), {"__module__": "PIL.Image"})

    def look(picture, other):
        """Look.

        Args:
            picture: what to look at
            other: a thing
        """

    look.__annotations__ = {"picture": image, "other": object}
    properties = get_json_schema(look)["function"]["parameters"]["properties"]
    assert properties["picture"]["type"] == "image"
    assert properties["other"]["type"] == "object"


def without_docstring(x: int):
    pass


def without_description(x: int):
    """Do it.

    Args:
        y: another
    """


def without_hint(x):
    """Do it.

    Args:
        x: this
    """


def with_open_tuple(x: tuple[int, ...]):
    """Do it.

    Args:
        x: this
    """


def with_set(x: set[int]):
    """Do it.

    Args:
        x: this
    """


def with_bad_choices(x: str):
    """Do it.

    Args:
        x: this (choices: [tea, coffee])
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without_docstring, r"The tool without_docstring\(\) has no docstring"),
        (without_description, "does not describe the argument 'x'. Add a line 'x: what it is'"),
        (without_hint, r"The argument 'x' of the tool without_hint\(\) has no type hint"),
        (with_open_tuple, r"tuple\[int, \.\.\.\] has no JSON schema. Allowed are int"),
        (with_set, r"set\[int\] has no JSON schema"),
        (with_bad_choices, r"are \[tea, coffee\]; they must be a JSON list of strings"),
    ],
)
def test_functions_that_cannot_be_described(function, message):
    with pytest.raises(InvalidInputError, match=message):
        get_json_schema(function)
