"""Views of a model: objects that share its parameters and differ in some of its parts."""

from __future__ import annotations

from typing import Any


def view_of(module: Any, **changed: Any) -> Any:
    """Return an object of a module's class with its attributes, except those that are given.

    Not `copy.copy`, which Keras overrides, and not by setting attributes, which the frameworks
    register.
    """
    view = object.__new__(type(module))
    vars(view).update(vars(module) | changed)
    return view
