"""`LoraConfig`, and PEFT's files of it."""

from __future__ import annotations

import json

import pytest

from gpt2x.config.lora import LoraConfig, as_lora_config
from gpt2x.errors import CheckpointError, InvalidInputError
from support.golden_data import GOLDEN

PEFT = GOLDEN / "lora" / "language_model"


def test_defaults_are_those_of_peft_for_gpt2():
    config = LoraConfig()
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 8, 0.0)
    assert config.target_modules == ["c_attn"]
    assert config.scaling == 1.0


def test_scaling():
    assert LoraConfig(r=4, lora_alpha=16).scaling == 4.0
    assert LoraConfig(r=4, lora_alpha=16, use_rslora=True).scaling == 8.0


def test_a_file_of_peft_is_read_and_written_back(tmp_path):
    config = LoraConfig.from_pretrained(PEFT)
    assert config.r == 4
    assert config.use_rslora
    assert set(config.target_modules) == {"c_attn", "c_proj", "mlp.c_fc"}
    assert config.modules_to_save == ["ln_f"]
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    theirs = json.loads((PEFT / "adapter_config.json").read_text())
    assert written.items() <= theirs.items()
    assert LoraConfig.from_pretrained(tmp_path) == config


def test_names_without_an_order_are_sorted():
    assert LoraConfig(target_modules={"c_proj", "c_attn"}).target_modules == ["c_attn", "c_proj"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1; got 0"),
        ({"r": 2.5}, "r must be an integer"),
        ({"lora_dropout": 1.5}, "lora_dropout must be a number from 0 to 1"),
        ({"lora_alpha": float("inf")}, "lora_alpha must be a finite number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number"),
        ({"target_modules": []}, "target_modules must name one layer or more"),
        ({"target_modules": [3]}, "target_modules must be a list of names of layers"),
        ({"modules_to_save": "ln_f"}, "modules_to_save must be a list of names of layers"),
        ({"bias": "all"}, "bias is 'all'; allowed are 'none'"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task_type is 'SEQ_2_SEQ_LM'; allowed are 'CAUSAL_LM'"),
        ({"use_dora": True}, "LoraConfig got use_dora=True, which is not available"),
        ({"rank": 8}, "LoraConfig got rank=8, which is not available"),
        ({"rank_pattern": {"c_attn": 2}}, "rank_pattern={'c_attn': 2}, which is not available"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be True or False"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; 'LORA' alone is available"),
    ],
)
def test_what_cannot_be_used_is_refused(fields, message):
    with pytest.raises(InvalidInputError) as error:
        LoraConfig.from_dict(fields)
    assert message in str(error.value)


def test_configs_in_other_forms():
    assert as_lora_config({"peft_type": "LORA", "r": 3, "init_lora_weights": "gaussian"}).r == 3
    with pytest.raises(InvalidInputError, match="described by a LoraConfig; got int"):
        as_lora_config(3)


def test_files_that_are_missing_or_unknown_options(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        LoraConfig.from_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="Did you mean 'revision'"):
        LoraConfig.from_pretrained(tmp_path, revison="main")
