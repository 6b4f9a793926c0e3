"""Objects that a module carries along without being their pytree."""

from __future__ import annotations

from typing import Any

# Where an object came from does not change what it says.
_ORIGINS = ("_name_or_path", "_commit_hash", "transformers_version")


class StaticConfig:
    """Holds a mutable object, such as a config, as a static attribute of a module.

    JAX compares and hashes static attributes to know whether a jitted function was compiled for a
    model. Two of these are equal if their objects said the same when they were wrapped; so models
    of equal configs share what is compiled, and a change is seen when the object is wrapped again.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._said = repr(
            sorted((name, v) for name, v in vars(value).items() if name not in _ORIGINS)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticConfig) and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._said)

    def __repr__(self) -> str:
        return f"StaticConfig({type(self.value).__name__})"
