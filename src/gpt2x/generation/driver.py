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

from gpt2x.generation.ops import Array, Ops
from gpt2x.generation.strategies import Needs, Outputs, Request, Settings, Strategy

Cache = Any


class Engine(Protocol):
    """A model for the driver; each backend wraps its own."""

    def prefill(self) -> tuple[Outputs, Cache]:
        """Run the prompts. Returns the outputs after each prompt's last token, of B rows, and a
        cache with room for `max_length` columns.
        """
        ...

    def decode(self, request: Request, cache: Cache) -> tuple[Outputs, Cache]:
        """Run more tokens of each row; return the outputs, of R rows, and the cache with them."""
        ...

    def assist(self, request: Request, cache: Cache) -> tuple[Outputs, Cache]:
        """Run tokens by the assistant; return the logits of the last, and the cache with them."""
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

    strategy: Strategy
    init: Callable[[Ops, Settings, int], Any]
    step: Callable[[Ops, Any, Outputs, Settings], tuple[Any, Request]]
    draft: Callable[[Ops, Any, Outputs, Settings], Any]

    @property
    def rows_per_prompt(self) -> int:
        return self.strategy.rows_per_prompt

    @property
    def reorders(self) -> bool:
        return self.strategy.reorders

    @property
    def needs(self) -> Needs:
        return self.strategy.needs

    def draft_request(self, ops: Ops, state: Any) -> Request:
        return self.strategy.draft_request(ops, state)

    def request(self, ops: Ops, state: Any) -> Request:
        return self.strategy.request(ops, state)


def start(
    ops: Ops, strategy: Strategy | CompiledStrategy, engine: Engine, settings: Settings
) -> Carry:
    """Run each prompt once, copy it for each of its rows, and take the first step."""
    outputs, cache = engine.prefill()
    if strategy.rows_per_prompt > 1:
        rows = ops.shape(settings.prompt)[0]
        origins = ops.arange(rows) // strategy.rows_per_prompt
        outputs, cache = outputs.taken(ops, origins), engine.reorder(cache, origins)
    state = strategy.init(ops, settings, ops.shape(outputs.logits)[-1])
    state, request = strategy.step(ops, state, outputs, settings)
    return Carry(state, request, cache)


def advance(
    ops: Ops,
    strategy: Strategy | CompiledStrategy,
    engine: Engine,
    settings: Settings,
    carry: Carry,
    loop: Callable[..., Any],
) -> Carry:
    """Run the model on the last request, and take the next step.

    loop: `Ops.while_loop`, or `host_loop`, for the steps of an assistant.
    """
    state, request, cache = carry
    if strategy.reorders:
        cache = engine.reorder(cache, request.parents)
    if strategy.needs.drafts:

        def draft(drafting: tuple[Any, Cache]) -> tuple[Any, Cache]:
            state, cache = drafting
            outputs, cache = engine.assist(strategy.draft_request(ops, state), cache)
            return strategy.draft(ops, state, outputs, settings), cache

        state, cache = loop(lambda drafting: drafting[0].drafting, draft, (state, cache))
        request = strategy.request(ops, state)
    outputs, cache = engine.decode(request, cache)
    state, request = strategy.step(ops, state, outputs, settings)
    return Carry(state, request, cache)


def host_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Do what `Ops.while_loop` does, with the host in between."""
    while bool(condition(state)):
        state = body(state)
    return state


def fused(ops: Ops, strategy: Strategy, engine: Engine, settings: Settings) -> Carry:
    """Decode to the end in one loop."""
    return ops.while_loop(
        lambda carry: carry.state.running,
        lambda carry: advance(ops, strategy, engine, settings, carry, ops.while_loop),
        start(ops, strategy, engine, settings),
    )


def steps(
    ops: Ops,
    strategy: Strategy | CompiledStrategy,
    engine: Engine,
    settings: Settings,
    running: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Carry]:
    """Decode step by step: yield each before the model computes on its tokens.

    Each step runs in a context of `running`; the code between steps does not.
    """
    with running():
        carry = start(ops, strategy, engine, settings)
    yield carry
    while bool(carry.state.running):
        with running():
            carry = advance(ops, strategy, engine, settings, carry, host_loop)
        yield carry
