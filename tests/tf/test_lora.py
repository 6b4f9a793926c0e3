"""LoRA adapters in TensorFlow."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from gpt2x.config.lora import LoraConfig
from gpt2x.errors import InvalidInputError
from support.contract.adapters import LANGUAGE_MODEL, AdapterContract, outputs
from support.tf_models import BACKEND


class TestAdapters(AdapterContract):
    backend = BACKEND

    def trainable(self, model):
        return [tuple(v.shape) for v in model.trainable_variables]

    def losses(self, model, ids):
        found = []
        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = model(tf.constant(ids), labels=tf.constant(ids)).loss
            variables = [v.value for v in model.trainable_variables]
            for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
                variable.assign_sub(0.1 * tf.convert_to_tensor(gradient))
            found.append(float(loss))
        return found

    def training_logits(self, model, ids):
        return model(tf.constant(ids), training=True).logits.numpy()

    def test_fit_trains_the_adapter_alone(self):
        model = self.base()
        model.add_adapter(LoraConfig(r=2, lora_dropout=0.1))
        ids = outputs("language_model")["input_ids"]
        before = {v.path: v.numpy() for v in model.weights}
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        model.fit({"input_ids": ids, "labels": ids}, epochs=1, verbose=0)
        changed = [v.path for v in model.weights if (v.numpy() != before[v.path]).any()]
        assert [path.split("/", 1)[1] for path in changed] == [
            f"transformer/h_._{i}/attn/c_attn/lora/B" for i in range(2)
        ]

    def test_files_of_keras_are_refused(self, tmp_path):
        model = self.base()
        model.load_adapter(LANGUAGE_MODEL)
        with pytest.raises(InvalidInputError, match=r"a \.keras file cannot hold"):
            model.save(tmp_path / "model.keras")

    @pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
    def test_factors_of_half_precision_models_are_float32(self, policy):
        model = BACKEND.tiny_model(dtype=policy)
        model.add_adapter(LoraConfig(init_lora_weights=False))
        places = dict(model._adapted())
        assert len(places) == 2
        assert all(place.lora.A.dtype == "float32" for place in places.values())
        logits = model(tf.constant([[1, 2, 3]])).logits
        assert logits.dtype == tf.bfloat16
        model.merge_adapter()
        merged = model(tf.constant([[1, 2, 3]])).logits
        difference = tf.reduce_max(abs(tf.cast(merged - logits, tf.float32)))
        assert difference < 0.05 * float(tf.reduce_max(abs(tf.cast(logits, tf.float32))))
