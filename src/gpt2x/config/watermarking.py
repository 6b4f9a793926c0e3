"""`WatermarkingConfig`: how a text is watermarked.

Source: transformers 4.57, `WatermarkingConfig`; arXiv:2301.10226 and arXiv:2306.04634.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from gpt2x.config.checks import choice, integer
from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.storage.atomic import atomic_file

SEEDING_SCHEMES = ("lefthash", "selfhash")


@dataclass
class WatermarkingConfig:
    """How a text is watermarked: which tokens are green, and by how much they are favoured.

    greenlist_ratio: the part of the vocabulary that is green, between 0 and 1.
    bias: added to the scores of green tokens.
    hashing_key: the secret that a detector needs too, an integer of 64 bits.
    seeding_scheme: what decides which tokens are green: "lefthash", the token before;
        "selfhash", the token itself and those before it.
    context_width: number of tokens that the scheme looks at, at least 1; "selfhash" counts the
        token itself.

    Raises:
        InvalidInputError: if a value cannot be used.
    """

    greenlist_ratio: float = 0.25
    bias: float = 2.0
    hashing_key: int = 15485863
    seeding_scheme: str = "lefthash"
    context_width: int = 1

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise InvalidInputError if a value cannot be used."""
        ratio = self.greenlist_ratio
        if not _is_number(ratio) or not 0 < ratio < 1:
            raise InvalidInputError(
                f"greenlist_ratio must be a number between 0 and 1; got {ratio!r}."
            )
        if not _is_number(self.bias):
            raise InvalidInputError(f"bias must be a number; got {self.bias!r}.")
        if not -(2**63) <= integer()("hashing_key", self.hashing_key) < 2**64:
            raise InvalidInputError(
                f"hashing_key must be an integer from -2**63 to 2**64 - 1; got {self.hashing_key}."
            )
        choice(SEEDING_SCHEMES)("seeding_scheme", self.seeding_scheme)
        integer(1)("context_width", self.context_width)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Self:
        """Build a config from a dictionary, with the fields in `kwargs` changed.

        Raises:
            InvalidInputError: if a key is unknown (the nearest one is named), or a value cannot
                be used.
        """
        values = {**config_dict, **kwargs}
        names = [field.name for field in fields(cls)]
        if {"keys", "ngram_len"} & {*values}:
            raise InvalidInputError(
                "SynthID watermarks (keys, ngram_len) are not available; a WatermarkingConfig has "
                f"{', '.join(names)}."
            )
        unknown = [name for name in values if name not in names]
        if unknown:
            raise InvalidInputError(unknown_arguments(cls.__name__, unknown, names))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def to_json_string(self) -> str:
        """Return the fields as JSON, indented by 2."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the fields as JSON to a file, which appears whole or not at all."""
        with atomic_file(Path(json_file_path)) as path:
            path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", "utf-8")

    def update(self, **kwargs: Any) -> None:
        """Set the fields among `kwargs`; the others are ignored, as in transformers."""
        changed = copy.copy(self)
        for name in self.to_dict().keys() & kwargs.keys():
            setattr(changed, name, kwargs[name])
        changed.validate()
        self.__dict__.update(changed.__dict__)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        yield from self.to_dict().items()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def watermarking(name: str, value: Any) -> WatermarkingConfig:
    """Check for a config, or for a dictionary of one."""
    if isinstance(value, Mapping):
        return WatermarkingConfig.from_dict(value)
    if isinstance(value, WatermarkingConfig):
        value.validate()
        return value
    raise InvalidInputError(
        f"{name} must be a WatermarkingConfig, or a dictionary of its fields; got {value!r}."
    )
