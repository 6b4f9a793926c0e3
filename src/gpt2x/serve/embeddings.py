"""POST /v1/embeddings: what a model makes of texts, the mean of its last hidden states."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from gpt2x.serve.failures import RequestError
from gpt2x.serve.messages import EmbeddingRequest
from gpt2x.serve.models import ServedModel
from gpt2x.serve.replies import Embedding, Embeddings, EmbeddingUsage
from gpt2x.serve.requests import prompts_of

#: Texts of a request at most, as OpenAI's API has it.
_MOST = 2048


def texts_of(model: ServedModel, body: EmbeddingRequest) -> list[list[int]]:
    """Return the tokens of a request's texts.

    Raises RequestError for what cannot be done.
    """
    size = model.model.config.n_embd
    if body.dimensions not in (None, size):
        message = f"dimensions is {body.dimensions}; those of this model are {size}."
        raise RequestError(400, message, "dimensions")
    texts = prompts_of(model, body.input, "input")
    if len(texts) > _MOST:
        raise RequestError(400, f"input has {len(texts)} texts; {_MOST} are allowed.", "input")
    longest = max(map(len, texts))
    if longest > model.columns:
        message = f"The model reads {model.columns} tokens; a text of input has {longest}."
        raise RequestError(400, message, "input")
    return texts


def embed(model: ServedModel, tokens: Sequence[int]) -> np.ndarray:
    """Return the mean of the last hidden states of a text, float32 [E]."""
    inference = model.inference
    count = len(tokens)
    room = (0, inference.width(count, model.columns) - count)
    inputs = {
        "input_ids": np.pad(np.array(tokens), room)[None, :],
        "attention_mask": np.pad(np.ones(count, np.int64), room)[None, :],
    }
    states = inference.forward(model.model.base_model, inputs, use_cache=False)[0]
    mean: np.ndarray = inference.to_host(states)[0, :count].mean(axis=0, dtype=np.float32)
    return mean


class Embedder:
    """Embeds the texts of requests, one at a time, in a thread of its own.

    Texts that are written meanwhile go on, and so does the event loop.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gpt2x-embedder")
        self._waiting = 0

    async def answer(
        self, model: ServedModel, texts: Sequence[Sequence[int]], encoding: str | None
    ) -> Embeddings:
        """Return the answer to a request; `encoding` is "float" or "base64".

        Raises RequestError (429) if as many requests wait as texts may.
        """
        if self._waiting >= model.runner.max_queue:
            message = f"{self._waiting} requests are waiting; try again later."
            raise RequestError(429, message, headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            run = partial(asyncio.get_running_loop().run_in_executor, self._thread)
            vectors = [_shown(await run(partial(embed, model, each)), encoding) for each in texts]
        finally:
            self._waiting -= 1
        data = [Embedding(index, vector) for index, vector in enumerate(vectors)]
        count = sum(map(len, texts))
        return Embeddings(data, model.name, EmbeddingUsage(count, count))


def _shown(vector: np.ndarray, encoding: str | None) -> list[float] | str:
    """Return a vector as numbers, or as base64 of little-endian float32."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
