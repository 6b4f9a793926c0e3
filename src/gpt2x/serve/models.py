"""The models that are served, by name: loaded when they are first asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt2x import backends
from gpt2x.batching.batch import Batch
from gpt2x.batching.runner import Runner
from gpt2x.serve.beams import Searches
from gpt2x.serve.failures import RequestError
from gpt2x.serve.pieces import TokenBytes
from gpt2x.tokenization import GPT2TokenizerFast


@dataclass(eq=False)
class ServedModel:
    """A model that answers requests.

    Attributes:
        name: in requests.
        model: the language model, of any backend.
        tokenizer: its tokenizer.
        runner: writes texts.
        searcher: writes those that a beam search finds.
        columns: tokens that the model can read, `n_positions`.
        vocab_size: of the model.
        inference: the module of its backend that runs it.
        tokens: the bytes of its tokens.
        created: seconds since 1970 at which it was loaded.
    """

    name: str
    model: Any
    tokenizer: Any
    runner: Runner
    searcher: Runner
    columns: int
    vocab_size: int
    inference: Any
    tokens: TokenBytes = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.tokens = TokenBytes(self.tokenizer)

    @property
    def is_idle(self) -> bool:
        """Whether no text is written or waits."""
        return not (self.running or self.waiting)

    @property
    def running(self) -> int:
        """Texts that are written."""
        return self.runner.running + self.searcher.running

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return self.runner.waiting + self.searcher.waiting

    def stop(self, grace: float = 0.0) -> None:
        """Write no more texts after `grace` seconds at most."""
        until = time.monotonic() + grace
        for runner in (self.runner, self.searcher):
            runner.stop(max(0.0, until - time.monotonic()))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, whose special tokens are their own."""
        return self.tokenizer(text, verbose=False)["input_ids"]


class Models:
    """Models by name, of which at most some are loaded at once.

    Its methods belong to one event loop.

    Args:
        loaders: for each name a function that loads the model; the first name is the default.
        max_models: how many stay loaded; beyond, the one that was asked for longest ago is unloaded
            as soon as it is idle.
    """

    def __init__(
        self, loaders: Mapping[str, Callable[[], ServedModel]], max_models: int | None = None
    ) -> None:
        self._loaders = dict(loaders)
        self._max_models = max_models or len(loaders)
        self._loaded: dict[str, ServedModel] = {}  # the one asked for longest ago comes first
        self._lock = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self._loaders)

    @property
    def loaded(self) -> list[ServedModel]:
        """The models that are loaded."""
        return list(self._loaded.values())

    async def get(self, name: str | None) -> ServedModel:
        """Return a model, loaded if it was not.

        Raises RequestError (404) for a name that is not served.
        """
        name = name or self.names[0]
        if name not in self._loaders:
            raise RequestError(
                404,
                f"The model {name!r} is not served; there are {', '.join(self.names)}.",
                "model",
                code="model_not_found",
            )
        async with self._lock:
            model = self._loaded.pop(name, None)
            if model is None:
                await self._make_room()
                model = await asyncio.to_thread(self._loaders[name])
            self._loaded[name] = model
        return model

    async def _make_room(self) -> None:
        while len(self._loaded) >= self._max_models:
            idle = next((model for model in self._loaded.values() if model.is_idle), None)
            if idle is None:
                await asyncio.sleep(0.01)
                continue
            del self._loaded[idle.name]
            await asyncio.to_thread(idle.stop)

    async def stop(self, grace: float) -> None:
        """Let what is written end, for so many seconds at most."""
        await asyncio.gather(*(asyncio.to_thread(each.stop, grace) for each in self.loaded))


def load_served(
    name: str,
    source: str,
    hub: Mapping[str, Any],
    backend: str,
    load: Callable[[], Any],
    max_batch: int,
    max_queue: int,
) -> ServedModel:
    """Return a model, loaded and ready to write.

    Args:
        name: in requests.
        source: folder or name on the hub of its tokenizer.
        hub: arguments of loading from the hub.
        backend: its name.
        load: loads the model.
        max_batch: the most texts that are written at once.
        max_queue: the most that wait.
    """
    tokenizer = GPT2TokenizerFast.from_pretrained(source, **hub)
    model = load()
    slots = backends.load(backend, module="slots").Slots(model, max_batch)
    slots.warm_up()
    inference = backends.load(backend, module="inference")
    return ServedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        runner=Runner(Batch(slots), max_queue),
        searcher=Runner(Searches(model, tokenizer, inference), max_queue),
        columns=slots.columns,
        vocab_size=slots.vocab_size,
        inference=inference,
    )
