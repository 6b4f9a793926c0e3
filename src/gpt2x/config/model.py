"""`GPT2Config`: the description of a GPT-2 model, in transformers' config.json.

Reads the files of transformers 2 to 5 and writes what versions 4 and 5 read. Needs no framework;
the dtype is kept by name. Source: transformers 4.57, `PretrainedConfig` and `GPT2Config`.
"""

from __future__ import annotations

import copy
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from gpt2x.config.base import TRANSFORMERS_VERSION, JSONConfig
from gpt2x.config.checks import integer
from gpt2x.config.model_fields import (
    ATTRIBUTE_MAP,
    CHECKS,
    COMMON_DEFAULTS,
    GENERATION_DEFAULTS,
    OPTIONAL_FIELDS,
    SECOND_NAMES,
)
from gpt2x.errors import InvalidInputError, check_choice, did_you_mean
from gpt2x.storage.json_files import read_object
from gpt2x.storage.loading import take_where

CONFIG_NAME = "config.json"
MAX_LABELS = 2**18

#: Shapes of the published models.
PRESETS: dict[str, dict[str, int]] = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    "distilgpt2": {"n_embd": 768, "n_layer": 6, "n_head": 12},
}

# Constructor arguments that are stored under another name.
_CONSTRUCTOR_ONLY = ("num_labels", "attn_implementation", "name_or_path")

_TWO_LABELS = {index: f"LABEL_{index}" for index in range(2)}


class GPT2Config(JSONConfig):
    """Everything that defines a GPT-2 model except its weights.

    The arguments are those of transformers' `GPT2Config`, in its order; the common fields
    (`num_labels`, `add_cross_attention`, `tie_word_embeddings`, `dtype` ...) are keywords. Four
    fields have a second name each (`hidden_size` is `n_embd`, `num_hidden_layers` `n_layer`,
    `num_attention_heads` `n_head`, `max_position_embeddings` `n_positions`), and older files have
    `torch_dtype` for `dtype` and `n_ctx` for `n_positions`. Unknown keywords are kept as attributes
    and written back, so that a file that is loaded and saved loses nothing.

    Args:
        vocab_size: rows of the token embedding (V).
        n_positions: longest sequence (P).
        n_embd: width of the hidden states (E); a multiple of `n_head`.
        n_layer: number of blocks (L).
        n_head: number of attention heads (H).
        n_inner: width of the MLP (I); None for 4 * `n_embd`.
        activation_function: one of `gpt2x.config.model_fields.ACTIVATIONS`.
        resid_pdrop: dropout of each block's two outputs, 0 to 1.
        embd_pdrop: dropout of the embeddings.
        attn_pdrop: dropout of the attention weights.
        layer_norm_epsilon: added to the variance in each layer norm.
        initializer_range: standard deviation of the initial weights.
        summary_type: which token the double-heads model's choice head reads: "last", "first",
            "mean" or "cls_index" (given by `mc_token_ids`).
        summary_use_proj: whether that head projects.
        summary_activation: its activation, or None.
        summary_proj_to_labels: whether it projects to `num_labels` rather than `n_embd`.
        summary_first_dropout: its dropout before the projection.
        scale_attn_weights: divide attention scores by sqrt(head_dim).
        use_cache: return the keys and values by default.
        bos_token_id: id that starts a text.
        eos_token_id: id, or ids, that end a text.
        scale_attn_by_inverse_layer_idx: divide attention scores by (layer index + 1).
        reorder_and_upcast_attn: compute attention scores in float32, scaling before the product.
        attn_implementation: "sdpa", "eager" or a registered one; None lets the model choose.
        name_or_path: where the config was loaded from.

    Raises:
        InvalidInputError: if a value cannot be used; it names the field and the allowed values.

    >>> config = GPT2Config(n_embd=96, num_attention_heads=6, n_layer=2)
    >>> config.hidden_size, config.n_head
    (96, 6)
    """

    model_type: ClassVar[str] = "gpt2"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = ATTRIBUTE_MAP
    base_config_key: ClassVar[str] = ""
    sub_configs: ClassVar[dict[str, Any]] = {}  # those of composite models, in transformers
    has_no_defaults_at_init: ClassVar[bool] = False
    base_model_tp_plan: ClassVar[None] = None
    base_model_pp_plan: ClassVar[None] = None
    base_model_ep_plan: ClassVar[None] = None

    _defaults: ClassVar[Mapping[str, Any]] = {
        **COMMON_DEFAULTS,
        **GENERATION_DEFAULTS,
        "id2label": _TWO_LABELS,
        "label2id": {label: index for index, label in _TWO_LABELS.items()},
    }
    _unwritten: ClassVar[tuple[str, ...]] = ("_commit_hash", "_attn_implementation")
    _origin: ClassVar[tuple[str, ...]] = ("_name_or_path", "transformers_version")

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        activation_function: str = "gelu_new",
        resid_pdrop: float = 0.1,
        embd_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        initializer_range: float = 0.02,
        summary_type: str = "cls_index",
        summary_use_proj: bool = True,
        summary_activation: str | None = None,
        summary_proj_to_labels: bool = True,
        summary_first_dropout: float = 0.1,
        scale_attn_weights: bool = True,
        use_cache: bool = True,
        bos_token_id: int | None = 50256,
        eos_token_id: int | list[int] | None = 50256,
        scale_attn_by_inverse_layer_idx: bool = False,
        reorder_and_upcast_attn: bool = False,
        *,
        num_labels: int | None = None,
        id2label: Mapping[Any, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        attn_implementation: str | None = None,
        name_or_path: str = "",
        **other: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.n_positions = n_positions
        self.n_embd = n_embd
        self.n_layer = n_layer
        self.n_head = n_head
        self.n_inner = n_inner
        self.activation_function = activation_function
        self.resid_pdrop = resid_pdrop
        self.embd_pdrop = embd_pdrop
        self.attn_pdrop = attn_pdrop
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.summary_type = summary_type
        self.summary_use_proj = summary_use_proj
        self.summary_activation = summary_activation
        self.summary_proj_to_labels = summary_proj_to_labels
        self.summary_first_dropout = summary_first_dropout
        self.scale_attn_weights = scale_attn_weights
        self.use_cache = use_cache
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.scale_attn_by_inverse_layer_idx = scale_attn_by_inverse_layer_idx
        self.reorder_and_upcast_attn = reorder_and_upcast_attn

        self._name_or_path = str(name_or_path)
        self._attn_implementation = attn_implementation
        self._commit_hash = other.pop("_commit_hash", None)
        self.transformers_version = other.pop("transformers_version", None)
        self._set_labels(num_labels, id2label, label2id)
        # transformers wrote "torch_dtype" before 4.56 and "dtype" since.
        torch_dtype = other.pop("torch_dtype", None)
        if other.get("dtype") is None:
            other["dtype"] = torch_dtype
        defaults = copy.deepcopy({**COMMON_DEFAULTS, **GENERATION_DEFAULTS})
        self.update({**defaults, **other})

    def _set_labels(
        self,
        num_labels: int | None,
        id2label: Mapping[Any, str] | None,
        label2id: Mapping[str, int] | None,
    ) -> None:
        """Store the labels; those not given are named LABEL_0, LABEL_1 ..."""
        if id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
        else:
            self.id2label = id2label
            if num_labels is not None and num_labels != len(id2label):
                raise InvalidInputError(
                    f"num_labels is {num_labels}, but id2label holds {len(id2label)} labels; "
                    "pass one of them, or make them agree."
                )
        if label2id is not None:
            self.label2id = label2id

    # --- attributes ---

    def __setattr__(self, name: str, value: Any) -> None:
        name = SECOND_NAMES.get(name, name)
        if name in CHECKS:
            value = CHECKS[name](name, value)
        super().__setattr__(name, value)
        if name == "id2label":
            self.label2id = {label: index for index, label in value.items()}

    def __getattr__(self, name: str) -> Any:
        # Python asks only for names that are not stored; second names never are.
        if name in SECOND_NAMES:
            return getattr(self, SECOND_NAMES[name])
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}.{did_you_mean(name, self.__dict__)}"
        )

    @property
    def num_labels(self) -> int:
        """Number of labels; setting another number renames them LABEL_0, LABEL_1 ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        count = integer(1)("num_labels", num_labels)
        if count > MAX_LABELS:
            raise InvalidInputError(
                f"num_labels is {count}, but each label has a name: at most {MAX_LABELS} are "
                "allowed."
            )
        if "id2label" not in self.__dict__ or self.num_labels != count:
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}

    @property
    def name_or_path(self) -> str:
        """Where the config was loaded from, or an empty string."""
        return self._name_or_path

    @name_or_path.setter
    def name_or_path(self, value: str | os.PathLike[str]) -> None:
        self._name_or_path = str(value)

    @property
    def use_return_dict(self) -> bool:
        """Whether models return output objects rather than tuples."""
        return self.return_dict and not self.torchscript

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Self:
        """Return this config: GPT-2 has text only (transformers' composite models have several)."""
        return self

    def validate(self) -> None:
        """Check the rules across several fields.

        Construction and every model call it, since fields that are set one by one may contradict
        each other in between.

        Raises:
            InvalidInputError: if fields contradict each other.
        """
        if self.n_embd % self.n_head:
            raise InvalidInputError(
                f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head}), so that "
                "every head has the same width."
            )
        for layer, heads in self.pruned_heads.items():
            inside = all(0 <= head < self.n_head for head in heads)
            if not 0 <= layer < self.n_layer or not inside:
                raise InvalidInputError(
                    f"pruned_heads names layer {layer}, heads {reprlib.repr(heads)}; allowed are "
                    f"layers 0 to {self.n_layer - 1} and heads 0 to {self.n_head - 1}."
                )

    def generation_parameters(self) -> dict[str, Any]:
        """Return the decoding options that differ from their defaults.

        Files older than generation_config.json have them here; `GenerationConfig` reads them.
        """
        return {
            name: getattr(self, name)
            for name, default in GENERATION_DEFAULTS.items()
            if getattr(self, name) not in (default, None)
        }

    # --- changing ---

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several attributes, then check the config.

        Raises:
            InvalidInputError: if the fields contradict each other.
        """
        for name, value in config_dict.items():
            setattr(self, name, value)
        self.validate()

    def update_from_string(self, update_str: str) -> None:
        """Set existing fields from a string such as "n_embd=10,resid_pdrop=0.2,use_cache=false".

        Raises:
            InvalidInputError: for a field that does not exist or a value that it cannot hold.
        """
        updates = {}
        for assignment in update_str.split(","):
            name, equals, text = (part.strip() for part in assignment.partition("="))
            if not equals:
                raise InvalidInputError(f"{assignment!r} is not of the form field=value.")
            if not hasattr(self, name) and name not in OPTIONAL_FIELDS:
                raise InvalidInputError(
                    f"{name!r} is not a field of {type(self).__name__}."
                    f"{did_you_mean(name, self.__dict__)}"
                )
            updates[name] = _parse(name, text, getattr(self, name, None))
        self.update(updates)

    # --- reading ---

    @classmethod
    def preset(cls, name: str, **fields: Any) -> Self:
        """Return the config of a published model, with some `fields` changed.

        >>> GPT2Config.preset("gpt2-medium").n_layer
        24
        """
        check_choice("preset", name, PRESETS)
        return cls(**{**PRESETS[name], **fields})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Any:
        """Read the config of a folder, of a JSON file, or of a model on the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: folder that holds config.json, path of such a file, or
                the name of a model on the hub.
            **kwargs: where to look (`revision`, `subfolder`, `cache_dir`, `token`,
                `local_files_only`, `force_download`), `gguf_file` to read one of the folder's GGUF
                files, fields to override, and `return_unused_kwargs=True` to get
                `(config, kwargs that are not fields)`.

        Raises:
            CheckpointError: if there is no such file, or it is not a JSON object.
            InvalidInputError: if its values cannot be used, or a keyword is unknown.
        """
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        return cls.from_dict(config_dict, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the content of config.json, and the keywords that do not say where to find it."""
        where = take_where(kwargs)
        name_or_path = os.fspath(pretrained_model_name_or_path)
        path = Path(name_or_path)
        gguf_file = kwargs.pop("gguf_file", None)
        if gguf_file is not None or (path.suffix == ".gguf" and path.is_file()):
            return {**_read_gguf(path, gguf_file, where), "name_or_path": name_or_path}, kwargs
        values = cls._read(name_or_path, CONFIG_NAME, where)
        return {**values, "name_or_path": name_or_path}, kwargs

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], *, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build a config from a dictionary, with the fields in `kwargs` changed.

        With `return_unused_kwargs`, returns `(config, kwargs that are not fields)`.

        Raises:
            InvalidInputError: if a value cannot be used, or, unless `return_unused_kwargs`, a
                keyword is unknown.
        """
        values, kwargs = _field_names(config_dict), _field_names(kwargs)
        model_type = values.pop("model_type", None) or cls.model_type
        check_choice("model_type", model_type, [cls.model_type])
        if kwargs.get("id2label") is not None or kwargs.get("num_labels") is not None:
            # New labels replace all of the file's: their numbers may differ.
            for name in ("num_labels", "id2label", "label2id"):
                values.pop(name, None)

        known = {*cls().__dict__, *OPTIONAL_FIELDS, *_CONSTRUCTOR_ONLY, *values}
        fields = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        if not return_unused_kwargs:
            cls._refuse_unknown(kwargs, known)
        config = cls(**{**values, **fields})
        return (config, kwargs) if return_unused_kwargs else config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Self:
        """Build a config from a JSON file."""
        return cls.from_dict(read_object(json_file))

    # --- writing ---

    def to_dict(self) -> dict[str, Any]:
        """Return every field, including defaults, as values for JSON."""
        return {
            **super().to_dict(),
            "model_type": self.model_type,
            "n_ctx": self.n_positions,  # llama.cpp's converter asks for it
            "transformers_version": self.transformers_version or TRANSFORMERS_VERSION,
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Return GPT-2's own fields, and the common fields that differ from their defaults."""
        values = super().to_diff_dict()
        del values["_name_or_path"]
        return values

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> None:
        """Write config.json into a folder, which is made if need be.

        Args:
            save_directory: the folder.
            push_to_hub: upload the folder as well.
            **push_options: those of `gpt2x.publishing.push_folder`, such as `repo_id`.

        Raises:
            InvalidInputError: if the folder is a file, or for an unknown keyword.
        """
        self._save(save_directory, CONFIG_NAME, push_to_hub, push_options)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)


def _field_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` under the fields' first names, so that an override finds each field once."""
    # If a value is given under both names, the first counts.
    return {
        SECOND_NAMES.get(name, name): value
        for name, value in values.items()
        if SECOND_NAMES.get(name) not in values
    }


def _read_gguf(path: Path, gguf_file: str | None, where: Mapping[str, Any]) -> dict[str, Any]:
    from gpt2x.formats.opening import fetch_checkpoint

    _, checkpoint = fetch_checkpoint(path, file=gguf_file, **where)
    with checkpoint:
        return dict(checkpoint.config or {})


def _parse(name: str, text: str, current: Any) -> Any:
    """Parse `text` as the type of the present value of field `name`."""
    if isinstance(current, bool):
        if text.lower() in ("true", "1", "y", "yes"):
            return True
        if text.lower() in ("false", "0", "n", "no"):
            return False
        raise InvalidInputError(f"{name} must be true or false; got {text!r}.")
    if isinstance(current, str):
        return text
    try:
        if isinstance(current, int | float):
            return type(current)(text)
        # A field that is None may become a number or a name; its own check decides.
        return None if text in ("None", "none") else json.loads(text)
    except ValueError:
        if isinstance(current, int | float):
            kind = type(current).__name__
            raise InvalidInputError(f"{name} must be of type {kind}; got {text!r}.") from None
        return text
