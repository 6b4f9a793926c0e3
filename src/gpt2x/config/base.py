"""What `GPT2Config` and `GenerationConfig` share: they are read from and written to JSON files."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from gpt2x.errors import CheckpointError, InvalidInputError, unknown_arguments
from gpt2x.storage.atomic import atomic_file, check_folder
from gpt2x.storage.hub import resolve_files
from gpt2x.storage.json_files import read_object
from gpt2x.storage.loading import drop_model_options
from gpt2x.storage.publishing import PushToHubMixin, check_push_options, push_folder

#: The configs follow the files and defaults of this release; a file's own version is kept.
TRANSFORMERS_VERSION = "4.57.6"


class JSONConfig(PushToHubMixin):
    """A config whose attributes are its fields.

    Attributes that a class of configs sets:
        _defaults: what common fields hold unless they are given.
        _unwritten: attributes that are not fields.
        _origin: fields that say where a config came from, not what it describes.
    """

    _defaults: ClassVar[Mapping[str, Any]]
    _unwritten: ClassVar[tuple[str, ...]]
    _origin: ClassVar[tuple[str, ...]]

    # --- reading ---

    @staticmethod
    def _read(
        name_or_path: str | os.PathLike[str], filename: str, where: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Read a JSON file, or the one called `filename` in a folder or in a model of the hub."""
        path = Path(name_or_path)
        if not path.is_file():
            name = os.fspath(name_or_path)
            found = resolve_files(name, [filename], **where)[filename]
            if found is None:
                raise CheckpointError(
                    f"{name!r} holds no {filename}; give a folder or a hub model that has one."
                )
            path = found
        return read_object(path)

    @classmethod
    def _refuse_unknown(cls, kwargs: dict[str, Any], known: Iterable[str]) -> None:
        """Raise InvalidInputError for keywords that are left, options of models apart."""
        drop_model_options(kwargs)
        if kwargs:
            raise InvalidInputError(unknown_arguments(cls.__name__, kwargs, known))

    # --- writing ---

    def to_dict(self) -> dict[str, Any]:
        """Return every field, the defaults included."""
        return copy.deepcopy({k: v for k, v in self.__dict__.items() if k not in self._unwritten})

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields but for the common ones that hold their defaults."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if name not in self._defaults or value != self._defaults[name]
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return `to_diff_dict` (or `to_dict`) as JSON: indented by 2, keys sorted."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str], use_diff: bool = True) -> None:
        """Write `to_json_string` to a file, which appears whole or not at all."""
        with atomic_file(Path(json_file_path)) as path:
            path.write_text(self.to_json_string(use_diff), encoding="utf-8")

    def _save(
        self,
        folder: str | os.PathLike[str],
        filename: str | os.PathLike[str],
        push_to_hub: bool,
        push_options: dict[str, Any],
    ) -> None:
        check_push_options(f"{type(self).__name__}.save_pretrained", push_options)
        check_folder(Path(folder))
        self.to_json_file(Path(folder, filename))
        if push_to_hub:
            push_folder(folder, **push_options)

    # --- as a value ---

    def _compared(self) -> dict[str, Any]:
        """The fields that make two configs the same, wherever they were loaded from."""
        return {name: v for name, v in self.to_dict().items() if name not in self._origin}

    def __eq__(self, other: object) -> bool:
        """Whether both describe the same, wherever they were loaded from."""
        if not isinstance(other, JSONConfig):
            return NotImplemented
        return self._compared() == other._compared()

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"
