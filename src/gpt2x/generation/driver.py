"""The loop of decoding. It returns at the end or, for streaming, when enough tokens are final.

*Fused*, it is one computation, with the prompts and the first step or without them. A backend may
compile it as a whole (`lax.while_loop`, `tf.while_loop`).

*Stepwise*, it returns to the host after every step: in PyTorch, and for functions of concrete
arrays (stopping criteria, grammars). The model's part of a step may still be compiled, and so may
the strategy's, unless `Strategy.host`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from gpt2x.generation.ops import Array, Ops, Scalar
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

    def expand(self, cache: Cache, origins: Array) -> Cache:
        """Run R rows from here on, of which row r continues prompt origins[r], int [R].

        Returns their cache.
        """
        ...

    def reorder(self, cache: Cache, parents: Array) -> Cache:
        """Return the cache whose row r continues row parents[r], int [R]."""
        ...

    def records(self, length: int | Scalar | Array) -> dict[str, Any]:
        """Return what `Loop.records` returns."""
        ...


class Carry(NamedTuple):
    """The values that a step passes to the next.

    settled: the columns of every row's text that are final.
    """

    state: Any
    request: Request
    cache: Cache
    settled: int | Scalar


class Loop:
    """The loop of a call, on the host or compiled."""

    def run(self, carry: Carry | None = None, until: int | None = None) -> Carry:
        """Take the first step, or go on from `carry`, which is used up.

        until: the columns to be settled at the return, as far as the text goes; None for all of it.
            A loop on the host returns after every step.
        """
        raise NotImplementedError(f"{type(self).__name__} must override run")

    def records(self, length: int | Scalar | Array) -> dict[str, Any]:
        """Return the outputs of the model beside logits that the result has, by name.

        length: the columns of the text, for all rows or int [R].
        """
        return {}


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

    def settled(self, ops: Ops, state: Any) -> int | Scalar:
        return self.strategy.settled(ops, state)

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
        origins = row_origins(ops, strategy, settings)
        outputs, cache = outputs.taken(ops, origins), engine.expand(cache, origins)
    state = strategy.init(ops, settings, ops.shape(outputs.logits)[-1])
    state, request = strategy.step(ops, state, outputs, settings)
    return Carry(state, request, cache, strategy.settled(ops, state))


def row_origins(ops: Ops, strategy: Strategy | CompiledStrategy, settings: Settings) -> Array:
    """Return the prompt of each row, int [R]."""
    return ops.arange(ops.shape(settings.prompt)[0]) // strategy.rows_per_prompt


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
    state, request, cache, _ = carry
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
    return Carry(state, request, cache, strategy.settled(ops, state))


def host_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
    """Do what `Ops.while_loop` does, with the host in between."""
    while bool(condition(state)):
        state = body(state)
    return state


def fused(
    ops: Ops,
    strategy: Strategy,
    engine: Engine,
    settings: Settings,
    carry: Carry | None = None,
    until: int | Scalar | None = None,
) -> Carry:
    """Take steps in one loop; see `Loop.run`."""
    carry = start(ops, strategy, engine, settings) if carry is None else carry

    def goes_on(carry: Carry) -> bool | Scalar:
        running = carry.state.running
        return running if until is None else running & (carry.settled < until)

    return ops.while_loop(
        goes_on,
        lambda carry: advance(ops, strategy, engine, settings, carry, ops.while_loop),
        carry,
    )


class StepLoop(Loop):
    """The loop that returns to the host after every step."""

    def __init__(
        self,
        ops: Ops,
        strategy: Strategy | CompiledStrategy,
        engine: Engine,
        settings: Settings,
    ) -> None:
        self._parts = ops, strategy, engine, settings
        self._engine = engine

    def run(self, carry: Carry | None = None, until: int | None = None) -> Carry:
        """Take a step; see `Loop`."""
        return start(*self._parts) if carry is None else advance(*self._parts, carry, host_loop)

    def records(self, length: int | Scalar | Array) -> dict[str, Any]:
        """Return the outputs of the engine's calls; see `Loop`."""
        return self._engine.records(length)
