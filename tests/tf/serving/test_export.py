"""SavedModels: signatures, and that they run where TensorFlow alone is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from gpt2x import EMBEDDED_MODEL
from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.tf import (
    TextGenerator,
    TFGPT2DoubleHeadsModel,
    TFGPT2ForSequenceClassification,
    TFGPT2LMHeadModel,
    TFGPT2Tokenizer,
)
from support.tf_models import random_ids, tiny_model

IDS = random_ids(2, 5)
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int32)
INPUTS = {"input_ids": tf.constant(IDS), "attention_mask": tf.constant(MASK)}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def small():
    """One layer, which is traced in half the time."""
    return tiny_model(n_layer=1)


def test_save_pretrained_writes_signatures(model, tmp_path):
    model.save_pretrained(tmp_path, saved_model=True, version=3)
    loaded = tf.saved_model.load(tmp_path / "saved_model" / "3")
    serve = loaded.signatures["serving_default"]
    specs = serve.structured_input_signature[1]
    assert {name: spec.shape.as_list() for name, spec in specs.items()} == {
        "input_ids": [None, None],
        "attention_mask": [None, None],
    }
    expected = model(INPUTS).logits
    np.testing.assert_allclose(serve(**INPUTS)["logits"], expected, rtol=1e-5, atol=1e-5)
    wide = {name: tf.cast(value, tf.int64) for name, value in INPUTS.items()}
    logits = loaded.signatures["int64_serving"](**wide)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "model.safetensors").exists()


def test_a_saved_model_replaces_an_older_one_as_a_whole(small, tmp_path, monkeypatch):
    folder = tmp_path / "saved_model" / "1"
    (folder / "assets.extra").mkdir(parents=True)
    for name in ("keras_metadata.pb", "saved_model.pb"):
        (folder / name).write_text("old")
    moved = []
    move = os.replace

    def replace(source, destination):
        move(source, destination)
        moved.append(os.fspath(destination).removeprefix(f"{folder}/"))

    monkeypatch.setattr("os.replace", replace)
    small.save_serving(folder)
    assert moved[-1] == "saved_model.pb"
    assert [name.rpartition("/")[2] for name in moved[1:4]] == [
        "saved_model.pb",
        "keras_metadata.pb",
        "assets.extra",
    ]
    assert not (folder / "keras_metadata.pb").exists()
    assert "serving_default" in tf.saved_model.load(folder).signatures


@pytest.mark.parametrize("way", ["saved_model", "signatures", "export"])
def test_other_ways_to_save(way, small, tmp_path):
    folder = str(tmp_path / "model")
    if way == "export":
        small.export(folder, verbose=False)
    elif way == "saved_model":
        tf.saved_model.save(small, folder)
    else:
        tf.saved_model.save(small, folder, signatures={"serving_default": small.serving})
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    np.testing.assert_allclose(
        serve(**INPUTS)["logits"], small(INPUTS).logits, rtol=1e-5, atol=1e-5
    )


def test_signatures_of_other_heads():
    assert set(tiny_model(TFGPT2DoubleHeadsModel).input_signature) == {
        "input_ids",
        "attention_mask",
        "mc_token_ids",
    }
    classifier = tiny_model(
        TFGPT2ForSequenceClassification, output_hidden_states=True, num_labels=3
    )
    output = classifier.serving(INPUTS)
    assert output["logits"].shape == (2, 3)
    assert output["hidden_states"].shape == (3, 2, 5, 24)


@pytest.mark.parametrize("kind", [TFGPT2LMHeadModel, TFGPT2DoubleHeadsModel])
def test_dummy_inputs_can_be_called(kind):
    model = tiny_model(kind, n_layer=1, add_cross_attention=kind is TFGPT2LMHeadModel)
    inputs = model.dummy_inputs
    assert inputs["input_ids"].shape[0] == 1
    assert ("encoder_hidden_states" in inputs) == (kind is TFGPT2LMHeadModel)
    assert model(inputs).logits.shape == (*inputs["input_ids"].shape, 61)


@pytest.fixture(scope="module")
def tokenizer():
    return TFGPT2Tokenizer.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def writer(tokenizer):
    """A language model of random weights with a real tokenizer."""
    vocab_size = max(tokenizer.vocab.values()) + 1
    return tiny_model(
        vocab_size=vocab_size, n_positions=24, bos_token_id=0, eos_token_id=None, n_layer=1
    )


def by_hand(writer, tokenizer, prompts, seed):
    """The texts that the parts give when they are called one by one."""
    texts = []
    for row, prompt in enumerate(prompts):
        ids = tokenizer([prompt])["input_ids"].to_tensor()[:, -21:]
        ids = tf.constant([[0]]) if ids.shape[1] == 0 else ids
        out = writer.generate(
            ids,
            attention_mask=tf.ones_like(ids),
            max_new_tokens=4,
            pad_token_id=0,
            do_sample=True,
            seed=[(seed, row)],
        )
        new = tokenizer.detokenize(out[:, ids.shape[1] :], skip_special_tokens=True)
        texts.append(prompt.encode() + new.numpy()[0])
    return texts


PROMPTS = ["To be, or not", "", "O brave new world! " * 8]
SPECIAL = ["Hello world", "", "你好 <|endoftext|>"]


class Echo(tf.Module):
    """Says every text twice; compiled by XLA, between a tokenizer's two ends."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(jit_compile=True)
    def repeat(self, ids, mask):
        return tf.concat([ids, ids], axis=1), tf.concat([mask, mask], axis=1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, prompts):
        encoded = self.tokenizer(prompts, padding=True, padding_side="left", pad_token_id=0)
        return self.tokenizer.detokenize(
            *self.repeat(ids=encoded["input_ids"], mask=encoded["attention_mask"])
        )


# -I: neither the current directory nor PYTHONPATH is looked into.
OUTSIDE = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in (
            "gpt2x", "tokenizers", "safetensors", "regex", "torch", "jax", "keras_hub",
            "tensorflow_text",
        ):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import tensorflow as tf

folder, given = sys.argv[1], json.loads(sys.argv[2])
serve = tf.saved_model.load(folder + "/model").signatures["serving_default"]
echo = tf.saved_model.load(folder + "/echo")
writer = tf.saved_model.load(folder + "/writer")
prompts = tf.constant(given["prompts"])
ids = writer.tokenize(prompts[:1])["input_ids"]
seeded = writer.signatures["generate_with_seed"](prompts=prompts, seed=tf.constant(7, tf.int64))
texts = {
    "echo": echo(tf.constant(given["special"])),
    "echo by signature": echo.signatures["serving_default"](prompts=tf.constant(given["special"]))[
        "output_0"
    ],
    "seeded": seeded["texts"],
    "back": writer.detokenize(ids)["texts"],
    "unseeded": tf.stack([writer.generate(prompts)["texts"][0] for _ in range(3)]),
}
print(json.dumps({
    "logits": serve(
        input_ids=tf.constant(given["ids"]), attention_mask=tf.constant(given["mask"])
    )["logits"].numpy().tolist(),
    "ids": ids.numpy().tolist(),
    **{name: [text.decode("latin-1") for text in value.numpy()] for name, value in texts.items()},
}))
"""


@pytest.fixture(scope="module")
def outside(model, writer, tokenizer, tmp_path_factory):
    """What SavedModels give in a process that can import nothing of ours."""
    folder = tmp_path_factory.mktemp("saved")
    tf.saved_model.save(model, str(folder / "model"))
    echo = Echo(tokenizer)
    signatures = {"serving_default": echo.__call__}
    tf.saved_model.save(echo, str(folder / "echo"), signatures=signatures)
    config = writer.generation_config
    config.update(max_new_tokens=4, do_sample=True)
    TextGenerator(writer, tokenizer, config).save(folder / "writer")
    given = {
        "ids": IDS.tolist(),
        "mask": MASK.tolist(),
        "prompts": PROMPTS,
        "special": SPECIAL,
    }
    command = [sys.executable, "-I", "-c", OUTSIDE, str(folder), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def as_bytes(texts):
    return [text.encode("latin-1") for text in texts]


def test_the_forward_pass_runs_without_gpt2x(outside, model):
    np.testing.assert_allclose(outside["logits"], model(INPUTS).logits, rtol=1e-5, atol=1e-5)


def test_the_tokenizer_runs_without_gpt2x(outside):
    expected = [(text + text).encode() for text in SPECIAL]
    assert as_bytes(outside["echo"]) == expected
    assert as_bytes(outside["echo by signature"]) == expected


def test_text_in_text_out_without_gpt2x(outside, writer, tokenizer):
    assert as_bytes(outside["seeded"]) == by_hand(writer, tokenizer, PROMPTS, seed=7)
    assert outside["ids"] == tokenizer(PROMPTS[:1])["input_ids"].to_list()
    assert outside["back"] == PROMPTS[:1]
    assert len(set(outside["unseeded"])) > 1  # a new seed at each call


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 25}, "max_new_tokens is 25"),
        ({"stop_strings": ["."]}, "Set stop_strings=None"),
        ({"return_dict_in_generate": True}, "only texts are exported"),
    ],
)
def test_text_generator_refuses_what_it_cannot_do(settings, message, writer, tokenizer):
    with pytest.raises(InvalidInputError, match=message):
        TextGenerator(writer, tokenizer, GenerationConfig(**settings))


def test_folders_load_without_other_frameworks(model, tmp_path):
    model.save_pretrained(tmp_path)
    blocked = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'jax', 'flax'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from gpt2x.tf import TFGPT2LMHeadModel as M\n"
        "print(M.from_pretrained(sys.argv[1]).num_parameters())"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked, str(tmp_path)], capture_output=True, text=True, timeout=900
    )
    assert done.stdout.strip() == str(model.num_parameters()), done.stderr[-2000:]


def test_another_keras_backend_is_one_clear_error(monkeypatch):
    import importlib

    import keras

    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.delitem(sys.modules, "gpt2x.tf")
    with pytest.raises(ImportError, match="Set KERAS_BACKEND=tensorflow"):
        importlib.import_module("gpt2x.tf")


def test_classes_resolve_lazily():
    import gpt2x

    assert gpt2x.TFGPT2LMHeadModel is TFGPT2LMHeadModel
