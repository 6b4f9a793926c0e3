"""Lets `isinstance` recognise our layers and models as those of transformers.

PEFT asks a layer whether it is transformers' `Conv1D`, and PEFT and the Trainer ask a model whether
it is a `PreTrainedModel`. gpt2x does not import transformers; the user's import has this effect,
before or after the models are made.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, ClassVar

from torch import nn


class Recognised(nn.Module):
    """A module that for `isinstance` is also of the class of transformers that it names.

    `isinstance` reads the instance's `__class__` at every call, so a later import can have effect
    there. `type(module)` does not change, nor do methods, copies, pickles, `torch.compile` and
    traces. A real base class, chosen when the module is made, would miss a later import, and a
    module that was pickled with transformers could not be read without it.
    """

    #: Module and name of the class of transformers.
    _stands_for: ClassVar[tuple[str, str]]

    @property
    def __class__(self) -> Any:
        module, name = self._stands_for
        theirs = getattr(sys.modules.get(module), name, None)
        own: Any = type(self)
        return own if theirs is None or issubclass(own, theirs) else _as_subclass(own, theirs)

    @__class__.setter
    def __class__(self, value: type) -> None:
        # FSDP and parametrisations change a module's class, and change it back.
        vars(object)["__class__"].__set__(self, vars(value).get("_like", value))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle refuses to rebuild an object whose __class__ is not its type.
        made: Any = object.__reduce_ex__(self, max(2, protocol))
        _, arguments, *state = made
        return (_new, arguments, *state)


@functools.cache
def _as_subclass(own: type, theirs: type) -> Any:
    """Return a class like `own`, of the same name, that is a subclass of `theirs` for `issubclass`.

    It equals `own`, and its instances are those of `own`.

    In the lookup of attributes `theirs` comes last, after `object`: as a real base it would come
    before `nn.Module` and replace its methods.
    """
    kind: Any = type(own)

    class Virtual(kind):
        def mro(cls) -> list[type]:  # noqa: N805
            order = super().mro()
            return order if theirs in order else [*order, theirs]

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
            # Code that makes a model with another's __class__ gets one of the importable class.
            made = vars(cls).get("_like", super().__call__)
            return made(*args, **kwargs)

        def __eq__(cls, other: object) -> bool:  # noqa: N805
            return other is cls or other is vars(cls).get("_like", cls)

        def __hash__(cls) -> int:  # noqa: N805
            like = vars(cls).get("_like")
            return super().__hash__() if like is None else hash(like)

    names = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    return Virtual(own.__name__, (own,), {**names, "_like": own})


def _new(own: Any) -> Any:
    return own.__new__(own)
