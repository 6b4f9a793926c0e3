"""`WatermarkingConfig` and `SynthIDTextWatermarkingConfig`: how a text is watermarked.

Source: transformers 4.57, `WatermarkingConfig`; arXiv:2301.10226 and arXiv:2306.04634.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from gpt2x.config.checks import boolean, choice, integer
from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.storage.atomic import atomic_file

SEEDING_SCHEMES = ("lefthash", "selfhash")


@dataclass
class BaseWatermarkingConfig:
    """What the configs of all watermarks share: they are read, written and changed alike."""

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise InvalidInputError if a value cannot be used."""
        raise NotImplementedError(f"{type(self).__name__} must override validate")

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Self:
        """Build a config from a dictionary, with the fields in `kwargs` changed.

        Raises:
            InvalidInputError: if a key is unknown (the nearest one is named), or a value cannot
                be used.
        """
        values = {**config_dict, **kwargs}
        names = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in names]
        if unknown:
            raise InvalidInputError(unknown_arguments(cls.__name__, unknown, names))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {field.name: copy.copy(getattr(self, field.name)) for field in fields(self)}

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


@dataclass
class WatermarkingConfig(BaseWatermarkingConfig):
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


@dataclass
class SynthIDTextWatermarkingConfig(BaseWatermarkingConfig):
    """A SynthID watermark: tokens are favoured by tournaments, one for each key.

    Source: transformers 4.57, `SynthIDTextWatermarkingConfig`; doi:10.1038/s41586-024-08025-4.

    ngram_len: how many tokens, the last of them the new one, decide whether it wins; at least 1.
    keys: the secrets that a detector needs too, integers of 64 bits, one for each tournament.
    context_history_size: how many contexts are remembered; a token whose context is among them
        gets no watermark.
    sampling_table_seed: of the table of random bits that decides who wins.
    sampling_table_size: its number of bits, at most 2**24.
    skip_first_ngram_calls: whether the first ngram_len - 1 tokens get no watermark.
    debug_mode: whether all tokens are taken to be equally likely, to test a detector.

    Raises:
        InvalidInputError: if a value cannot be used.
    """

    ngram_len: int
    keys: list[int]
    context_history_size: int = 1024
    sampling_table_seed: int = 0
    sampling_table_size: int = 2**16
    skip_first_ngram_calls: bool = False
    debug_mode: bool = False

    def validate(self) -> None:
        """Raise InvalidInputError if a value cannot be used."""
        integer(1)("ngram_len", self.ngram_len)
        if not isinstance(self.keys, list | tuple) or not self.keys:
            raise InvalidInputError(
                f"keys must be a list of one or more integers; got {self.keys!r}."
            )
        for key in self.keys:
            if not -(2**63) <= integer()("keys", key) < 2**63:
                raise InvalidInputError(
                    f"keys must be integers from -2**63 to 2**63 - 1; got {key}."
                )
        integer(0)("context_history_size", self.context_history_size)
        integer()("sampling_table_seed", self.sampling_table_seed)
        if integer(1)("sampling_table_size", self.sampling_table_size) > 2**24:
            raise InvalidInputError(
                f"sampling_table_size must be at most 2**24; got {self.sampling_table_size}."
            )
        boolean("skip_first_ngram_calls", self.skip_first_ngram_calls)
        boolean("debug_mode", self.debug_mode)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def watermarking(name: str, value: Any) -> BaseWatermarkingConfig:
    """Check for a config, or for a dictionary of one: with `keys` of SynthID's, or else not."""
    if isinstance(value, Mapping):
        is_synthid = bool({"keys", "ngram_len"} & {*value})
        kind = SynthIDTextWatermarkingConfig if is_synthid else WatermarkingConfig
        missing = [key for key in ("ngram_len", "keys") if is_synthid and key not in value]
        if missing:
            raise InvalidInputError(f"{name} needs {missing[0]}, as a SynthID watermark.")
        return kind.from_dict(value)
    if isinstance(value, BaseWatermarkingConfig):
        value.validate()
        return value
    raise InvalidInputError(
        f"{name} must be a WatermarkingConfig or a SynthIDTextWatermarkingConfig, or a dictionary "
        f"of its fields; got {value!r}."
    )
