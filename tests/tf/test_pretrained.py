"""Folders, `.keras` and `.weights.h5` files: what is written is what is read."""

from __future__ import annotations

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from gpt2x import tf as gpt2x_tf
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.tf import (
    TFGPT2DoubleHeadsModel,
    TFGPT2ForQuestionAnswering,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
    TFGPT2LMHeadModel,
    TFGPT2MainLayer,
    TFGPT2Model,
    TFGPT2PreTrainedModel,
)
from gpt2x.unavailable import TF_MODEL
from gpt2x.weights.lazy import LazyTensor
from support.golden_data import GOLDEN
from support.tf_models import random_ids, tiny_config, tiny_model

# Keras's variables are read by numpy in a way that numpy 2 will end; so Keras writes its files.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

IDS = random_ids(2, 5)
KINDS = [
    TFGPT2Model,
    TFGPT2LMHeadModel,
    TFGPT2DoubleHeadsModel,
    TFGPT2ForSequenceClassification,
    TFGPT2ForTokenClassification,
    TFGPT2ForQuestionAnswering,
]


def first_output(model):
    ids = IDS[:, None] if isinstance(model, TFGPT2DoubleHeadsModel) else IDS
    return model(ids, attention_mask=np.ones_like(ids))[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_folders_round_trip(kind, tmp_path):
    model = tiny_model(kind, num_labels=3)
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [kind.__name__.removeprefix("TF")]
    again, info = kind.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values())
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        assert ours.path.partition("/")[2] == theirs.path.partition("/")[2]
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(first_output(again), first_output(model))


@pytest.mark.parametrize("kind", KINDS)
def test_keras_files_round_trip(kind, tmp_path):
    model = tiny_model(kind, num_labels=3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is kind
    assert again.config.to_dict() == model.config.to_dict()
    np.testing.assert_array_equal(first_output(again), first_output(model))


def test_keras_files_keep_the_optimizer(tmp_path):
    model = tiny_model(n_layer=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    optimizer, _ = gpt2x_tf.create_optimizer(0.01, 10, 2, weight_decay_rate=0.1)
    model.compile(optimizer)
    model.fit(IDS, IDS, verbose=0)
    model.generation_config.max_new_tokens = 7
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert int(again.optimizer.iterations) == 1
    assert again.generation_config.max_new_tokens == 7
    # The next step is the same step, the optimizer's moments and schedule included.
    for each in (model, again):
        each.fit(IDS, IDS, verbose=0)
    np.testing.assert_allclose(first_output(again), first_output(model), rtol=1e-5, atol=1e-5)


def test_models_are_made_of_configs_alone():
    config = tiny_config(n_inner=40)
    assert TFGPT2LMHeadModel.from_config(config).config is config
    again = TFGPT2LMHeadModel.from_config(TFGPT2LMHeadModel(config, name="mine").get_config())
    assert (again.name, again.config.n_inner) == ("mine", 40)


def test_weights_files_round_trip(tmp_path):
    model, other = tiny_model(), TFGPT2LMHeadModel(tiny_config())
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(first_output(other), first_output(model))


def test_names_and_shapes_are_those_of_transformers():
    weights = {w.path.partition("/")[2]: tuple(w.shape) for w in tiny_model().weights}
    assert weights["transformer/wte/embeddings"] == (61, 24)
    assert weights["transformer/h_._1/attn/c_attn/weight"] == (24, 72)
    assert weights["transformer/h_._1/attn/c_attn/bias"] == (1, 72)
    assert weights["transformer/h_._0/ln_2/gamma"] == (24,)
    assert len(weights) == 2 + 2 * 12 + 2
    scores = tiny_model(TFGPT2ForSequenceClassification, num_labels=3)
    assert dict(scores._canonical_variables())["score.weight"].path.endswith("/score/kernel")


def test_names_do_not_depend_on_where_a_model_stands():
    with keras.name_scope("outer"):
        model = tiny_model(TFGPT2ForTokenClassification)
    names = [name for name, _ in model._canonical_variables()]
    assert names[0] == "wte.weight"
    assert names[-1] == "classifier.bias"


def test_saved_tensors_are_in_pytorch_layout(tmp_path):
    model = tiny_model(TFGPT2ForSequenceClassification, num_labels=3)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["score.weight"].shape == (3, 24)
    assert tensors["transformer.h.0.attn.c_attn.bias"].shape == (72,)
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (24, 72)


def test_base_and_head_models_read_each_other(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "lm")
    body = TFGPT2Model.from_pretrained(tmp_path / "lm")
    body.save_pretrained(tmp_path / "body")
    again = TFGPT2LMHeadModel.from_pretrained(tmp_path / "body")
    np.testing.assert_array_equal(first_output(again), first_output(model))
    with pytest.warns(UserWarning, match="newly initialised: score.weight"):
        head = TFGPT2ForSequenceClassification.from_pretrained(tmp_path / "lm", num_labels=5)
    assert head.score.kernel.shape == (24, 5)


def test_dtypes(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = TFGPT2LMHeadModel.from_pretrained(tmp_path, dtype="bfloat16")
    assert {w.dtype for w in model.weights} == {"bfloat16"}
    assert model(IDS).logits.dtype == tf.bfloat16
    model.save_pretrained(tmp_path / "half")
    auto = TFGPT2LMHeadModel.from_pretrained(tmp_path / "half", dtype="auto")
    assert auto.variable_dtype == "bfloat16"
    assert TFGPT2LMHeadModel.from_pretrained(tmp_path / "half").variable_dtype == "float32"


def test_saving_takes_its_arguments_in_the_order_of_transformers():
    names = list(inspect.signature(TFGPT2Model.save_pretrained).parameters)
    assert names[1:10] == [
        "save_directory",
        "saved_model",
        "version",
        "push_to_hub",
        "signatures",
        "max_shard_size",
        "create_pr",
        "safe_serialization",
        "token",
    ]


def test_shards(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size=5000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = TFGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(first_output(again), first_output(model))


def test_errors(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        TFGPT2LMHeadModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="size mismatch"):
        TFGPT2LMHeadModel.from_pretrained(GOLDEN / "plain", n_inner=48)
    with pytest.raises(WeightsError, match="size mismatch"):  # before memory is taken
        TFGPT2LMHeadModel.from_pretrained(GOLDEN / "plain", vocab_size=10**13)
    with pytest.raises(InvalidInputError, match="Did you mean 'n_layer'"):
        TFGPT2LMHeadModel.from_pretrained(GOLDEN / "plain", n_layers=3)
    with pytest.raises(InvalidInputError, match="Did you mean 'saved_model'"):
        tiny_model().save_pretrained(tmp_path, savedmodel=True)
    with pytest.raises(InvalidInputError, match="is built from a GPT2Config"):
        TFGPT2LMHeadModel({"n_layer": 2})


@pytest.mark.parametrize("tie", [True, False])
def test_resizing_embeddings(tie, tmp_path):
    model = tiny_model(tie_word_embeddings=tie, n_layer=1)
    before = model(IDS).logits.numpy()
    embedding = model.resize_token_embeddings(70, pad_to_multiple_of=8)
    assert embedding.input_dim == model.config.vocab_size == 72
    after = model(IDS).logits.numpy()
    np.testing.assert_allclose(after[..., :61], before, rtol=1e-5, atol=1e-5)
    mean = model.get_output_embeddings()
    rows = (mean.embeddings if tie else tf.transpose(mean.kernel)).numpy()
    np.testing.assert_allclose(rows[61:], np.tile(rows[:61].mean(0), (11, 1)), atol=1e-6)
    model.compile("sgd")
    model.fit(IDS, IDS + 10, verbose=0)
    assert model.generate(IDS, max_new_tokens=2, eos_token_id=None).shape == (2, 7)
    model.save_pretrained(tmp_path)
    again = TFGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(first_output(again), first_output(model))
    assert model.resize_token_embeddings(61).input_dim == 61
    assert model(IDS).logits.shape == (2, 5, 61)


def test_counting_parameters():
    model = tiny_model()
    total = sum(int(np.prod(w.shape)) for w in model.weights)
    assert model.num_parameters() == total
    assert model.num_parameters(exclude_embeddings=True) == total - (61 + 32) * 24
    model.trainable = False
    assert model.num_parameters(only_trainable=True) == 0


def test_a_file_that_cannot_be_read_leaves_nothing_behind(tmp_path, monkeypatch):
    model = tiny_model()
    model.save_pretrained(tmp_path)

    def read(tensor, dtype=None):
        if tensor.shape == (24, 96):  # the first of the blocks' MLPs; others are made already
            raise CheckpointError("the disk is gone")
        return readable(tensor, dtype)

    readable = LazyTensor.read
    monkeypatch.setattr(LazyTensor, "read", read)
    with pytest.raises(CheckpointError, match="disk is gone"):
        TFGPT2LMHeadModel.from_pretrained(tmp_path)
    monkeypatch.setattr(LazyTensor, "read", readable)
    again = TFGPT2LMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(first_output(again), first_output(model))


class OwnConfig(GPT2Config):
    """A config by another name."""


class OwnModel(TFGPT2PreTrainedModel):
    """Makes some weights early, adds a layer, and ends its constructor without post_init."""

    config_class = OwnConfig

    def __init__(self, config, verdicts=2, **keras_options):
        super().__init__(config, **keras_options)
        self.transformer = TFGPT2MainLayer(config, name="transformer")
        self.transformer.wpe.build()
        self.verdict = keras.layers.Dense(verdicts, name="verdict")

    def call(self, input_ids, training=False):
        return self.verdict(self.transformer(input_ids, training=training)[0][:, -1])


def test_classes_of_a_users_own_load(tmp_path):
    model = tiny_model(TFGPT2Model)
    model.save_pretrained(tmp_path)
    own = OwnModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(own.transformer(IDS)[0], model(IDS)[0])
    assert type(own.config) is OwnConfig
    for more in (
        OwnModel.from_pretrained(tmp_path, 4),
        OwnModel.from_pretrained(tmp_path, verdicts=4),
    ):
        assert more(input_ids=IDS).shape == (2, 4)
    with pytest.raises(InvalidInputError, match="unknown argument 'keras_options'"):
        OwnModel.from_pretrained(tmp_path, keras_options=4)
    own.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    result = own.evaluate(IDS, np.array([0, 1]), verbose=0)
    losses = -np.log(tf.nn.softmax(own(input_ids=IDS)).numpy()[[0, 1], [0, 1]])
    np.testing.assert_allclose(result, losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(own.predict(IDS, verbose=0), own(IDS), rtol=1e-5, atol=1e-6)
    with pytest.raises(InvalidInputError, match=r"verdict/kernel, .*verdict/bias"):
        own.save_pretrained(tmp_path)


def test_tensorflows_own_checkpoints_round_trip(tmp_path):
    model, other = tiny_model(), TFGPT2LMHeadModel(tiny_config())
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=other).restore(path).assert_consumed()
    np.testing.assert_array_equal(first_output(other), first_output(model))


@keras.saving.register_keras_serializable(package="tests")
class Outer(keras.Model):
    """A model of a user's own around one of ours."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner
        self.verdict = keras.layers.Dense(2)

    def call(self, input_ids):
        return self.verdict(self.inner(input_ids)[0])

    def get_config(self):
        return {"inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["inner"]))


def functional(inner, dtype=None):
    inputs = keras.Input((None,), dtype=dtype)
    return keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)[0]))


OUTER = {
    "subclass": Outer,
    "functional": lambda inner: functional(inner, "int32"),
    "functional, of floats": functional,
}


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("kind", [TFGPT2Model, TFGPT2LMHeadModel, TFGPT2MainLayer])
def test_models_of_a_users_own_are_saved(kind, outer, tmp_path):
    model = OUTER[outer](kind(tiny_config(n_layer=1)))
    expected = model(IDS).numpy()
    tf.saved_model.save(model, tmp_path / "saved_model")
    served = tf.saved_model.load(tmp_path / "saved_model").signatures["serving_default"]
    dtype = tf.int32 if outer == "functional" else tf.float32
    (output,) = served(tf.constant(IDS, dtype)).values()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "outer.keras")
    again = keras.models.load_model(tmp_path / "outer.keras")
    np.testing.assert_allclose(again(IDS), expected, rtol=1e-5, atol=1e-6)


def test_what_was_never_called_is_saved(tmp_path):
    """A class without `post_init` makes its weights when they are asked for."""
    own, other = OwnModel(OwnConfig.from_dict(tiny_config().to_dict())), None
    own.save_weights(tmp_path / "own.weights.h5")
    own.save(tmp_path / "own.keras")
    other = OwnModel(own.config)
    other.build_in_name_scope()
    other.load_weights(tmp_path / "own.weights.h5")
    with keras.saving.custom_object_scope({"OwnModel": OwnModel}):
        again = keras.models.load_model(tmp_path / "own.keras")
    for model in (other, again):
        assert len(model.weights) == len(own.weights) == 30
        np.testing.assert_array_equal(model(input_ids=IDS), own(input_ids=IDS))


def test_config_is_checked_before_anything_is_made():
    with pytest.raises(InvalidInputError, match="pruned_heads"):
        TFGPT2Model(GPT2Config(n_layer=1, pruned_heads={0: [1]}))


def test_what_is_not_here_says_what_to_do_instead():
    model = tiny_model(TFGPT2Model)
    assert not hasattr(model, "prune_heads")
    with pytest.raises(AttributeError, match=r"no 'prune_heads', .* silence heads with head_mask"):
        model.prune_heads({0: [1]})


def test_names_that_are_not_here_are_missing_and_unlisted():
    model = tiny_model()
    for name in TF_MODEL:
        assert not hasattr(model, name)
        assert name not in dir(model)
    with pytest.raises(AttributeError, match="no attribute 'get_bia'"):
        model.get_bia()


def test_parameters_are_counted_with_and_without_embeddings():
    model = tiny_model()
    E, V, P = model.config.n_embd, model.config.vocab_size, model.config.n_positions
    blocks = 2 * (12 * E * E + 13 * E) + 2 * E  # L = 2, and the final layer norm
    assert model.num_parameters(exclude_embeddings=True) == blocks
    assert model.num_parameters() == blocks + (V + P) * E
    model.transformer.wte.trainable = False
    assert model.num_parameters(only_trainable=True) == blocks + P * E
