"""Contrastive search and DoLa in TensorFlow: golden texts, graphs, XLA and streaming."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from support.contract.contrastive import ContrastiveContract
from support.contrasts import CASES, check_case
from support.golden_data import load_case
from support.recorder import Recorder
from support.tf_models import BACKEND, golden_model, random_ids, tiny_model, uncompiled

IDS = random_ids(3, 5)
MASK = np.array([[0, 0, 1, 1, 1], [1] * 5, [0, 1, 1, 1, 1]], np.int32)
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
    check_case(case, golden_model(case), tf.constant)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_texts_in_a_graph_under_xla_and_streamed(mode, model):
    options = {**MODES[mode], "max_new_tokens": 6, "pad_token_id": 0}
    eager = model.generate(IDS, attention_mask=MASK, **options).numpy()
    spec = tf.TensorSpec([None, None], tf.int32)
    graph = tf.function(
        lambda ids, mask: model.generate(ids, attention_mask=mask, **options),
        input_signature=[spec, spec],
    )
    np.testing.assert_array_equal(graph(IDS, MASK), eager)
    compiled = model.generate(IDS, attention_mask=MASK, jit_compile=True, **options)
    np.testing.assert_array_equal(compiled, eager)
    with uncompiled():
        np.testing.assert_array_equal(model.generate(IDS, attention_mask=MASK, **options), eager)
    recorder = Recorder()
    model.generate(IDS, attention_mask=MASK, streamer=recorder, **options)
    streamed = np.stack([np.asarray(value) for value in recorder.values[1:]], axis=1)
    np.testing.assert_array_equal(streamed, eager[:, 5:])


def test_one_trace_serves_every_alpha_and_prompt(model):
    model._functions.clear()
    for alpha, width in ((0.5, 5), (0.1, 5), (0.9, 3), (1, 2)):
        model.generate(
            IDS[:2, :width], penalty_alpha=alpha, top_k=4, max_new_tokens=6, pad_token_id=60
        )
    ((run, _),) = model._functions._functions.values()
    assert run.experimental_get_tracing_count() == 1


class TestContrastiveSearch(ContrastiveContract):
    backend = BACKEND
