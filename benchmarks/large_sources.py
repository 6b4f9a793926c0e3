"""Checkpoints of any size in every format that gpt2x reads, cheap to make.

Each maker writes a model of repeating numbers into an empty folder, one tensor in memory at a time,
and returns the path to open. The files are those of the formats' own programs, without optimizers.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gpt2x.checkpoint.writing import plan_weights
from gpt2x.config import GPT2Config
from gpt2x.formats.gguf import writer as gguf_writer
from gpt2x.formats.torch import nanogpt
from gpt2x.formats.torch import writer as torch_writer
from gpt2x.weights.lazy import BFLOAT16, LazyTensor
from gpt2x.weights.names import from_canonical, is_projection
from gpt2x.weights.table import PYTORCH, TENSORFLOW, Head, Shape, parameter_shapes

_PATTERN = np.resize(np.linspace(-1, 1, 1009, dtype=np.float32), 2**20)
_MULTIPLE = 128  # llm.c and Megatron-LM pad the vocabulary to a multiple of this
_RANKS = 2


def tensor(shape: Shape, dtype: np.dtype[Any]) -> LazyTensor:
    """Make a tensor of repeating numbers; reading it takes no more memory than its size."""
    pattern = _PATTERN.astype(dtype)
    row = int(np.prod(shape[1:]))
    return LazyTensor(
        shape,
        np.dtype(dtype),
        lambda: np.resize(pattern, shape),
        lambda first, last: np.resize(pattern, (last - first, row)).reshape(-1, *shape[1:]),
    )


def tensors(config: GPT2Config, dtype: np.dtype[Any]) -> dict[str, LazyTensor]:
    """Make the tensors of a language model with a tied output layer."""
    return {n: tensor(shape, dtype) for n, shape in parameter_shapes(config, Head.LM).items()}


def padded(config: GPT2Config, multiple: int) -> int:
    """Return the number of rows of a padded embedding."""
    return -(-config.vocab_size // multiple) * multiple


def _transformers(format: str, dtype: Any, max_shard_size: str = "100GB") -> Callable[..., Path]:
    def make(folder: Path, config: GPT2Config) -> Path:
        values = tensors(config, np.dtype(dtype))
        plan_weights(values, config, Head.LM, format, max_shard_size).write(folder)
        config.save_pretrained(folder)
        return folder

    return make


def make_pytorch_legacy(folder: Path, config: GPT2Config) -> Path:
    """Write as torch.save did before version 1.6: pickles, then each storage with its length."""
    values = {PYTORCH.spell(n): t for n, t in tensors(config, np.dtype(np.float32)).items()}
    pickler = torch_writer._Pickler()
    pickler.save(values)
    with (folder / "pytorch_model.bin").open("wb") as stream:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, stream, 2)
        stream.write(pickle.PROTO + b"\x02" + b"".join(pickler.parts) + pickle.STOP)
        pickle.dump([str(key) for key in range(len(pickler.tensors))], stream, 2)
        for stored in pickler.tensors:
            stream.write(struct.pack("<q", stored.size))
            _write(stream, stored)
    config.save_pretrained(folder)
    return folder


def _write(stream: BinaryIO, stored: LazyTensor) -> None:
    for block in stored.blocks():
        stream.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def _write_h5(path: Path, values: Mapping[str, LazyTensor]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in values.items():
            dataset = file.create_dataset(name, value.shape, value.dtype)
            start = 0
            for block in value.blocks():
                dataset[start : start + len(block)] = block
                start += len(block)


def make_tf_h5(folder: Path, config: GPT2Config) -> Path:
    """Write transformers' ``tf_model.h5``."""
    values = {
        f"transformer/tfgpt2lm_head_model/{TENSORFLOW.spell(name)}:0": from_canonical(
            value, TENSORFLOW.layout(name)
        )
        for name, value in tensors(config, np.dtype(np.float32)).items()
    }
    _write_h5(folder / "tf_model.h5", values)
    config.save_pretrained(folder)
    return folder


def make_openai(folder: Path, config: GPT2Config) -> Path:
    """Write OpenAI's checkpoint with TensorFlow's own Saver: a data file for each block."""
    import tensorflow as tf

    leaves = {"weight": "w", "bias": "b"}
    groups: dict[str, dict[str, LazyTensor]] = {}
    for name, value in tensors(config, np.dtype(np.float32)).items():
        module, _, leaf = name.rpartition(".")
        if name in ("wte.weight", "wpe.weight"):
            spelled = f"model/{module}"
        else:
            leaf = "g" if "ln_" in module and leaf == "weight" else leaves[leaf]
            spelled = f"model/{module.replace('h.', 'h', 1).replace('.', '/')}/{leaf}"
        stored = value.reshaped(1, *value.shape) if is_projection(name) else value
        groups.setdefault(name.rpartition(".")[0][:5], {})[spelled] = stored
    prefixes = []
    for number, group in enumerate(groups.values()):
        prefixes.append(str(folder / f"part-{number}"))
        values = [tf.constant(stored.read()) for stored in group.values()]
        tf.raw_ops.SaveV2(
            prefix=prefixes[-1],
            tensor_names=list(group),
            shape_and_slices=[""] * len(group),
            tensors=values,
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=prefixes, destination_prefix=str(folder / "model.ckpt")
    )
    sizes = {"n_vocab": config.vocab_size, "n_ctx": config.n_positions, "n_embd": config.n_embd}
    sizes |= {"n_head": config.n_head, "n_layer": config.n_layer}
    (folder / "hparams.json").write_text(str(sizes).replace("'", '"'))
    return folder


def make_nanogpt(folder: Path, config: GPT2Config) -> Path:
    """Write nanoGPT's ``ckpt.pt``."""
    exact = GPT2Config.from_dict({**config.to_dict(), "activation_function": "gelu"})
    nanogpt.write(folder / "ckpt.pt", exact, tensors(config, np.dtype(np.float32)))
    return folder / "ckpt.pt"


def make_llmc(folder: Path, config: GPT2Config) -> Path:
    """Write llm.c's file in bfloat16: each parameter for all layers, projections (out, in)."""
    rows = padded(config, _MULTIPLE)
    sizes = (config.n_positions, config.vocab_size, config.n_layer, config.n_head, config.n_embd)
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, 5, *sizes, rows)
    first, *layers = _by_layer(parameter_shapes(config, Head.LM))
    with (folder / "gpt2.bin").open("wb") as stream:
        stream.write(header.tobytes())
        _write(stream, tensor((rows, config.n_embd), BFLOAT16))
        _write(stream, tensor(first["wpe.weight"], BFLOAT16))
        for name, shape in layers[0].items():
            for _ in layers:
                stored = shape[::-1] if is_projection(name) else shape
                _write(stream, tensor(stored, BFLOAT16))
        for name in ("ln_f.weight", "ln_f.bias"):
            _write(stream, tensor(first[name], BFLOAT16))
    return folder / "gpt2.bin"


def _by_layer(shapes: Mapping[str, Shape]) -> list[dict[str, Shape]]:
    """Group parameters: first those outside of layers, then those of each layer."""
    grouped: dict[str, dict[str, Shape]] = {"": {}}
    for name, shape in shapes.items():
        layer = ".".join(name.split(".")[:2]) if name.startswith("h.") else ""
        grouped.setdefault(layer, {})[name] = shape
    return list(grouped.values())


def make_megatron(folder: Path, config: GPT2Config) -> Path:
    """Write Megatron-LM's checkpoint in float16, for two tensor-parallel ranks."""
    modules = {
        "ln_1": ("input_layernorm", None),
        "attn.c_attn": ("self_attention.query_key_value", 0),
        "attn.c_proj": ("self_attention.dense", 1),
        "ln_2": ("post_attention_layernorm", None),
        "mlp.c_fc": ("mlp.dense_h_to_4h", 0),
        "mlp.c_proj": ("mlp.dense_4h_to_h", 1),
    }
    shapes = _by_layer(parameter_shapes(config, Head.LM))
    rows = padded(config, _MULTIPLE * _RANKS)
    encoder: dict[str, LazyTensor] = {}
    half = np.dtype(np.float16)
    for number, layer in enumerate(shapes[1:]):
        for name, shape in layer.items():
            module, _, leaf = name.partition(".")[2].partition(".")[2].rpartition(".")
            spelled, axis = modules[module]
            stored = list(shape[::-1] if is_projection(name) else shape)
            if axis is not None and axis < len(stored):
                stored[axis] //= _RANKS
            encoder[f"layers.{number}.{spelled}.{leaf}"] = tensor(tuple(stored), half)
    for leaf in ("weight", "bias"):
        encoder[f"final_layernorm.{leaf}"] = tensor(shapes[0][f"ln_f.{leaf}"], half)
    embedding = {
        "word_embeddings": {"weight": tensor((rows // _RANKS, config.n_embd), half)},
        "position_embeddings": {"weight": tensor(shapes[0]["wpe.weight"], half)},
    }
    saved = {
        "args": {
            "num_attention_heads": config.n_head,
            "tensor_model_parallel_size": _RANKS,
            "openai_gelu": True,
        },
        "checkpoint_version": 3.0,
        "model": {"language_model": {"embedding": embedding, "encoder": encoder}},
    }
    for rank in range(_RANKS):
        inside = folder / "iter_0000001" / f"mp_rank_{rank:02d}"
        inside.mkdir(parents=True)
        torch_writer.write_object(inside / "model_optim_rng.pt", saved)
    (folder / "latest_checkpointed_iteration.txt").write_text("1")
    return folder


def make_keras_hub(folder: Path, config: GPT2Config) -> Path:
    """Write KerasHub's ``.weights.h5`` of a backbone in float32."""
    width, heads = config.n_embd, config.n_head
    norms = {"ln_1": "_self_attention_layer_norm", "ln_2": "_feedforward_layer_norm"}
    dense = {
        "mlp.c_fc": "_feedforward_intermediate_dense",
        "mlp.c_proj": "_feedforward_output_dense",
        "attn.c_proj": "_self_attention_layer/output_dense",
    }
    special = {
        "wte.weight": "token_embedding/vars/0",
        "wpe.weight": "position_embedding/vars/0",
        "ln_f.weight": "layer_normalization/vars/0",
        "ln_f.bias": "layer_normalization/vars/1",
    }

    def variables() -> Iterator[tuple[str, Shape]]:
        for name, shape in parameter_shapes(config, Head.LM).items():
            if name in special:
                yield special[name], shape
                continue
            _, layer, rest = name.split(".", 2)
            module, _, leaf = rest.rpartition(".")
            place = f"transformer_decoder_{layer}" if layer != "0" else "transformer_decoder"
            variable = "0" if leaf == "weight" else "1"
            if module == "attn.c_attn":
                shape = (
                    (width, heads, width // heads) if leaf == "weight" else (heads, width // heads)
                )
                for part in ("query", "key", "value"):
                    yield f"{place}/_self_attention_layer/{part}_dense/vars/{variable}", shape
                continue
            if module == "attn.c_proj" and leaf == "weight":
                shape = (heads, width // heads, width)
            yield f"{place}/{norms.get(module) or dense[module]}/vars/{variable}", shape

    values = {f"layers/{name}": tensor(shape, np.dtype("f4")) for name, shape in variables()}
    _write_h5(folder / "gpt2.weights.h5", values)
    return folder / "gpt2.weights.h5"


def make_keras_tf(folder: Path, config: GPT2Config) -> Path:
    """Write the ``.weights.h5`` of gpt2x.tf's language model in float32."""
    values = {}
    for name, value in tensors(config, np.dtype(np.float32)).items():
        module, _, leaf = name.rpartition(".")
        place = re.sub(r"^h\.(\d+)\.", r"h.tfgpt2_block_\1.", module).replace("block_0.", "block.")
        variable = f"base_model/{place.replace('.', '/')}/vars/{int(leaf == 'bias')}"
        values[variable] = from_canonical(value, TENSORFLOW.layout(name))
    _write_h5(folder / "gpt2.weights.h5", values)
    return folder / "gpt2.weights.h5"


def _gguf(type: str) -> Callable[[Path, GPT2Config], Path]:
    def make(folder: Path, config: GPT2Config) -> Path:
        values = tensors(config, np.dtype(np.float32))
        gguf_writer.write(folder / "model.gguf", config, values, type=type)
        return folder / "model.gguf"

    return make


#: Name -> maker.
MAKERS: Mapping[str, Callable[[Path, GPT2Config], Path]] = {
    "safetensors": _transformers("safetensors", BFLOAT16),
    "safetensors sharded": _transformers("safetensors", np.float32, "2GB"),
    "pytorch": _transformers("pytorch", BFLOAT16),
    "pytorch legacy": make_pytorch_legacy,
    "tf-h5": make_tf_h5,
    "flax-msgpack": _transformers("flax-msgpack", np.float32),
    "flax-safetensors": _transformers("flax-safetensors", BFLOAT16),
    "openai-tf": make_openai,
    "nanogpt": make_nanogpt,
    "llm.c": make_llmc,
    "megatron": make_megatron,
    "keras-hub": make_keras_hub,
    "keras-tf": make_keras_tf,
    "gguf f16": _gguf("f16"),
    "gguf q8_0": _gguf("q8_0"),
}
