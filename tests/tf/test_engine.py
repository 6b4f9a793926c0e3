"""The TensorFlow engine under requests of several tokens."""

from __future__ import annotations

from support.contract.engine import EngineContract
from support.tf_models import BACKEND, random_ids, tiny_model


class TestEngine(EngineContract):
    backend = BACKEND


def test_functions_on_the_host_trace_nothing_again():
    """Each call has a criterion and a watermark of its own; the model's calls stay the same."""
    model = tiny_model(n_layer=1)
    for key in (5, 6):
        watermark = {"hashing_key": key, "context_width": 1}
        criterion = [lambda ids, scores: False]
        options = {"stopping_criteria": criterion, "watermarking_config": watermark}
        model.generate(random_ids(2, 3), max_new_tokens=4, pad_token_id=0, **options)
    prefill, decode = model._functions._functions.values()
    assert prefill.experimental_get_tracing_count() == 1
    assert decode.experimental_get_tracing_count() == 1
