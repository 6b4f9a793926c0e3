"""`Run`: a call of `generate`, checked, with the arrays that its loop starts from."""

from __future__ import annotations

from typing import NamedTuple

from gpt2x.generation.cached_prompt import for_rows
from gpt2x.generation.engine import Prompts, StaticArguments
from gpt2x.generation.host import Host
from gpt2x.generation.ops import Array
from gpt2x.generation.plan import Plan
from gpt2x.generation.strategies import Settings


class Run(NamedTuple):
    """A call of `generate`, checked and prepared.

    Attributes:
        plan: what it will do.
        static, settings, prompts: the start of the loop.
        input_ids: the prompts, int [B, T].
        is_stepwise: whether every step returns to the host.
        returns_cache: whether the result has the cache.
    """

    plan: Plan
    static: StaticArguments
    settings: Settings
    prompts: Prompts
    input_ids: Array
    is_stepwise: bool
    returns_cache: bool


def placed(host: Host, run: Run) -> Run:
    """Return a run whose arrays are on the device, and whose past has room for all of its rows."""
    main = run.prompts.main
    if main.has_past:
        past = for_rows(main.past.extend(run.static.slots), host.prompt_ops.shape(run.input_ids)[0])
        main = main._replace(past=past)
    settings, prompts = run.settings, run.prompts._replace(main=main)
    if not host.is_traced:
        settings, prompts = host.place(settings, prompts)
    return run._replace(settings=settings, prompts=prompts)
