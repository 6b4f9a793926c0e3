"""TensorFlow's checkpoints, as TensorFlow writes them today."""

from __future__ import annotations

import numpy as np
import pytest

import gpt2x
from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config

tf = pytest.importorskip("tensorflow")


def tracked(**children):
    node = tf.Module()
    for name, child in children.items():
        setattr(node, name, child)
    return node


def variables(*shape):
    return tf.Variable(np.arange(np.prod(shape)).reshape(shape).astype(np.float32))


def test_weights_are_known_by_their_attributes_and_the_optimizer_is_set_aside(tmp_path):
    layers = [
        tracked(
            ln_1=tracked(gamma=variables(3)), attn=tracked(c_attn=tracked(bias=variables(1, 9)))
        )
        for _ in range(2)
    ]
    model = tracked(
        transformer=tracked(wte=tracked(embeddings=variables(5, 3)), h=layers),
        score=tracked(kernel=variables(3, 2)),
        other=tracked(kernel=variables(3, 4)),
    )
    optimizer = tracked(wte=tracked(embeddings=variables(5, 3)))
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    checkpoint.write(str(tmp_path / "weights"))
    with open_checkpoint(tmp_path / "weights") as found:
        assert found.format == "tf-checkpoint"
        assert set(found) == {
            "wte.weight",
            "h.0.ln_1.weight",
            "h.0.attn.c_attn.bias",
            "h.1.ln_1.weight",
            "h.1.attn.c_attn.bias",
            "score.weight",
        }
        assert found["h.1.attn.c_attn.bias"].shape == (9,)
        np.testing.assert_array_equal(found["score.weight"].read(), np.arange(6).reshape(3, 2).T)
        assert any(name.startswith("optimizer/wte") for name in found.ignored)


@pytest.mark.parametrize("kind", ["TFGPT2LMHeadModel", "TFGPT2ForTokenClassification"])
def test_checkpoints_of_our_own_models(tmp_path, kind):
    fields = {"add_cross_attention": True, "tie_word_embeddings": False, "bos_token_id": None}
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, **fields)
    model = getattr(gpt2x, kind)(config)
    model.save_pretrained(tmp_path / "folder")
    tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint" / "weights"))
    config.save_pretrained(tmp_path / "checkpoint")
    with (
        open_checkpoint(tmp_path / "checkpoint") as found,
        open_checkpoint(tmp_path / "folder") as expected,
    ):
        assert found.config["tie_word_embeddings"] == ("lm_head.weight" not in expected)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name].read(), tensor.read(), err_msg=name)
