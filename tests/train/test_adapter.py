"""Adapters that a run trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2x.train.arguments import LMArguments
from gpt2x.train.job import give_adapter


class Model:
    """Notes what it is asked for."""

    def __init__(self):
        self.added, self.loaded = [], []

    def add_adapter(self, config, seed):
        self.added.append((config.r, config.lora_alpha, config.target_modules, seed))

    def load_adapter(self, folder, is_trainable):
        self.loaded.append((folder, is_trainable))


def given(checkpoint=None, **arguments):
    model = Model()
    give_adapter(model, LMArguments(output_dir="", seed=3, **arguments), checkpoint)
    return model


@pytest.mark.parametrize(
    ("target", "expected"),
    [("c_attn,c_proj", ["c_attn", "c_proj"]), ("c_fc, c_attn", ["c_fc", "c_attn"])]
    + [("all-linear", "all-linear")],
)
def test_flags_of_a_new_adapter(target, expected):
    model = given(lora_r=8, lora_alpha=16, lora_target=target)
    assert model.added == [(8, 16, expected, 3)]
    assert model.loaded == []


def test_a_run_goes_on_with_the_adapter_of_its_checkpoint():
    model = given(Path("checkpoint-2"), lora_r=8)
    assert (model.added, model.loaded) == ([], [(Path("checkpoint-2"), True)])
    assert given(Path("checkpoint-2")).loaded == []
