"""What a run that goes on must share with its checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.errors import InvalidInputError
from gpt2x.train.arguments import ClassifyArguments, LMArguments
from gpt2x.train.data import prepare
from gpt2x.train.resuming import check_settings, check_steps, origin


def of(task="lm", **arguments):
    kind = LMArguments if task == "lm" else ClassifyArguments
    return origin(task, kind(output_dir="", **arguments))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"config_overrides": "n_layer=1"}, {"config_overrides": "n_layer=2"}, "'n_layer=2'"),
        ({"model_name_or_path": "a"}, {"model_name_or_path": "b"}, "model_name_or_path was 'a'"),
        ({}, {"tokenizer_name": "b"}, "tokenizer_name was not given and is 'b'"),
        ({}, {"lora_r": 4}, "lora_r was not given and is 4"),
        ({"lora_r": 4}, {}, "lora_r was 4 and is not given"),
        ({"lora_r": 4}, {"lora_r": 4, "lora_target": "c_fc"}, "lora_target was 'c_attn'"),
        # The checkpoint of an adapter does not hold its model.
        ({"lora_r": 4, "model_name_or_path": "a"}, {"lora_r": 4}, "'a' and is not given"),
        ({}, {"task": "classify"}, "task was 'lm' and is 'classify'"),
    ],
)
def test_another_model_is_named(before, now, message):
    with pytest.raises(InvalidInputError, match=message) as error:
        check_settings(of(**before), of(**now))
    assert "another output_dir" in str(error.value)


def test_what_the_checkpoint_holds_can_be_left_out(tmp_path, monkeypatch):
    before = of(config_overrides="n_layer=1,n_head=2", tokenizer_name="a")
    check_settings(before, of())
    check_settings(before, of(config_overrides="n_head=2, n_layer=1"))
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    by_path = {"lora_r": 4, "model_name_or_path": str(tmp_path / "model")}
    check_settings(of(**by_path), of(lora_r=4, model_name_or_path="./model/"))


def test_other_data_is_named():
    with pytest.raises(InvalidInputError, match="training data is not the same; seed was 1 and is"):
        check_settings({"data": "a", "seed": 1}, {"data": "b", "seed": 2})


def test_fewer_steps_than_were_made_are_refused():
    check_steps(5, 5, "max_steps")
    with pytest.raises(InvalidInputError, match="at step 6, and max_steps asks for 5 in all"):
        check_steps(6, 5, "max_steps")


def test_a_fingerprint_is_that_of_the_tokens_alone(tmp_path):
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)

    def corpus(text, name, **options):
        (tmp_path / name).write_text(text)
        return prepare([tmp_path / name], tokenizer, tmp_path / "tokens", **options)

    text = "".join(f"line {number} of a text\n" for number in range(400))
    whole, other = corpus(text, "a.txt"), corpus(text.replace("line 250 ", "line 251 "), "b.txt")
    again = corpus(text, "c.txt", shard_tokens=500)
    np.testing.assert_array_equal(again.read(0, len(again)), whole.read(0, len(whole)))
    assert again.fingerprint() == whole.fingerprint() != other.fingerprint()
    assert whole.part(0, len(whole) - 1).fingerprint() != whole.fingerprint()
