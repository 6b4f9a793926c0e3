"""The loop of decoding, which runs in two ways.

*Fused*: `fused` is one computation of prefill, all steps and their stop condition, which a backend
may compile as a whole (`lax.while_loop`, `tf.while_loop`; in PyTorch a Python loop).

*Stepwise*: `steps` returns to the host after every step, for streaming (a token is needed before
the next but one is computed) and for functions of concrete arrays (stopping criteria, grammars).
The model's part of a step may still be compiled, and so may the strategy's, unless `Strategy.host`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from gpt2x.generation.ops import Array, Ops, Scalar
from gpt2x.generation.strategies import Request, Settings, Strategy

Cache = Any


class Engine(Protocol):
    """A model for the driver; each backend wraps its own."""

    def prefill(self) -> tuple[Array, Cache]:
        """Run the prompts. Returns the logits after each prompt's last token, float32 [B, V], and a
        cache with room for `max_length` columns.
        """
        ...

    def decode(self, tokens: Array, cache: Cache, length: int | Scalar) -> tuple[Array, Cache]:
        """Run another token of each row, int [R], at column ``length - 1`` of the text.

        Returns the logits, float32 [R, V], and the cache with the token.
        """
        ...

    def reorder(self, cache: Cache, parents: Array) -> Cache:
        """Return the cache whose row r continues row parents[r], int [R]; R may differ from B."""
        ...


class Carry(NamedTuple):
    """The values that a step passes to the next."""

    state: Any
    request: Request
    cache: Cache


class CompiledStrategy(NamedTuple):
    """A strategy for the driver, whose `init` and `step` a backend has compiled."""

    rows_per_prompt: int
    reorders: bool
    init: Callable[[Ops, Settings, int], Any]
    step: Callable[[Ops, Any, Array, Settings], tuple[Any, Request]]


def start(
    ops: Ops, strategy: Strategy | CompiledStrategy, engine: Engine, settings: Settings
) -> Carry:
    """Run each prompt once, copy it for each of its rows, and take the first step."""
    logits, cache = engine.prefill()
    if strategy.rows_per_prompt > 1:
        rows = ops.shape(settings.prompt)[0]
        origins = ops.arange(rows) // strategy.rows_per_prompt
        logits, cache = ops.take(logits, origins), engine.reorder(cache, origins)
    state = strategy.init(ops, settings, ops.shape(logits)[-1])
    state, request = strategy.step(ops, state, logits, settings)
    return Carry(state, request, cache)


def advance(
    ops: Ops,
    strategy: Strategy | CompiledStrategy,
    engine: Engine,
    settings: Settings,
    carry: Carry,
) -> Carry:
    """Run the model on the last request, and take the next step."""
    state, request, cache = carry
    if strategy.reorders:
        cache = engine.reorder(cache, request.parents)
    logits, cache = engine.decode(request.tokens, cache, state.length)
    state, request = strategy.step(ops, state, logits, settings)
    return Carry(state, request, cache)


def fused(ops: Ops, strategy: Strategy, engine: Engine, settings: Settings) -> Carry:
    """Decode to the end in one loop."""
    return ops.while_loop(
        lambda carry: carry.state.running,
        lambda carry: advance(ops, strategy, engine, settings, carry),
        start(ops, strategy, engine, settings),
    )


def steps(
    ops: Ops,
    strategy: Strategy | CompiledStrategy,
    engine: Engine,
    settings: Settings,
    running: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Carry]:
    """Decode step by step: yield the tokens of each before the model computes on them.

    Each step runs in a context of `running`; the code between steps does not.
    """
    with running():
        carry = start(ops, strategy, engine, settings)
    yield carry
    while bool(carry.state.running):
        with running():
            carry = advance(ops, strategy, engine, settings, carry)
        yield carry
