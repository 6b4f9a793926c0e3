"""What every TensorFlow model of gpt2x can do besides its forward pass: be called in each accepted
form, loaded and saved, resized, counted. B batch, T query length, E n_embd, V vocab_size.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.models import loading
from gpt2x.models.outputs import ModelOutput
from gpt2x.models.pretrained import LOADING, SAVING, PretrainedMixin, documented
from gpt2x.storage.publishing import push_folder
from gpt2x.tf.attention import get_attention
from gpt2x.tf.checkpointing import CheckpointingMixin
from gpt2x.tf.keras.arguments import named_inputs
from gpt2x.tf.keras.fit import TrainingMixin
from gpt2x.tf.lora import LoraMixin, lazy
from gpt2x.tf.serving.functions import ServingMixin
from gpt2x.unavailable import TF_MODEL
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import LoadPlan
from gpt2x.weights.table import TENSORFLOW

# Keras lists a call's arguments in the message of whatever is raised in it, unless it bears this
# mark. Ours say what was wrong, in the same words as in the other backends.
InvalidInputError._keras_call_info_injected = True  # type: ignore[attr-defined]

# What `from_pretrained` loads, and into a model of which class, while it constructs the model.
_loading: ContextVar[tuple[type, LoadPlan] | None] = ContextVar("_loading", default=None)


class TFGPT2PreTrainedModel(
    PretrainedMixin, LoraMixin, CheckpointingMixin, ServingMixin, TrainingMixin
):
    """Base of the models: configuration, weights, embeddings.

    A model class of your own derives from it, makes its body as `self.transformer` and ends its
    constructor with `self.post_init()`. `from_pretrained` leaves the layers that it adds as they
    were initialised.

    Args:
        config: of the model.
        options: of a Keras model: `name`, `trainable`, and `dtype`, the dtype policy of all layers
            ("float32", "bfloat16", "mixed_bfloat16" ...; default: Keras's global one).
    """

    framework: ClassVar[str] = "tf"
    supports_gradient_checkpointing: ClassVar[bool] = True
    _get_attention = staticmethod(get_attention)
    _unavailable = TF_MODEL

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(**options)
        self.config = self._checked(config)
        if self.can_generate():
            self.generation_config = GenerationConfig.from_model_config(config)

    def post_init(self) -> None:
        """Make the weights of all layers: those that are being loaded, the others initialised.

        A loaded weight is made of what the file holds. If it were initialised first, the model
        would take its memory twice while it loads.
        """
        kind, plan = _loading.get() or (None, None)
        if plan is None or type(self) is not kind:
            self.build()
        else:
            self._build_loaded(plan)
        # Keras takes no more layers into what is built, but a class derived from this one adds its
        # own when this constructor has ended.
        self._tracker.unlock()

    def _build_loaded(self, plan: LoadPlan) -> None:
        """Make the weights of all layers of what `plan` reads."""
        errors: list[BaseException] = []
        # Keras makes variables without values in this scope, and calls their initializers as it
        # leaves it, one after another.
        with keras.StatelessScope():
            self.build()
            variables = dict(self._canonical_variables())
            built = [name for name, variable in variables.items() if variable._initializer is None]
            for name, tensor in plan.tensors.items():
                variables[name]._initializer = _reader(name, tensor, errors)
        for name in built:  # by a constructor, in its own way
            if name in plan.tensors:
                variable = variables[name]
                read = _reader(name, plan.tensors[name], errors)
                variable.assign(read(variable.shape, variable.dtype))
        if errors:
            raise errors[0]

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of all layers. The config says all that it takes."""
        for layer in self.layers:
            if not layer.built:
                layer.build((None, None, self.config.n_embd))

    def build_in_name_scope(self) -> None:
        """Make the weights that are not made yet: those of a class without `post_init`."""
        if not self.built:
            self.build()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._call_parameters = tuple(inspect.signature(cls.call).parameters)[1:]

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput | tuple[Any, ...]:
        """Call the model with inputs in any form; see `call` for what they are."""
        # Keras takes mappings other than dictionaries, lists and caches only by keyword.
        return super().__call__(
            **named_inputs(type(self).__name__, self._call_parameters, args, kwargs)
        )

    # --- loading and saving ---

    @classmethod
    @documented(LOADING)
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: GPT2Config | str | os.PathLike[str] | None = None,
        attn_implementation: str | None = None,
        generation_config: GenerationConfig | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        strict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder or from the Hugging Face hub.

        Where Keras's global dtype policy is a mixed one with variables of the dtype that is asked
        for, the model has that policy.

        Arguments of this backend alone:
            *model_args: arguments of the constructor of a class of your own, after the config.
        """
        model_kwargs = loading.take_constructor_arguments(
            cls, TFGPT2PreTrainedModel, kwargs, isinstance(config, GPT2Config)
        )
        kwargs |= {"config": config, "attn_implementation": attn_implementation}
        source = loading.resolve(
            cls.__name__, pretrained_model_name_or_path, config_class=cls.config_class, **kwargs
        )
        with source:
            plan = source.plan(
                cls.head,
                owner=cls.__name__,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                strict=strict,
            )
            # After the plan, so that no memory is taken for a config that the weights refute.
            now_loading = _loading.set((cls, plan))
            try:
                model = cls._from_config(
                    source.config, *model_args, dtype=source.dtype, **model_kwargs
                )
                if not model.built:  # the constructor of a class of the caller's own
                    model.post_init()
            finally:
                _loading.reset(now_loading)
            model._take_generation_config(generation_config, source)
        model._load_adapter_of(source)
        return (model, plan.info.as_dict()) if output_loading_info else model

    @classmethod
    def _from_config(
        cls,
        config: GPT2Config,
        *model_args: Any,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """Return a model with new weights in `dtype` (default: the config's, or float32).

        What else is given goes to the constructor of a class of a user's own.
        """
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        config.dtype = dtype or config.dtype or "float32"
        policy: Any = keras.config.dtype_policy()
        if policy.variable_dtype != config.dtype:
            policy = config.dtype
        return cls(config, *model_args, dtype=policy, **model_kwargs)

    def _canonical_variables(self) -> Iterator[tuple[str, keras.Variable]]:
        """Yield canonical name and variable of every parameter (see `gpt2x.weights.table`)."""
        for name, variable in self._named_variables():
            if name is not None:
                yield name, variable

    def _named_variables(self) -> Iterator[tuple[str | None, keras.Variable]]:
        """Yield every variable, with None where a layer of a user's own class has added it."""
        for variable in self.weights:
            # What the model itself is called, or stands in, is not part of the name.
            path = variable.path.removeprefix(f"{self.path}/")
            try:
                yield TENSORFLOW.canonical(path), variable
            except InvalidInputError:
                yield None, variable

    @documented(SAVING)
    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        saved_model: bool = False,
        version: int = 1,
        push_to_hub: bool = False,
        signatures: Any = None,
        max_shard_size: int | str = "5GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        token: str | bool | None = None,
        *,
        variant: str | None = None,
        repo_id: str | None = None,
        **push_options: Any,
    ) -> None:
        """Write a folder that transformers (PyTorch) reads.

        Arguments of this backend alone:
            saved_model: also write a TensorFlow SavedModel, into saved_model/`version`.
            version: see `saved_model`.
            signatures: of the SavedModel; by default `serving_default` for int32 ids and mask, and
                `int64_serving`.
        """
        self._check_push_options(push_options)
        if self._adapter is None:
            self._save_model(
                save_directory,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
                variant=variant,
            )
        else:
            self.save_adapter(save_directory)
        if saved_model:
            self.save_serving(Path(save_directory) / "saved_model" / str(version), signatures)
        if push_to_hub:
            push_folder(save_directory, repo_id, token=token, create_pr=create_pr, **push_options)

    def _save_model(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        added = [variable.path for name, variable in self._named_variables() if name is None]
        if added:
            raise InvalidInputError(
                f"{type(self).__name__} has weights that are not part of GPT-2, which the files of "
                f"its models have no names for: {', '.join(added)}. Use model.save or save_weights."
            )
        self.config.dtype = self.variable_dtype
        self._save_folder(
            save_directory,
            {name: lazy(name, variable) for name, variable in self._canonical_variables()},
            **options,
        )

    # --- as Keras saves a model: `.keras` files ---

    def get_config(self) -> dict[str, Any]:
        """Return what `from_config` makes the model of."""
        config: dict[str, Any] = {
            "config": self.config.to_dict(),
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
        }
        if self.can_generate():
            config["generation_config"] = self.generation_config.to_dict()
        return config

    @classmethod
    def from_config(
        cls, config: GPT2Config | Mapping[str, Any], custom_objects: Any = None
    ) -> Self:
        """Return a model with new weights from a `GPT2Config`, or what `get_config` returned."""
        if isinstance(config, GPT2Config):
            return cls(config)
        options = dict(config)
        generation_config = options.pop("generation_config", None)
        model = cls(GPT2Config.from_dict(options.pop("config")), **options)
        if generation_config is not None:
            model.generation_config = GenerationConfig.from_dict(generation_config)
        return model

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Make the weights that the constructor has not made."""
        self.build_in_name_scope()

    @functools.wraps(keras.Model.save)
    def save(self, *args: Any, **options: Any) -> None:
        self._check_whole("a .keras file")
        self.build_in_name_scope()
        super().save(*args, **options)

    @functools.wraps(keras.Model.save_weights)
    def save_weights(self, *args: Any, **options: Any) -> None:
        self.build_in_name_scope()
        super().save_weights(*args, **options)

    # --- the model's parts ---

    def _sizes(self, only_trainable: bool) -> Iterator[tuple[int, bool]]:
        """Yield how many numbers each variable has, and whether it is an embedding's."""
        for weight in self.trainable_weights if only_trainable else self.weights:
            yield math.prod(weight.shape), weight.name == "embeddings"

    def get_lm_head(self) -> keras.layers.Layer | None:
        """Return the output layer that has a weight of its own; None where it is tied, or absent.

        As in transformers; see `get_output_embeddings`.
        """
        output = self.get_output_embeddings()
        return None if output is self.get_input_embeddings() else output

    def _rows(self, embedding: keras.layers.Embedding) -> int:
        return embedding.input_dim

    def _resize(self, rows: int, std: float | None) -> None:
        """Give the token embedding and the output layer `rows` rows; see `_resized`."""
        embedding, output = self.get_input_embeddings(), self.get_output_embeddings()
        _replace(embedding, "_embeddings", _resized(embedding.embeddings.numpy(), rows, std))
        embedding.input_dim = rows
        if output is not None and output is not embedding:
            _replace(output, "_kernel", _resized(output.kernel.numpy().T, rows, std).T)
            output.units = rows
        self._structure_changed()

    def _structure_changed(self) -> None:
        self.train_function = self.test_function = self.predict_function = None
        if self.can_generate():
            self._functions.clear()


def _reader(name: str, tensor: LazyTensor, errors: list[BaseException]) -> Callable[..., tf.Tensor]:
    """Return an initializer that reads a tensor of a file, and keeps what reading it raises.

    Keras goes through all variables or would stumble, in the next model, over those it has left.
    """

    def read(shape: Any, dtype: Any) -> tf.Tensor:
        if not errors:
            try:
                array = tensor.read(np.dtype(tf.as_dtype(dtype).as_numpy_dtype))
                return tf.convert_to_tensor(TENSORFLOW.layout(name).from_canonical(array))
            except BaseException as error:  # an interrupt, too
                errors.append(error)
        return tf.zeros(shape, dtype)

    return read


def _resized(weight: np.ndarray, rows: int, std: float | None) -> np.ndarray:
    """Return weight [V, E] cut or grown to `rows`; new rows are the mean, or drawn with `std`."""
    kept = weight[:rows]
    shape = (max(rows - len(weight), 0), weight.shape[1])
    if std is None:
        new = np.broadcast_to(weight.astype(np.float32).mean(axis=0), shape)
    else:
        new = keras.ops.convert_to_numpy(keras.random.normal(shape, stddev=std))
    return np.concatenate([kept, new.astype(weight.dtype)])


def _replace(layer: keras.layers.Layer, attribute: str, value: np.ndarray) -> None:
    """Replace a weight of a built layer by one of another shape."""
    old = getattr(layer, attribute)
    # Keras locks what a built layer holds; it replaces weights itself (for LoRA) in this way.
    layer._tracker.unlock()
    layer._untrack_variable(old)
    new = layer.add_weight(
        shape=value.shape,
        initializer="zeros",
        dtype=old.dtype,
        trainable=old.trainable,
        name=old.name,
    )
    new.assign(value)
    setattr(layer, attribute, new)
    layer._tracker.lock()
