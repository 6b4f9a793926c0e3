"""Whatever holds a model, a SavedModel of it has every variable, once, for every reader."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from gpt2x.tf import TFGPT2DoubleHeadsModel, TFGPT2LMHeadModel, TFGPT2Model
from support.tf_models import random_ids, tiny_config, tiny_model

# LiteRT is a package of its own by now; TensorFlow still brings this interpreter, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")

IDS = random_ids(1, 5)


@pytest.fixture(scope="module")
def model():
    return tiny_model(n_layer=1)


def lite_outputs(folder):
    """Convert a SavedModel to TensorFlow Lite, and run it on IDS."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    runner = tf.lite.Interpreter(model_content=converter.convert())
    for detail in runner.get_input_details():
        runner.resize_tensor_input(detail["index"], IDS.shape)
    runner.allocate_tensors()
    for detail in runner.get_input_details():
        value = np.ones_like(IDS) if "mask" in detail["name"] else IDS
        runner.set_tensor(detail["index"], value)
    runner.invoke()
    (logits,) = (runner.get_tensor(detail["index"]) for detail in runner.get_output_details())
    return logits


def old_reader_outputs(folder):
    """Run a SavedModel on IDS as TensorFlow 1 does, whose loader the converter uses."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], folder)
        serve = graph.signature_def["serving_default"]
        return session.run(serve.outputs["logits"].name, {serve.inputs["input_ids"].name: IDS})


def signature(call):
    spec = tf.TensorSpec(IDS.shape, tf.int32, "input_ids")
    function = tf.function(lambda input_ids: {"logits": call(input_ids)}, input_signature=[spec])
    return {"serving_default": function}


def bytes_of_weights(folder):
    return os.path.getsize(os.path.join(folder, "variables", "variables.data-00000-of-00001"))


class Wrapper(keras.Model):
    """A model of a user's own."""

    def __init__(self, model):
        super().__init__()
        self.parts = [model]

    def call(self, input_ids):
        return self.parts[0](input_ids).logits


def module_with(**parts):
    module = tf.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def functional(model):
    inputs = keras.Input((None,), dtype="int32")
    return keras.Model(inputs, model(inputs).logits)


HOLDERS = {
    "model": lambda m: m,
    "module": lambda m: module_with(model=m),
    "list": lambda m: module_with(models=[m]),
    "parts": lambda m: module_with(
        blocks=[*m.transformer.h],
        others={"wte": m.transformer.wte, "rest": [m.transformer.wpe, m.transformer.ln_f]},
    ),
    "body": lambda m: module_with(body=m.transformer),
    "keras model": Wrapper,
    "functional": functional,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_every_reader_gets_the_weights(holder, model, tmp_path):
    folder = str(tmp_path)
    call = signature(lambda ids: model(ids).logits)
    tf.saved_model.save(HOLDERS[holder](model), folder, signatures=call)
    expected = model(IDS).logits
    np.testing.assert_allclose(old_reader_outputs(folder), expected, rtol=1e-5, atol=1e-5)
    served = tf.saved_model.load(folder).signatures["serving_default"](input_ids=tf.constant(IDS))
    np.testing.assert_allclose(served["logits"], expected, rtol=1e-5, atol=1e-5)
    assert bytes_of_weights(folder) < 1.5 * 4 * model.num_parameters()


@pytest.mark.parametrize("way", ["save_pretrained", "save", "export"])
def test_every_way_of_saving(way, tmp_path):
    model = tiny_model(n_layer=1, tie_word_embeddings=False)
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)  # its moments are nothing to a server
    folder = str(tmp_path / "saved_model" / "1")
    if way == "save_pretrained":
        model.save_pretrained(tmp_path, saved_model=True)
    elif way == "save":
        tf.saved_model.save(model, folder)
    else:
        model.export(folder, verbose=False)
    np.testing.assert_allclose(lite_outputs(folder), model(IDS).logits, rtol=1e-4, atol=1e-5)
    assert bytes_of_weights(folder) < 1.5 * 4 * model.num_parameters()


def test_what_is_loaded_lists_its_variables(tmp_path):
    model = tiny_model(TFGPT2DoubleHeadsModel, n_layer=1)
    model.transformer.wpe.trainable = False
    tf.saved_model.save(module_with(model=model), tmp_path)
    loaded = tf.saved_model.load(tmp_path).model
    for kind in ("variables", "trainable_variables", "non_trainable_variables"):
        ours, theirs = getattr(model, kind), getattr(loaded, kind)
        assert len(ours) == len(theirs) > 0
        for variable, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(variable.numpy(), other.numpy())
    norm = loaded.transformer.ln_f.gamma
    assert any(norm is variable for variable in loaded.variables)


def test_dropout_is_served_too(model, tmp_path):
    call = signature(lambda ids: model(ids, training=True).logits)
    tf.saved_model.save(module_with(model=model), tmp_path, signatures=call)
    serve = tf.saved_model.load(tmp_path).signatures["serving_default"]
    first, second = (serve(input_ids=tf.constant(IDS))["logits"] for _ in range(2))
    assert np.abs(first - second).max() > 0.01


def test_tensorflows_own_checkpoints_round_trip(model, tmp_path):
    other = TFGPT2LMHeadModel(tiny_config(n_layer=1))
    path = tf.train.Checkpoint(model=module_with(parts=[model])).save(tmp_path / "checkpoint")
    restored = tf.train.Checkpoint(model=module_with(parts=[other])).restore(path)
    restored.assert_consumed()
    np.testing.assert_array_equal(other(IDS).logits, model(IDS).logits)


def test_layers_of_a_users_own_class_are_tracked(tmp_path):
    class Scorer(TFGPT2Model):
        def __init__(self, config):
            super().__init__(config)
            self.scores = [keras.layers.Dense(2, name="score")]

        def call(self, input_ids, training=False):
            return self.scores[0](self.transformer(input_ids, training=training)[0])

    scorer = Scorer(tiny_config(n_layer=1))
    expected = scorer(input_ids=IDS)
    assert len(scorer.weights) == len(scorer.transformer.weights) + 2
    tf.saved_model.save(scorer, tmp_path, signatures=signature(lambda ids: scorer(input_ids=ids)))
    np.testing.assert_allclose(lite_outputs(str(tmp_path)), expected, rtol=1e-4, atol=1e-5)
