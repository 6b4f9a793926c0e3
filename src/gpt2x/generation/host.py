"""What a framework brings to `generate`."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gpt2x.generation import results
from gpt2x.generation.driver import CompiledStrategy
from gpt2x.generation.engine import Extras, Prompt, PromptedEngine, StaticArguments
from gpt2x.generation.lengths import bucket
from gpt2x.generation.numpy_ops import NUMPY_OPS
from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.plan import Plan
from gpt2x.generation.registry import ops_for
from gpt2x.generation.seeds import streams
from gpt2x.generation.strategies import Settings, Strategy

#: Arguments of models that generation sets itself, or that make no sense in it.
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
    function (`is_traced`) there are no values: it is prepared on the framework's arrays then.

    Attributes:
        model: the model.
        call: its function, whose parameters `generate` passes on.
        ops: the framework's.
        is_traced: whether the call is part of a traced computation.
        tracer: what traces, for error messages.
        fuses: whether the loop may run as one computation; False takes every step on its own.
        buckets: whether static sizes are rounded up (see `lengths.bucket`), as compilers want it.
        widens: whether prompts are padded to such a size.
        with_length: whether users' processors are called with `cur_len`.
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

    @property
    def prompt_ops(self) -> Ops:
        """The `Ops` that a call is prepared with."""
        return self.ops if self.is_traced else NUMPY_OPS

    def argument_names(self) -> list[str]:
        """Return the names of the arguments that `generate` passes on to the model."""
        names = inspect.signature(self.call).parameters
        return [name for name in names if name not in OWN_ARGUMENTS]

    # ---- arrays -------------------------------------------------------------------------------

    @abstractmethod
    def read(self, name: str, value: Any) -> Array:
        """Return ids, a mask or positions that a user gave as `prompt_ops` takes them."""

    @abstractmethod
    def embeddings(self, value: Any) -> Array:
        """Return the embeddings of a prompt that a user gave, as `Ops` of their kind take them."""

    def to_run(self, array: Array, start: int | Scalar, slots: int | Scalar) -> Array:
        """Return the columns of [B, T, ...] from `start` on, which no cache of `slots` holds yet.

        They are padded if sizes are rounded up.
        """
        rest = array[:, start:] if not isinstance(start, int) or start > 0 else array
        if not self.widens:
            return rest
        # What is run has to fit behind what is cached: writes beyond the end would slip back.
        return widened(rest, min(bucket(rest.shape[1], slots), slots - start))

    @abstractmethod
    def to_device(self, value: Any) -> Any:
        """Return a number or numpy array of the host as the loop takes it; others as they are."""

    @abstractmethod
    def to_host(self, array: Array) -> Any:
        """Return an array as streamers receive it."""

    def argument(self, value: Any) -> Any:
        """Return another argument of the model as the loop takes it."""
        return value

    def place(self, settings: Settings, prompt: Prompt) -> tuple[Settings, Prompt]:
        """Bring what was prepared on the host to the device."""
        settings, placed = map_leaves(self.to_device, (settings, prompt._replace(fixed={})))
        return settings, placed._replace(fixed=prompt.fixed)

    # ---- random numbers and caches ------------------------------------------------------------

    @abstractmethod
    def draw_seed(self) -> int:
        """Return a seed from the framework's global generator, 0 to 2**64 - 1."""

    def keys(self, seed: Any, rows: Any) -> tuple[Array, Array]:
        """Return the keys of the rows' streams of random numbers (see `Streams.keys`)."""
        return streams(self.draw_seed() if seed is None else seed, rows).keys(self.prompt_ops)

    @abstractmethod
    def open_past(self, past: Any, batch: int) -> Any:
        """Return the beginning of the prompt that a user gave as a `KVCache`, or None."""

    # ---- running ------------------------------------------------------------------------------

    def running(self, plan: Plan) -> AbstractContextManager[None]:
        """Return a context that the loop, or each of its steps, runs in."""
        return nullcontext()

    def run_fused(
        self, static: StaticArguments, prompt: Prompt, settings: Settings, returns_cache: bool
    ) -> tuple[Any, Any]:
        """Decode in one loop, compiled where that is possible; see `engine.fused`."""
        raise NotImplementedError(f"{type(self).__name__} must override run_fused if it fuses")

    @abstractmethod
    def stepper(
        self, static: StaticArguments, prompt: Prompt
    ) -> tuple[PromptedEngine, Strategy | CompiledStrategy]:
        """Return what `driver.steps` runs: model and strategy, each compiled if possible."""

    def keep(self, extras: Extras, count: int, columns: int) -> Extras:
        """Return what a call returned for its `count` tokens, without what was padded."""
        kept: Extras = {}
        if "attentions" in extras:
            kept["attentions"] = tuple(
                layer[:, :, :count, :columns] for layer in extras["attentions"]
            )
        if "hidden_states" in extras:
            kept["hidden_states"] = tuple(layer[:, :count] for layer in extras["hidden_states"])
        return kept

    def result(self, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
        """Return what `generate` returns; see `results.result`."""
        make = results.traced_result if self.is_traced else results.result
        return make(self.ops, plan, settings, state, **records)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tree of tuples and dicts with `function` applied to all else in it."""
    if isinstance(tree, Mapping):
        return {name: map_leaves(function, value) for name, value in tree.items()}
    if isinstance(tree, tuple):
        values = [map_leaves(function, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return function(tree)


def widened(array: Array, width: int) -> Array:
    """Append zeros to [B, T, ...], up to `width` columns."""
    ops = ops_for(array)
    rows, length, *others = ops.shape(array)
    room = ops.full((rows, width - length, *others), 0, "int")
    return ops.concat([array, ops.cast_like(room, array)], axis=1)
