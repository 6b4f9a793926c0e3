"""Decoding by a model's own `prepare_inputs_for_generation`.

A user's class, or PEFT, may decide what each step passes to the model. `PreparedEngine` calls such
a method as transformers 4.57 does; it is slower than `TorchEngine`, which needs none.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, V
vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gpt2x.generation.engine import Prompt, PromptedEngine, StaticArguments, extras_of
from gpt2x.generation.ops import Ops
from gpt2x.generation.strategies import Outputs, Request
from gpt2x.pt.cache import KVCache
from gpt2x.pt.engine import TorchEngine
from gpt2x.pt.interop.foreign_cache import as_cache

Past = KVCache | Sequence[Sequence[Tensor]]


class PreparationMixin:
    """The methods of transformers' decoding loops that classes override."""

    forward: Any

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Past | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache_position: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the arguments of the model for one step of decoding, as transformers 4.57 does.

        `generate` calls an override of this method, in a subclass or set on the model, before every
        step: with the text so far, without a past for a prompt that has none yet, and with a
        `KVCache` afterwards.

        Args:
            input_ids: the text so far, int [R, S]; with a past, its tokens included.
            past_key_values: the cache that an earlier call returned.
            attention_mask: [R, S]. Without `position_ids` beside it, they are the number of
                attended tokens before each token (1 at padding).
            inputs_embeds: [R, T, E] in place of the prompt's ids; used for the prompt only.
            cache_position: [T], positions of the tokens to run; by default those behind the past.
            **kwargs: passed on (`position_ids` and `token_type_ids` cut to the tokens to run);
                `labels` are dropped.
        """
        if past_key_values is not None and cache_position is None:
            cache_position = _positions_behind(past_key_values, input_ids, inputs_embeds)
        inputs: dict[str, Any] = {"cache_position": cache_position}
        width = 0 if inputs_embeds is None else inputs_embeds.size(1)
        if past_key_values is not None:
            assert cache_position is not None, "set above"
            inputs["past_key_values"] = past_key_values
            count = cache_position.numel()
            if inputs_embeds is not None and input_ids.size(1) == 0:
                inputs_embeds = inputs_embeds[:, -count:]
            elif inputs_embeds is not None or int(cache_position[-1]) >= input_ids.size(1):
                input_ids = input_ids[:, -count:]
            else:
                input_ids = input_ids[:, cache_position]
        is_prompt = cache_position is None or int(cache_position[-1]) < width
        embeds = inputs_embeds if is_prompt else None
        # Not a view: compiled models depend on strides.
        inputs["input_ids"] = None if embeds is not None else input_ids.clone()
        inputs["inputs_embeds"] = embeds

        takes_positions = "position_ids" in inspect.signature(self.forward).parameters
        if attention_mask is not None and takes_positions and kwargs.get("position_ids") is None:
            positions = attention_mask.long().cumsum(dim=-1) - 1
            kwargs["position_ids"] = positions.masked_fill(attention_mask == 0, 1)
        for name in ("position_ids", "token_type_ids"):
            value = kwargs.pop(name, None)
            if value is not None:
                run = input_ids if embeds is None else embeds
                cut = value if past_key_values is None else value[:, -run.size(1) :].clone()
                inputs[name] = cut
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        kwargs.pop("labels", None)
        return inputs | kwargs

    def _update_model_kwargs_for_generation(
        self,
        outputs: Any,
        model_kwargs: dict[str, Any],
        is_encoder_decoder: bool = False,
        num_new_tokens: int = 1,
    ) -> dict[str, Any]:
        """Return the arguments of `prepare_inputs_for_generation` for the next step."""
        updated = dict(model_kwargs)
        if outputs.get("past_key_values") is not None:
            updated["past_key_values"] = outputs["past_key_values"]
        for name, step in (("token_type_ids", 0), ("position_ids", 1)):
            if updated.get(name) is not None:
                last = updated[name][:, -1:]
                updated[name] = torch.cat([updated[name], last + step], dim=-1)
        mask = updated.get("attention_mask")
        if mask is not None:
            updated["attention_mask"] = torch.cat([mask, mask.new_ones(mask.size(0), 1)], dim=-1)
        positions = updated["cache_position"]
        later = positions[-1:] + torch.arange(1, num_new_tokens + 1, device=positions.device)
        uses_cache = updated.get("use_cache", True)
        updated["cache_position"] = later[-1:] if uses_cache else torch.cat([positions, later])
        return updated

    @staticmethod
    def _reorder_cache(past_key_values: Past, beam_idx: Tensor) -> Past:
        """Return the past whose row i continues row `beam_idx[i]`; a `KVCache` in place."""
        if isinstance(past_key_values, KVCache):
            return past_key_values.reorder(beam_idx)
        return KVCache.from_tuple(past_key_values).reorder(beam_idx).to_tuple()

    def _prepares_itself(self) -> bool:
        """Return whether a subclass, or the user of this model, overrides a method of ours."""
        names = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
        found = (getattr(getattr(self, name), "__func__", None) for name in names)
        return tuple(found) != tuple(getattr(PreparationMixin, name) for name in names)


class PreparedEngine(PromptedEngine):
    """Runs a model through its own `prepare_inputs_for_generation`, step by step.

    The method always gets the whole text, even if a cache holds the beginning. The driver gets
    the past that the model returns as the cache: a `KVCache`, or None if the model returns no past.
    """

    def __init__(self, model: Any, ops: Ops, static: StaticArguments, prompt: Prompt) -> None:
        engine = TorchEngine(model, static)
        super().__init__(ops, engine, static, prompt, lambda extras, *_: extras)
        self._model = model
        # Prompts are repeated before they are run, not after: so the model sees R rows always.
        self._repeats = static.strategy.rows_per_prompt
        self._steps = static.strategy.steps
        self._text = self._repeat(prompt.input_ids)
        self._kwargs = self._first_kwargs(prompt)
        names = ("output_attentions", "output_hidden_states")
        self._outputs = {name: True for name in names if engine.options[name]}
        if "logits_to_keep" in engine.options:
            self._kwargs["logits_to_keep"] = engine.options["logits_to_keep"]
        self._kwargs |= self._outputs | {"use_cache": static.use_cache}

    def _first_kwargs(self, prompt: Prompt) -> dict[str, Any]:
        """Return what `prepare_inputs_for_generation` is given for the prompt."""
        ids, length = prompt.input_ids, prompt.length
        given = {name: column[:, :length] for name, column in prompt.columns.items()}
        if "attention_mask" not in given:
            given["attention_mask"] = ids.new_ones((ids.size(0), length))
        if prompt.has_embeds:
            given["inputs_embeds"] = prompt.inputs_embeds
        kwargs = {name: self._repeat(value) for name, value in (prompt.fixed | given).items()}
        if prompt.has_past:
            kwargs["past_key_values"] = prompt.past
            prompt.past.batch_repeat_interleave(self._repeats)
        start = prompt.past.length if prompt.has_past else 0
        return kwargs | {"cache_position": torch.arange(start, length, device=ids.device)}

    def prefill(self) -> tuple[Outputs, Any]:
        """Run the prompts; see `driver.Engine`."""
        return Outputs(self._step()[:: self._repeats]), self._kwargs.get("past_key_values")

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        """Run another token of each row; see `driver.Engine`."""
        self._text = torch.cat([self._text, request.tokens], dim=1)
        return Outputs(self._step()), self._kwargs.get("past_key_values")

    def expand(self, cache: Any, origins: Tensor) -> Any:
        """Return the cache as it is: the prompts' rows are repeated already."""
        return cache

    def reorder(self, cache: Any, parents: Tensor) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        self._text = self._text[parents]
        return cache if cache is None else cache.reorder(parents)

    def _step(self) -> Tensor:
        """Run the inputs that the model prepares; return the last logits, float32 [R, V]."""
        inputs = self._model.prepare_inputs_for_generation(self._text, **self._kwargs)
        # The caller of `generate` decides what is returned, even if the method drops these options.
        outputs = self._model(**(inputs | self._outputs), return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(
            outputs, self._kwargs, is_encoder_decoder=False
        )
        past = self._kwargs.get("past_key_values")
        if past is not None:
            cache = as_cache(past, len(self._model.base_model.h))
            self._kwargs["past_key_values"] = cache
            if cache.max_length == cache.length:
                # Room for all steps at once: growing by one would copy the cache in each.
                cache.extend(cache.length + self._steps)
        self._record(extras_of(outputs), 0, 1)
        return outputs.logits[:, -1].float()

    def _repeat(self, value: Any) -> Any:
        """Repeat the inputs of each prompt for its rows."""
        if not isinstance(value, Tensor) or self._repeats == 1:
            return value
        return value.repeat_interleave(self._repeats, dim=0)


def _positions_behind(past: Past, input_ids: Tensor, inputs_embeds: Tensor | None) -> Tensor:
    """Return the positions of the text that follow a past."""
    length = past.length if isinstance(past, KVCache) else as_cache(past, len(past)).length
    given = inputs_embeds if inputs_embeds is not None and input_ids.size(1) == 0 else input_ids
    return torch.arange(length, given.size(1), device=input_ids.device)
