"""LoRA adapters: which layers they change, PEFT's files of them, and their part of a weight.

An adapter has, for each layer that it changes, the factors A [r, in] and B [out, r], and, of
`modules_to_save`, whole weights. PEFT writes them into a folder as adapter_config.json and
adapter_model.safetensors, the tensors under ``base_model.model.`` and the layer's name.

Source: PEFT 0.21; arXiv:2106.09685.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.config.lora import ADAPTER_CONFIG_NAME, ALL_LINEAR, LoraConfig
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError, did_you_mean, listed
from gpt2x.formats.opening import open_checkpoint
from gpt2x.formats.registry import weights_format
from gpt2x.storage.atomic import atomic_folder
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.infer import same_values
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import kind_of
from gpt2x.weights.table import PYTORCH, Head, Kind, Shape, parameter_shapes

#: Names of the weights in a folder, in the order in which they are looked for.
WEIGHTS_NAMES = ("adapter_model.safetensors", "adapter_model.bin")

#: Stands before the names of tensors in PEFT's files.
PREFIX = "base_model.model."

# What PEFT calls the task of a model, and the layers that it then trains as a whole.
_TASKS: Mapping[Head, tuple[str | None, tuple[str, ...]]] = {
    Head.NONE: ("FEATURE_EXTRACTION", ()),
    Head.LM: ("CAUSAL_LM", ()),
    Head.DOUBLE: (None, ()),
    Head.SEQUENCE_CLASSIFICATION: ("SEQ_CLS", ("classifier", "score")),
    Head.TOKEN_CLASSIFICATION: ("TOKEN_CLS", ("classifier", "score")),
    Head.QUESTION_ANSWERING: ("QUESTION_ANS", ("qa_outputs",)),
}
_NEW_HEADS = {name for _, names in _TASKS.values() for name in names}


@dataclass(frozen=True)
class Factors:
    """The low-rank term of one layer: A [r, in] and B [out, r]."""

    a: LazyTensor
    b: LazyTensor


@dataclass
class Adapter:
    """A LoRA adapter of a model.

    Attributes:
        config: what it is, complete.
        factors: canonical name of a layer (``h.0.attn.c_attn``) -> its factors.
        saved: canonical name -> weight that takes the place of the model's.
    """

    config: LoraConfig
    factors: dict[str, Factors]
    saved: dict[str, LazyTensor] = field(default_factory=dict)

    def merged(self, name: str, weight: LazyTensor) -> LazyTensor:
        """Return a weight of the model with its part of the adapter, computed as it is read."""
        weight = self.saved.get(name, weight)
        factors = self.factors.get(name.removesuffix(".weight"))
        if factors is None or not name.endswith(".weight"):
            return weight
        return weight.mapped(weight.shape, lambda array: self._sum(array, factors))

    def _sum(self, weight: np.ndarray, factors: Factors) -> np.ndarray:
        """Return ``weight + scaling * (B A)^T`` for a weight [in, out], computed in float32."""
        wide = np.dtype(np.float64 if weight.dtype == np.float64 else np.float32)
        a, b = factors.a.read(wide), factors.b.read(wide)
        return (weight.astype(wide) + (b @ a).T * self.config.scaling).astype(weight.dtype)


# --- which layers ---


def complete(config: LoraConfig, head: Head, name_or_path: str) -> LoraConfig:
    """Return a config with what follows from the model: the task, and the layers it trains."""
    config = copy.deepcopy(config)
    task, new = _TASKS[head]
    config.task_type = config.task_type or task
    names = config.modules_to_save or []
    # Whoever trains a classifier trains its head.
    if config.task_type == task and not set(new) & set(names):
        names = [*names, *new]
    config.modules_to_save = names or None
    config.fan_in_fan_out = True
    config.base_model_name_or_path = config.base_model_name_or_path or name_or_path or None
    return config


def target_layers(config: LoraConfig, model: GPT2Config, head: Head) -> list[str]:
    """Return the canonical names of the layers that `target_modules` names.

    Raises:
        InvalidInputError: if a name is that of no layer, or of one that can have no low-rank term.
    """
    wanted, layers = config.target_modules, _layers(model, head)
    if wanted == ALL_LINEAR:
        return _projections(layers)
    if isinstance(wanted, str):
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise InvalidInputError(
                f"target_modules={wanted!r} is not a regular expression: {error}. Pass a list of "
                "names, or 'all-linear'."
            ) from None
        found = [layer for layer, name in layers.items() if pattern.fullmatch(name)]
    else:
        for one in wanted:
            _check_known("target_modules", one, layers.values())
        found = [layer for layer, name in layers.items() if _is_named(name, wanted)]
    if not found:
        raise InvalidInputError(f"target_modules={wanted!r} matches no layer of the model.")
    _check_projections(found)
    return found


def saved_weights(config: LoraConfig, model: GPT2Config, head: Head) -> list[str]:
    """Return the canonical names of the weights of the layers that `modules_to_save` names.

    Raises:
        InvalidInputError: if a name is that of no layer, or a weight is also that of another layer.
    """
    wanted, layers = config.modules_to_save or (), _layers(model, head)
    if _is_tied(model, head) and {"wte", "lm_head"} & {w.rpartition(".")[2] for w in wanted}:
        raise InvalidInputError(
            "modules_to_save names the token embedding or the output layer, which share one "
            "weight in this model. PEFT would train a second one: load the model with "
            "tie_word_embeddings=False."
        )
    paths = {path for name in layers.values() for path in _paths(name)}
    for one in wanted:
        if one not in _NEW_HEADS:
            _check_known("modules_to_save", one, paths)
    found = [layer for layer, name in layers.items() if _any_named(_paths(name), wanted)]
    twice = [layer for layer in found if _is_targeted(layers[layer], config)]
    if twice:
        raise InvalidInputError(
            f"{listed(twice)} would be trained as a whole and by a low-rank term; name them in "
            "target_modules or in modules_to_save."
        )
    names = parameter_shapes(model, head)
    return [name for name in names if name.rpartition(".")[0] in found]


def _layers(model: GPT2Config, head: Head) -> dict[str, str]:
    """Return canonical name -> PEFT's name of every layer that has weights."""
    prefix = head is not Head.NONE
    layers = {}
    for name in parameter_shapes(model, head):
        spelled = PYTORCH.spell(name, prefix=prefix)
        layers[name.rpartition(".")[0]] = spelled.rpartition(".")[0]
    if _is_tied(model, head):
        layers["lm_head"] = "lm_head"
    return layers


def _projections(layers: Iterable[str]) -> list[str]:
    return [layer for layer in layers if kind_of(f"{layer}.weight") is Kind.CONV1D]


def _check_projections(layers: Iterable[str]) -> None:
    layers = list(layers)
    others = [layer for layer in layers if layer not in _projections(layers)]
    if others:
        raise InvalidInputError(
            f"target_modules names {listed(others)}; a low-rank term is available for the "
            "projections of the blocks: c_attn, c_proj, c_fc, q_attn. Name other layers in "
            "modules_to_save, to train them as a whole."
        )


def _is_tied(model: GPT2Config, head: Head) -> bool:
    return head in (Head.LM, Head.DOUBLE) and model.tie_word_embeddings


def _is_named(name: str, wanted: Iterable[str]) -> bool:
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _any_named(names: Iterable[str], wanted: Iterable[str]) -> bool:
    return any(_is_named(name, wanted) for name in names)


def _is_targeted(name: str, config: LoraConfig) -> bool:
    wanted = config.target_modules
    return not isinstance(wanted, str) and _is_named(name, wanted)


def _paths(name: str) -> list[str]:
    """Return the name of a layer and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _check_known(field: str, wanted: str, names: Iterable[str]) -> None:
    names = list(names)
    if not _any_named(names, [wanted]):
        last = {name.rpartition(".")[2] for name in names}
        raise InvalidInputError(
            f"{field} names {wanted!r}, which no layer of the model is called."
            f"{did_you_mean(wanted, last)}"
        )


# --- new adapters ---


def new_factors(
    config: LoraConfig, model: GPT2Config, head: Head, layers: Iterable[str], seed: int
) -> dict[str, Factors]:
    """Return the factors that training starts from, float32: A uniform, B zero.

    A is drawn between -1 / sqrt(in) and 1 / sqrt(in), as PEFT draws it (Kaiming's initialisation
    for a slope of sqrt(5)); without `init_lora_weights`, B too. The numbers are those of a counter,
    so that the frameworks start alike and a layer's do not depend on the other layers.
    """
    shapes, numbers = parameter_shapes(model, head), {}
    for number, layer in enumerate(_projections(_layers(model, head))):
        numbers[layer] = number
    factors = {}
    for layer in layers:
        n_in, n_out = shapes[f"{layer}.weight"]
        b = np.zeros((n_out, config.r), np.float32)
        if not config.init_lora_weights:
            b = _uniform((n_out, config.r), seed, 2 * numbers[layer] + 1)
        a = _uniform((config.r, n_in), seed, 2 * numbers[layer])
        factors[layer] = Factors(LazyTensor.of(a), LazyTensor.of(b))
    return factors


def _uniform(shape: tuple[int, int], seed: int, stream: int) -> np.ndarray:
    """Return numbers between -1 / sqrt(columns) and 1 / sqrt(columns), float32."""
    # The words of numpy's Philox never change, unlike what its generators make of them.
    key = stream << 64 | seed % 2**64
    words = np.random.Philox(key=key).random_raw(math.prod(shape))
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
    return (unit / math.sqrt(shape[1])).astype(np.float32).reshape(shape)


# --- PEFT's files ---


@contextmanager
def open_adapter(
    name_or_path: str | os.PathLike[str], model: GPT2Config, head: Head, **where: Any
) -> Iterator[Adapter]:
    """Open the adapter of a folder or of the hub, for a model of this config and head.

    Args:
        name_or_path: the folder or name.
        model: config of the model.
        head: of the model.
        **where: arguments of `gpt2x.storage.hub.ModelFiles`.

    Raises:
        CheckpointError: if its files cannot be found or read.
        InvalidInputError: if it is not a LoRA adapter that is available here.
        WeightsError: if it does not fit the model, naming all tensors that do not.
    """
    files = ModelFiles(os.fspath(name_or_path), **where)
    config = _read_config(files)
    found = [path for name in WEIGHTS_NAMES if (path := files.find(name)) is not None]
    if not found:
        raise CheckpointError(f"{files.name!r} holds no {' and no '.join(WEIGHTS_NAMES)}.")
    config = complete(config, head, config.base_model_name_or_path or "")
    with open_checkpoint(found[0]) as tensors:
        yield _placed(files.name, config, model, head, tensors)


def base_of_adapter(name_or_path: str | os.PathLike[str], **where: Any) -> str | None:
    """Return the name of the model that an adapter belongs to; None for what is not an adapter.

    Raises:
        CheckpointError: if the files cannot be found or read, or the adapter does not name it.
        InvalidInputError: if it is not a LoRA adapter that is available here.
    """
    if Path(name_or_path).expanduser().is_file():
        return None
    files = ModelFiles(os.fspath(name_or_path), **where)
    if files.find(ADAPTER_CONFIG_NAME) is None:
        return None
    base = _read_config(files).base_model_name_or_path
    if base is None:
        raise CheckpointError(
            f"{files.name!r} holds an adapter whose {ADAPTER_CONFIG_NAME} does not say of which "
            "model: load that model, and call its load_adapter."
        )
    return base


def _read_config(files: ModelFiles) -> LoraConfig:
    path = files.find(ADAPTER_CONFIG_NAME)
    if path is None:
        raise CheckpointError(
            f"{files.name!r} holds no {ADAPTER_CONFIG_NAME}; give the folder or hub model of an "
            "adapter."
        )
    return LoraConfig.from_pretrained(path)


def _placed(
    name: str,
    config: LoraConfig,
    model: GPT2Config,
    head: Head,
    tensors: Mapping[str, LazyTensor],
) -> Adapter:
    """Return the tensors of a file by the layers they belong to."""
    layers = _layers(model, head)
    shapes = parameter_shapes(model, head)
    spelled = {f"{PREFIX}{PYTORCH.spell(n, prefix=head is not Head.NONE)}": n for n in shapes}
    targets = _targets_of(config, layers, tensors)
    expected: dict[str, Shape] = {
        key: shape
        for layer in targets
        for key, shape in zip(
            _factor_keys(layers[layer]), _factor_shapes(shapes, layer, config.r), strict=True
        )
    }
    to_save = set(saved_weights(config, model, head))
    # PEFT also writes embeddings, if tokens were added.
    expected |= {key: shapes[n] for key, n in spelled.items() if n in to_save or key in tensors}
    _check_fit(name, expected, _without_tied(name, tensors, model, head))
    return Adapter(
        config,
        {
            layer: Factors(*(_floating(name, key, tensors) for key in _factor_keys(layers[layer])))
            for layer in targets
        },
        {spelled[k]: _floating(name, k, tensors) for k in expected if k in spelled},
    )


def _targets_of(
    config: LoraConfig, layers: Mapping[str, str], tensors: Mapping[str, LazyTensor]
) -> list[str]:
    """Return the layers whose factors a file has, and those that its config names."""
    projections = _projections(layers)
    wanted = config.target_modules
    if wanted == ALL_LINEAR:
        return projections
    # A regular expression of a file is not run: it may be made to take forever.
    names = () if isinstance(wanted, str) else wanted
    _check_projections(layer for layer, name in layers.items() if _is_named(name, names))
    return [
        layer
        for layer in projections
        if _factor_keys(layers[layer])[0] in tensors or _is_named(layers[layer], names)
    ]


def _factor_keys(name: str) -> tuple[str, str]:
    return f"{PREFIX}{name}.lora_A.weight", f"{PREFIX}{name}.lora_B.weight"


def _factor_shapes(shapes: Mapping[str, Shape], layer: str, r: int) -> tuple[Shape, Shape]:
    n_in, n_out = shapes[f"{layer}.weight"]
    return (r, n_in), (n_out, r)


def _without_tied(
    name: str, tensors: Mapping[str, LazyTensor], model: GPT2Config, head: Head
) -> dict[str, LazyTensor]:
    """Return the tensors without a copy of the token embedding, as the output layer."""
    left, key = dict(tensors), f"{PREFIX}lm_head.weight"
    if not _is_tied(model, head) or key not in left:
        return left
    embedding = left.get(f"{PREFIX}transformer.wte.weight")
    if embedding is None or not same_values(left.pop(key), embedding):
        raise WeightsError(
            f"{name!r} has an output layer of its own, but the model's is its token embedding: "
            "load the model with tie_word_embeddings=False."
        )
    return left


def _check_fit(name: str, expected: Mapping[str, Shape], tensors: Mapping[str, LazyTensor]) -> None:
    """Raise WeightsError unless a file has the tensors that are expected, and no others."""
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    wrong = [
        f"{key} is {tensors[key].shape}, not {shape}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].shape != shape
    ]
    if not expected or missing or unexpected or wrong:
        raise WeightsError(
            f"The adapter {name!r} does not fit the model. Missing: {listed(missing) or 'none'}. "
            f"Left over: {listed(unexpected) or 'none'}. Of another shape: "
            f"{listed(wrong) or 'none'}. It belongs to another model, or its {ADAPTER_CONFIG_NAME} "
            "to another adapter."
        )


def _floating(name: str, key: str, tensors: Mapping[str, LazyTensor]) -> LazyTensor:
    tensor = tensors[key]
    if tensor.dtype.kind in "iub":
        raise WeightsError(f"The adapter {name!r} holds {key} as {tensor.dtype}, not as floats.")
    return tensor


def write_adapter(folder: str | os.PathLike[str], adapter: Adapter, head: Head) -> None:
    """Write PEFT's files of an adapter; they appear together or not at all."""
    tensors: dict[str, LazyTensor] = {}
    prefix = head is not Head.NONE
    for layer, factors in adapter.factors.items():
        spelled = PYTORCH.spell(f"{layer}.weight", prefix=prefix).rpartition(".")[0]
        tensors |= zip(_factor_keys(spelled), (factors.a, factors.b), strict=True)
    for name, tensor in adapter.saved.items():
        tensors[f"{PREFIX}{PYTORCH.spell(name, prefix=prefix)}"] = tensor
    format = weights_format("safetensors")
    assert format.write_file is not None
    with atomic_folder(folder, replaces=WEIGHTS_NAMES) as new:
        adapter.config.save_pretrained(new)
        format.write_file(Path(new, WEIGHTS_NAMES[0]), tensors, {}, lambda nbytes: None)
