"""A model and its tokenizer, set up to continue prompts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2x import backends
from gpt2x.cli._compilation import keep_compiled
from gpt2x.cli._quiet import quiet_imports
from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.generation.registry import ops_for

_DTYPES = ("float32", "bfloat16", "float16")
_NEW_TOKENS = 20  # what `generate` adds to a prompt unless it is told a length


@dataclass
class Continuation:
    """A text that continues a prompt.

    Attributes:
        tokens: the new ones.
        logits: of the model before each of them, float32 [tokens, V]; None unless asked for.
    """

    tokens: list[int]
    logits: np.ndarray | None = None


@dataclass
class Writer:
    """A model and its tokenizer, and how they are to write.

    Attributes:
        model: the language model, of any backend.
        tokenizer: its tokenizer.
        tensors: the kind of tensors that the model takes, as in `return_tensors=`.
        config: how to decode.
        arguments: further arguments of the model's `generate`.
        seed: of all prompts; row r of prompt p, of n rows, draws from stream p * n + r.
        fits: whether the user left the length open, so that a long prompt gets what room there is.
    """

    model: Any
    tokenizer: Any
    tensors: str
    config: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    fits: bool = False

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a prompt; an empty one starts from bos."""
        # What is too long is an error of `generate`, not a hint to programmers.
        return self.tokenizer(text or self.tokenizer.bos_token, verbose=False)["input_ids"]

    def latest(self, prompt: list[int]) -> list[int]:
        """Return the end of a prompt, as much of it as leaves the model room for new tokens."""
        new = self.config.max_new_tokens or _NEW_TOKENS
        return prompt[-max(1, self.model.config.n_positions - new) :]

    def write(
        self, prompts: Sequence[list[int]], first: int = 0, streamer: Any = None
    ) -> list[list[Continuation]]:
        """Return the texts that continue each prompt, in the order of the prompts.

        Prompts are run at once where the same number of new tokens may follow them, so that each
        text is the one that its prompt alone gets.

        Args:
            prompts: their tokens.
            first: the number of the first prompt; the others follow it.
            streamer: receives the tokens of a single prompt.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for place, prompt in enumerate(prompts):
            groups.setdefault(self._lengths(len(prompt)), []).append(place)
        found: dict[int, list[Continuation]] = {}
        for (max_new_tokens, _), places in groups.items():
            numbers = [first + place for place in places]
            batch = [prompts[place] for place in places]
            found |= zip(places, self._run(batch, numbers, max_new_tokens, streamer), strict=True)
        return [found[place] for place in range(len(prompts))]

    def text(self, tokens: list[int]) -> str:
        """Return the text of new tokens, without special ones."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, without special ones."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def ended(self, tokens: list[int]) -> bool:
        """Say whether an end token or a stop string, rather than the length, ended a text."""
        text = self.text(tokens)
        return bool(tokens and tokens[-1] in self._ends()) or any(
            stop in text for stop in self._stops()
        )

    def logprobs(self, text: Continuation, count: int) -> list[dict[str, Any]]:
        """Return each token's log-probability, and the `count` likeliest tokens in its place.

        They are the model's own, before processors and filters.
        """
        assert text.logits is not None
        found = []
        for token, logits in zip(text.tokens, text.logits.astype(np.float64), strict=True):
            scores = logits - np.logaddexp.reduce(logits)
            best = np.argsort(-scores, kind="stable")[:count].tolist()
            found.append(
                self._logprob(token, scores) | {"top": [self._logprob(t, scores) for t in best]}
            )
        return found

    def _logprob(self, token: int, scores: np.ndarray) -> dict[str, Any]:
        return {
            "token_id": token,
            "token": self.tokenizer.decode([token]),
            "logprob": float(scores[token]),
        }

    def _lengths(self, length: int) -> tuple[int, int]:
        """Return the new tokens that may follow a prompt, 0 for the config's, and a length.

        The length is that of the prompt where the config counts it, else 0.
        """
        config = self.config
        counted = config.max_new_tokens is None and not self.fits
        counted = counted or bool(config.min_length and config.min_new_tokens is None)
        room = self.model.config.n_positions - length
        new = max(1, min(room, config.max_new_tokens or _NEW_TOKENS)) if self.fits else 0
        return new, length if counted else 0

    def _run(
        self, prompts: list[list[int]], numbers: list[int], max_new_tokens: int, streamer: Any
    ) -> list[list[Continuation]]:
        """Continue a batch of prompts, of these numbers."""
        config = self.config
        if max_new_tokens:
            config = copy.deepcopy(config)
            config.max_new_tokens = max_new_tokens
        rows = config.num_beams if config.num_beams > 1 else config.num_return_sequences
        width = max(map(len, prompts))
        output = self.model.generate(
            **self.batch(prompts),
            **self.arguments,
            generation_config=config,
            tokenizer=self.tokenizer,
            streamer=streamer,
            use_model_defaults=False,
            seed=[(self.seed, number * rows + row) for number in numbers for row in range(rows)],
        )
        sequences = np.asarray(getattr(output, "sequences", output))[:, width:].tolist()
        logits = _logits_of(output, len(sequences))
        returned = config.num_return_sequences
        found = []
        for place, tokens in enumerate(sequences):
            tokens = self._trim(prompts[place // returned], tokens)
            kept = None if logits is None else logits[place, : len(tokens)]
            found.append(Continuation(tokens, kept))
        return [found[start : start + returned] for start in range(0, len(found), returned)]

    def batch(self, prompts: list[list[int]]) -> dict[str, Any]:
        """Return prompts as tensors of the backend: ids and mask [B, T], padded on the left."""
        from gpt2x.tokenization.batch_encoding import BatchEncoding  # imports a library

        width = max(map(len, prompts))
        inputs = BatchEncoding(
            {
                "input_ids": [[0] * (width - len(prompt)) + prompt for prompt in prompts],
                "attention_mask": [
                    [0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts
                ],
            },
            tensor_type=self.tensors,
        )
        return dict(inputs.to(self.model.device) if self.tensors == "pt" else inputs)

    def _trim(self, prompt: list[int], tokens: list[int]) -> list[int]:
        """Drop the padding after the end of a text, which a batch gives to its shorter ones."""
        places = [place for place, token in enumerate(tokens, 1) if token in self._ends()]
        tokens = tokens[: places[0]] if places else tokens
        longest = max(map(len, self._stops()), default=0)
        if not longest:
            return tokens
        before = self.text(prompt[-longest:])  # a stop string may begin in the prompt
        for count in range(1, len(tokens)):
            text = self.text(prompt[-longest:] + tokens[:count])
            if any(stop in text[max(0, len(before) + 1 - len(stop)) :] for stop in self._stops()):
                return tokens[:count]
        return tokens

    def _ends(self) -> list[int]:
        ends = self.config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    def _stops(self) -> list[str]:
        stops = self.config.stop_strings or []
        return [stops] if isinstance(stops, str) else stops


def _logits_of(output: Any, texts: int) -> np.ndarray | None:
    """Return the logits before each token of each text, [texts, steps, V]; None if not kept."""
    steps = getattr(output, "logits", None)
    if steps is None:
        return None
    ops = ops_for(steps[0])
    logits = np.stack([ops.to_numpy(step).astype(np.float32) for step in steps], axis=1)
    beams = getattr(output, "beam_indices", None)
    if beams is None:
        return logits
    rows = np.asarray(beams)  # [texts, new tokens], -1 behind their ends
    return logits[rows, np.arange(rows.shape[1])[None, :]]


def load_writer(
    model: str | None, backend: str, dtype: str | None, device: str | None, hub: dict[str, Any]
) -> Writer:
    """Load model and tokenizer."""
    from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast

    folder = model or str(EMBEDDED_MODEL)
    loaded = load_model(folder, backend, dtype, device, hub)
    return Writer(
        model=loaded,
        tokenizer=GPT2TokenizerFast.from_pretrained(folder, **hub),
        tensors={"pt": "pt", "tf": "tf", "flax": "jax"}[backend],
        config=loaded.generation_config,
    )


def check_model_options(backend: str, dtype: str | None, device: str | None) -> None:
    """Raise InvalidInputError for options of `load_model` that a backend does not take."""
    if dtype is not None:
        check_choice("--dtype", dtype, _DTYPES)
    if device is not None and backend != "pt":
        raise InvalidInputError(f"--device is for the backend pt; {backend} chooses by itself.")


def load_model(
    folder: str,
    backend: str,
    dtype: str | None,
    device: str | None,
    hub: dict[str, Any],
    wanted_by: str = "gpt2x generate",
) -> Any:
    """Load a language model."""
    check_model_options(backend, dtype, device)
    options = dict(hub) if dtype is None else {**hub, "dtype": dtype}
    if backend == "flax":
        keep_compiled()
    with quiet_imports():
        package = backends.load(backend, wanted_by=wanted_by)
    loader = getattr(package, backends.get(backend).prefix + "LMHeadModel")
    loaded = loader.from_pretrained(folder, **options)
    return loaded if device is None else loaded.to(device)
