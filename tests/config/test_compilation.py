"""`CompileConfig`: its values, its forms, and its place in a `GenerationConfig`."""

from __future__ import annotations

import copy
import json

import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import CompileConfig, GenerationConfig


def compiler(graph, example_inputs):
    return graph


def test_the_fields_are_those_of_transformers():
    assert CompileConfig().to_dict() == {
        "fullgraph": False,
        "dynamic": None,
        "backend": "inductor",
        "mode": "reduce-overhead",
        "options": None,
    }


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "reduce-overhead"),
        ({"mode": "max-autotune"}, "max-autotune"),
        ({"mode": None}, None),
        ({"backend": "eager"}, None),  # the default is a mode of inductor, and no option
        ({"backend": compiler}, None),
        ({"options": {"freezing": True}}, None),
        ({"backend": compiler, "mode": "of its own"}, "of its own"),
    ],
)
def test_a_mode_goes_where_it_is_understood(fields, mode):
    arguments = CompileConfig(**fields).arguments()
    assert arguments["mode"] == mode
    assert arguments["dynamic"] is False
    assert CompileConfig(dynamic=True).arguments()["dynamic"] is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fullgraph": 1}, "fullgraph must be True or False"),
        ({"dynamic": "no"}, "dynamic must be True or False"),
        ({"backend": 3}, "backend must be the name of a compiler or a function"),
        ({"mode": 3}, "mode must be a string or None"),
        ({"options": "fast"}, "options must be a dictionary or None"),
        ({"options": {"freezing": True}, "mode": "max-autotune"}, "leave out one of them"),
    ],
)
def test_values_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        CompileConfig(**fields)


def test_it_is_a_field_of_a_generation_config():
    given = CompileConfig(backend=compiler)
    config = GenerationConfig(compile_config=given)
    # A compiler that is copied would be another one.
    assert copy.deepcopy(config).compile_config.backend is compiler
    assert GenerationConfig(compile_config={"backend": "eager"}).compile_config == CompileConfig(
        backend="eager"
    )
    assert "compile_config" not in json.loads(config.to_json_string())  # as in transformers
    with pytest.raises(InvalidInputError, match="Did you mean 'backend'"):
        GenerationConfig(compile_config={"backends": "eager"})
    with pytest.raises(InvalidInputError, match="compile_config must be a CompileConfig"):
        GenerationConfig(compile_config="eager")


def test_that_of_transformers_is_taken():
    fields = {"backend": "eager", "dynamic": True}
    theirs = type("CompileConfig", (), {"_compile_all_devices": True, "to_dict": lambda _: fields})
    config = GenerationConfig(compile_config=theirs()).compile_config
    assert config == CompileConfig(backend="eager", dynamic=True)
    assert copy.deepcopy(config)._compile_all_devices is True
