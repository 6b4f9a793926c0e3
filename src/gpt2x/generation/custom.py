"""Loops of users: `generate(custom_generate=function)` prepares a call, and the function decodes.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.host import Host
from gpt2x.generation.plan import Plan, eos_tokens, pad_token
from gpt2x.generation.processors import LogitsProcessorList
from gpt2x.generation.processors.warpers import TopKLogitsWarper
from gpt2x.generation.run import Run, placed
from gpt2x.generation.stopping import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList

#: Repositories with strategies of transformers that are part of gpt2x.
BUILT_IN = tuple(
    f"transformers-community/{name}"
    for name in ("contrastive-search", "group-beam-search", "constrained-beam-search", "dola")
)

#: Parameters of a loop that `generate` itself fills; others of its own are taken from the call.
_FILLED = {
    "model",
    "self",
    "input_ids",
    "logits_processor",
    "stopping_criteria",
    "generation_config",
    "synced_gpus",
    "streamer",
    "model_kwargs",
}


def loop_of(custom_generate: Any) -> Callable[..., Any] | None:
    """Return the function that decodes, or None for a built-in strategy.

    Raises:
        InvalidInputError: for the name of any other repository, or a folder: their code would run.
    """
    if custom_generate is None or custom_generate in BUILT_IN:
        return None
    if callable(custom_generate):
        return custom_generate
    raise InvalidInputError(
        f"custom_generate is {custom_generate!r}, but must be a function: files and repositories "
        f"run no code here. The strategies of {', '.join(BUILT_IN)} are built in."
    )


def own_arguments(loop: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that belong to the loop alone."""
    parameters = inspect.signature(loop).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = {parameter.name for parameter in parameters if parameter.kind not in kinds}
    return {name: kwargs[name] for name in names - _FILLED if name in kwargs}


def run_loop(host: Host, run: Run, loop: Callable[..., Any], own: dict[str, Any]) -> Any:
    """Return what a loop returns.

    Args:
        host: of the call.
        run: of the call, checked.
        loop: is called with the model, ids int [R, T], `logits_processor`, `stopping_criteria`,
            `generation_config`, arguments of the model, and its own.
        own: see `own_arguments`.
    """
    plan, ops, given = run.plan, host.ops, run.prompts.main.columns
    run = placed(host, run)
    prompt, ids = run.prompts.main, host.to_device(run.input_ids)
    repeats, length = plan.strategy.rows_per_prompt, int(run.prompts.main.length)
    past = prompt.past if prompt.has_past else None
    if repeats > 1:
        origins = ops.arange(plan.rows) // repeats
        prompt = prompt.with_rows(lambda array: ops.take(array, origins))
        ids = ops.take(ids, origins)
        past = None if past is None else past.reorder(origins)
    inputs = {name: column[:, :length] for name, column in prompt.columns.items() if name in given}
    if "attention_mask" not in inputs:
        inputs["attention_mask"] = ops.full((plan.rows, length), 1, "int")
    if prompt.has_embeds:
        inputs["inputs_embeds"] = prompt.inputs_embeds[:, :length]
    inputs |= {**host.loop_arguments(plan.rows, run.static), **prompt.fixed}
    if past is not None:
        inputs["past_key_values"] = past
    return loop(
        host.model,
        ids,
        logits_processor=LogitsProcessorList(_processors(plan)),
        stopping_criteria=StoppingCriteriaList(_criteria(plan)),
        generation_config=_config(host, plan),
        **{**inputs, "use_cache": run.static.use_cache, **own},
    )


def _processors(plan: Plan) -> list[Any]:
    top_k = [TopKLogitsWarper(plan.top_k)] if plan.top_k else []
    return [*plan.processors, *top_k, *plan.warpers]


def _criteria(plan: Plan) -> list[Any]:
    eos = [EosTokenCriteria(plan.eos)] if plan.eos else []
    others = [criterion.value for criterion in plan.strategy.criteria]
    return [MaxLengthCriteria(plan.max_length), *others, *eos]


def _config(host: Host, plan: Plan) -> GenerationConfig:
    """Return the options of a call, with its length and tokens; tokens also as arrays."""
    config = copy.copy(plan.config)
    config.max_length, config.pad_token_id = plan.max_length, pad_token(config)
    tokens = {"_pad_token_tensor": config.pad_token_id, "_eos_token_tensor": eos_tokens(config)}
    for name, value in tokens.items():
        is_given = value is not None and value != []
        array = host.to_device(np.asarray(value)) if is_given else None
        object.__setattr__(config, name, array)
    return config
