"""`WatermarkingConfig`: its values, its forms, and its place in a `GenerationConfig`."""

from __future__ import annotations

import json

import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    GenerationConfig,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

FIELDS = {
    "greenlist_ratio": 0.4,
    "bias": 3.5,
    "hashing_key": 7,
    "seeding_scheme": "selfhash",
    "context_width": 2,
}


def test_a_config_is_its_fields():
    config = WatermarkingConfig(**FIELDS)
    assert config.to_dict() == dict(config) == json.loads(config.to_json_string()) == FIELDS
    assert WatermarkingConfig.from_dict(FIELDS, bias=1.0) == WatermarkingConfig(
        **{**FIELDS, "bias": 1.0}
    )
    assert WatermarkingConfig() != config


def test_a_config_is_changed_whole_or_not_at_all(tmp_path):
    config = WatermarkingConfig()
    config.update(bias=4.0, unknown=1)
    with pytest.raises(InvalidInputError, match="context_width must be an integer of at least 1"):
        config.update(bias=5.0, context_width=0)
    assert config == WatermarkingConfig(bias=4.0)
    config.to_json_file(tmp_path / "watermark.json")
    assert json.loads((tmp_path / "watermark.json").read_text()) == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"greenlist_ratio": 0.0}, "greenlist_ratio must be a number between 0 and 1; got 0.0"),
        ({"greenlist_ratio": 1}, "greenlist_ratio must be"),
        ({"bias": "2"}, "bias must be a number"),
        ({"hashing_key": 2**64}, "hashing_key must be an integer from"),
        ({"hashing_key": 1.5}, "hashing_key must be an integer"),
        ({"seeding_scheme": "hash"}, "seeding_scheme.*lefthash"),
        ({"context_width": 0}, "context_width must be an integer of at least 1"),
    ],
)
def test_values_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        WatermarkingConfig(**fields)
    with pytest.raises(InvalidInputError, match=message):
        GenerationConfig(watermarking_config=fields)


def test_unknown_fields_and_other_watermarks_are_refused():
    with pytest.raises(InvalidInputError, match=r"'biass'\. Did you mean 'bias'"):
        WatermarkingConfig.from_dict({"biass": 2.0})
    with pytest.raises(InvalidInputError, match="watermarking_config needs ngram_len"):
        GenerationConfig(watermarking_config={"keys": [1, 2]})
    with pytest.raises(InvalidInputError, match="must be a WatermarkingConfig or a SynthID"):
        GenerationConfig(watermarking_config=3)


def test_a_generation_config_holds_one_and_writes_it(tmp_path):
    config = GenerationConfig(watermarking_config=FIELDS)
    assert config.watermarking_config == WatermarkingConfig(**FIELDS)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["watermarking_config"] == FIELDS
    loaded = GenerationConfig.from_pretrained(tmp_path)
    assert loaded == config == GenerationConfig(watermarking_config=WatermarkingConfig(**FIELDS))
    assert hash(loaded) == hash(config) != hash(GenerationConfig())
    loaded.update(watermarking_config={"bias": 1.0})
    assert loaded.watermarking_config == WatermarkingConfig(bias=1.0)
    assert loaded != config


SYNTHID = {"ngram_len": 5, "keys": [3, -4]}


def test_a_synthid_config_is_read_and_written_alike(tmp_path):
    config = GenerationConfig(watermarking_config=SYNTHID)
    assert config.watermarking_config == SynthIDTextWatermarkingConfig(5, [3, -4])
    config.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path) == config
    assert config.watermarking_config.to_dict() == {
        **SYNTHID,
        "context_history_size": 1024,
        "sampling_table_seed": 0,
        "sampling_table_size": 2**16,
        "skip_first_ngram_calls": False,
        "debug_mode": False,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ngram_len": 0}, "ngram_len must be an integer of at least 1"),
        ({"keys": []}, "keys must be a list of one or more integers"),
        ({"keys": [2**63]}, "keys must be integers from"),
        ({"context_history_size": -1}, "context_history_size must be"),
        ({"sampling_table_size": 2**24 + 1}, r"must be at most 2\*\*24; got 16777217"),
        ({"debug_mode": 1}, "debug_mode must be True or False"),
        ({"key": 1}, "'key'. Did you mean 'keys'"),
    ],
)
def test_values_of_synthid_that_cannot_be_used_are_refused(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        GenerationConfig(watermarking_config={**SYNTHID, **fields})
