"""One set of weights in each format that transformers 4.57.6 and its predecessors wrote.

Each folder of ``formats`` must read as the same tensors as its source model's
``model.safetensors``; ``formats/formats.json`` names the sources.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import tf_keras
import torch
import transformers
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.modeling_flax_pytorch_utils import load_flax_weights_in_pytorch_model
from transformers.modeling_tf_pytorch_utils import load_tf2_model_in_pytorch_model

from .files import write_json
from .models import load_model

SHARD = "7KB"  # four shards of the compact model
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def write_formats(out: Path) -> None:
    """Write every format afresh, with an index, and check each by loading it where possible."""
    folder = out / "formats"
    if folder.exists():
        shutil.rmtree(folder)
    index: dict[str, dict[str, Any]] = {}
    for write in (write_torch, write_old_torch, write_tensorflow, write_flax):
        index.update(write(out, folder))
    write_json(folder / "formats.json", index)


def state_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state dict, each tensor in memory of its own, so that none is stored as a view."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def write_torch(out: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What PyTorch models save today: safetensors and bin, sharded, in half precision."""
    model = load_model(out, "compact")
    index: dict[str, dict[str, Any]] = {}
    saves: dict[str, dict[str, Any]] = {
        "safetensors_sharded": {"max_shard_size": SHARD},
        "bin": {"safe_serialization": False},
        "bin_sharded": {"safe_serialization": False, "max_shard_size": SHARD},
    }
    for name, options in saves.items():
        model.save_pretrained(folder / name, **options)
        check_loaded(model, GPT2LMHeadModel.from_pretrained(folder / name))
        index[name] = {"source": "compact"}
    for dtype_name, dtype in HALVES.items():
        half = load_model(out, "compact").to(dtype)
        for kind in ("safetensors", "bin"):
            name = f"{kind}_{dtype_name}"
            half.save_pretrained(folder / name, safe_serialization=kind == "safetensors")
            check_loaded(half, GPT2LMHeadModel.from_pretrained(folder / name, dtype="auto"))
            index[name] = {"source": "compact", "dtype": dtype_name}
    return index


def write_old_torch(out: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Older PyTorch files: legacy pickle, no prefix, buffers, gamma and beta."""
    model = load_model(out, "compact")
    state = state_of(model)
    body = {
        key.removeprefix("transformer."): value
        for key, value in state.items()
        if key != "lm_head.weight"
    }
    size = model.config.n_positions
    causal = torch.ones(size, size).tril().view(1, 1, size, size)
    float_buffers = {f"h.{layer}.attn.bias": causal.clone() for layer in range(2)}
    byte_buffers = {
        f"transformer.h.{layer}.attn.{name}": buffer.clone()
        for layer in range(2)
        for name, buffer in (("bias", causal.byte()), ("masked_bias", torch.tensor(-1e4)))
    }

    def gamma_beta(key: str) -> str:
        if ".ln_" not in key:
            return key
        return key.replace(".weight", ".gamma").replace(".bias", ".beta")

    files: dict[str, dict[str, torch.Tensor]] = {
        "bin_legacy": state,
        "bin_buffers": {**state, **byte_buffers},
        "bin_gamma_beta": {gamma_beta(key): value.clone() for key, value in state.items()},
        "bin_no_prefix": {**body, **float_buffers},
    }
    for name, tensors in files.items():
        path = new_folder(out / "compact", folder / name) / "pytorch_model.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=name != "bin_legacy")
        if name != "bin_gamma_beta":  # transformers 4.57 renames no GPT-2 name; older ones did
            check_loaded(model, GPT2LMHeadModel.from_pretrained(path.parent))
    path = new_folder(out / "compact", folder / "safetensors_no_prefix") / "model.safetensors"
    save_file({**body, **float_buffers}, path, metadata={"format": "pt"})
    check_loaded(model, GPT2LMHeadModel.from_pretrained(path.parent))
    return {name: {"source": "compact"} for name in (*files, "safetensors_no_prefix")}


def write_tensorflow(out: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What transformers' TensorFlow models save, and Keras 2's own ``save_weights``."""
    index: dict[str, dict[str, Any]] = {}
    for name, source, class_name, options in (
        ("tf_h5", "compact", "GPT2LMHeadModel", {}),
        ("tf_h5_sharded", "compact", "GPT2LMHeadModel", {"max_shard_size": SHARD}),
        ("tf_safetensors", "compact", "GPT2LMHeadModel", {"safe_serialization": True}),
        ("tf_h5_base_model", "small", "GPT2Model", {}),
        ("tf_h5_cross_attention", "small", "GPT2LMHeadModel", {}),
        ("tf_h5_double_heads", "small_double_heads", "GPT2DoubleHeadsModel", {}),
        ("tf_h5_classification", "small_classification", "GPT2ForSequenceClassification", {}),
    ):
        model = from_torch(f"TF{class_name}", out, source)
        model.save_pretrained(folder / name, **options)
        index[name] = {"source": source, "class": class_name}
        if class_name == "GPT2LMHeadModel" and source == "small":
            index[name]["missing"] = ["lm_head.weight"]
        if name != "tf_safetensors":  # which transformers' TensorFlow fails to read
            check_tensorflow(out, source, folder / name, class_name)
    model = from_torch("TFGPT2LMHeadModel", out, "compact")
    model.save_weights(new_folder(out / "compact", folder / "keras_2_weights") / "weights.h5")
    model.save_weights(new_folder(out / "compact", folder / "keras_2_checkpoint") / "weights")
    old = new_folder(out / "compact", folder / "tf_h5_old_names") / "tf_model.h5"
    rename_embeddings(folder / "tf_h5/tf_model.h5", old)
    check_tensorflow(out, "compact", old.parent, "GPT2LMHeadModel")
    for name in ("keras_2_weights", "keras_2_checkpoint", "tf_h5_old_names"):
        index[name] = {"source": "compact", "class": "GPT2LMHeadModel"}
    return index


def check_tensorflow(out: Path, source: str, folder: Path, class_name: str) -> None:
    """Read the folder in TensorFlow, copy into PyTorch, compare with the source."""
    expected = load_model(out, source, class_name)
    read = getattr(transformers, f"TF{class_name}").from_pretrained(folder)
    loaded = type(expected)(expected.config)
    load_tf2_model_in_pytorch_model(loaded, read, allow_missing_keys=True)
    # TensorFlow knows tied heads only: an untied source's head is not in its files
    check_loaded(expected, loaded, ignore_head=not expected.config.tie_word_embeddings)


def rename_embeddings(source: Path, target: Path) -> None:
    """Copy an h5 file with the token embedding named ``wte/weight``, as in old files."""
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        layer = file["transformer"]
        names = [str(name) for name in layer.attrs["weight_names"]]
        for index, name in enumerate(names):
            if name.endswith("wte/embeddings:0"):
                names[index] = name.replace("wte/embeddings:0", "wte/weight:0")
                layer.move(name, names[index])
        layer.attrs["weight_names"] = names


def write_flax(out: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What transformers' Flax models save."""
    index: dict[str, dict[str, Any]] = {}
    for name, source, class_name, options in (
        ("flax_msgpack", "compact", "GPT2LMHeadModel", {}),
        ("flax_msgpack_sharded", "compact", "GPT2LMHeadModel", {"max_shard_size": SHARD}),
        ("flax_safetensors", "compact", "GPT2LMHeadModel", {"safe_serialization": True}),
        ("flax_msgpack_base_model", "compact", "GPT2Model", {}),
        ("flax_msgpack_bfloat16", "compact", "GPT2LMHeadModel", {}),
        ("flax_msgpack_untied_cross_attention", "small", "GPT2LMHeadModel", {}),
    ):
        model = from_torch(f"Flax{class_name}", out, source)
        index[name] = {"source": source, "class": class_name}
        if name.endswith("bfloat16"):
            model.params = model.to_bf16(model.params)
            index[name]["dtype"] = "bfloat16"
        model.save_pretrained(folder / name, **options)
        if name not in ("flax_safetensors", "flax_msgpack_bfloat16"):
            check_flax(out, source, folder / name, class_name)
    return index


def check_flax(out: Path, source: str, folder: Path, class_name: str) -> None:
    """Read the folder in Flax, copy into PyTorch, compare with the source."""
    expected = load_model(out, source, class_name)
    read = getattr(transformers, f"Flax{class_name}").from_pretrained(folder)
    loaded = type(expected)(expected.config)
    load_flax_weights_in_pytorch_model(loaded, read.params)
    check_loaded(expected, loaded)


def from_torch(class_name: str, out: Path, source: str) -> Any:
    """A TensorFlow or Flax model with the source's weights.

    It goes through ``pytorch_model.bin``, the one file those classes still read with current
    releases of safetensors.
    """
    tf_keras.backend.clear_session()  # else names count the models made before
    with tempfile.TemporaryDirectory() as folder:
        load_model(out, source).save_pretrained(folder, safe_serialization=False)
        return getattr(transformers, class_name).from_pretrained(folder, from_pt=True)


def new_folder(source: Path, target: Path) -> Path:
    """``target``, made, with the source's config in it."""
    target.mkdir(parents=True)
    shutil.copy(source / "config.json", target)
    return target


def check_loaded(
    expected: PreTrainedModel, loaded: PreTrainedModel, *, ignore_head: bool = False
) -> None:
    """Raise unless the two models hold equal tensors."""
    left, right = expected.state_dict(), loaded.state_dict()
    names = [name for name in left if not (ignore_head and name == "lm_head.weight")]
    different = [name for name in names if not torch.equal(left[name], right[name])]
    if different or left.keys() != right.keys():
        raise RuntimeError(f"transformers reads other tensors: {different}")
