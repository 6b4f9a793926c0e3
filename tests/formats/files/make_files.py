"""Make the small checkpoints of other projects that lie beside this script.

    python tests/formats/files/make_files.py [NAME ...]

Every one holds the weights of ``source`` (random, 2 layers, width 32), which is made first. Each is
written by its owner's own code where that can be installed (TensorFlow 1's Saver, KerasHub, the
gguf package, torch.save), else as that project's writer lays its files out. Needs torch,
tensorflow, keras-hub, flax and gguf.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
V, P, E, L, H = 97, 16, 32, 2, 2
D = E // H
PADDED = 128  # the vocabulary as llm.c and Megatron-LM pad it

CONFIG = {
    "vocab_size": V,
    "n_positions": P,
    "n_embd": E,
    "n_layer": L,
    "n_head": H,
    "bos_token_id": V - 1,
    "eos_token_id": V - 1,
    "resid_pdrop": 0.1,
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
}


def make_weights() -> dict[str, np.ndarray]:
    """Random weights under canonical names; projections are (in, out)."""
    generator = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (V, E), "wpe.weight": (P, E)}
    for layer in range(L):
        h = f"h.{layer}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{h}.{norm}.weight": (E,), f"{h}.{norm}.bias": (E,)}
        for name, n_in, n_out in (
            ("attn.c_attn", E, 3 * E),
            ("attn.c_proj", E, E),
            ("mlp.c_fc", E, 4 * E),
            ("mlp.c_proj", 4 * E, E),
        ):
            shapes |= {f"{h}.{name}.weight": (n_in, n_out), f"{h}.{name}.bias": (n_out,)}
    shapes |= {"ln_f.weight": (E,), "ln_f.bias": (E,)}
    return {k: generator.normal(0, 0.5, s).astype(np.float32) for k, s in shapes.items()}


WEIGHTS = make_weights()


def is_projection(name: str) -> bool:
    return name.endswith(".weight") and any(k in name for k in ("c_attn", "c_proj", "c_fc"))


def fresh(name: str) -> Path:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def make_source() -> None:
    """Transformers' layout without a prefix, which KerasHub reads too."""
    from safetensors.numpy import save_file

    folder = fresh("source")
    save_file(WEIGHTS, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    tokens = [chr(33 + i) for i in range(V - 3)] + ["!!", "!!!", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n! !\n!! !\n")


def make_nanogpt() -> None:
    """As nanoGPT's train.py saves: a compiled model, in float32, with its optimizer."""
    import torch

    folder = fresh("nanogpt")
    for name, bias in (("ckpt", True), ("no_bias", False)):
        state = {}
        for key, array in WEIGHTS.items():
            if bias or not key.endswith(".bias"):
                tensor = torch.from_numpy(array)
                state[f"_orig_mod.transformer.{key}"] = (
                    tensor.t().contiguous() if is_projection(key) else tensor
                )
        state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter])
        parameter.sum().backward()
        optimizer.step()
        arguments = {"n_layer": L, "n_head": H, "n_embd": E, "block_size": P, "bias": bias}
        saved = {
            "model": state,
            "optimizer": optimizer.state_dict(),
            "model_args": {**arguments, "vocab_size": V, "dropout": 0.2},
            "iter_num": 7,
            "best_val_loss": torch.tensor(1.5),
            "config": {"out_dir": "out", "learning_rate": 6e-4},
        }
        torch.save(saved, folder / f"{name}.pt")


def make_llmc() -> None:
    """As llm.c's train_gpt2.py writes: versions 3 (float32) and 5 (bfloat16)."""
    import torch

    folder = fresh("llmc")
    order = ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias"]
    order += ["attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias"]
    order += ["mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"]
    names = ["wte.weight", "wpe.weight"]
    names += [f"h.{layer}.{name}" for name in order for layer in range(L)]
    names += ["ln_f.weight", "ln_f.bias"]
    for version, dtype in ((3, torch.float32), (5, torch.bfloat16)):
        header = torch.zeros(256, dtype=torch.int32)
        header[:8] = torch.tensor([20240326, version, P, V, L, H, E, PADDED])
        with open(folder / f"gpt2_{'f32' if version == 3 else 'bf16'}.bin", "wb") as stream:
            stream.write(header.numpy().tobytes())
            for name in names:
                array = WEIGHTS[name].T if is_projection(name) else WEIGHTS[name]
                if name == "wte.weight":
                    array = np.pad(array, ((0, PADDED - V), (0, 0)))
                tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
                stream.write(tensor.view(torch.uint8).numpy().tobytes())


def make_openai() -> None:
    """A TensorFlow 1 Saver: OpenAI's folder, and gpt-2-simple's with Adam's slots."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def variables() -> None:
        for name, array in WEIGHTS.items():
            *modules, leaf = name.split(".")
            if modules[0] in ("wte", "wpe"):
                path = modules[0]
            else:
                letter = {"weight": "w" if is_projection(name) else "g", "bias": "b"}[leaf]
                path = "/".join([*modules, letter])
                path = path.replace("h/", "h", 1) if modules[0] == "h" else path
            value = array[None] if is_projection(name) else array
            v1.get_variable(f"model/{path}", initializer=value)

    for folder_name, prefix, step, adam in (
        ("openai", "model.ckpt", None, False),
        ("gpt_2_simple", "model", 1000, True),
    ):
        folder = fresh(folder_name)
        with tf.Graph().as_default(), v1.Session() as session:
            variables()
            if adam:
                loss = sum(v1.reduce_sum(v) for v in v1.trainable_variables())
                v1.train.AdamOptimizer(1e-4).minimize(loss)
                v1.get_variable("global_step", initializer=np.int32(5), trainable=False)
            session.run(v1.global_variables_initializer())
            v1.train.Saver(save_relative_paths=True).save(
                session, str(folder / prefix), global_step=step, write_meta_graph=False
            )
        hparams = {"n_vocab": V, "n_ctx": P, "n_embd": E, "n_head": H, "n_layer": L}
        (folder / "hparams.json").write_text(json.dumps(hparams))
        shutil.copy(HERE / "source" / "vocab.json", folder / "encoder.json")
        shutil.copy(HERE / "source" / "merges.txt", folder / "vocab.bpe")


def make_megatron() -> None:
    """As Megatron-LM's save_checkpoint does, for each ordering of queries, keys and values."""
    import torch

    for version, ranks in ((0, 1), (1.0, 2), (3.0, 1), (3.0, 2)):
        folder = fresh(f"megatron_v{int(version)}_tp{ranks}")
        split = [megatron_rank(version, rank, ranks) for rank in range(ranks)]
        for rank, language_model in enumerate(split):
            inside = folder / "iter_0000005" / f"mp_rank_{rank:02d}"
            inside.mkdir(parents=True)
            arguments = argparse.Namespace(
                num_layers=L,
                hidden_size=E,
                num_attention_heads=H,
                max_position_embeddings=P,
                padded_vocab_size=V + ranks - V % ranks if ranks > 1 else V,
                layernorm_epsilon=1e-5,
                bias_gelu_fusion=True,
                tensor_model_parallel_size=ranks,
                pipeline_model_parallel_size=1,
            )
            saved = {
                "args": arguments,
                "iteration": 5,
                "model": {"language_model": language_model},
                "optimizer": {"state": [torch.zeros(2)]},
                "rng_state": [np.random.get_state()[1][:4].tolist()],
            }
            if version:
                saved["checkpoint_version"] = version
            torch.save(saved, inside / "model_optim_rng.pt")
        (folder / "latest_checkpointed_iteration.txt").write_text("5")


def megatron_rank(version: float, rank: int, ranks: int) -> dict:
    """The tensors of one tensor-parallel rank."""
    import torch

    def tensor(array: np.ndarray) -> object:
        return torch.from_numpy(np.ascontiguousarray(array))

    def rows(array: np.ndarray) -> np.ndarray:
        return np.split(array, ranks)[rank]

    def query_key_value(array: np.ndarray) -> np.ndarray:
        split = array.reshape(3, H, D, *array.shape[1:])
        local = np.split(split, ranks, axis=1)[rank]  # [3, heads of the rank, D, ...]
        if version >= 2:
            local = local.swapaxes(0, 1)  # [heads, 3, D, ...]
        elif version >= 1:
            local = np.moveaxis(local, 0, 2)  # [heads, D, 3, ...]
        return local.reshape(-1, *array.shape[1:])

    layers = {}
    for layer in range(L):
        theirs, ours = f"layers.{layer}", f"h.{layer}"
        attention = "attention" if version < 2 else "self_attention"
        for a, b in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
            for leaf in ("weight", "bias"):
                layers[f"{theirs}.{a}.{leaf}"] = tensor(WEIGHTS[f"{ours}.{b}.{leaf}"])

        def add(name: str, weight: np.ndarray, bias: np.ndarray, theirs: str = theirs) -> None:
            layers[f"{theirs}.{name}.weight"] = tensor(weight)
            layers[f"{theirs}.{name}.bias"] = tensor(bias)

        w = {k.removeprefix(f"{ours}."): a for k, a in WEIGHTS.items() if k.startswith(ours)}
        add(
            f"{attention}.query_key_value",
            query_key_value(w["attn.c_attn.weight"].T),
            query_key_value(w["attn.c_attn.bias"]),
        )
        output = np.split(w["attn.c_proj.weight"].T, ranks, axis=1)[rank]
        add(f"{attention}.dense", output, w["attn.c_proj.bias"])
        add("mlp.dense_h_to_4h", rows(w["mlp.c_fc.weight"].T), rows(w["mlp.c_fc.bias"]))
        down = np.split(w["mlp.c_proj.weight"].T, ranks, axis=1)[rank]
        add("mlp.dense_4h_to_h", down, w["mlp.c_proj.bias"])
    for leaf in ("weight", "bias"):
        layers[f"final_layernorm.{leaf}"] = tensor(WEIGHTS[f"ln_f.{leaf}"])
    embedding = WEIGHTS["wte.weight"]
    if ranks > 1:
        embedding = np.pad(embedding, ((0, -V % ranks), (0, 0)))
    return {
        "embedding": {
            "word_embeddings": {"weight": tensor(rows(embedding))},
            "position_embeddings": {"weight": tensor(WEIGHTS["wpe.weight"])},
        },
        "transformer" if version < 2 else "encoder": layers,
    }


def make_keras_hub() -> None:
    """KerasHub's own converter reads `source`; its preset, its `save_weights` and its `save`."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone.from_preset(str(HERE / "source"))
    folder = fresh("keras_hub")
    backbone.save_to_preset(str(folder))
    tokenizer = keras_hub.models.GPT2Tokenizer(
        vocabulary=str(HERE / "source" / "vocab.json"), merges=str(HERE / "source" / "merges.txt")
    )
    tokenizer.save_to_preset(str(folder))
    backbone.save_to_preset(str(fresh("keras_hub_sharded")), max_shard_size=5e-5)  # in GB
    folder = fresh("keras_hub_weights")
    keras_hub.models.GPT2CausalLM(backbone).save_weights(folder / "gpt2.weights.h5")
    folder = fresh("keras_hub_model")
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=P)
    keras_hub.models.GPT2CausalLM(backbone, preprocessor).save(folder / "gpt2.keras")


def make_keras_tf() -> None:
    """gpt2x.tf's own models, saved by Keras."""
    from gpt2x.tf import TFGPT2LMHeadModel

    folder = fresh("keras_tf")
    model = TFGPT2LMHeadModel.from_pretrained(HERE / "source")
    model.save_weights(folder / "gpt2.weights.h5")
    model.save(folder / "gpt2.keras")


def make_orbax() -> None:
    """A model of gpt2x.flax, saved by Orbax."""
    from gpt2x.flax import FlaxGPT2LMHeadModel
    from gpt2x.flax.orbax import save_orbax

    save_orbax(FlaxGPT2LMHeadModel.from_pretrained(HERE / "source"), fresh("orbax"))


def make_gguf() -> None:
    """The gguf package's writer and quantisation, arranged as llama.cpp's converter does."""
    import gguf

    folder = fresh("gguf")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, L)
    tokens = json.loads((HERE / "source" / "vocab.json").read_text())
    for kind in ("F32", "F16", "BF16", "Q8_0"):
        writer = gguf.GGUFWriter(folder / f"gpt2-{kind.lower()}.gguf", "gpt2")
        writer.add_name("tiny")
        writer.add_block_count(L)
        writer.add_context_length(P)
        writer.add_embedding_length(E)
        writer.add_feed_forward_length(4 * E)
        writer.add_head_count(H)
        writer.add_layer_norm_eps(1e-5)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(list(tokens))
        writer.add_token_types([1] * (V - 1) + [3])
        writer.add_token_merges(["! !", "!! !"])
        writer.add_bos_token_id(V - 1)
        writer.add_eos_token_id(V - 1)
        for key, array in WEIGHTS.items():
            module, leaf = key.rsplit(".", 1)
            spelled = f"{names.get_name(module)}.{leaf}"
            array = np.ascontiguousarray(array.T) if is_projection(key) else array
            if array.ndim == 1 or key == "wpe.weight" or kind == "F32":
                writer.add_tensor(spelled, array)
            else:
                stored = gguf.GGMLQuantizationType[kind]
                data = gguf.quantize(array, stored)
                writer.add_tensor(spelled, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


MAKERS = {
    "source": make_source,
    "nanogpt": make_nanogpt,
    "llmc": make_llmc,
    "openai": make_openai,
    "megatron": make_megatron,
    "keras_hub": make_keras_hub,
    "keras_tf": make_keras_tf,
    "orbax": make_orbax,
    "gguf": make_gguf,
}

if __name__ == "__main__":
    for maker in sys.argv[1:] or MAKERS:
        MAKERS[maker]()
