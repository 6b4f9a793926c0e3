"""What both configs do alike: read, write and compare."""

from __future__ import annotations

import json

import pytest

from gpt2x import CheckpointError, GenerationConfig, GPT2Config, InvalidInputError

CASES = [
    (GPT2Config, "config.json", "n_layer"),
    (GenerationConfig, "generation_config.json", "num_beams"),
]
each_config = pytest.mark.parametrize(("kind", "filename", "field"), CASES)


@each_config
def test_a_config_is_read_from_a_folder_and_from_a_file(kind, filename, field, tmp_path):
    kind(**{field: 3}).save_pretrained(tmp_path)
    for place in (tmp_path, tmp_path / filename):
        config, unused = kind.from_pretrained(
            place, local_files_only=True, return_unused_kwargs=True, other=1
        )
        assert getattr(config, field) == 3
        assert unused == {"other": 1}


@each_config
def test_a_missing_file_is_named(kind, filename, field, tmp_path):
    with pytest.raises(CheckpointError, match=f"holds no {filename}; give a folder"):
        kind.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"There is no folder '\./nowhere'"):
        kind.from_pretrained("./nowhere")  # never the model "nowhere" on the hub


@each_config
def test_an_unknown_keyword_is_refused_and_options_of_models_are_not(
    kind, filename, field, tmp_path
):
    kind().save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path, low_cpu_mem_usage=True) == kind()
    with pytest.raises(InvalidInputError, match=f"{kind.__name__}.* Did you mean '{field}'"):
        kind.from_pretrained(tmp_path, **{field + "s": 3})
    with pytest.raises(InvalidInputError, match=f"{kind.__name__}.save_pretrained.*'repo'"):
        kind().save_pretrained(tmp_path, repo="me/mine")


@each_config
def test_the_json_is_the_difference_from_the_defaults_or_all(kind, filename, field, tmp_path):
    config = kind(**{field: 3}, _commit_hash="abc")
    config.to_json_file(tmp_path / "all.json", use_diff=False)
    everything = json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert everything == json.loads(json.dumps(config.to_dict()))
    difference = json.loads(config.to_json_string())
    assert difference.items() <= everything.items()
    assert difference[field] == 3
    assert "_commit_hash" not in everything


@each_config
def test_where_a_config_comes_from_does_not_count_in_comparing(kind, filename, field):
    assert kind(transformers_version="4.2.0") == kind()
    assert kind(**{field: 3}) != kind()
    assert kind() != object()


def test_configs_of_two_kinds_differ():
    assert GPT2Config() != GenerationConfig()
