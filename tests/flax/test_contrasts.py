"""Contrastive search and DoLa in Flax: golden texts, `jax.jit`, untraced and streamed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.contract.contrastive import ContrastiveContract
from support.contrasts import CASES, check_case
from support.flax_models import BACKEND, golden_model, random_ids, tiny_model
from support.golden_data import load_case
from support.recorder import Recorder

IDS = random_ids(3, 5)
MASK = np.array([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]])
MODES = {
    "contrastive": {"penalty_alpha": 0.5, "top_k": 4},
    "dola_sample": {"dola_layers": [0, 1], "do_sample": True, "seed": 3, "top_k": 20},
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(eos_token_id=None)


@pytest.mark.parametrize("name", CASES)
def test_texts_and_scores_match_transformers(name):
    case = load_case(name)
    check_case(case, golden_model(case), jnp.asarray)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_texts_inside_jit_and_streamed(mode, model):
    options = {**MODES[mode], "max_new_tokens": 6, "pad_token_id": 0}
    texts = np.asarray(model.generate(IDS, attention_mask=MASK, **options))
    jitted = jax.jit(lambda ids, mask: model.generate(ids, attention_mask=mask, **options))
    np.testing.assert_array_equal(jitted(IDS, MASK), texts)
    recorder = Recorder()
    model.generate(IDS, attention_mask=MASK, streamer=recorder, **options)
    streamed = np.stack([np.asarray(value) for value in recorder.values[1:]], axis=1)
    np.testing.assert_array_equal(streamed, texts[:, 5:])


def test_one_compilation_serves_every_alpha_of_a_bucket(model, compiled):
    options = {"top_k": 4, "pad_token_id": 60}  # no prompt holds it
    model.generate(IDS, penalty_alpha=0.5, max_new_tokens=6, **options)
    compiled.clear()
    for alpha, width, new in ((0.1, 5, 6), (0.9, 3, 4), (1, 2, 7)):
        model.generate(IDS[:, :width], penalty_alpha=alpha, max_new_tokens=new, **options)
    assert not compiled


def test_a_long_prompt_leaves_no_bucket_beyond_the_positions(model):
    """The bucket of 29 columns is 32, all that there are; candidates take more in the cache."""
    ids = random_ids(1, 29)
    options = {"penalty_alpha": 0.5, "pad_token_id": 60}
    text = model.generate(ids, top_k=6, max_length=32, **options)
    assert text.shape == (1, 32)
    with_one_more = np.array(text[:, :30])
    np.testing.assert_array_equal(
        model.generate(with_one_more, top_k=6, max_length=32, **options), text
    )


class TestContrastiveSearch(ContrastiveContract):
    backend = BACKEND
