"""The engine that runs a PyTorch model for the decoding core.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, V
vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from gpt2x.generation.engine import Extras, Prompt, StaticArguments, extras_of
from gpt2x.pt.cache import KVCache


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

    def prefill(self, prompt: Prompt) -> tuple[Tensor, Any, Extras]:
        """Run the prompts; see `ModelEngine`."""
        if not self._static.use_cache:
            return self._run_text(prompt, prompt.input_ids)
        cache = prompt.past if prompt.has_past else self._new_cache(prompt)
        if prompt.has_embeds:
            return self._run(prompt, {"inputs_embeds": prompt.inputs_embeds}, cache)
        return self._run(prompt, {"input_ids": prompt.input_ids}, cache)

    def decode(
        self, prompt: Prompt, tokens: Tensor, cache: Any, length: int
    ) -> tuple[Tensor, Any, Extras]:
        """Run another token of each row; see `ModelEngine`."""
        if not self._static.use_cache:
            return self._run_text(prompt, torch.cat([cache, tokens[:, None]], dim=1))
        return self._run(prompt, {"input_ids": tokens[:, None]}, cache)

    def _new_cache(self, prompt: Prompt) -> KVCache:
        weight = self._model.get_input_embeddings().weight
        return KVCache.create(
            self._model.config,
            prompt.input_ids.size(0),
            self._static.slots,
            dtype=weight.dtype,
            device=weight.device,
            n_layer=len(self._model.base_model.h),
        )

    def _run(
        self, prompt: Prompt, inputs: dict[str, Tensor], cache: KVCache | None
    ) -> tuple[Tensor, Any, Extras]:
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
        return outputs.logits[:, -1].float(), cache, extras_of(outputs)  # [R, V]

    def _run_text(self, prompt: Prompt, text: Tensor) -> tuple[Tensor, Tensor, Extras]:
        """Run all tokens [R, length] without a cache."""
        inputs = {"input_ids": text}
        if prompt.has_embeds:
            new = text[:, prompt.length - prompt.embeds_only :]
            embeds = [prompt.inputs_embeds]
            if new.size(1):
                embeds.append(self._model.get_input_embeddings()(new))
            inputs = {"inputs_embeds": torch.cat(embeds, dim=1)}
        logits, _, extras = self._run(prompt, inputs, None)
        return logits, text, extras
