"""The methods of the models that add, load, save and merge a LoRA adapter.

`gpt2x.checkpoint.adapter` knows PEFT's files and the arithmetic. A backend brings the layer of the
low-rank term, `LowRank` in its `lora.py`, and these hooks, which take canonical names:

    _get_weight, _set_weight     one weight, in canonical layout
    _attach, _detach             the low-rank terms of layers
    _current_adapter             the adapter with what is in the model now
    _train_only                  which parameters are trained
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpt2x.checkpoint import adapter as adapters
from gpt2x.checkpoint.adapter import Adapter, Factors
from gpt2x.config.lora import LoraConfig, as_lora_config
from gpt2x.errors import InvalidInputError
from gpt2x.models.loading import Pretrained
from gpt2x.storage.loading import WHERE, take_where
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import kind_of
from gpt2x.weights.table import Head, Kind


@dataclass(frozen=True, eq=False)
class Installed:
    """The adapter that a model has on.

    Attributes:
        config: what it is.
        saved: canonical names of the weights of the model that belong to it.
        trained: those of them that are trained with the factors; None if nothing is trained.
    """

    config: LoraConfig
    saved: tuple[str, ...]
    trained: tuple[str, ...] | None

    # As a static attribute of a Flax module it says whether a jitted function was compiled for it.
    @functools.cached_property
    def _said(self) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Installed) and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._said)


class AdapterMixin:
    """Gives a model the methods of adapters. A model has one adapter at a time."""

    head: ClassVar[Head]
    _adapter: Installed | None = None

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def adapter_config(self) -> LoraConfig | None:
        """The config of the adapter; None without one."""
        return None if self._adapter is None else self._adapter.config

    def add_adapter(
        self, adapter_config: Any, adapter_name: str | None = None, *, seed: int = 0
    ) -> None:
        """Add a new LoRA adapter, and train it alone: its factors, and `modules_to_save`.

        A is drawn as PEFT draws it and B is 0, so the model computes what it computed before. The
        factors are float32, or wider if the weights are.

        Args:
            adapter_config: a `LoraConfig` of gpt2x or PEFT, or a dictionary of its fields.
            adapter_name: without effect.
            seed: of A, an integer of at least 0; the frameworks draw the same numbers.

        Raises:
            InvalidInputError: if the model has an adapter, or the config names layers that are not
                there or cannot be used.
        """
        self._check_without("add")
        if (
            isinstance(seed, bool)
            or not isinstance(seed, int | np.integer)
            or not 0 <= seed < 2**64
        ):
            raise InvalidInputError(f"seed must be an integer from 0 to 2**64 - 1; got {seed!r}.")
        given = as_lora_config(adapter_config)
        config = adapters.complete(given, self.head, self.name_or_path)
        layers = adapters.target_layers(config, self.config, self.head)
        saved = tuple(adapters.saved_weights(config, self.config, self.head))
        factors = adapters.new_factors(config, self.config, self.head, layers, seed)
        self._install(Installed(config, saved, saved), factors)

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike[str],
        adapter_name: str | None = None,
        *,
        is_trainable: bool = False,
        **where: Any,
    ) -> None:
        """Add an adapter from a folder or the hub, in PEFT's files.

        Args:
            peft_model_id: the folder or name.
            adapter_name: without effect.
            is_trainable: train it, as `add_adapter` does; else nothing is trained.
            **where: where to look (`revision`, `subfolder`, `cache_dir`, `token`,
                `local_files_only`, `force_download`).

        Raises:
            CheckpointError: if its files cannot be found or read.
            InvalidInputError: if the model has an adapter, it is not a LoRA adapter that is
                available here, or a keyword is unknown.
            WeightsError: if it does not fit the model; the model stays as it is.
        """
        self._check_without("load")
        options = take_where(where)
        LoraConfig._refuse_unknown(where, WHERE)
        with adapters.open_adapter(peft_model_id, self.config, self.head, **options) as found:
            trained = adapters.saved_weights(found.config, self.config, self.head)
            now = Installed(
                found.config, tuple(found.saved), tuple(trained) if is_trainable else None
            )
            saved = {name: tensor.read() for name, tensor in found.saved.items()}
            factors = {
                layer: Factors(*(LazyTensor.of(part.read()) for part in (pair.a, pair.b)))
                for layer, pair in found.factors.items()
            }
        self._install(now, factors)
        for name, array in saved.items():
            self._set_weight(name, array)

    def save_adapter(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the adapter into a folder, in PEFT's files, which appear together or not at all.

        Raises:
            InvalidInputError: if the model has no adapter, or the folder is a file.
        """
        self._check_with("save")
        adapters.write_adapter(save_directory, self._current_adapter(), self.head)

    def merge_adapter(self) -> None:
        """Add the adapter to the weights. The model is an ordinary one then, all of it trained.

        Raises:
            InvalidInputError: if the model has no adapter.
        """
        self._check_with("merge")
        adapter = self._current_adapter()
        for layer in adapter.factors:
            name = f"{layer}.weight"
            self._set_weight(name, adapter.merged(name, self._get_weight(name)).read())
        self._detach()
        self._adapter = None
        self._train_only(None)
        self._structure_changed()

    def _load_adapter_of(self, source: Pretrained) -> None:
        """Load the adapter whose name `from_pretrained` was given in place of this model's."""
        if source.adapter is not None:
            self.load_adapter(**source.adapter)

    def _install(self, adapter: Installed, factors: Mapping[str, Factors]) -> None:
        self._attach(adapter.config, factors)
        self._adapter = adapter
        self._train_only(adapter)
        self._structure_changed()

    def _check_with(self, wanted: str) -> None:
        if self._adapter is None:
            raise InvalidInputError(
                f"{type(self).__name__} has no adapter to {wanted}: call add_adapter or "
                "load_adapter first."
            )

    def _check_without(self, wanted: str) -> None:
        if self._adapter is not None:
            raise InvalidInputError(
                f"{type(self).__name__} has an adapter, and cannot {wanted} another: call "
                "merge_adapter first, or load the model again."
            )

    def _check_whole(self, what: str) -> None:
        """Raise if the model has an adapter, for files that hold a whole model."""
        if self._adapter is not None:
            raise InvalidInputError(
                f"{type(self).__name__} has an adapter, which {what} cannot hold: call "
                "save_adapter, or merge_adapter first."
            )

    def _structure_changed(self) -> None:
        """Forget what was compiled for other layers, if the framework does not see it itself."""

    # --- hooks of the backends ---

    def _get_weight(self, name: str) -> LazyTensor:
        """Return a weight by its canonical name, in canonical layout."""
        raise NotImplementedError

    def _set_weight(self, name: str, value: np.ndarray) -> None:
        """Change a weight in place."""
        raise NotImplementedError

    def _attach(self, config: LoraConfig, factors: Mapping[str, Factors]) -> None:
        """Give the layers of these canonical names their low-rank terms."""
        raise NotImplementedError

    def _detach(self) -> None:
        """Remove all low-rank terms."""
        raise NotImplementedError

    def _current_adapter(self) -> Adapter:
        """Return the adapter as it is now."""
        raise NotImplementedError

    def _train_only(self, adapter: Installed | None) -> None:
        """Train what `adapter` says, or everything."""
        raise NotImplementedError


def is_trained(adapter: Installed, name: str) -> bool:
    """Return whether a parameter is trained, by its canonical name."""
    return adapter.trained is not None and (name in adapter.trained or is_factor(name))


def is_factor(name: str) -> bool:
    """Return whether this is the canonical name of a factor: ``h.0.attn.c_attn.lora.A``."""
    return kind_of(name) is Kind.LOW_RANK
