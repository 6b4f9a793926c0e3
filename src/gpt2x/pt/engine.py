"""The engine that runs a PyTorch model for the decoding core.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, V
vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from gpt2x.errors import InvalidInputError
from gpt2x.generation.plan import Plan
from gpt2x.pt.cache import KVCache
from gpt2x.pt.interop.foreign_cache import as_cache


class TorchEngine:
    """A model with a language-model head, as `gpt2x.generation.driver.Engine`.

    The cache is a `KVCache` that is appended to in place or, with `use_cache=False`, the tokens so
    far, int [R, length], which every step runs again.
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        arguments: dict[str, Any],
    ) -> None:
        self._model = model
        self._use_cache = plan.config.use_cache
        self._input_ids = input_ids
        self._embeds = arguments.pop("inputs_embeds", None)  # [B, T', E]
        past = arguments.pop("past_key_values", None)
        self._past = None if isinstance(past, tuple | list) and len(past) == 0 else past
        self._token_types = arguments.pop("token_type_ids", None)  # [B, T]
        self._positions = arguments.pop("position_ids", None)  # [B, T]
        self._arguments = arguments  # the same for every step: encoder_hidden_states, head_mask ...
        self._width = input_ids.size(1) if self._embeds is None else self._embeds.size(1)
        self._hidden = self._width - input_ids.size(1)  # columns that are not tokens
        self._columns = plan.max_length + self._hidden
        self._mask = attention_mask
        if attention_mask is not None:
            # [B, columns]: the columns to come are all attended to.
            room = self._columns - attention_mask.size(1)
            self._mask = torch.nn.functional.pad(attention_mask, (0, room), value=1)
            if self._positions is None:
                self._positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        records = plan.config.return_dict_in_generate
        self.attentions: list[Any] | None = None
        if records and plan.config.output_attentions:
            self.attentions = []
        self.hidden_states: list[Any] | None = None
        if records and plan.config.output_hidden_states:
            self.hidden_states = []
        self._options: dict[str, Any] = {
            "use_cache": self._use_cache,
            "output_attentions": self.attentions is not None,
            "output_hidden_states": self.hidden_states is not None,
            "return_dict": True,
        }
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self._options["logits_to_keep"] = 1

    def prefill(self) -> tuple[Tensor, Any]:
        """Run the prompts; see `driver.Engine`."""
        if not self._use_cache:
            return self._run(self._input_ids, None, self._width), self._input_ids
        cache = self._open_cache()
        return self._run(self._input_ids[:, cache.length :], cache, self._width), cache

    def decode(self, tokens: Tensor, cache: Any, length: int) -> tuple[Tensor, Any]:
        """Run one more token of each row; see `driver.Engine`."""
        if not self._use_cache:
            text = torch.cat([cache, tokens[:, None]], dim=1)
            return self._run(text, None, length + self._hidden), text
        return self._run(tokens[:, None], cache, length + self._hidden), cache

    def reorder(self, cache: Any, parents: Tensor) -> Any:
        """Let row r continue row parents[r]; see `driver.Engine`."""
        if not self._use_cache:
            cache = cache[parents]
        else:
            cache = cache.reorder(parents)
        if parents.numel() != self._input_ids.size(0):
            self._expand(parents)
        return cache

    def _open_cache(self) -> KVCache:
        """Return the caller's cache, or a new one, with room for the whole text."""
        config = self._model.config
        # The last token is never run, and the model has no position for one beyond its last.
        room = min(self._columns, config.n_positions)
        if self._past is None:
            weight = self._model.get_input_embeddings().weight
            return KVCache.create(
                config,
                self._input_ids.size(0),
                room,
                dtype=weight.dtype,
                device=weight.device,
                n_layer=len(self._model.base_model.h),
            )
        cache = as_cache(self._past, len(self._model.base_model.h))
        if cache.length >= self._width:
            raise InvalidInputError(
                f"past_key_values hold {cache.length} tokens and the prompt {self._width}; pass "
                "the whole text as the prompt, which must go on beyond the cached part."
            )
        return cache.extend(max(room, cache.max_length))

    def _run(self, tokens: Tensor, cache: KVCache | None, columns: int) -> Tensor:
        """Run tokens [R, n], the last n of `columns`; return the last logits, float32 [R, V]."""
        count = columns if cache is None else columns - cache.length
        inputs: dict[str, Any] = {"input_ids": tokens}
        if self._embeds is not None and columns == self._width:
            inputs = {"inputs_embeds": self._embeds[:, columns - count :]}
        elif self._embeds is not None and cache is None:
            embedded = self._model.get_input_embeddings()(tokens[:, self._input_ids.size(1) :])
            inputs = {"inputs_embeds": torch.cat([self._embeds, embedded], dim=1)}
        if self._mask is not None:
            inputs["attention_mask"] = self._mask[:, :columns]
        if self._positions is not None:
            beyond = torch.arange(1, columns - self._width + 1, device=tokens.device)
            later = self._positions[:, -1:] + beyond
            inputs["position_ids"] = torch.cat([self._positions, later], dim=1)[:, -count:]
        if self._token_types is not None:
            later = self._token_types[:, -1:].expand(-1, columns - self._width)
            inputs["token_type_ids"] = torch.cat([self._token_types, later], dim=1)[:, -count:]
        outputs = self._model(**inputs, past_key_values=cache, **self._arguments, **self._options)
        self._record(outputs)
        return outputs.logits[:, -1].float()

    def _record(self, outputs: Any) -> None:
        """Keep what `generate` was asked to return of this step."""
        if self.attentions is not None:
            self.attentions.append(outputs.attentions)
        if self.hidden_states is not None:
            self.hidden_states.append(outputs.hidden_states)

    def _expand(self, origins: Tensor) -> None:
        """Give every row its own copy of what belongs to its prompt."""
        batch = self._input_ids.size(0)

        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() > 1 and value.size(0) == batch:
                return value[origins]
            return value

        self._input_ids, self._embeds = rows(self._input_ids), rows(self._embeds)
        self._mask, self._positions = rows(self._mask), rows(self._positions)
        self._token_types = rows(self._token_types)
        encoder = ("encoder_hidden_states", "encoder_attention_mask")
        self._arguments.update(
            {n: rows(self._arguments[n]) for n in encoder if n in self._arguments}
        )
        for record in (self.attentions, self.hidden_states):
            if record is not None:
                record[:] = [tuple(rows(layer) for layer in step) for step in record]
