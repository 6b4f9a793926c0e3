"""Models by name, of which some are loaded at once."""

from __future__ import annotations

import asyncio
import threading
import weakref
from functools import partial
from types import SimpleNamespace

import pytest

from gpt2x.serve.failures import RequestError
from gpt2x.serve.models import Models, ServedModel


class Idle:
    """What runs no texts; `running` says otherwise."""

    def __init__(self) -> None:
        self.running = self.waiting = 0
        self.is_stopped = False

    @property
    def is_idle(self) -> bool:
        return not (self.running or self.waiting)

    def stop(self, grace: float = 0.0) -> None:
        self.is_stopped = True


class Weights:
    """What takes the memory of a model."""


def served(name: str) -> ServedModel:
    """Return a model that is not one."""
    return ServedModel(
        name=name,
        model=Weights(),
        tokenizer=SimpleNamespace(
            all_special_ids=[], get_vocab=lambda: {"a": 0}, get_added_vocab=dict
        ),
        runner=Idle(),
        searcher=Idle(),
        columns=8,
        vocab_size=8,
        inference=None,
    )


class Loads:
    """Loaders of models, which count; those of `held` wait for `goes_on`, those of `bad` raise."""

    def __init__(self, *names: str, held: str = "", bad: str = "") -> None:
        self.counts = dict.fromkeys(names, 0)
        self.goes_on = threading.Event()
        self._held, self._bad = held, bad

    def models(self, max_models: int | None = None, patience: float = 30.0) -> Models:
        loaders = {name: partial(self._load, name) for name in self.counts}
        return Models(loaders, max_models, patience)

    def _load(self, name: str) -> ServedModel:
        self.counts[name] += 1
        if name in self._held:
            self.goes_on.wait()
        if name in self._bad:
            raise OSError("/a/secret/path is gone")
        return served(name)


def run(test):
    """Run a test that is a coroutine."""

    def ran() -> None:
        asyncio.run(test())

    ran.__name__ = test.__name__
    return ran


async def turns(count: int = 20) -> None:
    """Let other tasks go on as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0.001)


@run
async def test_one_is_loaded_when_it_is_first_asked_for():
    loads = Loads("a", "b")
    models = loads.models()
    await models.prepare()
    assert loads.counts == {"a": 1, "b": 0}
    assert await models.get(None) is await models.get("a")
    with pytest.raises(RequestError, match=r"'c' is not served; there are a, b\.") as caught:
        await models.get("c")
    assert (caught.value.status, caught.value.param) == (404, "model")


@run
async def test_requests_at_once_load_a_model_once_and_those_of_loaded_ones_do_not_wait():
    loads = Loads("a", "b", held="b")
    models = loads.models()
    await models.prepare()
    first, gone, second = (asyncio.create_task(models.get("b")) for _ in range(3))
    await turns()
    assert (await models.get("a")).name == "a"
    gone.cancel()  # as the client that asked
    await turns()
    loads.goes_on.set()
    assert await first is await second
    assert gone.cancelled()
    assert loads.counts == {"a": 1, "b": 1}


@run
async def test_the_one_asked_for_longest_ago_makes_room_and_frees_its_memory():
    models = Loads("a", "b", "c").models(max_models=2)
    a, b = await models.get("a"), await models.get("b")
    runner, weights = b.runner, weakref.ref(b.model)
    del b
    await models.get("a")
    await models.get("c")
    assert [model.name for model in models.loaded] == ["a", "c"]
    assert runner.is_stopped
    assert weights() is None
    assert not a.runner.is_stopped


@run
async def test_a_model_in_use_stays_and_one_that_waits_gets_its_place():
    loads = Loads("a", "b", "c")
    models = loads.models(max_models=2)
    a, b = await models.get("a"), await models.get("b")
    a.runner.running, b.searcher.waiting = 1, 1
    waits = asyncio.create_task(models.get("c"))
    await turns()
    assert not waits.done()
    assert loads.counts["c"] == 0
    async with models.using("b"):  # a request that prepares its texts
        b.searcher.waiting = 0
        await turns()
        assert not waits.done()
    assert (await waits).name == "c"
    assert models.loaded[0] is a


@run
async def test_a_model_that_somebody_waits_for_is_not_unloaded_before_it_writes():
    models = Loads("a", "b").models(max_models=1)

    async def use(name: str) -> None:
        for _ in range(10):
            model = await models.get(name)
            assert not model.runner.is_stopped
            model.runner.running += 1
            await asyncio.sleep(0)
            model.runner.running -= 1

    await asyncio.gather(*(use(name) for name in "abab"))


@run
async def test_a_request_does_not_wait_for_ever():
    models = Loads("a", "b").models(max_models=1, patience=0.02)
    (await models.get("a")).runner.running = 1
    with pytest.raises(RequestError, match="all in use") as caught:
        await models.get("b")
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "5"})


@run
async def test_what_cannot_be_loaded_is_an_error_of_those_who_ask_for_it():
    loads = Loads("a", "b", bad="b")
    models = loads.models()
    await models.prepare()
    found = await asyncio.gather(*(models.get("b") for _ in range(2)), return_exceptions=True)
    for error in found:
        assert isinstance(error, RequestError)
        assert error.status == 500
        assert "/a/secret/path" not in str(error)
    assert loads.counts["b"] == 1
    assert (await models.get("a")).name == "a"
    with pytest.raises(RequestError):
        await models.get("b")
    assert loads.counts["b"] == 2, "it may be there again"
    with pytest.raises(OSError, match="secret"):
        await Loads("b", bad="b").models().prepare()
