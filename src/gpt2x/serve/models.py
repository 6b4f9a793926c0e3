"""The models that are served, by name: loaded when they are first asked for."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2x import backends
from gpt2x.batching.batch import Batch
from gpt2x.batching.runner import Runner
from gpt2x.serve.beams import Searches
from gpt2x.serve.failures import RequestError
from gpt2x.serve.pieces import TokenBytes
from gpt2x.tokenization import GPT2TokenizerFast

_LOG = logging.getLogger(__name__)


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
        users: requests that keep it loaded.
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
    users: int = 0

    def __post_init__(self) -> None:
        self.tokens = TokenBytes(self.tokenizer)

    @property
    def is_idle(self) -> bool:
        """Whether no text is written or waits, and no request prepares one."""
        return self.runner.is_idle and self.searcher.is_idle and not self.users

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

    Its methods belong to one event loop. A model that `get` returned may be unloaded as
    soon as its caller awaits anything; `using` keeps it.

    Args:
        loaders: for each name a function that loads the model; the first name is the default.
        max_models: how many stay loaded; beyond, the one that was asked for longest ago is unloaded
            as soon as it is idle.
        patience: seconds that a request waits for that.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], ServedModel]],
        max_models: int | None = None,
        patience: float = 30.0,
    ) -> None:
        self._loaders = dict(loaders)
        self._max_models = max_models or len(loaders)
        self._patience = patience
        self._loaded: dict[str, ServedModel] = {}  # the one asked for longest ago comes first
        self._loading: dict[str, asyncio.Task[ServedModel]] = {}
        self._waiting: Counter[str] = Counter()  # requests for each that is being loaded
        self._turn = asyncio.Lock()  # one is loaded after another: each may take all memory

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self._loaders)

    @property
    def loaded(self) -> list[ServedModel]:
        """The models that are loaded."""
        return list(self._loaded.values())

    async def prepare(self) -> None:
        """Load the default; raises what its loader raises."""
        await self._get(self.names[0])

    async def get(self, name: str | None) -> ServedModel:
        """Return a model, loaded if it was not; requests for loaded ones never wait.

        Raises RequestError for a name that is not served (404), a model that cannot be loaded
        (500), and if all that may be loaded stay in use (503).
        """
        name = name or self.names[0]
        if name not in self._loaders:
            raise RequestError(
                404,
                f"The model {name!r} is not served; there are {', '.join(self.names)}.",
                "model",
                code="model_not_found",
            )
        try:
            return await self._get(name)
        except RequestError:
            raise
        except Exception as error:  # of which a client learns no path
            _LOG.error("The model %r could not be loaded: %s", name, error)
            message = f"The model {name!r} could not be loaded; the server's log says why."
            raise RequestError(500, message, "model") from error

    @asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[ServedModel]:
        """Return a model as `get` does, which stays loaded until the end of the block."""
        model = await self.get(name)
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1

    async def _get(self, name: str) -> ServedModel:
        model = self._loaded.pop(name, None)
        if model is None:
            return await self._wait(name)
        self._loaded[name] = model
        return model

    async def _wait(self, name: str) -> ServedModel:
        """Wait for a model that is loaded once, however many ask for it."""
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load(name))
        self._waiting[name] += 1
        try:
            # A client that goes away does not end what others may wait for.
            return await asyncio.shield(self._loading[name])
        finally:
            self._waiting[name] -= 1

    async def _load(self, name: str) -> ServedModel:
        try:
            async with self._turn:
                await self._make_room()
                model = self._loaded[name] = await asyncio.to_thread(self._loaders[name])
        finally:
            del self._loading[name]
        return model

    async def _make_room(self) -> None:
        until = time.monotonic() + self._patience
        while len(self._loaded) >= self._max_models:
            if await self._unload_one():
                continue
            if time.monotonic() >= until:
                message = "The models that are loaded are all in use; try again later."
                raise RequestError(503, message, "model", headers={"Retry-After": "5"})
            await asyncio.sleep(0.01)

    async def _unload_one(self) -> bool:
        """Unload the idle model that was asked for longest ago; return whether there is one."""
        for name, model in self._loaded.items():
            if model.is_idle and not self._waiting[name]:
                del self._loaded[name]
                await asyncio.to_thread(model.stop)
                del model
                gc.collect()  # its memory is wanted now
                return True
        return False

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
    shared: Path | None = None,
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
        shared: a folder for the weights, if other processes serve the model too; see `Slots`.
    """
    tokenizer = GPT2TokenizerFast.from_pretrained(source, **hub)
    model = load()
    slots = backends.load(backend, module="slots").Slots(model, max_batch, shared)
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
