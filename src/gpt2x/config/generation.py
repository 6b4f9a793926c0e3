"""`GenerationConfig`: how to decode, as transformers' generation_config.json holds it."""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gpt2x.config.base import TRANSFORMERS_VERSION, JSONConfig
from gpt2x.config.generation_fields import (
    CHECKS,
    DEFAULTS,
    GENERATE_ARGUMENTS,
    NONE_IS_OFF,
    OUTPUT_FLAGS,
)
from gpt2x.config.generation_validation import refuse_impossible, without_effect
from gpt2x.config.watermarking import BaseWatermarkingConfig
from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.storage.loading import take_where

if TYPE_CHECKING:
    from gpt2x.config.model import GPT2Config

logger = logging.getLogger("gpt2x.generation.config")

GENERATION_CONFIG_NAME = "generation_config.json"


class GenerationMode(StrEnum):
    """The strategies that a config can ask for, by transformers' names."""

    CONTRASTIVE_SEARCH = "contrastive_search"
    GREEDY_SEARCH = "greedy_search"
    SAMPLE = "sample"
    ASSISTED_GENERATION = "assisted_generation"
    DOLA_GENERATION = "dola_generation"
    BEAM_SEARCH = "beam_search"
    BEAM_SAMPLE = "beam_sample"
    CONSTRAINED_BEAM_SEARCH = "constrained_beam_search"
    GROUP_BEAM_SEARCH = "group_beam_search"


class GenerationConfig(JSONConfig):
    """How to decode: lengths, strategy, processors, outputs and special tokens.

    The fields are those of transformers 4.57's `GenerationConfig` (see its documentation, or
    `gpt2x.config.generation_fields.DEFAULTS`), given as keywords. A `max_length` that is given, be
    it 20, is the total length; without one, generation adds 20 tokens to the prompt.

    Raises:
        InvalidInputError: if a field is unknown (the nearest one is named) or its value cannot be
            used.

    >>> config = GenerationConfig(do_sample=True, top_p=0.9)
    >>> config.top_p, config.num_beams
    (0.9, 1)
    """

    extra_output_flags = OUTPUT_FLAGS

    _defaults: ClassVar[Mapping[str, Any]] = DEFAULTS
    _unwritten: ClassVar[tuple[str, ...]] = (
        "_commit_hash",
        "_max_length_given",
        "_pad_token_tensor",
        "_eos_token_tensor",
        "compile_config",
    )
    _origin: ClassVar[tuple[str, ...]] = (
        "_from_model_config",
        "_commit_hash",
        "transformers_version",
    )

    def __init__(self, **fields: Any) -> None:
        misplaced = [name for name in fields if name in GENERATE_ARGUMENTS]
        if misplaced:
            raise InvalidInputError(
                f"{misplaced[0]!r} is an argument of generate(), not a field of GenerationConfig; "
                "pass it to generate()."
            )
        self._from_model_config = fields.pop("_from_model_config", False)
        self.transformers_version = fields.pop("transformers_version", TRANSFORMERS_VERSION)
        self._commit_hash = fields.pop("_commit_hash", None)
        unknown = [name for name in fields if name not in DEFAULTS]
        if unknown:
            raise InvalidInputError(unknown_arguments("GenerationConfig", unknown, DEFAULTS))
        self._max_length_given = False
        for name, default in DEFAULTS.items():
            value = fields.get(name)
            given = value is not None or (name in fields and name in NONE_IS_OFF)
            if given:
                setattr(self, name, value)
            else:
                self.__dict__[name] = copy.copy(default)
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "max_length":
            self._max_length_given = value is not None
        if value is None and name in DEFAULTS and name not in NONE_IS_OFF:
            value = copy.copy(DEFAULTS[name])
        elif value is not None and name in CHECKS:
            value = CHECKS[name](name, value)
        super().__setattr__(name, value)

    if TYPE_CHECKING:  # the fields are those of DEFAULTS

        def __getattr__(self, name: str) -> Any: ...

    @property
    def max_length_given(self) -> bool:
        """Whether `max_length` was set, rather than left at its default."""
        return self._max_length_given

    def validate(self, strict: bool = False) -> None:
        """Check the fields together.

        Fields without effect are named in a warning of the logger "gpt2x.generation.config", once,
        and explained at its level INFO.

        Raises:
            InvalidInputError: if fields contradict each other; with `strict`, also if a field has
                no effect.
        """
        refuse_impossible(self)
        reasons = without_effect(self)
        if reasons and strict:
            raise InvalidInputError(
                f"The generation config is invalid: {'; '.join(reasons.values())}."
            )
        if reasons:
            names = ", ".join(reasons)
            _log_once(logging.WARNING, f"These options of generation have no effect: {names}.")
            _log_once(logging.INFO, "; ".join(reasons.values()))

    def get_generation_mode(self, assistant_model: Any = None) -> GenerationMode:
        """Return the strategy of these fields."""
        if self.constraints is not None or self.force_words_ids is not None:
            return GenerationMode.CONSTRAINED_BEAM_SEARCH
        if self.num_beams > 1:
            if self.num_beam_groups > 1:
                return GenerationMode.GROUP_BEAM_SEARCH
            return GenerationMode.BEAM_SAMPLE if self.do_sample else GenerationMode.BEAM_SEARCH
        if not self.do_sample and (self.penalty_alpha or 0) > 0 and (self.top_k or 0) > 1:
            return GenerationMode.CONTRASTIVE_SEARCH
        assistants = (assistant_model, self.prompt_lookup_num_tokens, self.assistant_early_exit)
        if any(assistant is not None for assistant in assistants):
            return GenerationMode.ASSISTED_GENERATION
        if self.dola_layers is not None:
            return GenerationMode.DOLA_GENERATION
        return GenerationMode.SAMPLE if self.do_sample else GenerationMode.GREEDY_SEARCH

    # --- reading ---

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | os.PathLike[str],
        config_file_name: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read the generation config of a folder, of a JSON file, or of a model on the hub.

        Args:
            pretrained_model_name: folder, path of a JSON file, or name of a model on the hub.
            config_file_name: name of the file; generation_config.json by default.
            **kwargs: where to look (`revision`, `subfolder`, `cache_dir`, `token`,
                `local_files_only`, `force_download`), fields to override, and
                `return_unused_kwargs=True` to get `(config, kwargs that are not fields)`.

        Raises:
            CheckpointError: if there is no such file, or it is not a JSON object.
            InvalidInputError: if its values cannot be used, or a keyword is unknown.
        """
        where = take_where(kwargs)
        filename = os.fspath(config_file_name or GENERATION_CONFIG_NAME)
        return cls.from_dict(cls._read(pretrained_model_name, filename, where), **kwargs)

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build a config from a dictionary, with the fields in `kwargs` changed.

        Fields that are None take their defaults (transformers 5 writes None for them). Keys
        that are not fields are kept as attributes and written back.
        """
        known = {*DEFAULTS, *cls._origin}
        values = {name: value for name, value in config_dict.items() if value is not None}
        if isinstance(bias := values.get("sequence_bias"), Mapping):
            values["sequence_bias"] = {_tokens(key): value for key, value in bias.items()}
        unused = {name: kwargs.pop(name) for name in list(kwargs) if name not in known}
        if not return_unused_kwargs:
            cls._refuse_unknown(unused, DEFAULTS)
        fields = {name: value for name, value in values.items() if name in known}
        config = cls(**{**fields, **kwargs})
        for name, value in values.items():
            if name not in known:
                setattr(config, name, value)
        return (config, unused) if return_unused_kwargs else config

    @classmethod
    def from_model_config(cls, model_config: GPT2Config) -> Self:
        """Return a config with the special tokens and decoding options of a model's config."""
        fields = dict(model_config.generation_parameters())
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
            fields[name] = getattr(model_config, name, None)
        for name in ("output_attentions", "output_hidden_states"):
            fields[name] = getattr(model_config, name, False)
        if any(fields.get(flag) for flag in OUTPUT_FLAGS):
            fields["return_dict_in_generate"] = True
        pad = fields["pad_token_id"]
        if isinstance(pad, int) and pad < 0:  # older files write -1 for none; it is invalid here
            fields["pad_token_id"] = None
        fields = {name: value for name, value in fields.items() if name in DEFAULTS}
        return cls(_from_model_config=True, **fields)

    # --- changing ---

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set the fields among `kwargs`, check the config, and return the other keywords."""
        unused = {}
        for name, value in kwargs.items():
            if name in self.__dict__ and not name.startswith("_"):
                setattr(self, name, value)
            else:
                unused[name] = value
        self.validate()
        return unused

    def with_defaults_of(self, other: GenerationConfig, tokens_only: bool = False) -> Self:
        """Return a copy whose fields at their defaults are those of `other`.

        tokens_only: take only the ids of special tokens.
        """
        merged = copy.deepcopy(self)
        names = [name for name in DEFAULTS if name.endswith("_token_id") or not tokens_only]
        for name in names:
            if name.startswith("forced_") and tokens_only:
                continue
            is_default = getattr(self, name) == DEFAULTS[name]
            if name == "max_length":
                is_default = not self.max_length_given
                if other.max_length_given and is_default:
                    merged.max_length = other.max_length
            elif is_default and getattr(other, name) != DEFAULTS[name]:
                setattr(merged, name, copy.deepcopy(getattr(other, name)))
        return merged

    @property
    def is_since_4_50(self) -> bool:
        """Whether transformers 4.50 or later wrote the file: its configs are complete."""
        version = re.match(r"(\d+)\.(\d+)", str(self.transformers_version))
        return version is not None and tuple(map(int, version.groups())) >= (4, 50)

    # --- writing ---

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, a `max_length` that was set, and the
        version of the format.
        """
        diff = super().to_diff_dict()
        if self.max_length_given:
            diff["max_length"] = self.max_length
        if not self._from_model_config:
            del diff["_from_model_config"]
        return diff

    def to_json_string(self, use_diff: bool = True, ignore_metadata: bool = False) -> str:
        """Return `to_diff_dict` (or `to_dict`) as JSON: indented by 2, keys sorted.

        Constraints are written as the `force_words_ids` that ask for the same.

        Raises:
            InvalidInputError: if a value cannot be written as JSON.
        """
        return self._json(use_diff, ignore_metadata, _plain)

    def _json(self, use_diff: bool, ignore_metadata: bool, default: Callable[[Any], Any]) -> str:
        values = self.to_diff_dict() if use_diff else self.to_dict()
        if ignore_metadata:
            values = {name: value for name, value in values.items() if name not in self._origin}
        bias = values.get("sequence_bias")
        if isinstance(bias, Mapping):  # keys of JSON cannot be tuples, so it becomes a list
            values["sequence_bias"] = [[list(tokens), value] for tokens, value in bias.items()]
        return json.dumps(_with_words(values), indent=2, sort_keys=True, default=default) + "\n"

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        config_file_name: str | os.PathLike[str] | None = None,
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> None:
        """Write the config into a folder, which is made if need be.

        Args:
            save_directory: the folder.
            config_file_name: name of the file; generation_config.json by default.
            push_to_hub: upload the folder as well.
            **push_options: those of `gpt2x.publishing.push_folder`, such as `repo_id`.

        Raises:
            InvalidInputError: if the folder is a file, a keyword is unknown, or the config is
                invalid, that is, does not pass `validate(strict=True)`.
        """
        self.check_before_saving()
        filename = config_file_name or GENERATION_CONFIG_NAME
        self._save(save_directory, filename, push_to_hub, push_options)

    def check_before_saving(self) -> None:
        """Raise InvalidInputError if the config is invalid, and so must not be written."""
        try:
            self.validate(strict=True)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"{error} Fix these issues to save the configuration."
            ) from None

    # --- as a value ---

    def _compared(self) -> dict[str, Any]:
        fields = _with_words(super()._compared()).items()
        return {name: _listed(value) for name, value in fields if value is not None}

    def __hash__(self) -> int:
        """Hash the values that `__eq__` compares; the hash changes with the fields."""
        return hash(frozenset((name, _hashable(v)) for name, v in self._compared().items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self._json(True, True, _shown)}"


def _with_words(values: dict[str, Any]) -> dict[str, Any]:
    """Return fields with constraints as the `force_words_ids` that ask for the same.

    As they were given if a constraint is of another class, which has no `token_ids`.
    """
    constraints = values.get("constraints")
    if not isinstance(constraints, list | tuple) or not constraints:
        return values
    words = [getattr(constraint, "token_ids", None) for constraint in constraints]
    if not all(words):
        return values
    words += values.get("force_words_ids") or []
    others = {name: value for name, value in values.items() if name != "constraints"}
    return {**others, "force_words_ids": words}


def _plain(value: Any) -> Any:
    """Return a value that JSON does not know in a form that it does."""
    if isinstance(value, BaseWatermarkingConfig):
        return value.to_dict()
    raise InvalidInputError(f"{value!r} cannot be written as JSON; leave it out of the config.")


def _shown(value: Any) -> Any:
    """Return such a value for people to read."""
    return value.to_dict() if isinstance(value, BaseWatermarkingConfig) else repr(value)


def _listed(value: Any) -> Any:
    """Return a field as in JSON: with lists instead of tuples."""
    if isinstance(value, Mapping):  # the sequence_bias; see `to_json_string`
        return [[list(key), bias] for key, bias in value.items()]
    if isinstance(value, BaseWatermarkingConfig):
        return list(value)
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@functools.cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, message)


def _tokens(key: Any) -> Any:
    """Read back a tuple of token ids that transformers wrote as a key of JSON, "(1, 2)"."""
    return tuple(map(int, re.findall(r"\d+", key))) if isinstance(key, str) else key
