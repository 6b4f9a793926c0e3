"""nanoGPT's ``ckpt.pt``: a dictionary with ``model`` and ``model_args``.

nanoGPT (https://github.com/karpathy/nanoGPT) stores projections as `nn.Linear` does, (out, in),
has no biases if ``model_args["bias"]`` is false, and computes the exact GELU where GPT-2 has its
approximation. Compiled models carry the prefix ``_orig_mod.``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Checkpoint, Format, Progress, check_fields
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch.pytorch_model import state_dict
from gpt2x.formats.torch.serialization import load, saved_in
from gpt2x.formats.torch.writer import write_object
from gpt2x.storage.budget import TENSOR, Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.infer import end_of_text_ids
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import Place, from_canonical, kind_of, out_in
from gpt2x.weights.table import PYTORCH, Kind, canonical_pytorch_name

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config

_ACTIVATION = "gelu"
_BIASED = (Kind.LAYER_NORM, Kind.CONV1D)


def _is_nanogpt(saved: Any) -> bool:
    return isinstance(saved, dict) and {"model", "model_args"} <= saved.keys()


def _read(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Read a ``ckpt.pt``; optimizer state is left unread, missing biases are zeros."""
    path, file = checkpoint.path, checkpoint.hold(BinaryFile(checkpoint.path))
    saved = load(file)
    if not _is_nanogpt(saved):
        raise CheckpointError(f"{str(path)!r} has no 'model' and 'model_args' of nanoGPT.")
    checkpoint.add_renamed(state_dict(saved, path), _rename)
    checkpoint.config = _config(path, saved["model_args"])
    if not saved["model_args"].get("bias", True):
        _add_zero_biases(checkpoint, file.budget)
    for key in saved.keys() & {"optimizer", "optimizer_state"}:
        checkpoint.ignored[key] = "optimizer state"


def _rename(source: str) -> Place | None:
    name = canonical_pytorch_name(source)
    return None if name is None else Place(name, out_in(name))


def _config(path: Path, arguments: Any) -> dict[str, Any]:
    needed = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if not isinstance(arguments, dict) or not all(
        type(arguments.get(k)) is int and 0 < arguments[k] < 2**31 for k in needed
    ):
        raise CheckpointError(f"{str(path)!r}: model_args lacks some of {', '.join(needed)}.")
    dropout = arguments.get("dropout")
    dropout = dropout if isinstance(dropout, float) else 0.0
    return {
        "n_layer": arguments["n_layer"],
        "n_head": arguments["n_head"],
        "n_embd": arguments["n_embd"],
        "n_positions": arguments["block_size"],
        "vocab_size": arguments["vocab_size"],
        "activation_function": _ACTIVATION,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
        **end_of_text_ids(arguments["vocab_size"]),
    }


def _add_zero_biases(checkpoint: Checkpoint, budget: Budget) -> None:
    for name, weight in list(checkpoint.items()):
        bias = f"{name.removesuffix('.weight')}.bias"
        if kind_of(name) in _BIASED and bias not in checkpoint:
            width, dtype = weight.shape[-1:], weight.dtype
            budget.charge(TENSOR + math.prod(width) * dtype.itemsize, "tensors")
            zeros = LazyTensor(width, dtype, lambda w=width, d=dtype: np.zeros(w, d))  # type: ignore[misc]
            checkpoint.add(bias, f"(no bias in the file: zeros of {name})", zeros)


def _check(config: GPT2Config, tensors: Iterable[str] = ()) -> None:
    """Raise WeightsError for a model that nanoGPT cannot express.

    It has no untied output layer, no other width of the MLP, no cross-attention, no scaling of
    attention by layer, and no other epsilon.
    """
    expressible = {
        "n_inner": config.n_inner in (None, 4 * config.n_embd),
        "tie_word_embeddings": config.tie_word_embeddings,
        "add_cross_attention": not config.add_cross_attention,
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": not config.scale_attn_by_inverse_layer_idx,
        "layer_norm_epsilon": config.layer_norm_epsilon == 1e-5,
    }
    check_fields("nanoGPT has no model", config, expressible)


def write(
    path: Path,
    config: GPT2Config,
    tensors: Mapping[str, LazyTensor],
    progress: Progress = lambda nbytes: None,
) -> None:
    """Write a ``ckpt.pt`` that nanoGPT's ``sample.py`` reads; it has no optimizer state.

    Raises WeightsError for a model that nanoGPT cannot express.
    """
    _check(config)
    if config.activation_function != _ACTIVATION:
        warnings.warn(
            f"nanoGPT computes the exact GELU, the model {config.activation_function}: its outputs "
            "will differ slightly.",
            stacklevel=2,
        )
    state = {
        PYTORCH.spell(name): from_canonical(tensor, out_in(name))
        for name, tensor in tensors.items()
        if name != "lm_head.weight"
    }
    state["lm_head.weight"] = state["transformer.wte.weight"]
    saved = {
        "model": state,
        "model_args": {
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "block_size": config.n_positions,
            "bias": True,
            "vocab_size": config.vocab_size,
            "dropout": float(config.resid_pdrop),
        },
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
    }
    write_object(path, saved, progress)


FORMAT = Format(
    name="nanogpt",
    rank=70,
    patterns=("ckpt.pt",),
    recognises=lambda file: _is_nanogpt(saved_in(file)),
    read=_read,
    write=lambda path, model: write(path, model.config, model.cast(), model.progress),
    weights="ckpt.pt",
    suffixes=(".pt",),
    check=_check,
)
