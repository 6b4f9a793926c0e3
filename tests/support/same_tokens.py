"""Whether calls of `generate` give the same tokens in every backend, alone and in batches.

R texts, L columns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import gpt2x
from gpt2x import backends
from gpt2x.errors import InvalidInputError
from gpt2x.generation import driver
from gpt2x.generation.generate import prepare
from gpt2x.weights.table import Head
from support.drawn_calls import PAD, Call
from support.parity_models import save_reference, tensors

#: A text is a near-tie if PyTorch writes it with weights that are moved by this part of themselves.
TIE = 1e-5
#: How many such models are asked.
MOVED = 24


class Finding(NamedTuple):
    """How one run of a call compares with PyTorch's.

    run: its name; is_tie: whether the difference is one of rounding.
    """

    run: str
    expected: Any
    found: Any
    is_tie: bool


class Pair(NamedTuple):
    """A model, and the one that drafts for it, of a backend."""

    model: Any
    assistant: Any

    def options(self, call: Call) -> dict[str, Any]:
        """Return all of a call's options."""
        assistant = {"assistant_model": self.assistant} if call.strategy == "assistant" else {}
        return {**call.options, **assistant}


class Models:
    """Models of the same random weights, and their assistants, in each backend.

    Args:
        folder: where they are saved.
        runs: names of `RUNS`, in which calls are run besides PyTorch.

    Attributes:
        others: the models of the other backends.
    """

    def __init__(self, folder: Path, runs: list[str]) -> None:
        folders = folder / "model", folder / "assistant"
        self.reference = Pair(
            save_reference(Head.LM, folders[0]).requires_grad_(False),
            save_reference(Head.LM, folders[1], n_layer=1).requires_grad_(False),
        )
        self.runs = [name for name in runs if name != "pt"]
        self.others = {
            name: Pair(*(_load(name, folder) for folder in folders))
            for name in dict.fromkeys(name.split("-")[0] for name in self.runs)
        }
        self._moved: list[Pair] = []

    def forget(self) -> None:
        """Drop what was compiled for former calls."""
        if "tf" in self.others:
            self.others["tf"].model._functions.clear()
        if "flax" in self.others:
            sys.modules["jax"].clear_caches()

    def moved(self) -> Iterator[Pair]:
        """Yield PyTorch models whose weights are moved by `TIE` of themselves."""
        generator = torch.Generator().manual_seed(0)
        for number in range(MOVED):
            if number == len(self._moved):
                self._moved.append(_moved(self.reference, generator))
            yield self._moved[number]


def compare(models: Models, call: Call, alone: bool = False) -> list[Finding]:
    """Run a call in each way; return the runs whose result is not PyTorch's.

    alone: whether each prompt is run alone in every way, for which most compile another batch
        size; if not, in PyTorch and in those of `UNCOMPILED`.
    """
    expected = _outcome(run_pt, models.reference, call)
    findings = []
    for name, run in _runs(models, call):
        found = run()
        if not _equal(found, expected):
            findings.append(Finding(name, expected, found, _is_tie(models, call, found)))
    if isinstance(expected, str):
        return findings
    names = [name for name in models.runs if alone or name in UNCOMPILED]
    for prompt in range(call.batch_size):
        single, rows = (
            call.alone(prompt),
            slice(prompt * call.returned, (prompt + 1) * call.returned),
        )
        part = expected[rows, call.padding(prompt) :]  # padding stands at the left
        ways = {"pt": partial(run_pt, models.reference), **_others(models, names)}
        for name, way in ways.items():
            found = _outcome(way, single)
            if not _equal(found, part):
                # The text that PyTorch's own weights do not write for the prompt alone.
                other = part if name == "pt" else found
                is_tie = _is_tie(models, single, other)
                findings.append(Finding(f"{name}, prompt {prompt} alone", part, found, is_tie))
    return findings


def _others(models: Models, names: list[str]) -> dict[str, Callable[[Call], np.ndarray]]:
    """Return the ways of these names to run a call besides PyTorch."""
    return {name: partial(RUNS[name], models.others[name.split("-")[0]]) for name in names}


def _runs(models: Models, call: Call) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the other ways to run a call."""
    yield "pt fused", partial(_outcome, run_pt_fused, models.reference, call)
    size = max(1, call.batch_size // 2)
    yield "pt in parts", partial(_outcome, run_pt, models.reference, call, batch_size=size)
    plain = call.without_drafts()
    if plain is not None:
        yield "pt without drafts", partial(_outcome, run_pt, models.reference, plain)
    for name, way in _others(models, models.runs).items():
        yield name, partial(_outcome, way, call)


def run_pt(pair: Pair, call: Call, **options: Any) -> np.ndarray:
    """Return the texts that a PyTorch model writes: int [R, L]."""
    past = _past(pair, call, tensors)
    given = {**tensors(call.arrays), **past, **pair.options(call), **options}
    return pair.model.generate(**given).numpy()


def run_pt_fused(pair: Pair, call: Call) -> np.ndarray:
    """Return the same, with the whole loop in one function, as compilers see it."""
    host = pair.model.generation_host()
    options = {**tensors(call.arrays), **_past(pair, call, tensors), **pair.options(call)}
    own = ("seed", "assistant_model", "negative_prompt_ids", "negative_prompt_attention_mask")
    given = {name: options.pop(name) for name in own if name in options}
    prepared = prepare(host, kwargs=options, **given)
    engine, strategy = host.stepper(prepared.plan, prepared.static, prepared.prompts)
    with host.running(prepared.plan):
        carry = driver.fused(host.ops, strategy, engine, prepared.settings)
    return host.result(prepared.plan, prepared.settings, carry.state).numpy()


def run(pair: Pair, call: Call, **options: Any) -> np.ndarray:
    """Return what another backend's model writes."""
    past = _past(pair, call, dict)
    return np.asarray(pair.model.generate(**call.arrays, **past, **pair.options(call), **options))


def run_tf_eager(pair: Pair, call: Call) -> np.ndarray:
    """Return what a TensorFlow model writes if its functions run op by op."""
    from support.tf_models import uncompiled

    with uncompiled():
        return run(pair, call)


#: The ways to run a call besides PyTorch: the backend, and how it runs the loop.
RUNS: dict[str, Callable[[Pair, Call], np.ndarray]] = {
    "tf": run,
    "tf-xla": partial(run, jit_compile=True),
    "tf-eager": run_tf_eager,
    "flax": run,
    "flax-stepwise": partial(run, trace=False),
}
#: Those that compile nothing.
UNCOMPILED = ("tf-eager",)


def _past(pair: Pair, call: Call, convert: Callable[..., Any]) -> dict[str, Any]:
    """Return the prompt cache of a call as an argument of `generate`, if it has one."""
    if not call.cached:
        return {}
    return {"past_key_values": pair.model.prefill(**convert(call.prefix()))}


def _outcome(run: Callable[..., np.ndarray], *arguments: Any, **options: Any) -> Any:
    """Return texts, or the message that says why there are none."""
    try:
        return run(*arguments, **options)
    except InvalidInputError as error:
        return str(error)


def _equal(found: Any, expected: Any) -> bool:
    """Compare texts that may be filled up to the longest of a batch, or messages."""
    if isinstance(found, str) or isinstance(expected, str):
        return isinstance(found, str) and isinstance(expected, str) and found == expected
    width = max(found.shape[1], expected.shape[1])
    return np.array_equal(_filled(found, width), _filled(expected, width))


def _filled(texts: np.ndarray, width: int) -> np.ndarray:
    return np.pad(texts, [(0, 0), (0, width - texts.shape[1])], constant_values=PAD)


def _is_tie(models: Models, call: Call, found: Any) -> bool:
    """Whether PyTorch writes these texts with weights that are moved a little."""
    if isinstance(found, str):
        return False
    return any(_equal(_outcome(run_pt, pair, call), found) for pair in models.moved())


def _moved(pair: Pair, generator: torch.Generator) -> Pair:
    model = pair.model
    moved = type(model)(model.config).eval().requires_grad_(False)
    moved.load_state_dict(model.state_dict())
    for parameter in moved.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.mul_(1 + TIE * noise)
    return pair._replace(model=moved)


def _load(name: str, folder: Path) -> Any:
    kind = getattr(gpt2x, f"{backends.get(name).prefix}{Head.LM.value}")
    return kind.from_pretrained(folder)
