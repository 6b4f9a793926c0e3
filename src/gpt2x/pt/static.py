"""Decoding with a cache whose size stays the same, so that `torch.compile` compiles a step once.

R rows given to the model, k tokens of a request, S columns of the cache: a bucket of lengths.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Hashable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpt2x.config.compilation import CompileConfig
from gpt2x.generation.engine import Extras, Prompt, StaticArguments
from gpt2x.generation.lengths import bucket
from gpt2x.generation.ops import is_scalar
from gpt2x.generation.strategies import Needs, Outputs
from gpt2x.pt.cache import KVCache
from gpt2x.pt.engine import TorchEngine, run_placed


class Kept(NamedTuple):
    """The buffers of a cache, kept for the next call.

    Attributes:
        key: of buffers that may take the place of each other.
        user: the cache that has them, as long as it lives.
        keys, values: for each layer, [R, H, S, D].
    """

    key: Hashable
    user: weakref.ref[KVCache]
    keys: list[Tensor]
    values: list[Tensor]


class StaticSteps:
    """The steps of a model, compiled or not, and the buffers of their caches.

    A step is compiled for its sizes. CUDA graphs also know the addresses of the buffers, so the
    next call uses them again. Nothing here holds the model, which is an argument of each step.

    Args:
        config: how to compile; None does not.
    """

    def __init__(self, config: CompileConfig | None) -> None:
        self.config = config
        self._steps: dict[Hashable, Callable[..., Outputs]] = {}
        self._kept: list[Kept] = []

    def step(self, key: Hashable) -> Callable[..., Outputs]:
        """Return the step of a key, which stands for all sizes and devices."""
        if self.config is None:
            return run_step
        if key not in self._steps:
            self._steps[key] = _compiled(self.config)
        return self._steps[key]

    def cache(self, key: Hashable, shape: tuple[int, ...], like: KVCache) -> KVCache:
        """Return an empty cache with buffers of this shape, those of an earlier call if possible.

        Args:
            key: of buffers that may take the place of each other.
            shape: of each buffer, [R, H, S, D].
            like: a cache with as many layers, of this dtype and on this device.
        """
        free = [kept for kept in self._kept if kept.user() is None]
        fitting = next((kept for kept in free if kept.key == key), None)
        if fitting is not None:
            keys, values = fitting.keys, fitting.values
            torch._foreach_zero_(keys + values)  # what is not a number would spread
            others = [kept for kept in self._kept if kept is not fitting]
        else:
            keys, values = (
                [part.new_zeros(shape) for part in parts] for parts in (like.keys, like.values)
            )
            for buffer in keys + values:
                torch._dynamo.mark_static_address(buffer, guard=False)
            others = [kept for kept in self._kept if kept not in free]  # other sizes give way
        cache = KVCache(list(keys), list(values))
        self._kept = [*others, Kept(key, weakref.ref(cache), keys, values)]
        return cache


_STEPS: weakref.WeakKeyDictionary[Any, StaticSteps] = weakref.WeakKeyDictionary()


def steps_of(model: Any, config: CompileConfig | None) -> StaticSteps:
    """Return the steps of a model, kept as long as it lives; new ones for another config.

    They are not an attribute of the model, which can so be copied and pickled as before.
    """
    steps = _STEPS.get(model)
    if steps is None or steps.config != config:
        steps = _STEPS[model] = StaticSteps(copy.copy(config))  # the caller may change it
    return steps


class StaticEngine(TorchEngine):
    """The engine with a cache of S columns, which all steps see whole, through a mask.

    Prompts run as in `TorchEngine`; their keys and values are copied before the first step.

    Args:
        model: the model.
        static: of the call.
        steps: of the model that generates.
        role: tells the engines of a call apart whose models are not the same.
    """

    def __init__(
        self, model: Any, static: StaticArguments, *, steps: StaticSteps, role: str
    ) -> None:
        super().__init__(model, static)
        needs = static.needs
        text = bucket(int(static.slots) - needs.spare, model.config.n_positions)
        self._slots = text + needs.columns - 1  # drafts may stand behind the text
        self._steps = steps
        self._key = (role, static.needs, torch.is_inference_mode_enabled())
        self._cache: KVCache | None = None
        self._columns: dict[str, Tensor] = {}
        self._prompt: Prompt | None = None

    def decode(
        self, prompt: Prompt, tokens: Tensor, cache: Any, start: int | Tensor
    ) -> tuple[Outputs, Any, Extras]:
        """Run more tokens of each row; see `ModelEngine`."""
        if not self._static.use_cache:
            return super().decode(prompt, tokens, cache, start)
        cache = self._own(cache)
        if prompt is not self._prompt:
            self._prompt, self._columns = prompt, self._every_column(prompt, tokens.size(0))
        start = start + prompt.embeds_only
        starts = start if isinstance(start, Tensor) else torch.full_like(tokens[:, 0], start)
        # Only a text that has ended already stands at the end.
        starts = starts.clamp(max=self._slots - tokens.size(1))
        key = (self._key, self._shape(cache), cache.keys[0].dtype, tokens.device, tokens.size(1))
        fixed = ((name, getattr(value, "shape", None)) for name, value in prompt.fixed.items())
        given = (tuple(self._columns), tuple(fixed))
        run = self._steps.step((key, given))
        outputs = run(
            self._model,
            self._static.needs,
            self.options,
            self._columns,
            prompt.fixed,
            # Strides are part of what a step is compiled for.
            tokens.clone(memory_format=torch.contiguous_format),
            starts.expand(tokens.size(0)).contiguous(),
            *(getattr(cache, part) for part in KVCache._parts),
        )
        if tokens.is_cuda:  # the next run of a CUDA graph writes into what this one returned
            outputs = Outputs(*(x.clone() if isinstance(x, Tensor) else x for x in outputs))
        # Rows of their own lengths are never reordered, so nobody asks how long they are.
        cache.length = int(start) + tokens.size(1) if is_scalar(start) else self._slots
        return outputs, cache, {}

    def _new_cache(self, prompt: Prompt) -> KVCache:
        return self.cache_of(prompt.input_ids.size(0), int(prompt.length))

    def _own(self, cache: KVCache) -> KVCache:
        """Return the cache with S columns: at the first step, copied into buffers that are kept."""
        if cache is self._cache:
            return cache
        shape = self._shape(cache)
        key = (self._key, shape, cache.keys[0].dtype, cache.keys[0].device)
        own = self._steps.cache(key, shape, cache)
        own.length = cache.length
        own.cross_keys, own.cross_values = cache.cross_keys, cache.cross_values
        for layer in range(len(cache)):
            for buffer, filled in zip(own._buffers(layer), cache[layer], strict=True):
                buffer[:, :, : cache.length] = filled
        self._cache = own
        return own

    def _shape(self, cache: KVCache) -> tuple[int, ...]:
        rows, heads, _, width = cache.keys[0].shape
        return rows, heads, self._slots, width

    def _every_column(self, prompt: Prompt, rows: int) -> dict[str, Tensor]:
        """Return the model's arguments for each of S columns, [R, S].

        Mask and positions are always among them: prompts with and without padding then run in the
        same computation.
        """
        columns = torch.arange(self._slots, device=prompt.input_ids.device).expand(rows, -1)
        default = {"attention_mask": torch.ones_like(columns), "position_ids": columns}
        # Those behind the text repeat its last, and no token of the text sees them.
        return {
            name: torch.cat(
                [column, column[:, -1:].expand(-1, self._slots - column.size(1))], dim=1
            )
            for name, column in (default | prompt.columns).items()
        }


def run_step(
    model: Any,
    needs: Needs,
    options: Mapping[str, Any],
    columns: dict[str, Tensor],
    fixed: dict[str, Any],
    tokens: Tensor,
    starts: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    cross_keys: list[Any],
    cross_values: list[Any],
) -> Outputs:
    """Run tokens [R, k] at columns starts [R], and write their keys and values to the buffers."""
    length = keys[0].size(2) - tokens.size(1)  # so that all S columns are seen
    cache = KVCache(list(keys), list(values), length, list(cross_keys), list(cross_values))
    cache.starts = starts
    prompt = Prompt((), (), 0, 0, columns, fixed, ())
    return run_placed(model, needs, options, prompt, {"input_ids": tokens}, cache)[0]


def _compiled(config: CompileConfig) -> Callable[..., Outputs]:
    """Return `run_step`, compiled."""
    # torch.compile counts computations, and looks for one that fits, by the code of a function.
    own = FunctionType(run_step.__code__.replace(), run_step.__globals__, run_step.__name__)
    return torch.compile(own, **config.arguments())
