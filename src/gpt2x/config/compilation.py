"""`CompileConfig`: how `torch.compile` compiles the steps of `generate` in PyTorch.

Source: transformers 4.57, `CompileConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from gpt2x.config.checks import boolean
from gpt2x.errors import InvalidInputError, unknown_arguments

DEFAULT_MODE = "reduce-overhead"


@dataclass
class CompileConfig:
    """The arguments of `torch.compile`.

    fullgraph: whether a step that is not a single graph is an error.
    dynamic: whether one computation serves several sizes; None means that it does not, since
        `generate` keeps its sizes the same.
    backend: the compiler: a name, or a function of a graph and its example inputs.
    mode: what the compiler optimises for. "reduce-overhead" uses CUDA graphs; it has no effect with
        another backend than "inductor", or beside options.
    options: further options of the backend, in place of another mode.

    Raises:
        InvalidInputError: if a value cannot be used.
    """

    fullgraph: bool = False
    dynamic: bool | None = None
    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = DEFAULT_MODE
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # Not a field. Where it is set, transformers compiles on a CPU too.
        self._compile_all_devices: bool | None = None
        boolean("fullgraph", self.fullgraph)
        if self.dynamic is not None:
            boolean("dynamic", self.dynamic)
        if not isinstance(self.backend, str) and not callable(self.backend):
            raise InvalidInputError(
                f"backend must be the name of a compiler or a function; got {self.backend!r}."
            )
        if self.mode is not None and not isinstance(self.mode, str):
            raise InvalidInputError(f"mode must be a string or None; got {self.mode!r}.")
        if self.options is not None and not isinstance(self.options, Mapping):
            raise InvalidInputError(f"options must be a dictionary or None; got {self.options!r}.")
        if self.options is not None and self.mode not in (None, DEFAULT_MODE):
            raise InvalidInputError(
                f"options take the place of a mode; leave out one of them (mode is {self.mode!r})."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy with the same backend: a function that is copied is another compiler."""
        return copy.copy(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `torch.compile`, where the sizes stay the same."""
        takes_mode = self.options is None and self.backend == "inductor"
        mode = self.mode if takes_mode or self.mode != DEFAULT_MODE else None
        return self.to_dict() | {"mode": mode, "dynamic": bool(self.dynamic)}


def compilation(name: str, value: Any) -> CompileConfig:
    """Check for a config, one of transformers too, or for a dictionary of one."""
    if isinstance(value, CompileConfig):
        return value
    if type(value).__name__ == CompileConfig.__name__:
        config = CompileConfig(**value.to_dict())
        config._compile_all_devices = value._compile_all_devices
        return config
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            f"{name} must be a CompileConfig, or a dictionary of its fields; got {value!r}."
        )
    names = [field.name for field in fields(CompileConfig)]
    unknown = [key for key in value if key not in names]
    if unknown:
        raise InvalidInputError(unknown_arguments("CompileConfig", unknown, names))
    return CompileConfig(**value)
