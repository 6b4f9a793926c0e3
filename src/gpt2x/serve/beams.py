"""Texts that beam searches find, one search after another, beside the batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2x.batching.batch import Text
from gpt2x.generation import GenerationConfig
from gpt2x.generation.registry import ops_for
from gpt2x.generation.stopping import StoppingCriteria


@dataclass(eq=False, kw_only=True)
class Search(Text):
    """A beam search, which finds several texts; it has no tokens of its own.

    Attributes:
        arguments: of `generate`, `num_beams` and what else the search reads.
        found: the texts, the likeliest first.
    """

    arguments: Mapping[str, Any]
    found: Sequence[Text]

    def end(self, reason: str, error: Exception | None = None) -> None:
        """Let it end here, and its texts with it."""
        for text in self.found:
            text.end(reason, error)
        super().end(reason, error)


class Searches:
    """The searches of a model: what a `Runner` runs, one at a time, each in one step.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        inference: the module of its backend that runs it.
    """

    def __init__(self, model: Any, tokenizer: Any, inference: Any) -> None:
        self._model, self._tokenizer, self._inference = model, tokenizer, inference
        self._search: Search | None = None

    @property
    def size(self) -> int:
        """Texts that are searched for."""
        return 0 if self._search is None else len(self._search.found)

    @property
    def texts(self) -> list[Text]:
        """The search, if there is one."""
        return [] if self._search is None else [self._search]

    @property
    def has_room(self) -> bool:
        """Whether a search can begin."""
        return self._search is None

    def check(self, text: Text) -> None:
        """Do nothing: `generate` checks its arguments."""

    def join(self, text: Text) -> None:
        """Let a search begin with the next step."""
        assert isinstance(text, Search)
        self._search = text

    def step(self) -> None:
        """Run the search to its end."""
        search = self._search
        assert search is not None, "a step is made of what has joined"
        for text, tokens in zip(search.found, self._run(search), strict=True):
            for token in tokens:
                text.new.append(token)
                if not text.receive(token, None):
                    text.end("stop")
                    break
        is_late = search.deadline is not None and search.deadline <= time.monotonic()
        self.remove(search, "time" if is_late else "length")

    def remove(self, text: Text, reason: str, error: Exception | None = None) -> None:
        """Let the search end here, if it is this one."""
        if text is self._search:
            self._search = None
            text.end(reason, error)

    def abort(self, error: Exception) -> None:
        """Let the search end for an error."""
        if self._search is not None:
            self.remove(self._search, "error", error)

    def _run(self, search: Search) -> list[list[int]]:
        """Return the new tokens of each text; behind its end a shorter one is padded."""
        prompt = np.array([search.prompt])
        ids, mask = (
            self._inference.to_device(self._model, array)
            for array in (prompt, np.ones_like(prompt))
        )
        own = self._model.generation_config
        output = self._model.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
            ),
            use_model_defaults=False,
            num_return_sequences=len(search.found),
            max_new_tokens=search.options.max_new_tokens,
            tokenizer=self._tokenizer,
            stopping_criteria=[_GivenUp(search)],
            **search.arguments,
        )
        sequences = self._inference.to_host(getattr(output, "sequences", output))
        return sequences[:, prompt.shape[1] :].tolist()


class _GivenUp(StoppingCriteria):
    """Ends a search that nobody waits for, or whose time is over."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        deadline = self._search.deadline
        is_late = deadline is not None and deadline <= time.monotonic()
        ops = ops_for(input_ids)
        return ops.full((input_ids.shape[0],), self._search.is_unwanted or is_late, "bool")
