"""nanoGPT's ``ckpt.pt``: a dictionary with ``model`` and ``model_args``.

nanoGPT (https://github.com/karpathy/nanoGPT) stores projections as `nn.Linear` does, (out, in),
has no biases if ``model_args["bias"]`` is false, and computes the exact GELU where GPT-2 has its
approximation. Compiled models carry the prefix ``_orig_mod.``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2x.errors import CheckpointError, WeightsError
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch import pickle as torch_pickle
from gpt2x.formats.torch import writer as torch_writer
from gpt2x.storage.budget import TENSOR, Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.lazy import CanonicalNames, LazyTensor, check_name
from gpt2x.weights.names import is_projection, kind_of
from gpt2x.weights.table import PYTORCH, Kind, canonical_pytorch_name

if TYPE_CHECKING:
    from gpt2x.config import GPT2Config

_ACTIVATION = "gelu"
_BIASED = (Kind.LAYER_NORM, Kind.CONV1D)


def recognises(saved: Any) -> bool:
    """Whether an object that was read from a PyTorch file is such a checkpoint."""
    return isinstance(saved, dict) and {"model", "model_args"} <= saved.keys()


def open(path: Path, files: ModelFiles) -> Checkpoint:
    """Open a ``ckpt.pt``; optimizer state is left unread, missing biases are zeros."""
    file = BinaryFile(path)
    try:
        saved = torch_pickle.load(file)
        if not recognises(saved):
            raise CheckpointError(f"{str(path)!r} has no 'model' and 'model_args' of nanoGPT.")
        names = CanonicalNames(path)
        for source, tensor in torch_pickle.state_dict(saved, path).items():
            name = canonical_pytorch_name(check_name(path, source))
            if name is None:
                names.ignore(source, "causal-mask buffer")
            else:
                names.add(name, source, tensor.transposed() if is_projection(name) else tensor)
        config = _config(path, saved["model_args"])
        if not saved["model_args"].get("bias", True):
            _add_zero_biases(names, file.budget)
        for key in saved.keys() & {"optimizer", "optimizer_state"}:
            names.ignore(key, "optimizer state")
    except BaseException:
        file.close()
        raise
    return Checkpoint(
        "nanogpt",
        path,
        names.tensors,
        config=config,
        ignored=names.ignored,
        source_names=names.source_names,
        close=file.close,
    )


def _config(path: Path, arguments: Any) -> dict[str, Any]:
    needed = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if not isinstance(arguments, dict) or not all(
        type(arguments.get(k)) is int and 0 < arguments[k] < 2**31 for k in needed
    ):
        raise CheckpointError(f"{str(path)!r}: model_args lacks some of {', '.join(needed)}.")
    dropout = arguments.get("dropout")
    dropout = dropout if isinstance(dropout, float) else 0.0
    end_of_text = 50256 if arguments["vocab_size"] > 50256 else None
    return {
        "n_layer": arguments["n_layer"],
        "n_head": arguments["n_head"],
        "n_embd": arguments["n_embd"],
        "n_positions": arguments["block_size"],
        "vocab_size": arguments["vocab_size"],
        "activation_function": _ACTIVATION,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout),
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


def _add_zero_biases(names: CanonicalNames, budget: Budget) -> None:
    for name, weight in list(names.tensors.items()):
        bias = f"{name.removesuffix('.weight')}.bias"
        if kind_of(name) in _BIASED and bias not in names.tensors:
            width, dtype = weight.shape[-1:], weight.dtype
            budget.charge(TENSOR + math.prod(width) * dtype.itemsize, "tensors")
            zeros = LazyTensor(width, dtype, lambda w=width, d=dtype: np.zeros(w, d))  # type: ignore[misc]
            names.add(bias, f"(no bias in the file: zeros of {name})", zeros)


def check_expressible(config: GPT2Config) -> None:
    """Raise WeightsError for what nanoGPT cannot express.

    That is an untied output layer, another width of the MLP, cross-attention, scaled attention,
    another epsilon.
    """
    obstacles = {
        "n_inner": config.n_inner not in (None, 4 * config.n_embd),
        "tie_word_embeddings": not config.tie_word_embeddings,
        "add_cross_attention": config.add_cross_attention,
        "scale_attn_weights": not config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "layer_norm_epsilon": config.layer_norm_epsilon != 1e-5,
    }
    if found := [f"{name}={getattr(config, name)}" for name, bad in obstacles.items() if bad]:
        raise WeightsError(f"nanoGPT has no model with {', '.join(found)}.")


def write(
    path: Path,
    config: GPT2Config,
    tensors: Mapping[str, LazyTensor],
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Write a ``ckpt.pt`` that nanoGPT's ``sample.py`` reads; it has no optimizer state.

    Raises WeightsError as `check_expressible` does.
    """
    check_expressible(config)
    if config.activation_function != _ACTIVATION:
        warnings.warn(
            f"nanoGPT computes the exact GELU, the model {config.activation_function}: its outputs "
            "will differ a little.",
            stacklevel=2,
        )
    state = {
        PYTORCH.spell(name): tensor.transposed() if is_projection(name) else tensor
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
    torch_writer.write_object(path, saved, progress)
