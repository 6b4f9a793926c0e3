"""from_pretrained and save_pretrained, as far as they need no framework."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.models.loading import resolve
from gpt2x.models.saving import save_folder
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head, parameter_shapes
from support.golden_data import GOLDEN

CONFIG = GPT2Config(vocab_size=40, n_positions=12, n_embd=64, n_layer=2, n_head=4, num_labels=3)
OWNER = "GPT2LMHeadModel"


def weights(head=Head.LM, config=CONFIG, dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    shapes = parameter_shapes(config, head)
    return {name: generator.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def lazy(arrays):
    return {name: LazyTensor.of(array) for name, array in arrays.items()}


def loaded(folder, head=Head.LM, **options):
    with resolve(OWNER, folder, **options) as source:
        plan = plan_load(source.checkpoint, source.config, head, strict=True)
        return dict(plan.arrays(source.dtype))


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.fixture
def folder(tmp_path):
    save_folder(tmp_path / "model", CONFIG, weights(), Head.LM)
    return tmp_path / "model"


# Saving


@pytest.mark.parametrize("max_shard_size", ["5GB", "40KB", 1])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("head", Head)
def test_what_is_saved_is_loaded(tmp_path, head, safe, max_shard_size):
    arrays = weights(head)
    options = {"safe_serialization": safe, "max_shard_size": max_shard_size}
    save_folder(tmp_path / "model", CONFIG, arrays, head, **options)
    assert_same(loaded(tmp_path / "model", head), arrays)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [head.architecture]
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("safe", [True, False])
def test_bfloat16_and_an_untied_head(tmp_path, safe):
    config = GPT2Config(**{**CONFIG.to_dict(), "tie_word_embeddings": False})
    arrays = weights(Head.LM, config, BFLOAT16)
    assert "lm_head.weight" in arrays
    save_folder(tmp_path, config, arrays, Head.LM, safe_serialization=safe)
    assert_same(loaded(tmp_path, dtype="auto"), arrays)
    as_float = {name: array.astype(np.float32) for name, array in arrays.items()}
    assert_same(loaded(tmp_path), as_float)


def test_files_are_named_and_laid_out_as_transformers_does(tmp_path):
    save_folder(tmp_path, CONFIG, weights(), Head.LM, max_shard_size="40KB", variant="fp16")
    index = json.loads((tmp_path / "model.safetensors.index.fp16.json").read_text())
    count = len(set(index["weight_map"].values()))
    assert index["weight_map"]["transformer.wte.weight"] == (
        f"model.fp16-00001-of-{count:05d}.safetensors"
    )
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in weights().values())
    assert "lm_head.weight" not in index["weight_map"]
    assert_same(loaded(tmp_path, variant="fp16"), weights())
    save_folder(tmp_path, CONFIG, weights(), Head.LM, max_shard_size=1, safe_serialization=False)
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    tied = (index["weight_map"][f"{name}.weight"] for name in ("lm_head", "transformer.wte"))
    assert len(set(tied)) == 1


def test_a_second_save_replaces_the_first(tmp_path):
    save_folder(tmp_path, CONFIG, weights(seed=1), Head.LM, max_shard_size="40KB")
    (tmp_path / "notes.txt").write_text("mine")
    save_folder(tmp_path, CONFIG, weights(seed=2), Head.LM)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    assert_same(loaded(tmp_path), weights(seed=2))
    save_folder(tmp_path, CONFIG, weights(seed=3), Head.LM, max_shard_size="40KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert_same(loaded(tmp_path), weights(seed=3))


def test_saving_over_the_folder_that_is_being_read(folder):
    with open_checkpoint(folder) as checkpoint:
        save_folder(folder, CONFIG, checkpoint, Head.LM, max_shard_size="40KB")
    assert_same(loaded(folder), weights())


def test_weights_that_would_be_read_first_are_pointed_out(folder):
    with pytest.warns(UserWarning, match=r"model.safetensors, which is read first"):
        save_folder(folder, CONFIG, weights(), Head.LM, safe_serialization=False)


@pytest.mark.parametrize("existing", [True, False])
def test_a_save_that_fails_changes_nothing(tmp_path, existing):
    target = tmp_path / "model"
    if existing:
        save_folder(target, CONFIG, weights(seed=1), Head.LM)

    def fail():
        raise KeyboardInterrupt

    tensors = lazy(weights(seed=2))
    last = tensors["ln_f.bias"]
    tensors["ln_f.bias"] = LazyTensor(last.shape, last.dtype, fail)
    with pytest.raises(KeyboardInterrupt):
        save_folder(target, CONFIG, tensors, Head.LM, max_shard_size="40KB")
    if existing:
        assert sorted(p.name for p in target.iterdir()) == ["config.json", "model.safetensors"]
        assert_same(loaded(target), weights(seed=1))
    else:
        assert list(tmp_path.iterdir()) == []


def test_a_save_that_cannot_replace_the_first_puts_it_back(folder, monkeypatch):
    real, moved = os.replace, []

    def replace_two(source, target):
        if len(moved) == 2:
            moved.clear()
            raise OSError("the disk is full")
        moved.append(target)
        real(source, target)

    monkeypatch.setattr("os.replace", replace_two)
    other = GPT2Config(**{**CONFIG.to_dict(), "n_head": 2})
    with pytest.raises(OSError, match="the disk is full"):
        save_folder(folder, other, weights(seed=1), Head.LM, max_shard_size="40KB")
    assert GPT2Config.from_pretrained(folder).n_head == CONFIG.n_head
    assert_same(loaded(folder), weights())


def test_bad_saves(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="is a file"):
        save_folder(tmp_path / "file", CONFIG, weights(), Head.LM)
    with pytest.raises(InvalidInputError, match="max_shard_size is 'lots'"):
        save_folder(tmp_path / "x", CONFIG, weights(), Head.LM, max_shard_size="lots")
    arrays = weights()
    del arrays["ln_f.bias"]
    with pytest.raises(WeightsError, match=r"ln_f.bias"):
        save_folder(tmp_path / "x", CONFIG, arrays, Head.LM)
    assert not (tmp_path / "x").exists()


# Finding


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("stored", [np.dtype(np.float32), BFLOAT16])
def test_loading_takes_little_more_memory_than_the_model(tmp_path, safe, stored):
    config = GPT2Config(vocab_size=200_000, n_positions=64, n_embd=128, n_layer=2, n_head=2)
    shapes = parameter_shapes(config, Head.LM)
    arrays = {name: np.zeros(shape, stored) for name, shape in shapes.items()}
    save_folder(tmp_path, config, arrays, Head.LM, safe_serialization=safe)
    size = 4 * sum(array.size for array in arrays.values())  # about 100 MB
    del arrays
    tracemalloc.start()
    try:
        kept = loaded(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(array.nbytes for array in kept.values()) == size
    assert peak <= 1.1 * size


def test_overrides_and_unknown_keywords(folder):
    with resolve(OWNER, folder, num_labels=5, output_attentions=True) as source:
        assert source.config.num_labels == 5
        assert source.config.output_attentions is True
        assert source.config.name_or_path == str(folder)
    with pytest.raises(InvalidInputError, match=r"'revison'. Did you mean 'revision'"):
        resolve(OWNER, folder, revison="main")
    with pytest.raises(InvalidInputError, match=r"GPT2LMHeadModel.from_pretrained\(\)"):
        resolve(OWNER, folder, no_such_thing=1)


def test_a_config_may_be_given(folder, tmp_path):
    other = GPT2Config(**{**CONFIG.to_dict(), "n_head": 2})
    other.save_pretrained(tmp_path / "other")
    for config in (other, tmp_path / "other", str(tmp_path / "other" / "config.json")):
        with resolve(OWNER, folder, config=config, resid_pdrop=0.0) as source:
            assert (source.config.n_head, source.config.resid_pdrop) == (2, 0.0)
    assert other.resid_pdrop == 0.1
    eager = GPT2Config(**CONFIG.to_dict(), attn_implementation="eager")
    with resolve(OWNER, folder, config=eager) as source:
        assert source.config._attn_implementation == "eager"
    with resolve(OWNER, folder, config=eager, attn_implementation="sdpa") as source:
        assert source.config._attn_implementation == "sdpa"


def test_keywords_of_transformers_without_effect(folder):
    options = {"low_cpu_mem_usage": True, "_fast_init": False, "trust_remote_code": True}
    assert_same(loaded(folder, from_pt=True, from_tf=True, **options), weights())
    with pytest.warns(FutureWarning, match="now called token="):
        resolve(OWNER, folder, use_auth_token=False).checkpoint.close()


def test_what_is_not_here_may_be_switched_off(tmp_path):
    save_folder(tmp_path, CONFIG, lazy(weights()), Head.LM)
    off = {"proxies": None, "load_in_8bit": False, "quantization_config": None}
    resolve(OWNER, tmp_path, **off, offload_folder=None).checkpoint.close()
    with pytest.raises(InvalidInputError, match="load_in_8bit"):
        resolve(OWNER, tmp_path, load_in_8bit=True)


def test_loading_imports_no_library_that_it_does_not_need(folder):
    code = f"""
import sys
from gpt2x.models.loading import resolve
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head
with resolve("GPT2LMHeadModel", {str(folder)!r}) as source:
    dict(plan_load(source.checkpoint, source.config, Head.LM).arrays())
unneeded = {{"h5py", "msgpack", "gguf", "torch", "tensorflow", "jax", "huggingface_hub", "rich"}}
print(sorted(unneeded & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_dtype(tmp_path):
    save_folder(tmp_path, CONFIG, weights(dtype=BFLOAT16), Head.LM)
    for dtype, expected in [
        (None, "float32"),
        ("auto", "bfloat16"),
        ("float16", "float16"),
        (np.float32, "float32"),
    ]:
        with resolve(OWNER, tmp_path, dtype=dtype) as source:
            assert source.dtype == expected
        with resolve(OWNER, tmp_path, torch_dtype=dtype) as source:
            assert source.dtype == expected
    with pytest.raises(InvalidInputError, match="float3"):
        resolve(OWNER, tmp_path, dtype="float3")
    with pytest.raises(InvalidInputError, match="the same argument"):
        resolve(OWNER, tmp_path, dtype="float16", torch_dtype="float16")


def test_the_order_of_looking(folder):
    with pytest.raises(CheckpointError, match=r"holds no weights; looked for pytorch_model.bin"):
        resolve(OWNER, folder, use_safetensors=False)
    with pytest.warns(UserWarning, match="read first"):
        save_folder(folder, CONFIG, weights(seed=1), Head.LM, safe_serialization=False)
    assert_same(loaded(folder), weights())
    assert_same(loaded(folder, use_safetensors=False), weights(seed=1))
    (folder / "model.safetensors").unlink()
    assert_same(loaded(folder), weights(seed=1))
    with pytest.raises(CheckpointError, match=r"looked for model.safetensors, model.safe"):
        resolve(OWNER, folder, use_safetensors=True)


def test_a_variant_that_is_not_there(folder):
    with pytest.raises(CheckpointError, match="leave out variant='fp16'"):
        resolve(OWNER, folder, variant="fp16")


def test_generation_config_and_other_files(folder):
    with resolve(OWNER, folder) as source:
        assert source.generation_config is None
    (folder / "generation_config.json").write_text("{}")
    with resolve(OWNER, folder) as source:
        assert source.generation_config == folder / "generation_config.json"


def test_without_a_config_it_is_inferred(folder):
    (folder / "config.json").unlink()
    with pytest.warns(UserWarning, match="inferred from the weights' shapes, with 1 heads"):
        source = resolve(OWNER, folder)
    source.checkpoint.close()
    with pytest.warns(UserWarning, match="with 4 heads"):
        source = resolve(OWNER, folder, n_head=4)
    fields = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
    assert [getattr(source.config, f) for f in fields] == [getattr(CONFIG, f) for f in fields]
    source.checkpoint.close()


def test_shards_that_are_missing_or_of_another_save(tmp_path):
    save_folder(tmp_path, CONFIG, weights(), Head.LM, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    shutil.move(shards[2], tmp_path / "kept")
    shutil.move(shards[4], tmp_path / "kept too")
    with pytest.raises(CheckpointError, match="lacks 2 of the") as caught:
        resolve(OWNER, tmp_path)
    assert shards[2].name in str(caught.value)
    assert shards[4].name in str(caught.value)
    shutil.copy(shards[1], shards[2])
    shutil.move(tmp_path / "kept too", shards[4])
    with pytest.raises(CheckpointError, match="Two shards of"):
        resolve(OWNER, tmp_path)
    shutil.copy(tmp_path / "kept", shards[2])
    data = shards[2].read_bytes()
    shards[2].write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        resolve(OWNER, tmp_path)


def test_an_index_stands_for_its_shards(tmp_path):
    save_folder(tmp_path, CONFIG, weights(), Head.LM, max_shard_size="40KB")
    assert_same(loaded(tmp_path / "model.safetensors.index.json"), weights())


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a\\b", "", "..", 3, "C:x"])
def test_an_index_names_only_files_beside_it(tmp_path, name):
    index = {"weight_map": {"wte.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="must be a file beside the index"):
        resolve(OWNER, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', "\xff"])
def test_a_bad_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index.json"):
        resolve(OWNER, tmp_path)


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no weights; looked for model.safetensors"):
        resolve(OWNER, tmp_path)


# Matching


def plan(arrays, head=Head.LM, config=CONFIG, **options):
    return plan_load(lazy(arrays), config, head, name="somewhere", **options)


def test_a_new_head_is_reported_and_nothing_else_is_new():
    with pytest.warns(UserWarning, match=r"newly initialised: score.weight. Train") as caught:
        info = plan(weights(), Head.SEQUENCE_CLASSIFICATION).info
    assert len(caught) == 1
    assert info.as_dict() == {
        "missing_keys": ["score.weight"],
        "unexpected_keys": [],
        "mismatched_keys": [],
        "error_msgs": [],
    }
    with pytest.raises(WeightsError, match="strict=True"):
        plan(weights(), Head.SEQUENCE_CLASSIFICATION, strict=True)


def test_left_over_tensors_come_in_one_warning():
    arrays = {**weights(Head.QUESTION_ANSWERING), "extra": np.zeros(1, np.float32)}
    with pytest.warns(UserWarning, match="not used by GPT2Model") as caught:
        info = plan(arrays, Head.NONE).info
    assert len(caught) == 1
    assert info.unexpected_keys == ["qa_outputs.weight", "qa_outputs.bias", "extra"]
    with pytest.raises(WeightsError, match=r"Left over: qa_outputs.weight"):
        plan(arrays, Head.NONE, strict=True)


def test_missing_body_weights_raise_all_at_once():
    arrays = weights()
    for name in ("wpe.weight", "h.1.attn.c_attn.bias", "ln_f.weight"):
        del arrays[name]
    with pytest.raises(WeightsError, match="lacks 3 of the weights") as caught:
        plan(arrays)
    for name in ("wpe.weight", "h.1.attn.c_attn.bias", "ln_f.weight"):
        assert name in str(caught.value)


def test_another_shape():
    arrays = {**weights(), "ln_f.bias": np.zeros(3), "wpe.weight": np.zeros((5, 64))}
    with pytest.raises(WeightsError, match="size mismatch") as caught:
        plan(arrays)
    assert "ln_f.bias is (3,), the model's (64,)" in str(caught.value)
    assert "wpe.weight is (5, 64)" in str(caught.value)
    with pytest.warns(UserWarning, match=r"\(or had another shape there\) and are newly"):
        made = plan(arrays, ignore_mismatched_sizes=True)
    assert ("transformer.ln_f.bias", (3,), (64,)) in made.info.mismatched_keys
    assert set(made.new) == {"ln_f.bias", "wpe.weight"}
    assert made.tensors.keys() == arrays.keys() - set(made.new)


def test_a_tied_head_is_never_missing_and_its_copy_must_agree():
    arrays = weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan(arrays).info.missing_keys == []
        assert plan({**arrays, "lm_head.weight": arrays["wte.weight"].copy()}).new == []
    with pytest.warns(UserWarning, match="tie_word_embeddings=False"):
        made = plan({**arrays, "lm_head.weight": arrays["wte.weight"] + 1})
    assert "lm_head.weight" not in made.tensors
    untied = GPT2Config(**{**CONFIG.to_dict(), "tie_word_embeddings": False})
    made = plan({**arrays, "lm_head.weight": arrays["wte.weight"] + 1}, config=untied)
    assert "lm_head.weight" in made.tensors
    with pytest.warns(UserWarning, match=r"newly initialised: lm_head.weight"):
        plan(arrays, config=untied)


def test_cross_attention_may_be_new_as_a_whole():
    config = GPT2Config(**{**CONFIG.to_dict(), "add_cross_attention": True})
    with pytest.warns(UserWarning, match="crossattention.c_attn.weight"):
        assert len(plan(weights(), config=config).new) == 2 * 8
    arrays = weights(config=config)
    del arrays["h.1.crossattention.q_attn.bias"]
    with pytest.raises(WeightsError, match=r"crossattention.q_attn.bias"):
        plan(arrays, config=config)


@pytest.mark.parametrize("name", ["bin_no_prefix", "safetensors_no_prefix", "bin_buffers"])
def test_old_checkpoints_load_without_a_warning(name):
    with resolve(OWNER, GOLDEN / "formats" / name) as source:
        plan_load(source.checkpoint, source.config, Head.LM, strict=True)
        assert all("buffer" in why for why in source.checkpoint.ignored.values())
