"""Language modelling: to train a model from scratch on texts, or to fine-tune one."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.corpus import OnBad
from gpt2x.data import EMBEDDED_MODEL
from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.tokenization import GPT2TokenizerFast
from gpt2x.train.arguments import LMArguments
from gpt2x.train.engine import Inputs
from gpt2x.train.initial import write_initial
from gpt2x.train.job import Data, give_adapter, load_model, row_length
from gpt2x.train.lm_data import LMData, check_sources
from gpt2x.train.loop import Predictions
from gpt2x.weights.table import Head

#: Tokens of a sample, if the model can write as many.
SAMPLED_TOKENS = 60


class LMTask:
    """The task of language modelling; see `gpt2x.train.loop.Task`."""

    needs_logits = False

    def __init__(self, tokenizer: Any, prompt: str | None, backend: str) -> None:
        self._tokenizer = tokenizer
        self.sample = None if prompt is None else partial(self._sample, prompt)
        self._tensors = {"pt": "pt", "tf": "tf", "flax": "jax"}[backend]

    def labels(self, inputs: Inputs) -> np.ndarray:
        # The first token of a row has nothing before it.
        return (inputs["labels"][:, 1:] != IGNORE_INDEX).sum(axis=1)

    def metrics(self, loss: float, predictions: Predictions) -> dict[str, float]:
        perplexity = math.exp(loss) if loss < 700 else math.inf
        return {"eval_loss": loss, "perplexity": perplexity}

    def _sample(self, text: str, model: Any) -> str:
        """Return what a model writes behind a text."""
        prompt = self._tokenizer(text, return_tensors=self._tensors)
        room = model.config.n_positions - prompt["input_ids"].shape[1]
        options = {"do_sample": True, "seed": 0, "max_new_tokens": min(SAMPLED_TOKENS, room)}
        options |= {"pad_token_id": self._tokenizer.eos_token_id}
        (tokens,) = model.generate(**prompt, **options)
        decoded: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return decoded

    def save_tokenizer(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(folder)


def config_of(overrides: str, tokenizer: Any) -> GPT2Config:
    """Return the config of a new model: GPT-2's, with the overrides and the tokenizer's tokens.

    Raises InvalidInputError for a field that a config does not have, or a value of another type.
    """
    config = GPT2Config(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.update_from_string(overrides)
    return GPT2Config(**config.to_dict())


class LMJob:
    """Language modelling, for `gpt2x.train.run`; see `gpt2x.train.job.Job`."""

    def __init__(
        self, arguments: LMArguments, backend: str, resumed: Path | None, on_bad: OnBad
    ) -> None:
        check_sources(arguments)
        self._arguments, self._on_bad = arguments, on_bad
        model = arguments.model_name_or_path or EMBEDDED_MODEL
        name = resumed or arguments.tokenizer_name or model
        self.tokenizer = GPT2TokenizerFast.from_pretrained(name)
        self.task = LMTask(self.tokenizer, arguments.sample_prompt, backend)
        self._model = model

    def start(self, folder: Path, checkpoint: Path | None) -> str | Path:
        a = self._arguments
        if checkpoint is not None and a.lora_r is None:
            return checkpoint
        if a.config_overrides is None:
            return self._model
        config = config_of(a.config_overrides, self.tokenizer)
        write_initial(folder, config, Head.LM, self._arguments.seed)
        return folder

    def load(self, backend: str, start: str | Path, checkpoint: Path | None) -> Any:
        grows = self._arguments.lora_r is None
        model = load_model(backend, Head.LM, start, self.tokenizer, grows=grows)
        give_adapter(model, self._arguments, checkpoint)
        return model

    def data(self, config: GPT2Config) -> Data:
        self._check_prompt(config)
        size = row_length("block_size", self._arguments.block_size, config)
        return LMData(self._arguments, self.tokenizer, size, self._on_bad).read()

    def _check_prompt(self, config: GPT2Config) -> None:
        """Raise InvalidInputError if the model could not continue the prompt of samples."""
        prompt = self._arguments.sample_prompt
        if prompt is None:
            return
        length = len(self.tokenizer(prompt)["input_ids"])
        if not 0 < length < config.n_positions:
            raise InvalidInputError(
                f"sample_prompt is {length} tokens; it must be from 1 to {config.n_positions - 1}, "
                "so that the model can go on."
            )
