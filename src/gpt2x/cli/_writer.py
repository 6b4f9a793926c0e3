"""A model and its tokenizer, set up to continue prompts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2x import backends
from gpt2x.cli._quiet import quiet_imports
from gpt2x.errors import InvalidInputError, check_choice

_DTYPES = ("float32", "bfloat16", "float16")
_NEW_TOKENS = 20  # what `generate` adds to a prompt unless it is told a length


@dataclass
class Writer:
    """A model and its tokenizer, and how they are to write.

    Attributes:
        model: the language model, of any backend.
        tokenizer: its tokenizer.
        tensors: the kind of tensors that the model takes, as in `return_tensors=`.
        config: how to decode.
        seed: of all prompts; row r of prompt p, of n rows, draws from stream p * n + r.
        fits: whether the user left the length open, so that a long prompt gets what room there is.
    """

    model: Any
    tokenizer: Any
    tensors: str
    config: Any
    seed: int = 0
    fits: bool = False

    def write(self, prompt: str, number: int, streamer: Any = None) -> list[list[int]]:
        """Return the new tokens of each text that continues prompt `number`."""
        inputs = self.tokenizer(
            prompt or self.tokenizer.bos_token,
            return_tensors=self.tensors,
            verbose=False,  # what is too long is an error of `generate`, not a hint to programmers
        )
        if self.tensors == "pt":
            inputs = inputs.to(self.model.device)
        config = self.config
        rows = config.num_beams if config.num_beams > 1 else config.num_return_sequences
        prompt_length = inputs["input_ids"].shape[1]
        if self.fits:
            room = self.model.config.n_positions - prompt_length
            config = copy.deepcopy(config)
            config.max_new_tokens = max(1, min(room, config.max_new_tokens or _NEW_TOKENS))
        output = self.model.generate(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=config,
            tokenizer=self.tokenizer,
            streamer=streamer,
            use_model_defaults=False,
            seed=[(self.seed, number * rows + row) for row in range(rows)],
        )
        sequences = np.asarray(getattr(output, "sequences", output))
        return [self._trim(row) for row in sequences[:, prompt_length:].tolist()]

    def text(self, tokens: list[int]) -> str:
        """Return the text of new tokens, without special ones."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def ended(self, tokens: list[int]) -> bool:
        """Say whether an end token or a stop string, rather than the length, ended a text."""
        stops = self.config.stop_strings or []
        stops = [stops] if isinstance(stops, str) else stops
        text = self.text(tokens)
        return bool(tokens and tokens[-1] in self._ends()) or any(stop in text for stop in stops)

    def _trim(self, tokens: list[int]) -> list[int]:
        """Drop the padding after the first end token."""
        places = [place for place, token in enumerate(tokens) if token in self._ends()]
        return tokens[: places[0] + 1] if places else tokens

    def _ends(self) -> list[int]:
        ends = self.config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]


def load_writer(
    model: str | None, backend: str, dtype: str | None, device: str | None, hub: dict[str, Any]
) -> Writer:
    """Load model and tokenizer."""
    options = dict(hub)
    if dtype is not None:
        check_choice("--dtype", dtype, _DTYPES)
        options["dtype"] = dtype
    if device is not None and backend != "pt":
        raise InvalidInputError(f"--device is for the backend pt; {backend} chooses by itself.")
    from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast

    with quiet_imports():
        package = backends.load(backend, wanted_by="gpt2x generate")
    folder = model or str(EMBEDDED_MODEL)
    loader = getattr(package, backends.get(backend).prefix + "LMHeadModel")
    loaded = loader.from_pretrained(folder, **options)
    if device is not None:
        loaded = loaded.to(device)
    return Writer(
        model=loaded,
        tokenizer=GPT2TokenizerFast.from_pretrained(folder, **hub),
        tensors={"pt": "pt", "tf": "tf", "flax": "jax"}[backend],
        config=loaded.generation_config,
    )
