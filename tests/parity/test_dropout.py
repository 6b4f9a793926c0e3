"""Dropout from the same seed is the same in each framework, wherever a model has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from gpt2x import backends
from gpt2x.config.lora import LoraConfig
from gpt2x.pt.dropout import keyed
from gpt2x.train.engine import MicroBatch
from gpt2x.weights.table import Head
from support.parity_models import ENCODER, IDS, save_reference, tensors

OTHERS = [name for name in ("tf", "flax") if backends.is_installed(name)]
SEED = 2**50 + 3
RATES = {
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.2,
    "attn_pdrop": 0.3,
    "summary_first_dropout": 0.3,
    "summary_last_dropout": 0.4,
    "classifier_dropout": 0.3,
}
ADAPTER = LoraConfig(r=2, lora_dropout=0.4, target_modules="all-linear", init_lora_weights=False)
CASES: dict[Head, dict[str, Any]] = {
    Head.LM: {"input_ids": IDS, **ENCODER},
    Head.DOUBLE: {"input_ids": IDS[:, None].repeat(2, axis=1)},
    Head.TOKEN_CLASSIFICATION: {"input_ids": IDS},
}


def by_tensorflow(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    import keras

    from gpt2x.tf.dropout import DropoutSeeds

    seeds = DropoutSeeds(model, first=0, devices=1, same=True)
    states = seeds(MicroBatch({"labels": IDS}, 1.0, SEED))[0]
    with keras.StatelessScope(state_mapping=[*zip(seeds.variables, states, strict=True)]):
        return model(**inputs, training=True)


def by_flax(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    import jax

    words = np.array([SEED >> 32, SEED & 0xFFFFFFFF], np.uint32)
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    return model(**inputs, train=True, dropout_rng=key)


@pytest.mark.parametrize("head", CASES, ids=lambda head: head.value)
@pytest.mark.parametrize("name", OTHERS)
def test_outputs_in_training_are_those_of_pytorch(name: str, head: Head, tmp_path: Path):
    fields = {"add_cross_attention": head is Head.LM, "n_layer": 1}
    reference = save_reference(head, tmp_path, **RATES, **fields)
    kind = getattr(backends.load(name), backends.get(name).prefix + head.value)
    model = kind.from_pretrained(tmp_path)
    if head is not Head.TOKEN_CLASSIFICATION:
        for each in (reference, model):
            each.add_adapter(ADAPTER, seed=1)
    inputs = CASES[head]
    still = reference(**tensors(inputs)).logits.detach()
    with keyed(reference.train(), SEED):
        expected = reference(**tensors(inputs))
    assert (expected.logits - still).abs().max() > 0.1
    found = (by_tensorflow if name == "tf" else by_flax)(model, inputs)
    for field in ("logits", "mc_logits") if head is Head.DOUBLE else ("logits",):
        np.testing.assert_allclose(
            found[field], expected[field].detach(), rtol=1e-4, atol=1e-4, err_msg=field
        )
