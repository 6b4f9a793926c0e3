"""The arguments of training: values, files, and what they refuse."""

import json

import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.train.arguments import LMArguments, TrainingArguments


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "fast", "must be float"),
        ("learning_rate", -1.0, "at least 0"),
        ("lr_scheduler_type", "linaer", "Did you mean 'linear'"),
        ("per_device_train_batch_size", 0, "at least 1"),
        ("max_steps", 1.5, "must be int"),
        ("bf16", 1, "must be bool"),
        ("seed", True, "must be int"),
        ("warmup_ratio", 1.5, "at most 1"),
        ("adam_beta2", 1.0, "below 1"),
        ("num_train_epochs", 0, "max_steps or num_train_epochs"),
        ("num_train_epochs", float("inf"), "max_steps or num_train_epochs"),
        ("learning_rate", float("inf"), "at least 0 and finite"),
        ("learning_rate", float("nan"), "at least 0 and finite"),
        ("save_total_limit", 0, "at least 1"),
    ],
)
def test_a_bad_value_is_named(name, value, message):
    with pytest.raises(InvalidInputError, match=message):
        TrainingArguments(output_dir="x", **{name: value})


def test_numbers_and_single_files_are_taken_as_they_come():
    found = LMArguments(output_dir="x", train_file="a.txt", learning_rate=1, num_train_epochs=2)
    assert found.train_file == ["a.txt"]
    assert found.validation_file == []


def test_unknown_and_missing_arguments_are_named():
    with pytest.raises(InvalidInputError, match=r"'learning_rat'.*'learning_rate'"):
        LMArguments.of({"output_dir": "x", "learning_rat": 1.0})
    with pytest.raises(InvalidInputError, match="output_dir"):
        LMArguments.of({})


def test_a_new_model_is_not_also_an_old_one():
    with pytest.raises(InvalidInputError, match="not both"):
        LMArguments(output_dir="x", model_name_or_path="gpt2", config_overrides="n_layer=2")


def test_files_hold_flags_or_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning-rate: 5e-4\nmax_steps: 3\ntrain_file: [a.txt, b.txt]\n")
    values = LMArguments.read(str(path))
    assert values == {"learning_rate": 5e-4, "max_steps": 3, "train_file": ["a.txt", "b.txt"]}
    path.write_text(json.dumps({"seed": 7}))
    assert LMArguments.read(str(path)) == {"seed": 7}


@pytest.mark.parametrize("text", ["- a\n- b\n", "{", "1: 2", "!!python/object:os.system {}"])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="config file"):
        LMArguments.read(str(path))
    with pytest.raises(InvalidInputError, match="Cannot read"):
        LMArguments.read(str(tmp_path / "none.yaml"))
