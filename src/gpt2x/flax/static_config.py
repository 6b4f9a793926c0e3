"""Objects that are static attributes of a module, not part of its pytree."""

from __future__ import annotations

from typing import Any

# The origin of an object does not change its meaning.
_ORIGINS = ("_name_or_path", "_commit_hash", "transformers_version")


class StaticConfig:
    """Holds a mutable object, such as a config, as a static attribute of a module.

    JAX compares and hashes static attributes to find out whether a jitted function was compiled for
    a model. Two of these are equal if their objects had the same values when they were wrapped. So
    models of equal configs share compiled functions, and a change has effect when the object is
    wrapped again.
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
