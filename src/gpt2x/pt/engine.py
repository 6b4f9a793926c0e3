"""The engine that runs a PyTorch model for the decoding core.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, V
vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gpt2x.generation.engine import (
    Extras,
    Prompt,
    StaticArguments,
    embedded,
    extras_of,
    placed,
)
from gpt2x.generation.ops import is_scalar
from gpt2x.generation.strategies import Needs, Outputs
from gpt2x.pt.cache import KVCache
from gpt2x.pt.ops import torch_ops


class TorchEngine:
    """A model with a language-model head, as `gpt2x.generation.engine.ModelEngine`.

    The cache is a `KVCache`, to which it appends in place, or, with `use_cache=False`, the tokens
    so far, int [R, length], which every step runs again.
    """

    def __init__(self, model: Any, static: StaticArguments) -> None:
        self._model = model
        self._static = static
        #: Arguments of the model that are the same at every step.
        self.options: dict[str, Any] = dict(static.options)
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self.options["logits_to_keep"] = 1

    def prefill(self, prompt: Prompt) -> tuple[Outputs, Any, Extras]:
        """Run the prompts; see `ModelEngine`."""
        if not self._static.use_cache:
            return self._run_text(prompt, prompt.input_ids)
        cache = prompt.past if prompt.has_past else self._new_cache(prompt)
        if prompt.has_embeds:
            return self._run(prompt, {"inputs_embeds": prompt.inputs_embeds}, cache)
        return self._run(prompt, {"input_ids": prompt.input_ids}, cache)

    def decode(
        self, prompt: Prompt, tokens: Tensor, cache: Any, start: int | Tensor
    ) -> tuple[Outputs, Any, Extras]:
        """Run more tokens of each row; see `ModelEngine`."""
        if tokens.size(1) > 1 or not is_scalar(start):
            return self._run_placed(prompt, tokens, cache, start)
        if not self._static.use_cache:
            return self._run_text(prompt, torch.cat([cache, tokens], dim=1))
        return self._run(prompt, {"input_ids": tokens}, cache)

    def _new_cache(self, prompt: Prompt) -> KVCache:
        spare = self._static.needs.spare
        return self.cache_of(prompt.input_ids.size(0), self._static.slots - spare, spare)

    def cache_of(self, rows: int, max_length: int, spare: int = 0) -> KVCache:
        """Return an empty cache for R rows."""
        weight = self._model.get_input_embeddings().weight
        return KVCache.create(
            self._model.config,
            rows,
            max_length,
            dtype=weight.dtype,
            device=weight.device,
            n_layer=len(self._model.base_model.h),
            spare=spare,
        )

    def _run(
        self, prompt: Prompt, inputs: dict[str, Tensor], cache: KVCache | None
    ) -> tuple[Outputs, Any, Extras]:
        """Run tokens [R, n], or embeddings [R, n, E], behind the cache."""
        (given,) = inputs.values()
        start = 0 if cache is None else cache.length
        stop = start + given.size(1)
        columns = {
            name: column[:, :stop] if name == "attention_mask" else column[:, start:stop]
            for name, column in prompt.columns.items()
        }
        outputs = self._model(
            **inputs, **columns, past_key_values=cache, **prompt.fixed, **self.options
        )
        needs = self._static.needs
        return outputs_of(self._model, needs, outputs, 1), cache, extras_of(outputs)

    def _run_placed(
        self, prompt: Prompt, tokens: Tensor, cache: KVCache, start: int | Tensor
    ) -> tuple[Outputs, Any, Extras]:
        """Run tokens [R, k] at columns of their own in each row."""
        rows = tokens.size(0)
        starts = torch.as_tensor(start, device=tokens.device).expand(rows) + prompt.embeds_only
        cache = cache.at(starts)
        inputs = self._placed_inputs(prompt, tokens, starts)
        outputs, extras = run_placed(
            self._model, self._static.needs, self.options, prompt, inputs, cache
        )
        return outputs, cache, extras

    def _placed_inputs(self, prompt: Prompt, tokens: Tensor, starts: Tensor) -> dict[str, Tensor]:
        """Return tokens [R, k] as inputs of the model, or as embeddings [R, k, E]."""
        if not (prompt.has_embeds and self._static.needs.siblings):
            return {"input_ids": tokens}
        columns = starts[:, None] + torch.arange(tokens.size(1), device=tokens.device)
        new = self._model.get_input_embeddings()(tokens)
        return {"inputs_embeds": embedded(torch_ops(tokens.device), prompt, columns, new)}

    def _run_text(self, prompt: Prompt, text: Tensor) -> tuple[Outputs, Tensor, Extras]:
        """Run all tokens [R, length] without a cache."""
        inputs = {"input_ids": text}
        if prompt.has_embeds:
            new = text[:, prompt.length - prompt.embeds_only :]
            embeds = [prompt.inputs_embeds]
            if new.size(1):
                embeds.append(self._model.get_input_embeddings()(new))
            inputs = {"inputs_embeds": torch.cat(embeds, dim=1)}
        outputs, _, extras = self._run(prompt, inputs, None)
        return outputs, text, extras


def run_placed(
    model: Any,
    needs: Needs,
    options: Mapping[str, Any],
    prompt: Prompt,
    inputs: dict[str, Tensor],
    cache: KVCache,
) -> tuple[Outputs, Extras]:
    """Run k inputs of each row at the columns `cache.starts` [R].

    They see the first `cache.length` + k columns, as far as masks allow. The inputs are tokens
    [R, k] or embeddings [R, k, E].
    """
    assert cache.starts is not None, "the caller says where they start"
    (given,) = inputs.values()
    count = given.size(1)
    columns = placed(
        torch_ops(given.device),
        prompt,
        cache.starts,
        count,
        cache.length + count,
        model.config.n_positions,
        needs.siblings,
    )
    kept = count if needs.columns > 1 else 1
    if "logits_to_keep" in options:
        options = {**options, "logits_to_keep": kept}
    outputs = model(**inputs, **columns, past_key_values=cache, **prompt.fixed, **options)
    return outputs_of(model, needs, outputs, kept), extras_of(outputs)


def outputs_of(model: Any, needs: Needs, outputs: Any, kept: int) -> Outputs:
    """Return what a strategy needs: the logits after the last `kept` tokens, and more."""
    logits = outputs.logits[:, -kept:].float()  # [R, kept, V]
    found = Outputs(logits if kept > 1 else logits[:, 0])
    if needs.hidden_states:
        found = found._replace(hidden_states=outputs.hidden_states[-1].float())
    if needs.layers:
        states = [outputs.hidden_states[layer][:, -1] for layer in needs.layers]
        head = model.get_output_embeddings()
        found = found._replace(layer_logits=head(torch.stack(states, dim=1)).float())
    return found
