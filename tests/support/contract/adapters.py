"""LoRA adapters in a backend, held against PEFT's on transformers.

A backend's `tests/.../test_lora.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt2x.config.lora import LoraConfig
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from support.contract.backend import Backend, random_ids
from support.golden_data import GOLDEN

ADAPTERS = GOLDEN / "lora"
LANGUAGE_MODEL = ADAPTERS / "language_model"
WEIGHTS = "adapter_model.safetensors"
NO_DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
# The first numbers of the factor A of block 1's c_attn, of the seed 5.
FIRST = [0.004513088, -0.093638919, 0.035231143]
TARGETS = ["c_attn", "mlp.c_proj"]


def outputs(name: str) -> dict[str, np.ndarray]:
    """What PEFT computed with an adapter."""
    with np.load(ADAPTERS / name / "outputs.npz") as file:
        return dict(file)


class AdapterContract:
    """The backend's class also brings `trainable` and `losses`."""

    backend: Backend

    def trainable(self, model: Any) -> list[tuple[int, ...]]:
        """The shapes of the parameters that an optimizer would be given."""
        raise NotImplementedError

    def losses(self, model: Any, ids: np.ndarray) -> list[float]:
        """The losses around two steps of gradient descent, without dropout, at a rate of 0.1."""
        raise NotImplementedError

    def base(self, name: str = "language_model") -> Any:
        """The model of a golden adapter, without the adapter."""
        case = json.loads((ADAPTERS / "cases.json").read_text())[name]
        kind = self.backend.kind(case["class"].removeprefix("GPT2"))
        return kind.from_pretrained(GOLDEN / case["model"], **NO_DROPOUT)

    def generate(self, model: Any, ids: np.ndarray) -> np.ndarray:
        options = {"max_new_tokens": 8, "eos_token_id": None, "do_sample": False}
        found = model.generate(self.backend.tensor(ids), **options)
        return self.backend.array(getattr(found, "sequences", found))

    def assert_computes(self, model: Any, expected: dict[str, np.ndarray]) -> None:
        found = self.backend.logits(model, expected["input_ids"])
        np.testing.assert_allclose(found, expected["logits"], rtol=1e-4, atol=1e-4)

    def test_an_adapter_of_peft_gives_the_texts_of_peft_on_and_merged(self):
        model, expected = self.base(), outputs("language_model")
        ids = expected["input_ids"]
        before = self.generate(model, ids)
        assert (before != expected["sequences"]).any()
        model.load_adapter(LANGUAGE_MODEL)
        assert self.trainable(model) == []
        self.assert_computes(model, expected)
        np.testing.assert_array_equal(self.generate(model, ids), expected["sequences"])
        model.merge_adapter()
        assert model.adapter_config is None
        self.assert_computes(model, expected)
        np.testing.assert_array_equal(self.generate(model, ids), expected["sequences"])

    @pytest.mark.parametrize("name", ["classifier", "tagger"])
    def test_a_merged_model_is_an_ordinary_one(self, name: str, tmp_path):
        model = self.base(name)
        count, shapes = model.num_parameters(), self.trainable(model)
        model.load_adapter(ADAPTERS / name)
        expected = outputs(name)
        self.assert_computes(model, expected)
        model.merge_adapter()
        assert model.num_parameters() == count
        assert sorted(self.trainable(model)) == sorted(shapes)
        model.save_pretrained(tmp_path)
        assert not (tmp_path / WEIGHTS).exists()
        self.assert_computes(type(model).from_pretrained(tmp_path), expected)

    def test_training_takes_the_steps_of_peft(self):
        model, expected = self.base(), outputs("language_model")
        model.load_adapter(LANGUAGE_MODEL, is_trainable=True)
        found = self.losses(model, expected["input_ids"])
        np.testing.assert_allclose(found, expected["losses"], rtol=1e-5)

    @pytest.mark.parametrize("method", ["save_adapter", "save_pretrained"])
    def test_saved_adapters_are_the_files_of_peft(self, method: str, tmp_path):
        model = self.base()
        model.load_adapter(LANGUAGE_MODEL)
        getattr(model, method)(tmp_path)
        assert sorted(path.name for path in Path(tmp_path).iterdir()) == [
            "adapter_config.json",
            WEIGHTS,
        ]
        found, expected = load_file(tmp_path / WEIGHTS), load_file(LANGUAGE_MODEL / WEIGHTS)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype
        assert LoraConfig.from_pretrained(tmp_path) == LoraConfig.from_pretrained(LANGUAGE_MODEL)

    def test_a_new_adapter_changes_nothing_and_alone_is_trained(self, tmp_path):
        model, ids = self.base(), outputs("language_model")["input_ids"]
        logits = self.backend.logits(model, ids)
        config = LoraConfig(r=2, target_modules=TARGETS, modules_to_save=["ln_f"])
        model.add_adapter(config, seed=5)
        np.testing.assert_array_equal(self.backend.logits(model, ids), logits)
        width, inner = model.config.n_embd, model.config.n_inner
        factors = [(2, width), (3 * width, 2), (2, inner), (width, 2)]
        assert sorted(self.trainable(model)) == sorted([*factors * 2, (width,), (width,)])
        assert model.adapter_config.task_type == "CAUSAL_LM"
        model.save_adapter(tmp_path)
        found = load_file(tmp_path / WEIGHTS)
        a = found["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"]
        # The same numbers in each framework.
        np.testing.assert_allclose(a[0, :3], FIRST, rtol=1e-6)
        assert abs(a).max() <= width**-0.5

    def test_dropout_of_the_adapter_acts_in_training_alone(self):
        model, ids = self.base(), random_ids(2, 6)
        options = {"lora_dropout": 0.5, "init_lora_weights": False}
        without = self.backend.logits(model, ids)
        model.add_adapter(LoraConfig(r=4, target_modules="all-linear", **options))
        first = self.backend.logits(model, ids)
        assert abs(first - without).max() > 0.01
        np.testing.assert_array_equal(self.backend.logits(model, ids), first)
        assert abs(self.training_logits(model, ids) - first).max() > 0.01

    def training_logits(self, model: Any, ids: np.ndarray) -> np.ndarray:
        """The logits as in training, where the adapter alone has dropout."""
        raise NotImplementedError

    def test_an_adapter_stands_for_the_model_that_it_names(self, tmp_path):
        model, expected = self.base(), outputs("language_model")
        model.load_adapter(LANGUAGE_MODEL)
        model.save_adapter(tmp_path)
        path = tmp_path / "adapter_config.json"
        named = json.loads(path.read_text()) | {"base_model_name_or_path": str(GOLDEN / "plain")}
        path.write_text(json.dumps(named))
        loaded = type(model).from_pretrained(tmp_path)
        self.assert_computes(loaded, expected)
        assert loaded.adapter_config.r == 4
        assert loaded.name_or_path == str(GOLDEN / "plain")
        with pytest.raises(CheckpointError, match="does not say of which model"):
            type(model).from_pretrained(LANGUAGE_MODEL)

    def test_what_does_not_fit_raises_and_leaves_the_model_as_it_was(self):
        model, ids = self.base(), random_ids(2, 6)
        logits, trainable = self.backend.logits(model, ids), self.trainable(model)
        with pytest.raises(InvalidInputError, match=r"names 'c_atn'.*Did you mean 'c_attn'"):
            model.add_adapter(LoraConfig(target_modules=["c_atn"]))
        with pytest.raises(WeightsError, match=r"does not fit.*Left over: .*score"):
            model.load_adapter(ADAPTERS / "classifier")
        for method, arguments in (("save_adapter", ["x"]), ("merge_adapter", [])):
            with pytest.raises(InvalidInputError, match="has no adapter to"):
                getattr(model, method)(*arguments)
        np.testing.assert_array_equal(self.backend.logits(model, ids), logits)
        assert self.trainable(model) == trainable
        model.load_adapter(LANGUAGE_MODEL)
        with pytest.raises(InvalidInputError, match="has an adapter, and cannot add another"):
            model.add_adapter(LoraConfig())
