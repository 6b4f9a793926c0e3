"""Attributes that transformers has and these classes have not: what reading them says."""

from __future__ import annotations

from typing import ClassVar

import pytest

from gpt2x.unavailable import LacksNames, explain


class Small(LacksNames):
    _unavailable: ClassVar[dict[str, str]] = {
        "prune_heads": "silence heads",
        "sample": "call generate",
        "kept": "never read",
    }

    def kept(self):
        return "kept"


class Asks(Small):
    """A class whose `__getattr__` is asked for what a descriptor has refused."""

    def __getattr__(self, name):
        explain(type(self), name)
        raise AttributeError(name)


@pytest.mark.parametrize("kind", [Small, Asks])
def test_a_name_says_what_to_do_instead_and_is_missing_to_hasattr(kind):
    for place in (kind, kind()):
        assert not hasattr(place, "prune_heads")
        assert getattr(place, "prune_heads", None) is None
        with pytest.raises(AttributeError, match=f"{kind.__name__} has no 'prune_heads', which"):
            _ = place.prune_heads
    with pytest.raises(AttributeError, match="prun_heads"):
        _ = kind().prun_heads


def test_what_a_class_or_an_instance_defines_counts():
    class Mixin:
        def sample(self):
            return "mixin's"

    class Mixed(Small, Mixin):
        pass

    class Derived(Small):
        prune_heads = property(lambda self: "derived")

    model = Small()
    model.sample = "instance's"
    assert Small().kept() == "kept"
    assert Mixed().sample() == Mixed.sample(None) == "mixin's"
    assert Derived().prune_heads == "derived"
    assert model.sample == "instance's"


def test_only_what_is_there_is_listed():
    model = Small()
    assert "kept" in dir(model)
    assert not {"prune_heads", "sample"} & {*dir(model)}
    model.sample = None
    assert "sample" in dir(model)
