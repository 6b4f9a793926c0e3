"""GenerationConfig: fields, files of transformers 4 and 5, merging."""

from __future__ import annotations

import json

import pytest

from gpt2x.config import GPT2Config
from gpt2x.config import generation as config_module
from gpt2x.config.generation_fields import DEFAULTS
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.generation import (
    DisjunctiveConstraint,
    GenerationConfig,
    GenerationMode,
    PhrasalConstraint,
)
from gpt2x.generation.plan import resolve_config

# The file that comes with the hub's gpt2, and one as transformers 5 writes it.
HUB = {
    "_from_model_config": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "transformers_version": "4.26.0.dev0",
}
VERSION_5 = {
    "do_sample": True,
    "max_length": None,
    "top_k": None,
    "top_p": 0.8,
    "num_beams": None,
    "top_h": None,
    "max_cache_len": 128,
    "transformers_version": "5.23.0",
}


def _write(folder, values):
    (folder / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_every_field_has_its_default():
    config = GenerationConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    assert (config.max_length, config.top_k, config.temperature) == (20, 50, 1.0)


def test_unknown_and_misplaced_fields_name_what_was_meant():
    with pytest.raises(InvalidInputError, match=r"'temprature'\. Did you mean 'temperature'"):
        GenerationConfig(temprature=0.5)
    with pytest.raises(InvalidInputError, match="argument of generate"):
        GenerationConfig(streamer=print)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_stopping": "always"}, "early_stopping must be True, False or 'never'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
        ({"num_beams": 0}, "num_beams must be an integer of at least 1"),
        ({"num_return_sequences": 2}, "Greedy search finds one text"),
        ({"num_beams": 2, "num_return_sequences": 3}, "must be at most num_beams"),
        ({"do_sample": "yes"}, "do_sample must be True or False"),
        ({"stop_strings": [1]}, "stop_strings must be a string"),
        ({"cache_implementation": "statik"}, "Did you mean 'static'"),
    ],
)
def test_values_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        GenerationConfig(**fields)
    if "num_return_sequences" not in fields:
        config = GenerationConfig()
        with pytest.raises(InvalidInputError, match=message):
            config.update(**fields)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "greedy_search"),
        ({"do_sample": True}, "sample"),
        ({"num_beams": 2}, "beam_search"),
        ({"num_beams": 2, "do_sample": True}, "beam_sample"),
        ({"num_beams": 2, "num_beam_groups": 2}, "group_beam_search"),
        ({"penalty_alpha": 0.5, "top_k": 4}, "contrastive_search"),
        ({"prompt_lookup_num_tokens": 3}, "assisted_generation"),
        ({"assistant_early_exit": 2, "do_sample": True}, "assisted_generation"),
        ({"assistant_early_exit": 2, "num_beams": 2}, "beam_search"),
        ({"prompt_lookup_num_tokens": 3, "penalty_alpha": 0.5}, "contrastive_search"),
        ({"prompt_lookup_num_tokens": 3, "dola_layers": "low"}, "assisted_generation"),
        ({"dola_layers": "low"}, "dola_generation"),
    ],
)
def test_the_mode_is_named_as_in_transformers(fields, mode):
    found = GenerationConfig(**fields).get_generation_mode()
    assert found == mode
    assert found is GenerationMode(mode)


def test_validate_strictly_names_fields_without_effect():
    config = GenerationConfig(temperature=0.5, length_penalty=2.0, output_scores=True)
    config.validate()
    with pytest.raises(InvalidInputError) as error:
        config.validate(strict=True)
    for name in ("temperature", "length_penalty", "output_scores"):
        assert name in str(error.value)


def test_fields_without_effect_are_named_in_a_warning_once(caplog):
    caplog.set_level("INFO", "gpt2x.generation.config")
    for fields in (
        {"min_p": 0.25},
        {"early_stopping": True},
        {"use_cache": False, "cache_implementation": "static"},
        {"output_hidden_states": True},
        {"pad_token_id": -1},
    ):
        caplog.clear()
        config_module._log_once.cache_clear()
        for _ in range(2):
            GenerationConfig(**fields)
        warning, explanation = caplog.records
        *_, name = fields
        assert (warning.levelname, explanation.levelname) == ("WARNING", "INFO")
        assert warning.message == f"These options of generation have no effect: {name}."
        assert f"`{name}` is" in explanation.message
    caplog.clear()
    config = GenerationConfig(do_sample=True, min_p=0.3, eos_token_id=-1)
    config.update(do_sample=False, min_p=None, temperature=None)
    assert caplog.records == []


def test_an_invalid_config_is_not_saved(tmp_path):
    config = GenerationConfig()
    config.temperature = 0.5
    message = r"`temperature` is set to `0\.5`.* Fix these issues to save the configuration\."
    with pytest.raises(InvalidInputError, match=message):
        config.save_pretrained(tmp_path / "folder")
    config.do_sample = True
    config.pad_token_id = -1
    with pytest.raises(InvalidInputError, match="`pad_token_id` is -1, which means"):
        config.save_pretrained(tmp_path / "folder")
    config = GenerationConfig()
    config.num_return_sequences = 2
    with pytest.raises(InvalidInputError, match="Greedy search finds one text"):
        config.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_file_may_have_another_name(tmp_path):
    config = GenerationConfig(max_new_tokens=7)
    config.save_pretrained(tmp_path, config_file_name="short.json")
    assert [path.name for path in tmp_path.iterdir()] == ["short.json"]
    assert GenerationConfig.from_pretrained(tmp_path, "short.json").max_new_tokens == 7
    with pytest.raises(InvalidInputError, match=r"'repo'. Did you mean 'repo_id'"):
        config.save_pretrained(tmp_path, repo="me/short")


def test_equal_configs_have_the_same_hash():
    config = GenerationConfig(eos_token_id=[1, 2], temperature=1, sequence_bias={(3, 4): -1.0})
    other = GenerationConfig(eos_token_id=(1, 2), sequence_bias=[[[3, 4], -1.0]], max_length=20)
    assert config == other
    assert hash(config) == hash(other)
    other.top_k = 3
    assert hash(config) != hash(other)
    assert len({config, GenerationConfig(), GenerationConfig()}) == 2


def test_a_negative_pad_id_of_a_model_config_is_none():
    config = GenerationConfig.from_model_config(GPT2Config(pad_token_id=-1))
    assert config.pad_token_id is None
    config.validate(strict=True)


def test_reads_the_file_of_transformers_4(tmp_path):
    config = GenerationConfig.from_pretrained(_write(tmp_path, HUB))
    assert (config.bos_token_id, config.eos_token_id, config.max_length) == (50256, 50256, 20)
    assert not config.is_since_4_50
    assert not config.max_length_given


def test_reads_the_file_of_transformers_5(tmp_path):
    config = GenerationConfig.from_pretrained(_write(tmp_path, VERSION_5), temperature=0.5)
    assert (config.top_k, config.top_p, config.num_beams) == (50, 0.8, 1)
    assert (config.temperature, config.max_length) == (0.5, 20)
    assert config.max_cache_len == 128  # unknown here, and not lost
    assert json.loads(config.to_json_string())["max_cache_len"] == 128
    assert config.is_since_4_50


def test_a_sequence_bias_that_transformers_wrote_is_read():
    config = GenerationConfig.from_dict({"sequence_bias": {"(1, 2)": 3.0, "(4,)": -1.0}})
    assert config.sequence_bias == {(1, 2): 3.0, (4,): -1.0}


def test_round_trip_keeps_what_was_set(tmp_path):
    config = GenerationConfig(
        max_length=20, do_sample=True, eos_token_id=[1, 2], sequence_bias={(3, 4): -1.0}
    )
    config.exponential_decay_length_penalty = (5, 1.5)
    config.save_pretrained(tmp_path / "folder")
    again = GenerationConfig.from_pretrained(tmp_path / "folder")
    assert again.max_length_given
    assert again.sequence_bias == [[[3, 4], -1.0]]
    assert again == config
    again.exponential_decay_length_penalty = (5, 1.25)
    assert again != config
    assert "top_k" not in json.loads(config.to_json_string())
    assert "top_k" in json.loads(config.to_json_string(use_diff=False))


def test_keywords_that_are_no_field_come_back_on_request(tmp_path):
    _write(tmp_path, HUB)
    config, unused = GenerationConfig.from_pretrained(
        tmp_path, top_k=1, foo=False, return_unused_kwargs=True
    )
    assert (config.top_k, unused) == (1, {"foo": False})
    with pytest.raises(InvalidInputError, match="unknown argument 'foo'"):
        GenerationConfig.from_pretrained(tmp_path, foo=False)
    assert GenerationConfig().update(top_k=2, attention_mask=3) == {"attention_mask": 3}


@pytest.mark.parametrize("text", ["[1]", "{", "\ud800"])
def test_files_that_hold_no_config_are_refused(tmp_path, text):
    (tmp_path / "generation_config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError):
        GenerationConfig.from_pretrained(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


def test_takes_over_the_options_of_a_model_config():
    config = GenerationConfig.from_model_config(
        GPT2Config(eos_token_id=7, bos_token_id=6, do_sample=True, output_attentions=True)
    )
    assert (config.eos_token_id, config.bos_token_id, config.do_sample) == (7, 6, True)
    assert config.return_dict_in_generate
    assert not config.max_length_given


@pytest.mark.parametrize(
    ("version", "use_model_defaults", "expected"),
    [
        ("4.57.6", None, 0.5),
        ("4.26.0", None, 1.0),
        ("4.26.0", True, 0.5),
        ("4.57.6", False, 1.0),
    ],
)
def test_a_given_config_is_completed_by_the_models(version, use_model_defaults, expected):
    model_config = GenerationConfig(
        temperature=0.5, eos_token_id=9, max_length=30, transformers_version=version
    )
    given = GenerationConfig(do_sample=True, top_k=3)
    merged, arguments = resolve_config(
        model_config,
        given,
        {"top_k": 4, "attention_mask": 1, "position_ids": None},
        ["attention_mask", "position_ids"],
        use_model_defaults,
    )
    assert merged.temperature == expected
    assert (merged.eos_token_id, merged.top_k, merged.do_sample) == (9, 4, True)
    assert merged.max_length_given == (expected == 0.5)
    assert arguments == {"attention_mask": 1}
    assert given.top_k == 3  # neither config is changed
    assert model_config.top_k == 50


def test_generate_takes_a_batch_with_labels_and_logits_to_keep():
    given = {"labels": [[1]], "logits_to_keep": 1, "attention_mask": 3}
    _, arguments = resolve_config(GenerationConfig(), None, given, ["attention_mask"])
    assert arguments == {"attention_mask": 3}


def test_unknown_arguments_of_generate_name_the_nearest():
    with pytest.raises(InvalidInputError, match=r"'max_new_token'\. Did you mean 'max_new_tokens'"):
        resolve_config(GenerationConfig(), None, {"max_new_token": 3}, ["attention_mask"])
    with pytest.raises(InvalidInputError, match="Did you mean 'attention_mask'"):
        resolve_config(GenerationConfig(), None, {"attention_msk": 3}, ["attention_mask"])
    with pytest.raises(InvalidInputError, match="must be a GenerationConfig; got dict"):
        resolve_config(GenerationConfig(), {}, {}, [])


# ---- constraints --------------------------------------------------------------------------------


def test_constraints_are_written_as_the_words_that_ask_for_the_same(tmp_path):
    constraints = [PhrasalConstraint([1, 2]), DisjunctiveConstraint([[3], [4, 5]])]
    config = GenerationConfig(num_beams=2, constraints=constraints, force_words_ids=[[6]])
    words = [[1, 2], [[3], [4, 5]], [6]]
    config.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert (again.constraints, again.force_words_ids) == (None, words)
    assert again == config == GenerationConfig(num_beams=2, force_words_ids=words)
    assert hash(again) == hash(config)
    assert config.constraints is constraints
    assert json.loads(repr(config).removeprefix("GenerationConfig ")) == {
        "force_words_ids": words,
        "num_beams": 2,
    }


def test_a_value_that_json_does_not_know_is_shown_and_not_written(tmp_path):
    config = GenerationConfig(num_beams=2, constraints=[object()])
    assert "<object object at" in repr(config)
    with pytest.raises(InvalidInputError, match="cannot be written as JSON; leave it out"):
        config.save_pretrained(tmp_path / "folder")
    assert not any((tmp_path / "folder").glob("*"))
