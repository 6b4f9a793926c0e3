"""The methods of the models that need no framework: loading, saving, resizing, counting.

V vocab_size, E n_embd.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import checks, saving
from gpt2x.models.loading import Pretrained
from gpt2x.storage.publishing import PushToHubMixin, check_push_options
from gpt2x.unavailable import LacksNames
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.table import Head

Function = TypeVar("Function", bound=Callable[..., Any])

#: The part of `from_pretrained`'s documentation that is the same in the three backends.
LOADING = """
A checkpoint with another head, or without a head, loads too: the missing head is initialised and
named in a warning. The files may be those of any framework, which need not be installed. Tensors
are read one at a time, directly into the model. The folder of a LoRA adapter in PEFT's files stands
for the model that the adapter names, with the adapter on (see `load_adapter`).

Args:
    pretrained_model_name_or_path: folder or name on the hub.
    config: in place of the model's own.
    attn_implementation: "sdpa", "eager" or a registered one.
    generation_config: in place of the model's own.
    output_loading_info: return `(model, info)`, `info` with the keys missing_keys,
        unexpected_keys, mismatched_keys and error_msgs.
    ignore_mismatched_sizes: initialise tensors of another shape, instead of raising.
    strict: raise if anything is missing or left over.
    **kwargs: where to look (`revision`, `subfolder`, `cache_dir`, `token`, `local_files_only`,
        `force_download`, `variant`, `use_safetensors`, `from_pt`, `from_tf`, `from_flax`),
        `dtype` ("auto", a dtype or its name; default float32), fields of the config to override,
        and arguments of the constructor of a class of your own (the config has precedence, unless
        it is given as an object).

Raises:
    CheckpointError: if the files cannot be found or read.
    WeightsError: if the weights do not fit the model.
    InvalidInputError: for an unknown keyword or a bad value.
"""

#: The same of `save_pretrained`.
SAVING = """
The folder appears whole or not at all, and any backend reads it too. Of a model with an adapter
(`add_adapter`) only the adapter is written, in PEFT's files, as transformers does: call
`merge_adapter` first to write a whole model.

Args:
    save_directory: the folder; it is made if it does not exist.
    max_shard_size: largest size of a file of weights in bytes, or a string such as "5GB".
    safe_serialization: False writes pytorch_model.bin instead of safetensors.
    variant: write model.VARIANT.safetensors.
    push_to_hub: upload the folder as well (see `push_to_hub`).
    repo_id: where to upload; by default the folder's name, of the token's owner.
    create_pr: upload as a pull request.
    token: access token with write permission.
    **push_options: others of `gpt2x.publishing.push_folder` (`commit_message` ...).

Raises:
    InvalidInputError: if the folder is a file, or for an unknown keyword.
    CheckpointError: if the hub refuses or cannot be reached.
"""


def documented(shared: str) -> Callable[[Function], Function]:
    """Append the documentation to a function that is the same in the other backends."""

    def append(function: Function) -> Function:
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n{shared}"
        return function

    return append


class FromConfig:
    """An attribute of a model that is a field of its config, unless the model sets it itself.

    A property could not be set, and users' own classes set it in their constructors.
    """

    def __init__(self, field: str) -> None:
        self.field = field

    def __get__(self, model: Any, owner: type) -> Any:
        return self if model is None else getattr(model.config, self.field)


class PretrainedMixin(PushToHubMixin, LacksNames):
    """Base of the three `GPT2PreTrainedModel`s. Each brings `config`, its layers, and these hooks:

    `_get_attention`, `_rows`, `_resize` and `_sizes`.
    """

    config_class: ClassVar[type[GPT2Config]] = GPT2Config
    base_model_prefix: ClassVar[str] = "transformer"
    main_input_name: ClassVar[str] = "input_ids"
    head: ClassVar[Head] = Head.NONE
    vocab_size = FromConfig("vocab_size")
    name_or_path = FromConfig("name_or_path")  # where the model was loaded from, or empty

    #: Returns the attention implementation of a name, or raises.
    _get_attention: ClassVar[Any]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def can_generate(cls) -> bool:
        """Return whether the class has a language model to generate text with."""
        return cls.head in (Head.LM, Head.DOUBLE)

    @property
    def base_model(self) -> Any:
        """The body of a model with a head; for a body, the model itself."""
        return getattr(self, self.base_model_prefix, self)

    def _as_asked(self, output: Any, return_dict: bool | None) -> Any:
        """Return the output, or its tuple if the caller or the config asks for it."""
        wanted = self.config.use_return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    # --- config ---

    @classmethod
    def _checked(cls, config: Any) -> GPT2Config:
        """Return the config of a new model, with its attention implementation set."""
        checks.check_config(cls.__name__, config)
        config._attn_implementation = config._attn_implementation or "sdpa"
        cls._get_attention(config._attn_implementation)
        return config

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Switch to "sdpa", "eager" or a registered attention implementation."""
        self._get_attention(attn_implementation)
        self.config._attn_implementation = attn_implementation
        self._config_changed()

    def _config_changed(self) -> None:
        """Pass a changed config to the layers, if they need it."""

    # --- loading and saving ---

    def _take_generation_config(self, given: Any, source: Pretrained) -> None:
        """Generate as the config says that `from_pretrained` was given, or else the files' own."""
        found = source.read_generation_config() if given is None else given
        if found is not None and self.can_generate():
            self.generation_config = found

    def _check_push_options(self, options: Iterable[str]) -> None:
        """Raise for keywords that are neither arguments of `save_pretrained` nor of an upload."""
        arguments = list(inspect.signature(self.save_pretrained).parameters)[:-1]
        check_push_options(f"{type(self).__name__}.save_pretrained", options, arguments)

    def _save_folder(
        self,
        folder: str | os.PathLike[str],
        tensors: Mapping[str, LazyTensor],
        **options: Any,
    ) -> None:
        """Write the config and these tensors; the options are those of `save_folder`."""
        generation_config = self.generation_config if self.can_generate() else None
        options["generation_config"] = generation_config
        saving.save_folder(folder, self.config, tensors, self.head, **options)

    # --- embeddings ---

    def get_input_embeddings(self) -> Any:
        """Return the token embedding, weight [V, E]."""
        return self.base_model.wte

    def get_output_embeddings(self) -> Any:
        """Return the layer that makes logits: the token embedding if tied; None without one."""
        if not self.can_generate():
            return None
        return self.get_input_embeddings() if self.config.tie_word_embeddings else self.lm_head

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> Any:
        """Change the vocabulary to `new_num_tokens` rows; return the token embedding.

        New rows start as the mean of the old ones, so that new tokens are neither likelier nor
        less likely than the average token; with `mean_resizing=False` they are drawn like initial
        weights. The output layer and `config.vocab_size` change too. An optimizer refers to the old
        weights, so make a new one; compile a model of Keras again.

        Args:
            new_num_tokens: rows wanted; None keeps them.
            pad_to_multiple_of: round the rows up to a multiple of this.
            mean_resizing: see above.

        Raises:
            InvalidInputError: if a number is not an integer of at least 1.
        """
        embedding = self.get_input_embeddings()
        old = self._rows(embedding)
        rows = vocabulary_rows(old, new_num_tokens, pad_to_multiple_of)
        if rows != old:
            self._resize(rows, None if mean_resizing else self.config.initializer_range)
            self.config.vocab_size = rows
            self._config_changed()
        return embedding

    # --- counting ---

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the parameters, a tied one once.

        `exclude_embeddings` leaves out token and position embeddings, and the output layer that is
        tied to them. In Flax `only_trainable` has no effect, since the optimizer decides what is
        trained.
        """
        return sum(
            size
            for size, is_embedding in self._sizes(only_trainable)
            if not (exclude_embeddings and is_embedding)
        )


def vocabulary_rows(old: int, new: int | None, pad_to_multiple_of: int | None) -> int:
    """Return how many rows `resize_token_embeddings` gives an embedding of `old` rows.

    That is `new` (None keeps the rows), rounded up to a multiple. Raises InvalidInputError for a
    number that is not an integer of at least 1.
    """
    for name, value in (("new_num_tokens", new), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise InvalidInputError(f"{name} must be an integer of at least 1; got {value}.")
    rows, multiple = int(old if new is None else new), int(pad_to_multiple_of or 1)
    return math.ceil(rows / multiple) * multiple
