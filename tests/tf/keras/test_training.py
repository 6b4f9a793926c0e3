"""Training with Keras: `compile`, `fit`, `evaluate`, `predict`, and what belongs to them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt2x import tf as gpt2x_tf
from gpt2x.errors import InvalidInputError
from gpt2x.tf import (
    TFGPT2DoubleHeadsModel,
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
)
from gpt2x.tokenization import BatchEncoding
from support.ignored_labels import IGNORED, ids_for
from support.tf_models import random_ids, tiny_model

# Keras's variables are read by numpy in a way that numpy 2 will end; so Keras writes its files.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

# One layer shows what two do, and is traced in half the time.
NO_DROPOUT = {"n_layer": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
IDS = random_ids(8, 6)
LABELS = IDS.copy()
LABELS[0, :4] = -100
LABELS[5] = -100


def trained(x, y=None, *, jit_compile=False, metrics=(), batch_size=4, epochs=2, **fields):
    model = tiny_model(**NO_DROPOUT, **fields)
    model.compile(
        keras.optimizers.SGD(0.01), jit_compile=jit_compile, metrics=list(metrics) or None
    )
    history = model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model, history.history


@pytest.fixture(scope="module")
def reference():
    """A model trained with labels in its inputs, and its losses."""
    keras.utils.set_random_seed(0)
    return trained({"input_ids": IDS, "labels": LABELS}, metrics=["accuracy"])


def test_the_loss_is_the_models_own(reference):
    model, history = reference
    assert history["loss"][1] < history["loss"][0]
    result = model.evaluate({"input_ids": IDS, "labels": LABELS}, batch_size=8, verbose=0)
    own = model(IDS, labels=LABELS).loss
    np.testing.assert_allclose(result[0], own, rtol=1e-5)


def test_metrics_see_next_tokens_and_nothing_ignored(reference):
    model, _ = reference
    result = model.evaluate(
        {"input_ids": IDS, "labels": LABELS}, batch_size=3, verbose=0, return_dict=True
    )
    guesses = model(IDS).logits.numpy().argmax(-1)[:, :-1]
    counted = LABELS[:, 1:] != -100
    np.testing.assert_allclose(
        result["accuracy"], (guesses == LABELS[:, 1:])[counted].mean(), rtol=1e-5
    )


@pytest.mark.parametrize("form", ["y", "dataset", "mapping", "jit"])
def test_labels_in_each_place_train_alike(reference, form):
    x, y = {"input_ids": IDS, "labels": LABELS}, None
    if form == "y":
        x, y = IDS, LABELS
    elif form == "mapping":  # what a tokenizer returns
        x, y = BatchEncoding({"input_ids": IDS}), {"labels": LABELS}
    elif form == "dataset":
        x = tf.data.Dataset.from_tensor_slices(({"input_ids": IDS}, LABELS)).batch(4)
    batch_size = None if form == "dataset" else 4
    _, history = trained(x, y, batch_size=batch_size, jit_compile=form == "jit")
    np.testing.assert_allclose(history["loss"], reference[1]["loss"], rtol=1e-4)


def test_a_step_is_traced_once():
    model = tiny_model(**NO_DROPOUT)
    traces = []
    call = model.call
    model.call = lambda *args, **kwargs: (traces.append(1), call(*args, **kwargs))[1]
    model.compile("adam")
    model.fit(IDS, LABELS, batch_size=4, epochs=2, verbose=0)
    assert len(traces) == 1


def test_no_labels_raise():
    model = tiny_model(n_layer=1)
    model.compile("sgd")
    with pytest.raises(InvalidInputError, match="Put labels into the inputs, or pass them as y"):
        model.fit(IDS, verbose=0)


def test_sample_weights_count():
    model = tiny_model(**NO_DROPOUT)
    model.compile("sgd")
    weights = np.array([1, 1, 0, 0], np.float32)
    both = model.evaluate(IDS[1:5], IDS[1:5], sample_weight=weights, verbose=0)
    half = model.evaluate(IDS[1:3], IDS[1:3], verbose=0)
    np.testing.assert_allclose(both, half / 2, rtol=1e-5)


@pytest.mark.parametrize("caches", [None, 2])  # scripts for transformers count them as outputs
def test_a_loss_that_is_given_is_used(caches):
    model = tiny_model(**NO_DROPOUT)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss if caches is None else [loss, *[None] * caches], metrics=["accuracy"])
    result = model.evaluate(IDS, IDS, batch_size=8, verbose=0, return_dict=True)
    losses = keras.losses.sparse_categorical_crossentropy(IDS, model(IDS).logits, from_logits=True)
    np.testing.assert_allclose(result["loss"], losses.numpy().mean(), rtol=1e-5)
    assert set(result) == {"loss", "accuracy"}
    with pytest.raises(InvalidInputError, match="loss= names 1"):
        model.compile("sgd", [loss, loss])


CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


NO_CACHES = {"past_key_values": None}


@pytest.mark.parametrize(
    ("caches", "options"),
    [({}, {}), (NO_CACHES, {"jit_compile": True}), (NO_CACHES, {"run_eagerly": True})],
)
def test_losses_and_metrics_by_the_name_of_the_output(caches, options):
    model = tiny_model(**NO_DROPOUT)
    model.compile(
        keras.optimizers.SGD(0.01),
        loss={"logits": CROSS_ENTROPY, **caches},
        metrics={"logits": "accuracy", **caches},
        loss_weights={"logits": 2.0},
        **options,
    )
    for y in (IDS, {"logits": IDS}, {"labels": IDS}):
        result = model.evaluate(IDS, y, batch_size=8, verbose=0, return_dict=True)
        np.testing.assert_allclose(
            result["loss"], 2 * CROSS_ENTROPY(IDS, model(IDS).logits), rtol=1e-4
        )
        assert set(result) == {"loss", "accuracy"}
    history = model.fit(IDS, IDS, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("form", ["dictionary", "list", "one for all", "one output"])
def test_losses_of_several_outputs(form):
    model = tiny_model(TFGPT2DoubleHeadsModel, summary_first_dropout=0.0, **NO_DROPOUT)
    ids, choice = random_ids(4, 2, 6), np.arange(4) % 2
    output = model(ids)
    parts = [float(CROSS_ENTROPY(ids, output.logits)), float(CROSS_ENTROPY(choice, output[1]))]
    loss, weights, expected = {
        "dictionary": (
            {"logits": CROSS_ENTROPY, "mc_logits": CROSS_ENTROPY},
            {"logits": 1.0, "mc_logits": 10.0},
            parts[0] + 10 * parts[1],
        ),
        "list": ([CROSS_ENTROPY, CROSS_ENTROPY, None], [2.0, 1.0], 2 * parts[0] + parts[1]),
        "one for all": (CROSS_ENTROPY, None, sum(parts)),
        "one output": ({"logits": None, "mc_logits": CROSS_ENTROPY}, None, parts[1]),
    }[form]
    model.compile("sgd", loss=loss, loss_weights=weights, metrics={"mc_logits": ["accuracy"]})
    labels = {"logits": ids, "mc_logits": choice}
    result = model.evaluate(ids, labels, batch_size=4, verbose=0, return_dict=True)
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-4)
    right = (output.mc_logits.numpy().argmax(-1) == choice).mean()
    np.testing.assert_allclose(result["mc_logits_accuracy"], right, rtol=1e-5)


def test_losses_of_outputs_without_labels_raise():
    model = tiny_model(n_layer=1)
    with pytest.raises(InvalidInputError, match=r"loss= names logit; .* has labels for logits"):
        model.compile("sgd", loss={"logit": CROSS_ENTROPY})
    with pytest.raises(InvalidInputError, match="metrics= names hidden_states"):
        model.compile("sgd", CROSS_ENTROPY, {"hidden_states": "accuracy"})


def test_predict_joins_batches_without_cache(reference):
    model, _ = reference
    inputs = BatchEncoding({"input_ids": IDS, "labels": LABELS})
    output = model.predict(inputs, batch_size=3, verbose=0)
    assert list(output) == ["logits"]
    np.testing.assert_allclose(output.logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


CASES = {
    "classes": (
        TFGPT2ForSequenceClassification,
        {"num_labels": 3, "pad_token_id": 60},
        {"labels": np.arange(8) % 3},
    ),
    "regression": (
        TFGPT2ForSequenceClassification,
        {"num_labels": 1, "pad_token_id": 60},
        {"labels": np.linspace(-1, 1, 8, dtype=np.float32)},
    ),
    "several labels": (
        TFGPT2ForSequenceClassification,
        {"num_labels": 3, "pad_token_id": 60},
        {"labels": (np.arange(24).reshape(8, 3) % 2).astype(np.float32)},
    ),
    "tokens": (TFGPT2ForTokenClassification, {"num_labels": 4}, {"labels": IDS % 4}),
    "answers": (
        TFGPT2ForQuestionAnswering,
        {},
        {"start_positions": np.arange(8) % 6, "end_positions": np.arange(8) % 6},
    ),
    "choices": (
        TFGPT2DoubleHeadsModel,
        {"summary_first_dropout": 0.0},
        {"labels": random_ids(8, 2, 6), "mc_labels": np.arange(8) % 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_head_trains(case):
    kind, fields, labels = CASES[case]
    model = tiny_model(kind, **NO_DROPOUT, classifier_dropout=0.0, **fields)
    ids = labels["labels"] if case == "choices" else IDS
    output = model(ids, **labels)
    own = output.loss + output.mc_loss if case == "choices" else output.loss
    model.compile(keras.optimizers.SGD(0.01))
    losses = [
        model.evaluate({"input_ids": ids, **labels}, batch_size=8, verbose=0),
        model.evaluate(ids, labels, batch_size=8, verbose=0),
    ]
    np.testing.assert_allclose(losses, [own, own], rtol=1e-5)
    history = model.fit({"input_ids": ids, **labels}, batch_size=4, epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.parametrize("name", IGNORED)
def test_the_mean_over_no_label_is_nan_and_moves_nothing(name):
    model = tiny_model(getattr(gpt2x_tf, f"TFGPT2{name}"), pad_token_id=60, **NO_DROPOUT)
    ids, labels = ids_for(name), IGNORED[name]
    with tf.GradientTape() as tape:
        output = model(ids, **labels)
        losses = [output[field] for field in ("loss", "mc_loss") if field in output]
        loss = tf.add_n(losses)
    assert all(np.isnan(loss) for loss in losses)
    gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")
    assert all(not np.any(tf.convert_to_tensor(gradient)) for gradient in gradients)
    before = model.get_weights()
    model.compile("sgd")
    history = model.fit({"input_ids": ids, **labels}, verbose=0).history
    assert np.isnan(history["loss"])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_no_label_in_a_batch_that_is_counted_elsewhere():
    model = tiny_model(**NO_DROPOUT)
    labels = IGNORED["LMHeadModel"]["labels"]
    assert model(IDS[:2], labels=labels, num_items_in_batch=7).loss == 0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_mixed_precision_trains(jit_compile):
    model = tiny_model(dtype="mixed_bfloat16", **NO_DROPOUT)
    model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
    history = model.fit(IDS, LABELS, batch_size=8, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert model(IDS).logits.dtype == tf.bfloat16
    assert {weight.dtype for weight in model.weights} == {"float32"}


def test_validation_and_callbacks(tmp_path):
    model = tiny_model(n_layer=1)
    model.compile("sgd")
    history = model.fit(
        {"input_ids": IDS, "labels": LABELS},
        validation_data=(BatchEncoding({"input_ids": IDS}), LABELS),
        epochs=2,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True),
            keras.callbacks.EarlyStopping(patience=5),
        ],
    )
    assert len(history.history["val_loss"]) == 2
    assert (tmp_path / "best.weights.h5").exists()


def test_custom_training_loop():
    model = tiny_model(**NO_DROPOUT)
    optimizer = keras.optimizers.Adam(0.01)
    losses = []
    for _ in range(3):
        with tf.GradientTape() as tape:
            losses.append(model(IDS, labels=LABELS, training=True).loss)
        gradients = tape.gradient(losses[-1], model.trainable_variables)
        assert all(gradient is not None for gradient in gradients)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    assert losses[2] < losses[0]
    assert losses[0].shape == ()


# --- data sets ---


class Padder:
    """The part of a tokenizer that pads."""

    padding_side = "right"

    def pad(self, rows, return_tensors, verbose=True):
        assert return_tensors == "np"
        width = max(len(row["input_ids"]) for row in rows)
        ids = np.full((len(rows), width), 60)
        mask = np.zeros((len(rows), width), int)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = row["input_ids"]
            mask[i, : len(row["input_ids"])] = 1
        rest = {n: np.array([row[n] for row in rows]) for n in rows[0] if n != "input_ids"}
        return {"input_ids": ids, "attention_mask": mask, **rest}


def test_dataset_pads_and_drops_what_the_model_does_not_take():
    rows = [{"input_ids": list(range(n)), "labels": list(range(n)), "text": "x"} for n in (3, 5, 2)]
    dataset = tiny_model().prepare_tf_dataset(rows, batch_size=2, shuffle=False, tokenizer=Padder())
    assert len(dataset) == 2
    (x, y), (last, _) = list(dataset)
    assert set(x) == {"input_ids", "attention_mask"}
    np.testing.assert_array_equal(y, [[0, 1, 2, -100, -100], [0, 1, 2, 3, 4]])
    assert last["input_ids"].shape == (1, 2)


def test_dataset_tells_labels_of_tokens_from_labels_of_examples_by_all_rows():
    """The first example has as many labels as tokens, and the others have not."""
    rows = [{"input_ids": list(range(n)), "labels": [n, 0, 1]} for n in (3, 5, 4)]
    dataset = tiny_model().prepare_tf_dataset(rows, batch_size=3, shuffle=False, tokenizer=Padder())
    ((x, y),) = list(dataset)
    assert x["input_ids"].shape == (3, 5)
    np.testing.assert_array_equal(y, [[3, 0, 1], [5, 0, 1], [4, 0, 1]])


def test_dataset_pads_labels_on_the_left_with_such_a_tokenizer():
    tokenizer = Padder()
    tokenizer.padding_side = "left"
    rows = [{"input_ids": list(range(n)), "labels": list(range(n))} for n in (3, 5)]
    dataset = tiny_model().prepare_tf_dataset(
        rows, batch_size=2, shuffle=False, tokenizer=tokenizer
    )
    ((_, y),) = list(dataset)
    np.testing.assert_array_equal(y, [[-100, -100, 0, 1, 2], [0, 1, 2, 3, 4]])


def test_dataset_shuffles_each_epoch_and_trains():
    rows = [{"input_ids": ids, "label": i % 3} for i, ids in enumerate(IDS)]
    model = tiny_model(TFGPT2ForSequenceClassification, num_labels=3, pad_token_id=60, n_layer=1)
    dataset = model.prepare_tf_dataset(rows, batch_size=4)
    epochs = [np.concatenate([x.numpy()[:, 0] for x, _ in dataset.map(_only_ids)]) for _ in "12"]
    np.testing.assert_array_equal(np.sort(epochs[0]), np.sort(IDS[:, 0]))
    assert (epochs[0] != epochs[1]).any()
    model.compile("sgd")
    assert model.fit(dataset, shuffle=False, verbose=0).history["loss"][0] > 0


def _only_ids(x, y):
    return x["input_ids"], y


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "The data set is empty"),
        (iter([1]), {}, "must be a sequence of dictionaries"),
        ([{"input_ids": [1]}, {"input_ids": [1, 2]}], {"shuffle": False}, "Pass tokenizer="),
        ([{"input_ids": [1, 2]}], {}, "drop_remainder"),
        (
            [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [1, 2], "labels": [1]}],
            {"shuffle": False, "tokenizer": Padder()},
            "has 1 labels and 2 tokens",
        ),
    ],
)
def test_dataset_errors(rows, options, message):
    with pytest.raises(InvalidInputError, match=message):
        tiny_model().prepare_tf_dataset(rows, **options)
