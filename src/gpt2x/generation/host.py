"""`Host`, the part of `generate` that each framework brings."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from gpt2x.config.generation import GenerationConfig
from gpt2x.generation import results
from gpt2x.generation.driver import CompiledStrategy, Loop
from gpt2x.generation.engine import (
    DriverEngine,
    Extras,
    Prompt,
    Prompts,
    StaticArguments,
    is_encoders,
)
from gpt2x.generation.lengths import bucket
from gpt2x.generation.memory import host_memory
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.plan import Plan
from gpt2x.generation.registry import ops_for
from gpt2x.generation.seeds import streams
from gpt2x.generation.strategies import Settings, Strategy

#: Arguments of models that generation sets itself, or that have no meaning in it.
_LOSS = {
    "labels",
    "mc_labels",
    "shift_labels",
    "num_items_in_batch",
    "ignore_index",
    "loss_options",
}
_CALL = {"cache_position", "logits_to_keep", "return_dict", "train", "training", "unknown"}
OWN_ARGUMENTS = frozenset(_LOSS | _CALL | {"params", "dropout_rng"})


class Host(ABC):
    """A model in its framework, for one call of `generate`.

    A call is prepared on the host, on numpy arrays, which compiles nothing. Inside a traced
    function (`is_traced`) there are no values; there it is prepared on the framework's arrays.

    Attributes:
        model: the model.
        call: its function, whose parameters `generate` passes on.
        ops: the framework's.
        is_traced: whether the call is part of a traced computation.
        tracer: name of the tracing function, for error messages.
        fuses: whether the loop may run as one computation; if False, each step runs alone.
        buckets: whether static sizes are rounded up for compilers (see `lengths.bucket`).
        widens: whether prompts are padded to such a size, since each width is compiled.
        with_length: whether users' processors are called with `cur_len`.
        assistant: the host of the model that proposes tokens, or None.
    """

    is_traced: bool = False
    tracer: str = ""
    fuses: bool = True
    buckets: bool = True
    widens: bool = False
    with_length: bool = True

    def __init__(self, model: Any, call: Callable[..., Any], ops: Ops) -> None:
        self.model = model
        self.call = call
        self.ops = ops
        self.assistant: Host | None = None

    def of(self, model: Any) -> Self:
        """Return the host of another model of the framework in the same call."""
        host = copy.copy(self)
        host.model = model
        return host

    def early_exit(self, count: int) -> Any:
        """Return the model with its first `count` blocks alone; the parameters are shared."""
        raise NotImplementedError(f"{type(self).__name__} must override early_exit")

    @property
    def models(self) -> tuple[Any, ...]:
        """The model and, if there is one, its assistant."""
        return (self.model,) if self.assistant is None else (self.model, self.assistant.model)

    @property
    def prompt_ops(self) -> Ops:
        """The `Ops` of the preparation of a call."""
        return self.ops if self.is_traced else NUMPY_OPS

    def argument_names(self) -> list[str]:
        """Return the names of the arguments that `generate` passes on to the model."""
        names = inspect.signature(self.call).parameters
        return [name for name in names if name not in OWN_ARGUMENTS]

    # ---- arrays -------------------------------------------------------------------------------

    @abstractmethod
    def read(self, name: str, value: Any) -> Array:
        """Convert a user's ids, mask or positions to arrays for `prompt_ops`."""

    @abstractmethod
    def embeddings(self, value: Any) -> Array:
        """Convert a user's embeddings of a prompt to an array for the `Ops` of their type."""

    def to_run(self, array: Array, start: int | Scalar, slots: int | Scalar) -> Array:
        """Return the columns of [B, T, ...] from `start` on, which are not in a cache of `slots`.

        They are padded if sizes are rounded up.
        """
        rest = array[:, start:] if not isinstance(start, int) or start > 0 else array
        return widened(rest, bucket(rest.shape[1], slots)) if self.widens else rest

    @abstractmethod
    def to_device(self, value: Any) -> Any:
        """Convert a number or numpy array of the host for the loop; return others as they are."""

    @abstractmethod
    def to_host(self, array: Array) -> Any:
        """Convert an array for streamers."""

    def argument(self, value: Any) -> Any:
        """Convert another argument of the model for the loop."""
        return value

    def place(self, settings: Settings, prompts: Prompts) -> tuple[Settings, Prompts]:
        """Move settings and prompts from the host to the device."""

        def placed(prompt: Prompt) -> Prompt:
            return map_leaves(self.to_device, prompt._replace(fixed={}))._replace(
                fixed=prompt.fixed
            )

        return map_leaves(self.to_device, settings), prompts.map(placed)

    # ---- memory -------------------------------------------------------------------------------

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the model's computation."""
        return 4

    def available_memory(self) -> int | None:
        """Return the bytes that a call may take on the model's device; None if this is unknown."""
        return host_memory()

    def of_rows(self, name: str, value: Any, batch: int) -> bool:
        """Return whether an argument of the model has a row for each of B prompts."""
        return is_encoders(name, value)

    def compiles_rows(self, config: GenerationConfig) -> bool:
        """Return whether a call is compiled for each number of rows."""
        return self.widens

    def joined(self, results: list[Any], join: Callable[[Ops, list[Any]], Any]) -> Any:
        """Return the result of a call from those of its parts; see `batches.joined`."""
        return join(self.ops, results)

    # ---- random numbers and caches ------------------------------------------------------------

    @abstractmethod
    def draw_seed(self) -> int:
        """Return a seed from the framework's global generator, 0 to 2**64 - 1."""

    def keys(self, seed: Any, rows: Any) -> tuple[Array, Array]:
        """Return the keys of the rows' streams of random numbers (see `Streams.keys`)."""
        return streams(self.draw_seed() if seed is None else seed, rows).keys(self.prompt_ops)

    @abstractmethod
    def open_past(self, past: Any, batch: int) -> Any:
        """Convert a user's past, the beginning of the prompt, to a `KVCache`, or to None."""

    def loop_arguments(self, rows: int, static: StaticArguments) -> dict[str, Any]:
        """Return further arguments of the model for a loop of the user's, of R rows."""
        return {}

    # ---- running ------------------------------------------------------------------------------

    def running(self, plan: Plan) -> AbstractContextManager[None]:
        """Return a context for the loop, or for each of its steps."""
        return nullcontext()

    def fused(self, static: StaticArguments, prompts: Prompts, settings: Settings) -> Loop:
        """Return the loop as computations, compiled if possible; see `engine.FusedLoop`."""
        raise NotImplementedError(f"{type(self).__name__} must override fused if it fuses")

    @abstractmethod
    def stepper(
        self, plan: Plan, static: StaticArguments, prompts: Prompts
    ) -> tuple[DriverEngine, Strategy | CompiledStrategy]:
        """Return model and strategy for a loop on the host, each compiled if possible."""

    def keep(self, extras: Extras, count: int, columns: int) -> Extras:
        """Return the extras of a call for its `count` tokens, without padding."""
        kept: Extras = {}
        if "attentions" in extras:
            kept["attentions"] = tuple(
                layer[:, :, :count, :columns] for layer in extras["attentions"]
            )
        if "hidden_states" in extras:
            kept["hidden_states"] = tuple(layer[:, :count] for layer in extras["hidden_states"])
        return kept

    def result(self, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
        """Return the result of `generate`; see `results.result`."""
        make = results.traced_result if self.is_traced else results.result
        return make(self.ops, plan, settings, state, **records)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `function` to the leaves of a tree of tuples and dicts."""
    if isinstance(tree, Mapping):
        return {name: map_leaves(function, value) for name, value in tree.items()}
    if isinstance(tree, tuple):
        values = [map_leaves(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return function(tree)


def widened(array: Array, width: int, fill: int = 0) -> Array:
    """Append a number to [B, T, ...], up to `width` columns."""
    ops = ops_for(array)
    rows, length, *others = ops.shape(array)
    room = ops.full((rows, width - length, *others), fill, "int")
    return ops.concat([array, ops.cast_like(room, array)], axis=1)
