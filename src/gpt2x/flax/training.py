"""JAX's part in training: see `gpt2x.train.engine`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from flax import nnx
from gpt2x.flax.distribution import Distribution
from gpt2x.flax.fused_loss import linear_cross_entropy
from gpt2x.flax.lora import trainable
from gpt2x.flax.parameters import ParameterPath, unflatten
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train.engine import (
    EngineOptions,
    Evaluated,
    Inputs,
    MicroBatch,
    OptimizerSettings,
    StepResult,
)
from gpt2x.weights.table import FLAX, Head

Arrays = dict[ParameterPath, Array]


class Engine:
    """Trains a Flax model; see `gpt2x.train.engine.Engine`."""

    def __init__(
        self, load: Callable[[], Any], settings: OptimizerSettings, options: EngineOptions
    ) -> None:
        self._distribution = Distribution(options.mesh)
        self.world = self._distribution.world
        self.model = load()
        if options.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()
        if options.bf16:
            _compute_in(self.model, jnp.bfloat16)
        is_trained = nnx.filterlib.to_predicate(trainable(self.model))
        self._paths = {
            FLAX.canonical("/".join(path)): path
            for path, variable in self.model._parameters().items()
            if is_trained(path, variable)
        }
        self._assign(self._distribution.of_weights(self._parameters()[0]))
        trained, _ = self._parameters()
        self._moments = [jax.tree.map(jnp.zeros_like, trained) for _ in range(2)]
        # Weights come as arguments and not as constants; those that a step replaces are given up.
        self._gradients = jax.jit(jax.value_and_grad(partial(_weighted, self.model)))
        self._add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)
        # What a step leaves lies where it lay, so that the next one compiles nothing.
        self._update = jax.jit(
            partial(_update, settings),
            donate_argnums=(0, 1),
            out_shardings=self._distribution.shardings((trained, self._moments, None)),
        )
        self._evaluated = jax.jit(partial(_loss, self.model))
        self._output = jax.jit(partial(_output, self.model))

    def step(
        self, micro_batches: Sequence[MicroBatch], number: int, learning_rate: float
    ) -> StepResult:
        trained, frozen = self._parameters()
        total: Any = None
        for batch in micro_batches:
            inputs = self._distribution.of_rows(_narrowed(batch.inputs))
            share = self._weight_and_key(batch)
            with jax.threefry_partitionable(True):  # the default, which a program may have changed
                found = self._gradients(trained, frozen, inputs, *share)
            total = found if total is None else self._add(total, found)
        loss, gradients = total or (np.float32(0), jax.tree.map(jnp.zeros_like, trained))
        count, rate = np.int32(number - 1), np.float32(learning_rate)
        trained, self._moments, norm = self._update(trained, self._moments, gradients, count, rate)
        self._assign(trained)
        return StepResult(loss, norm)

    def _weight_and_key(self, batch: MicroBatch) -> tuple[Array, Array]:
        """Return what each process says of its part: shares [devices], a key [devices, 2]."""
        devices = self.world.devices
        weight = np.full(devices, batch.weight / devices, np.float32)
        key = np.array([[batch.seed >> 32, batch.seed & 0xFFFFFFFF]], np.uint32)
        of_process = self._distribution.of_process
        return of_process(weight), of_process(key.repeat(devices, axis=0))

    def evaluate(self, inputs: Inputs, *, logits: bool) -> Evaluated:
        trained, frozen = self._parameters()
        arrays = self._distribution.of_all_rows(_narrowed(inputs))
        if not logits:
            return Evaluated(float(self._evaluated(trained, frozen, arrays)), None)
        output = self._output(trained, frozen, arrays)
        return Evaluated(
            float(output.loss), self._distribution.whole(output.logits).astype(np.float32)
        )

    @contextmanager
    def sampled(self) -> Iterator[Any]:
        yield self._with_whole(jnp.asarray)

    def _with_whole(self, placed: Callable[[np.ndarray], Any]) -> Any:
        """Return the model with all of its weights in this process, placed by a function."""
        if self.world.processes == 1:
            return self.model
        whole = {
            path: placed(self._distribution.whole(variable.get_value()))
            for path, variable in self.model._parameters().items()
        }
        return self.model.with_params(unflatten(whole))

    def total(self, values: np.ndarray) -> np.ndarray:
        return self._distribution.total(values)

    def save(self, folder: Path) -> None:
        model = self._with_whole(np.asarray)
        if self.world.rank == 0:
            model.save_pretrained(folder)

    def state(self) -> dict[str, np.ndarray]:
        found = {}
        for moment, arrays in zip(_MOMENTS, self._moments, strict=True):
            for name, path in self._paths.items():
                whole = self._distribution.whole(arrays[path])
                if self.world.rank == 0:
                    canonical = FLAX.layout(name).to_canonical(whole)
                    found[f"{moment}.{name}"] = np.ascontiguousarray(canonical)
        return found

    def restore(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        moments = [
            {
                # A copy, since JAX may keep the memory of numpy's array.
                path: jnp.array(FLAX.layout(name).from_canonical(state[f"{moment}.{name}"]))
                for name, path in self._paths.items()
            }
            for moment in _MOMENTS
        ]
        self._moments = [self._distribution.of_weights(arrays) for arrays in moments]

    def _parameters(self) -> tuple[Arrays, Arrays]:
        """Return the arrays that are trained, and the others."""
        arrays = {p: variable.get_value() for p, variable in self.model._parameters().items()}
        trained = {path: arrays.pop(path) for path in self._paths.values()}
        return trained, arrays

    def _assign(self, arrays: Arrays) -> None:
        parameters = self.model._parameters()
        for path, array in arrays.items():
            parameters[path].set_value(array)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _narrowed(inputs: Inputs) -> dict[str, np.ndarray]:
    """Return rows with numbers of 32 bits, as JAX has them."""
    kinds = {"i": np.int32, "f": np.float32}
    return {name: array.astype(kinds[array.dtype.kind]) for name, array in inputs.items()}


def _weighted(
    model: Any,
    trained: Arrays,
    frozen: Arrays,
    inputs: dict[str, Array],
    weights: Array,
    keys: Array,
) -> Array:
    """Return a micro-batch's part of the loss of a step, with dropout.

    Its share is the sum of what the devices say [devices], the key is the first one's [devices, 2].
    """
    return _loss(model, trained, frozen, inputs, keys[0]) * weights.sum()


def _loss(
    model: Any,
    trained: Arrays,
    frozen: Arrays,
    inputs: dict[str, Array],
    key: Array | None = None,
) -> Array:
    """Return a model's loss; a language model's without all its logits."""
    model = model.with_params(unflatten({**trained, **frozen}))
    if key is not None:
        # As `gpt2x.train.dropout` says, so that dropout is always that of the other frameworks.
        key = jax.random.wrap_key_data(key, impl="threefry2x32")
    mode = {"dropout_rng": key, "train": key is not None}
    if model.head is not Head.LM:
        return model(**inputs, **mode, return_dict=True).loss
    labels = inputs["labels"]
    given = {name: array for name, array in inputs.items() if name != "labels"}
    hidden = model.transformer(**given, **mode, use_cache=False, return_dict=True)[0]
    # Each position predicts the token that follows.
    targets = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=IGNORE_INDEX)[:, 1:].reshape(-1)
    table = model.transformer.wte.embedding[...]
    if not model.config.tie_word_embeddings:
        table = model.lm_head.kernel[...].T
    return linear_cross_entropy(hidden.reshape(-1, hidden.shape[-1]), table, targets)


def _output(model: Any, trained: Arrays, frozen: Arrays, inputs: dict[str, Array]) -> Any:
    """Return what a model says of rows."""
    model = model.with_params(unflatten({**trained, **frozen}))
    return model(**inputs, return_dict=True)


def _update(
    settings: OptimizerSettings,
    trained: Arrays,
    moments: list[Arrays],
    gradients: Arrays,
    count: Array,
    rate: Array,
) -> tuple[Arrays, list[Arrays], Array]:
    """Return the weights and moments after a step of AdamW, and the norm of the gradients."""
    norm = optax.tree.norm(gradients)
    if settings.max_grad_norm:
        scale = jnp.minimum(1.0, settings.max_grad_norm / (norm + 1e-6))
        gradients = jax.tree.map(lambda gradient: gradient * scale, gradients)
    adam = optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon)
    state = optax.ScaleByAdamState(count, *moments)
    updates, state = adam.update(gradients, state)

    def moved(weight: Array, update: Array) -> Array:
        # Only matrices decay.
        decay = settings.weight_decay if weight.ndim >= 2 else 0.0
        return weight - rate * (update + decay * weight)

    return jax.tree.map(moved, trained, updates), [state.mu, state.nu], norm


def _compute_in(model: nnx.Module, dtype: Any) -> None:
    """Let the layers of a model compute in a dtype; their parameters stay as they are."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "dtype"):
            module.dtype = jnp.dtype(dtype)
