"""The callbacks of transformers' scripts: metrics in Python, and uploads while training."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.tf import (
    KerasMetricCallback,
    PushToHubCallback,
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2LMHeadModel,
)
from support.tf_models import random_ids, tiny_model

# Keras's variables are read by numpy in a way that numpy 2 will end; so Keras writes its files.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

IDS = random_ids(5, 6)


@pytest.fixture(scope="module")
def classifier():
    model = tiny_model(TFGPT2ForSequenceClassification, num_labels=3, pad_token_id=60)
    model.compile("sgd")
    return model


def test_metrics_join_those_of_the_epoch(classifier):
    labels = np.arange(5) % 3
    seen = []

    def accuracy(evaluated):
        predictions, truths = evaluated
        seen.append((predictions, truths))
        return {"right": float((predictions.argmax(-1) == truths).mean())}

    history = classifier.fit(
        IDS,
        labels,
        epochs=2,
        verbose=0,
        callbacks=[
            KerasMetricCallback(
                accuracy, tf.data.Dataset.from_tensor_slices((IDS, labels)).batch(2)
            )
        ],
    ).history
    assert len(history["right"]) == 2
    predictions, truths = seen[-1]
    np.testing.assert_array_equal(truths, labels)
    np.testing.assert_allclose(predictions, classifier(IDS).logits, rtol=1e-4, atol=1e-5)


def test_several_outputs_and_labels_come_by_name():
    model = tiny_model(TFGPT2ForQuestionAnswering)
    inputs = {"input_ids": IDS, "start_positions": IDS[:, 0] % 6, "end_positions": IDS[:, 1] % 6}
    seen = []
    callback = KerasMetricCallback(
        lambda pair: seen.append(pair) or {"x": 1.0}, inputs, batch_size=3
    )
    callback.set_model(model)
    logs = {}
    callback.on_epoch_end(0, logs)
    assert logs == {"x": 1.0}
    predictions, labels = seen[0]
    assert {name: array.shape for name, array in predictions.items()} == {
        "start_logits": (5, 6),
        "end_logits": (5, 6),
    }
    np.testing.assert_array_equal(labels["end_positions"], inputs["end_positions"])


def test_metrics_of_texts():
    """Of different lengths, which are padded."""
    model = tiny_model(eos_token_id=None)
    batches = [
        {"input_ids": IDS[:2, :4], "labels": IDS[:2]},
        {"input_ids": IDS[2:], "labels": IDS[2:]},
    ]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature={n: tf.TensorSpec([None, None], tf.int32) for n in batches[0]},
    )
    seen = []
    callback = KerasMetricCallback(
        lambda pair: seen.append(pair) or {},
        dataset,
        predict_with_generate=True,
        generate_kwargs={"max_new_tokens": 2},
    )
    callback.set_model(model)
    callback.on_epoch_end(0, {})
    texts, labels = seen[0]
    assert texts.shape == (5, 8)
    np.testing.assert_array_equal(texts[:2, 6:], np.full((2, 2), -100))
    np.testing.assert_array_equal(texts[2:], model.generate(IDS[2:], max_new_tokens=2))
    np.testing.assert_array_equal(labels, IDS)


def test_metric_callback_errors(classifier):
    with pytest.raises(InvalidInputError, match="pass batch_size="):
        KerasMetricCallback(dict, IDS)
    callback = KerasMetricCallback(dict, {"input_ids": IDS}, batch_size=2)
    callback.set_model(classifier)
    with pytest.raises(InvalidInputError, match="finds no labels"):
        callback.on_epoch_end(0, {})
    callback = KerasMetricCallback(lambda pair: 1.0, (IDS, IDS[:, 0]), batch_size=2)
    callback.set_model(classifier)
    with pytest.raises(InvalidInputError, match="must return a dictionary"):
        callback.on_epoch_end(0, {})


def test_metrics_need_data(classifier):
    empty = tf.data.Dataset.from_tensor_slices((IDS, IDS[:, 0])).batch(2).take(0)
    for data in (empty, (IDS[:0], IDS[:0, 0])):
        with pytest.raises(InvalidInputError, match="eval_dataset of KerasMetricCallback is empty"):
            KerasMetricCallback(dict, data, batch_size=2)
    unknown = empty.filter(lambda ids, labels: True)  # TensorFlow cannot tell how many are left
    callback = KerasMetricCallback(dict, unknown)
    callback.set_model(classifier)
    with pytest.raises(InvalidInputError, match="eval_dataset of KerasMetricCallback is empty"):
        callback.on_epoch_end(0, {})


class Tokenizer:
    """The part of a tokenizer that is uploaded."""

    def save_pretrained(self, folder):
        (folder / "vocab.json").write_text("{}")


@pytest.mark.parametrize(
    ("strategy", "least"),
    [({"save_strategy": "epoch", "checkpoint": True}, 2), ({"save_strategy": "no"}, 1)],
)
def test_models_are_uploaded_while_they_train(hub, tmp_path, strategy, least):
    model = tiny_model(n_layer=1)
    model.compile("sgd")
    callback = PushToHubCallback(
        tmp_path / "mine", tokenizer=Tokenizer(), hub_token="hf_write", **strategy
    )
    model.fit(IDS, IDS, epochs=2, verbose=0, callbacks=[callback])
    files = hub.repositories["someone/mine"].revisions["main"]
    assert {"config.json", "model.safetensors", "vocab.json", "README.md"} <= set(files)
    assert ("checkpoint.keras" in files) == ("checkpoint" in strategy)
    assert sum("/commit/" in request for request in hub.requests) >= least
    loaded = TFGPT2LMHeadModel.from_pretrained("someone/mine")
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_upload_that_fails_is_told(hub, tmp_path):
    model = tiny_model(n_layer=1)
    model.compile("sgd")
    callback = PushToHubCallback(tmp_path / "mine", "steps", save_steps=1, hub_token="hf_wrong")
    with pytest.raises(CheckpointError, match="write permission"):
        model.fit(IDS, IDS, batch_size=5, verbose=0, callbacks=[callback])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_strategy": "epochs"}, "Did you mean 'epoch'"),
        ({"save_strategy": "steps"}, "needs save_steps"),
        ({"save_strategy": "no", "checkpoint": True}, "needs save_strategy='epoch'"),
    ],
)
def test_upload_options(options, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        PushToHubCallback(tmp_path, **options)
