"""Adapters in PEFT's files: which layers they change, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt2x.checkpoint.adapter import (
    Adapter,
    Factors,
    base_of_adapter,
    complete,
    new_factors,
    open_adapter,
    saved_weights,
    target_layers,
    write_adapter,
)
from gpt2x.config import GPT2Config
from gpt2x.config.lora import LoraConfig
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.formats.registry import weights_format
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.table import Head
from support.golden_data import GOLDEN

PEFT = GOLDEN / "lora" / "language_model"
WEIGHTS = "adapter_model.safetensors"
MODEL = GPT2Config.from_pretrained(GOLDEN / "plain")
UNTIED = GPT2Config.from_dict(MODEL.to_dict(), tie_word_embeddings=False)
PREFIX = "base_model.model.transformer."


def changed(folder, weights=lambda tensors: None, **fields):
    """Copy PEFT's adapter, with a change of its tensors or of fields of its config."""
    shutil.copytree(PEFT, folder, dirs_exist_ok=True)
    tensors = load_file(PEFT / WEIGHTS)
    weights(tensors)
    save_file(tensors, folder / WEIGHTS)
    config = json.loads((PEFT / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    return folder


def opened(folder):
    """Open an adapter of the model; return how many layers it changes."""
    with open_adapter(folder, MODEL, Head.LM) as adapter:
        return len(adapter.factors)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, ["h.0.attn.c_attn", "h.1.attn.c_attn"]),
        (["h.1.mlp.c_proj"], ["h.1.mlp.c_proj"]),
        (["attn.c_proj"], ["h.0.attn.c_proj", "h.1.attn.c_proj"]),
        (r".*\.h\.0\..*c_(attn|fc)", ["h.0.attn.c_attn", "h.0.mlp.c_fc"]),
    ],
)
def test_target_modules(wanted, expected):
    assert target_layers(LoraConfig(target_modules=wanted), MODEL, Head.LM) == expected


def test_all_linear_is_every_projection():
    found = target_layers(LoraConfig(target_modules="all-linear"), UNTIED, Head.LM)
    assert len(found) == 4 * MODEL.n_layer
    assert "lm_head" not in found


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["c_attn", "c_prj"], "target_modules names 'c_prj', which no layer"),
        ("c_attn", "target_modules='c_attn' matches no layer"),
        ("c_(", "target_modules='c_(' is not a regular expression"),
        (["lm_head"], "target_modules names lm_head; a low-rank term is available for"),
        (["wte", "c_attn"], "target_modules names wte; a low-rank term"),
    ],
)
def test_target_modules_that_cannot_be_used(wanted, message):
    with pytest.raises(InvalidInputError) as error:
        target_layers(LoraConfig(target_modules=wanted), MODEL, Head.LM)
    assert message in str(error.value)


def test_modules_to_save():
    def saved(*names, model=UNTIED, head=Head.LM):
        return saved_weights(LoraConfig(modules_to_save=names), model, head)

    assert saved("ln_f", "wte") == ["wte.weight", "ln_f.weight", "ln_f.bias"]
    assert saved("h.0.mlp") == [
        f"h.0.mlp.{layer}.{leaf}" for layer in ("c_fc", "c_proj") for leaf in ("weight", "bias")
    ]
    assert saved("lm_head") == ["lm_head.weight"]
    assert saved("wte", head=Head.NONE, model=MODEL) == ["wte.weight"]
    assert saved("classifier", "score", head=Head.SEQUENCE_CLASSIFICATION) == ["score.weight"]
    for names, message in (
        (["ln_3"], "modules_to_save names 'ln_3', which no layer.*Did you mean 'ln_"),
        (["attn"], "trained as a whole and by a low-rank term"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            saved(*names)
    for name in ("wte", "lm_head"):
        with pytest.raises(InvalidInputError, match=r"share one weight.*tie_word_embeddings=False"):
            saved(name, model=MODEL)


def test_a_classifier_trains_its_head_as_in_peft():
    config = complete(LoraConfig(), Head.SEQUENCE_CLASSIFICATION, "base")
    assert config.modules_to_save == ["classifier", "score"]
    assert (config.task_type, config.base_model_name_or_path) == ("SEQ_CLS", "base")
    assert config.fan_in_fan_out
    assert LoraConfig().modules_to_save is None


def test_factors_start_as_in_peft():
    layers = ["h.0.attn.c_attn", "h.1.mlp.c_proj"]
    config = LoraConfig(r=16, target_modules=layers)
    found = new_factors(config, MODEL, Head.LM, layers, seed=1)
    a, b = (part.read() for part in (found[layers[1]].a, found[layers[1]].b))
    assert (a.shape, b.shape) == ((16, 56), (24, 16))
    assert (b == 0).all()
    bound = 56**-0.5
    assert abs(a).max() < bound
    assert a.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    alone = new_factors(config, MODEL, Head.LM, layers[1:], seed=1)
    np.testing.assert_array_equal(alone[layers[1]].a.read(), a)
    other = new_factors(config, MODEL, Head.LM, layers, seed=2)
    assert (other[layers[1]].a.read() != a).mean() > 0.9


def test_merging_adds_the_product_in_float32():
    rng = np.random.default_rng(0)
    weight, a, b = rng.normal(size=(6, 9)), rng.normal(size=(2, 6)), rng.normal(size=(9, 2))
    config = LoraConfig(r=2, lora_alpha=3)
    pair = Factors(LazyTensor.of(a), LazyTensor.of(b))
    adapter = Adapter(config, {"h.0.attn.c_attn": pair})
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-6), (BFLOAT16, 1e-2)):
        given = LazyTensor.of(weight.astype(dtype))
        found = adapter.merged("h.0.attn.c_attn.weight", given).read()
        assert found.dtype == dtype
        expected = weight + 1.5 * (b @ a).T
        np.testing.assert_allclose(found.astype(float), expected, rtol=tolerance, atol=tolerance)
        assert adapter.merged("h.0.attn.c_attn.bias", given) is given


def test_a_written_adapter_is_read_again(tmp_path):
    with open_adapter(PEFT, MODEL, Head.LM) as adapter:
        write_adapter(tmp_path / "new", adapter, Head.LM)
        with open_adapter(tmp_path / "new", MODEL, Head.LM) as again:
            assert again.config == adapter.config
            assert again.factors.keys() == adapter.factors.keys()
            assert again.saved.keys() == {"ln_f.weight", "ln_f.bias"}


def test_the_model_of_an_adapter(tmp_path):
    changed(tmp_path, base_model_name_or_path="some/model")
    assert base_of_adapter(tmp_path) == "some/model"
    assert base_of_adapter(tmp_path / WEIGHTS) is None
    assert base_of_adapter(GOLDEN / "plain") is None


def test_an_expression_of_a_file_is_not_run(tmp_path):
    folder = changed(tmp_path, target_modules="(a+)+" * 20 + "b")
    assert opened(folder) == 8


A = f"{PREFIX}h.0.attn.c_attn.lora_A.weight"


@pytest.mark.parametrize(
    ("weights", "fields", "message"),
    [
        (lambda t: t.pop(A), {}, f"Missing: {A}. Left over: none"),
        (lambda t: t.update(x=t[A]), {}, "Missing: none. Left over: x."),
        (lambda t: t.update({A: t[A][:3]}), {}, f"Of another shape: {A} is (3, 24), not (4, 24)"),
        (lambda t: None, {"r": 8}, "is (4, 24), not (8, 24)"),
        (lambda t: t.update({A: t[A].astype(int)}), {}, "as int64, not as floats"),
        (lambda t: t.clear(), {"target_modules": "x", "modules_to_save": None}, "does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, fields, message, tmp_path):
    folder = changed(tmp_path, weights, **fields)
    with pytest.raises(WeightsError) as error:
        opened(folder)
    assert message in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="holds no adapter_config"):
        opened(GOLDEN / "plain")
    folder = changed(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors and no"):
        opened(folder)


def test_old_files_of_pickle_are_read(tmp_path):
    folder = changed(tmp_path)
    tensors = {name: LazyTensor.of(array) for name, array in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    weights_format("pytorch").write_file(
        folder / "adapter_model.bin", tensors, {}, lambda nbytes: None
    )
    assert opened(folder) == 8


def test_embeddings_that_peft_writes_for_new_tokens(tmp_path):
    wte = np.ones((MODEL.vocab_size, MODEL.n_embd), np.float32)
    names = (f"{PREFIX}wte.weight", "base_model.model.lm_head.weight")
    folder = changed(tmp_path, lambda t: t.update(dict.fromkeys(names, wte)))
    with open_adapter(folder, MODEL, Head.LM) as adapter:
        np.testing.assert_array_equal(adapter.saved["wte.weight"].read(), wte)
        assert "lm_head.weight" not in adapter.saved
    with open_adapter(folder, UNTIED, Head.LM) as adapter:
        assert "lm_head.weight" in adapter.saved
    changed(tmp_path, lambda t: t.update({names[0]: wte, names[1]: 2 * wte}))
    with pytest.raises(WeightsError, match="output layer of its own"):
        opened(folder)
