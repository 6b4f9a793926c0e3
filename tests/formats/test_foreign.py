"""Checkpoints of other projects (``files/make_files.py``) hold the weights of ``source``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError
from gpt2x.formats.registry import recognise
from gpt2x.formats.tokenizer_files import find_tokenizer_files, write_tokenizer_files
from gpt2x.formats.torch import megatron
from gpt2x.formats.torch import writer as torch_writer
from gpt2x.models.loading import resolve
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import plan_load
from gpt2x.weights.table import Head
from support.golden_data import FILES

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIZES = {"vocab_size": 97, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}

# Path -> format, dtype, and how far the values may be from the source's.
CASES = {
    "nanogpt": ("nanogpt", "float32", 0),
    "nanogpt/ckpt.pt": ("nanogpt", "float32", 0),
    "llmc/gpt2_f32.bin": ("llm.c", "float32", 0),
    "llmc/gpt2_bf16.bin": ("llm.c", "bfloat16", None),
    "openai": ("tf-checkpoint", "float32", 0),
    "openai/model.ckpt.index": ("tf-checkpoint", "float32", 0),
    "openai/model.ckpt": ("tf-checkpoint", "float32", 0),  # as TensorFlow calls it
    "gpt_2_simple": ("tf-checkpoint", "float32", 0),
    "megatron_v0_tp1": ("megatron", "float32", 0),
    "megatron_v1_tp2": ("megatron", "float32", 0),
    "megatron_v3_tp1": ("megatron", "float32", 0),
    "megatron_v3_tp2": ("megatron", "float32", 0),
    "megatron_v3_tp1/iter_0000005/mp_rank_00/model_optim_rng.pt": ("megatron", "float32", 0),
    "keras_hub": ("keras-hub", "float32", 0),
    "keras_hub_sharded": ("keras-hub", "float32", 0),
    "keras_hub_weights/gpt2.weights.h5": ("keras-hub", "float32", 0),
    "keras_hub_model/gpt2.keras": ("keras-hub", "float32", 0),
    "keras_tf/gpt2.keras": ("keras-tf", "float32", 0),
    "orbax": ("orbax", "float32", 0),
    "orbax/params": ("orbax", "float32", 0),
    "gguf/gpt2-f32.gguf": ("gguf", "float32", 0),
    "gguf/gpt2-f16.gguf": ("gguf", "float16", None),
    "gguf/gpt2-bf16.gguf": ("gguf", "bfloat16", None),
    "gguf/gpt2-q8_0.gguf": ("gguf", "float32", 0.02),
}

# The libraries that formats are read with.
LIBRARIES = {"keras-hub": "h5py", "keras-tf": "h5py", "orbax": "tensorstore"}


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    """The files' 97 tokens are padded as GPT-2's 50257 are by Megatron-LM; here to 98."""
    monkeypatch.setattr("gpt2x.formats.torch.megatron._GPT2_VOCABULARY", 97)
    monkeypatch.setattr("gpt2x.formats.torch.megatron._VOCABULARY_MULTIPLE", 1)


@pytest.fixture(scope="module")
def source():
    with open_checkpoint(FILES / "source") as checkpoint:
        return {name: tensor.read() for name, tensor in checkpoint.items()}


@pytest.mark.parametrize("name", CASES)
def test_tensors_equal_their_source(name, source):
    format, dtype, tolerance = CASES[name]
    if format in LIBRARIES:
        pytest.importorskip(LIBRARIES[format])
    with open_checkpoint(FILES / name) as checkpoint:
        assert checkpoint.format == format
        assert set(checkpoint) - {"lm_head.weight"} == set(source)
        for key, expected in source.items():
            array = checkpoint[key].read()
            stored = expected.astype(dtype) if array.dtype.name == dtype else expected
            assert array.shape == expected.shape
            atol = tolerance or 0
            np.testing.assert_allclose(
                array.astype(np.float32),
                stored.astype(np.float32),
                rtol=0,
                atol=atol,
                err_msg=key,
            )
            if checkpoint[key].rows is not None and len(expected) > 3:
                np.testing.assert_array_equal(checkpoint[key].rows(1, 3), array[1:3])
        matrix = checkpoint["h.0.mlp.c_fc.weight"]
        assert matrix.dtype.name == dtype


@pytest.mark.parametrize("name", CASES)
def test_config_and_loading(name):
    format, _, _ = CASES[name]
    if format in LIBRARIES:
        pytest.importorskip(LIBRARIES[format])
    with open_checkpoint(FILES / name) as checkpoint:
        config = GPT2Config(**checkpoint.config)
        plan_load(checkpoint, config, Head.LM, strict=True)
    assert {field: getattr(config, field) for field in SIZES} == SIZES
    assert config.activation_function == ("gelu" if format == "nanogpt" else "gelu_new")
    assert config.layer_norm_epsilon == 1e-5
    assert config.tie_word_embeddings


def test_from_pretrained_takes_any_of_them(source):
    with resolve("GPT2LMHeadModel", FILES / "gpt_2_simple") as found:
        plan = plan_load(found.checkpoint, found.config, Head.LM, strict=True)
        assert {k: v.tobytes() for k, v in plan.arrays("float32")} == {
            k: v.tobytes() for k, v in source.items()
        }


@pytest.mark.parametrize(
    ("name", "options"),
    [("gguf/gpt2-f32.gguf", {}), ("gguf", {"gguf_file": "gpt2-f32.gguf"})],
)
def test_from_pretrained_takes_a_file(source, name, options):
    with resolve("GPT2LMHeadModel", FILES / name, **options) as found:
        assert found.name == str(FILES / name)
        assert found.config.n_head == 2
        np.testing.assert_array_equal(found.checkpoint["wte.weight"].read(), source["wte.weight"])
    with pytest.raises(CheckpointError, match=r"has no file 'x\.gguf'"):
        resolve("GPT2LMHeadModel", FILES / "gguf", gguf_file="x.gguf")


# Each format's own ways


def test_keras_weights_alone(source):
    pytest.importorskip("h5py")
    with open_checkpoint(FILES / "keras_tf" / "gpt2.weights.h5") as checkpoint:
        assert checkpoint.format == "keras-tf"
        assert checkpoint.config is None
        assert set(checkpoint) == set(source)
        for name, array in source.items():
            np.testing.assert_array_equal(checkpoint[name].read(), array, err_msg=name)


def test_nanogpt_without_biases(source):
    with open_checkpoint(FILES / "nanogpt" / "no_bias.pt") as checkpoint:
        assert set(checkpoint) - {"lm_head.weight"} == set(source)
        for key in source:
            expected = 0 if key.endswith(".bias") else source[key]
            np.testing.assert_array_equal(checkpoint[key].read(), expected)
        assert checkpoint.config["resid_pdrop"] == 0.2
        assert checkpoint.ignored == {"optimizer": "optimizer state"}


def test_a_folder_with_two_of_a_kind_asks_which():
    with pytest.raises(CheckpointError, match=r"several checkpoints \(gpt2_bf16.bin, gpt2_f32.bin"):
        open_checkpoint(FILES / "llmc")


def test_shards_without_their_index_ask_for_it(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"but not the index .*model\.safetensors\.index"):
        open_checkpoint(tmp_path)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="`git lfs pull`"):
        open_checkpoint(tmp_path)


def test_the_format_may_be_named():
    with open_checkpoint(FILES / "openai", format="tf-checkpoint") as checkpoint:
        assert checkpoint.format == "tf-checkpoint"
    with pytest.raises(CheckpointError, match="no weights; of the format 'gguf'"):
        open_checkpoint(FILES / "openai", format="gguf")


def test_optimizer_slots_are_set_aside():
    with open_checkpoint(FILES / "gpt_2_simple") as checkpoint:
        assert "model/wte/Adam" in checkpoint.ignored
        assert "beta1_power" in checkpoint.ignored
        assert all("optimizer" in why for why in checkpoint.ignored.values())


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FILES / name, tmp_path / name))


@pytest.mark.parametrize("where", [b"model_checkpoint_path: '", b'model_checkpoint_path: "../.."'])
def test_openai_checkpoint_file(tmp_path, where):
    folder = copy("openai", tmp_path)
    (folder / "checkpoint").write_bytes(where)
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        open_checkpoint(folder)
    # An absolute path, as TensorFlow writes, means the file of that name here.
    (folder / "checkpoint").write_text('model_checkpoint_path: "/gone/away/model.ckpt"\n')
    open_checkpoint(folder).close()


def test_openai_damage_is_noticed(tmp_path):
    folder = copy("openai", tmp_path)
    data = folder / "model.ckpt.data-00000-of-00001"
    damaged = bytearray(data.read_bytes())
    damaged[5000] ^= 1
    data.write_bytes(damaged)
    with open_checkpoint(folder) as checkpoint, pytest.raises(CheckpointError, match="checksum"):
        [tensor.read() for tensor in checkpoint.values()]
    data.write_bytes(damaged[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(folder)
    data.unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.ckpt\.data-00000-of-00001"):
        open_checkpoint(folder)
    (folder / "model.ckpt.index").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="not a sound index"):
        open_checkpoint(folder)


def test_megatron_wants_all_ranks(tmp_path):
    folder = copy("megatron_v3_tp2", tmp_path)
    shutil.rmtree(folder / "iter_0000005" / "mp_rank_01")
    with pytest.raises(CheckpointError, match="one of 2 tensor-parallel ranks, of which 1"):
        open_checkpoint(folder)


def test_megatron_trims_the_padded_vocabulary():
    with open_checkpoint(FILES / "megatron_v3_tp2") as checkpoint:
        assert checkpoint["wte.weight"].shape == (97, 32)
        assert checkpoint.config["vocab_size"] == 97
        assert "padding" in checkpoint.ignored["rows 97 to 97"]


def megatron_file(folder: Path, *, rows: int, padded: int, **arguments: int) -> None:
    """An untied checkpoint of one rank, from the arrays of another, in a vocabulary of `rows`."""
    with open_checkpoint(FILES / "megatron_v3_tp1") as checkpoint:
        tensors = {name: LazyTensor.of(t.read()) for name, t in checkpoint.items()}

    def padding(name: str, factor: float) -> LazyTensor:
        values = np.zeros((padded, 32), np.float32)
        values[:rows] = factor * tensors[name].read()[:rows]
        return LazyTensor.of(values)

    modules = {ours: theirs for theirs, (ours, _) in megatron._MODULES.items()}
    layers = {}
    for name, tensor in tensors.items():
        _, layer, module, leaf = re.fullmatch(r"(h\.(\d+)\.)?(.+)\.(weight|bias)", name).groups()
        if layer is not None:
            matrix = tensor.transposed() if tensor.shape[1:] else tensor
            layers[f"layers.{layer}.{modules[module]}.{leaf}"] = matrix
        elif module == "ln_f":
            layers[f"final_layernorm.{leaf}"] = tensor
    embedding = {
        "word_embeddings": {"weight": padding("wte.weight", 1)},
        "position_embeddings": {"weight": tensors["wpe.weight"]},
    }
    language_model = {
        "embedding": embedding,
        "encoder": layers,
        "output_layer": {"weight": padding("wte.weight", 2)},
    }
    args = {"num_attention_heads": 2, "bias_gelu_fusion": True, **arguments}
    model = {"language_model": language_model}
    saved = {"model": model, "args": args, "checkpoint_version": 3.0}
    torch_writer.write_object(folder / "model_optim_rng.pt", saved)


@pytest.mark.parametrize(
    ("arguments", "vocabulary", "rows"),
    [
        ({"vocab_size": 90, "make_vocab_size_divisible_by": 8}, None, 90),
        ({"vocab_size": 90, "make_vocab_size_divisible_by": 8}, 93, 93),  # the tokenizer's counts
        ({"make_vocab_size_divisible_by": 8}, 93, 93),
        ({"vocab_size": 40, "make_vocab_size_divisible_by": 8}, None, 96),  # not padded from 40
    ],
)
def test_megatron_untied_and_of_another_vocabulary(tmp_path, source, arguments, vocabulary, rows):
    megatron_file(tmp_path, rows=rows, padded=96, **arguments)
    if vocabulary is not None:
        ids = {f"token {number}": number for number in range(vocabulary)}
        (tmp_path / "vocab.json").write_text(json.dumps(ids))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "megatron"
        config = GPT2Config(**checkpoint.config)
        plan = plan_load(checkpoint, config, Head.LM, strict=True)
        assert (config.vocab_size, config.tie_word_embeddings) == (rows, False)
        expected = source["wte.weight"][:rows]
        np.testing.assert_array_equal(plan.tensors["wte.weight"].read(), expected)
        np.testing.assert_array_equal(plan.tensors["lm_head.weight"].read(), 2 * expected)


@pytest.mark.parametrize("fused", [True, False])
def test_megatron_core(tmp_path, source, fused):
    """Its names, with norms of their own or, as Transformer Engine has them, in projections."""
    modules = {
        "ln_1": "self_attention.linear_qkv.layer_norm_" if fused else "input_layernorm.",
        "attn.c_attn": "self_attention.linear_qkv.",
        "attn.c_proj": "self_attention.linear_proj.",
        "ln_2": "mlp.linear_fc1.layer_norm_" if fused else "pre_mlp_layernorm.",
        "mlp.c_fc": "mlp.linear_fc1.",
        "mlp.c_proj": "mlp.linear_fc2.",
    }
    model = {"decoder.layers.0.self_attention.linear_qkv._extra_state": None}
    for name, array in source.items():
        _, layer, module, leaf = re.fullmatch(r"(h\.(\d+)\.)?(.+)\.(weight|bias)", name).groups()
        if module == "attn.c_attn":  # each head's queries, keys and values together
            array = np.moveaxis(array.reshape(*array.shape[:-1], 3, 2, 16), -2, -3)
            array = array.reshape(*array.shape[:-3], 96)
        array = array.T if layer is not None else array
        theirs = {
            "wte": "embedding.word_embeddings.",
            "wpe": "embedding.position_embeddings.",
            "ln_f": "decoder.final_layernorm.",
        }.get(module) or f"decoder.layers.{layer}.{modules[module]}"
        model[f"{theirs}{leaf}"] = LazyTensor.of(np.ascontiguousarray(array))
    args = {"num_attention_heads": 2, "bias_gelu_fusion": True}
    saved = {"model": model, "args": args, "checkpoint_version": 3.0}
    torch_writer.write_object(tmp_path / "model_optim_rng.pt", saved)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.format == "megatron"
        assert set(checkpoint) == set(source)
        for name, array in source.items():
            np.testing.assert_array_equal(checkpoint[name].read(), array, err_msg=name)


def test_a_sharded_preset_wants_all_shards(tmp_path):
    pytest.importorskip("h5py")
    folder = copy("keras_hub_sharded", tmp_path)
    (folder / "model_00001.weights.h5").unlink()
    with pytest.raises(CheckpointError, match=r"missing: model_00001\.weights\.h5\."):
        open_checkpoint(folder)
    (folder / "model.weights.json").write_text('{"weight_map": {"a": ["../x.h5"]}}')
    with pytest.raises(CheckpointError, match="must be a file beside the index"):
        open_checkpoint(folder)
    (folder / "model.weights.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="lists no shards"):
        open_checkpoint(folder)


def test_llmc_headers(tmp_path):
    data = bytearray((FILES / "llmc" / "gpt2_f32.bin").read_bytes())
    path = tmp_path / "gpt2.bin"
    for position, value, message in [
        (4, 9, "version 9"),
        (8, -1, "impossible header"),
        (16, 2**23, "should have"),
        (20, 5, "impossible header"),
    ]:
        changed = bytearray(data)
        changed[position : position + 4] = value.to_bytes(4, "little", signed=True)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="should have"):
        open_checkpoint(path)


def test_gguf_brings_its_tokenizer():
    with open_checkpoint(FILES / "gguf" / "gpt2-f32.gguf") as checkpoint:
        files = checkpoint.tokenizer_files
    source = FILES / "source"
    assert json.loads(files["vocab.json"]) == json.loads((source / "vocab.json").read_text())
    assert files["merges.txt"] == (source / "merges.txt").read_bytes()


@pytest.mark.parametrize("name", ["openai", "keras_hub", "source"])
def test_tokenizer_files_are_found_under_any_name(name):
    format = {"openai": "tf-checkpoint", "keras_hub": "keras-hub"}.get(name, "safetensors")
    found = find_tokenizer_files(ModelFiles(FILES / name), format)
    assert sorted(found) == ["merges.txt", "vocab.json"]
    assert found["vocab.json"].read_text() == (FILES / "source" / "vocab.json").read_text()


def test_chat_templates_travel_with_the_tokenizer(tmp_path):
    names = ["additional_chat_templates/tool_use.jinja", "chat_template.jinja", "vocab.json"]
    (tmp_path / "source" / "additional_chat_templates").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    for name in [*names, "additional_chat_templates/notes.txt"]:
        (tmp_path / "source" / name).write_text(name)
    found = find_tokenizer_files(ModelFiles(tmp_path / "source"), "safetensors")
    write_tokenizer_files(tmp_path / "target", found)
    assert sorted(found) == names
    assert all((tmp_path / "target" / name).read_text() == name for name in names)


def test_files_are_told_apart_by_content(tmp_path):
    pytest.importorskip("h5py")
    for name, (format, _, _) in CASES.items():
        if (path := FILES / name).is_file() and path.suffix != ".index":
            assert recognise(Path(shutil.copy(path, tmp_path / "file"))).name == format
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="of no known format"):
        recognise(tmp_path / "file")
