"""The three backends: what each needs, and how its modules are imported on demand.

This is the one place of the framework-neutral core that names a framework. Lazy public names
(`gpt2x.GPT2LMHeadModel`), `return_tensors=`, pipelines and the command line all go through it.
"""

from __future__ import annotations

import operator
import random
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from gpt2x.errors import InvalidInputError, MissingBackendError, check_choice


@dataclass(frozen=True)
class Backend:
    """A backend of gpt2x.

    Attributes:
        name: its short name, as in `return_tensors=` and `--backend`: pt, tf or flax.
        title: the framework's name, for messages.
        module: the package that implements it.
        requires: the top-level modules that it needs.
        extra: the extra of gpt2x that installs them.
        prefix: of its class names.
    """

    name: str
    title: str
    module: str
    requires: tuple[str, ...]
    extra: str
    prefix: str


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("pt", "PyTorch", "gpt2x.pt", ("torch",), "pt", "GPT2"),
        Backend("tf", "TensorFlow", "gpt2x.tf", ("tensorflow", "keras"), "tf", "TFGPT2"),
        Backend("flax", "Flax", "gpt2x.flax", ("jax", "flax"), "flax", "FlaxGPT2"),
    )
}

# Seeds of `set_seed` for backends whose framework was not imported yet: seed, and whether to take
# deterministic algorithms.
_SEEDS: dict[str, tuple[int, bool]] = {}

# In `return_tensors=` transformers' name for JAX arrays is used.
_TENSORS = {"pt": "pt", "tf": "tf", "jax": "flax"}


def get(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        InvalidInputError: if there is no backend of that name.
    """
    check_choice("backend", name, BACKENDS)
    return BACKENDS[name]


def is_installed(name: str) -> bool:
    """Return whether the modules that backend `name` needs are installed; imports none."""
    return all(_is_findable(module) for module in get(name).requires)


def installed() -> list[str]:
    """Return the names of the backends that can be used here, in the order pt, tf, flax."""
    return [name for name in BACKENDS if is_installed(name)]


def default() -> str:
    """Return the first backend that is installed.

    Raises:
        MissingBackendError: if none is installed.
    """
    for name in installed():
        return name
    choices = " or ".join(
        f'`pip install "gpt2x[{b.extra}]"` ({b.title})' for b in BACKENDS.values()
    )
    raise MissingBackendError(
        f"No framework is installed, and gpt2x needs one to run a model: {choices}."
    )


def of(model: Any) -> str:
    """Return the name of a model's backend; the model may be in a wrapper of PEFT or Dynamo.

    Raises InvalidInputError for what is not a model of this package.
    """
    inner = model
    for wrapped in ("_orig_mod", "base_model", "model", ""):
        modules = [kind.__module__ for kind in type(inner).__mro__]
        for backend in BACKENDS.values():
            if any(module.startswith(f"{backend.module}.") for module in modules):
                return backend.name
        inner = getattr(inner, wrapped, inner)
    raise InvalidInputError(
        f"model is a {type(model).__name__}; it must be a model of this package, a folder or a "
        "name on the hub."
    )


def require(name: str, wanted_by: str) -> None:
    """Import the framework of backend `name`.

    Args:
        name: the backend.
        wanted_by: the name of what needs it, for the error.

    Raises:
        MissingBackendError: if the framework is missing or cannot be imported. The message names
            the extra to install.
    """
    backend = get(name)
    seed = None if _is_imported(backend) else _SEEDS.pop(name, None)
    for module in backend.requires:
        try:
            import_module(module)
        except ImportError as error:
            raise MissingBackendError(
                f"{wanted_by} needs {backend.title}, and `import {module}` failed ({error}). "
                f'Install it with: pip install "gpt2x[{backend.extra}]"'
            ) from error
    if seed is not None:
        _seed_framework(name, *seed)


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed the generators of Python's `random`, of numpy and of the frameworks.

    A framework that is not imported yet is seeded when this package imports it. Flax models draw
    from numpy's. `generate(seed=)` draws from none of these.

    Args:
        seed: an integer from 0 to 2**32 - 1.
        deterministic: whether PyTorch and TensorFlow are to take deterministic algorithms only.

    Raises:
        InvalidInputError: for another seed.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed < 2**32:
        raise InvalidInputError(f"A seed is an integer from 0 to 2**32 - 1; got {seed!r}.")
    seed = operator.index(seed)  # Python's generator takes no number of numpy
    random.seed(seed)
    np.random.seed(seed)
    for backend in BACKENDS.values():
        if _is_imported(backend):
            _seed_framework(backend.name, seed, deterministic)
        else:
            _SEEDS[backend.name] = seed, deterministic


def _seed_framework(name: str, seed: int, deterministic: bool) -> None:
    """Seed the global generator of an imported framework; JAX has none."""
    if name == "pt":
        import torch

        torch.manual_seed(seed)
        if deterministic:
            torch.use_deterministic_algorithms(True)
    elif name == "tf":
        import tensorflow as tf

        tf.random.set_seed(seed)
        if deterministic:
            tf.config.experimental.enable_op_determinism()


def _is_imported(backend: Backend) -> bool:
    return all(module in sys.modules for module in backend.requires)


def load(name: str, wanted_by: str | None = None, module: str | None = None) -> ModuleType:
    """Import and return the package of backend `name`, or one of its modules.

    Raises:
        InvalidInputError: if there is no such backend.
        MissingBackendError: if its framework is not installed.
    """
    backend = get(name)
    require(name, wanted_by or backend.module)
    return import_module(f"{backend.module}.{module}" if module else backend.module)


def require_library(module: str, wanted_for: str, extra: str = "convert") -> Any:
    """Import a library of one of the extras; raises MissingBackendError naming the extra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingBackendError(
            f"{wanted_for} needs the library {module} ({error}). "
            f'Install it with: pip install "gpt2x[{extra}]"'
        ) from error


def to_tensor(array: Any, kind: str) -> Any:
    """Return `array`, of integers, floats or booleans, as a tensor of `kind`.

    Args:
        array: anything that numpy can make a rectangular array of.
        kind: "np" (numpy), "pt" (torch.Tensor), "tf" (tf.Tensor) or "jax" (jax.Array). PyTorch
            gets int64 from integers, TensorFlow and JAX int32, as transformers' tokenizers give.

    Raises:
        InvalidInputError: if `kind` is none of these.
        MissingBackendError: if the framework of `kind` is not installed.
    """
    check_choice("return_tensors", kind, ["np", *_TENSORS])
    array = np.asarray(array)
    if kind == "np":
        return array
    require(_TENSORS[kind], f"return_tensors={kind!r}")
    if kind == "pt":
        import torch

        return torch.from_numpy(np.array(array))
    # JAX has no 64-bit integers by default, and TensorFlow's embedding lookups want 32.
    array = array.astype(np.int32) if array.dtype == np.int64 else array
    if kind == "tf":
        import tensorflow as tf

        return tf.convert_to_tensor(array)
    import jax.numpy as jnp

    return jnp.asarray(array)


def _is_findable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a blocked module, or one that sys.modules holds as None
        return False
