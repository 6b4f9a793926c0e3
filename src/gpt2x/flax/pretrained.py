"""What every Flax model of gpt2x can do besides its forward pass: be loaded and saved, initialised,
given parameters, sharded, counted. B batch, E n_embd, V vocab_size, L layers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import TraceContextError
from jax import Array

from flax import nnx
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError, listed
from gpt2x.flax.attention import get_attention
from gpt2x.flax.cache import KVCache
from gpt2x.flax.lora import LoraMixin, lazy
from gpt2x.flax.parameters import (
    ParameterPath,
    Precision,
    cast_floating,
    check_params,
    draw_normal,
    flatten,
    resized,
    unflatten,
    variables_of,
)
from gpt2x.flax.static_config import StaticConfig
from gpt2x.generation import GenerationConfig
from gpt2x.models import loading
from gpt2x.models.pretrained import LOADING, SAVING, PretrainedMixin, documented
from gpt2x.storage.publishing import push_folder
from gpt2x.unavailable import FLAX_MODEL
from gpt2x.weights.load_plan import LoadPlan
from gpt2x.weights.table import FLAX, Head

Params = Mapping[str, Any]

# What `model.params` was set to inside a transformation: NNX lets no variable from outside of one
# change there.
_TRACED: WeakKeyDictionary[nnx.Module, Params] = WeakKeyDictionary()


class FlaxGPT2PreTrainedModel(PretrainedMixin, LoraMixin, nnx.Module):
    """Base of the models: configuration, weights, embeddings.

    A model is an `nnx.Module`, and a pytree whose leaves are its parameters: it can be split,
    merged, filtered, and passed to `jax.jit`, `jax.grad` and `jax.vmap`. It can also be used as
    transformers' Flax models are, with parameters outside of it: `model(..., params=params)`.

    A model class of your own derives from it and makes its modules in `setup`, the body as
    `self.transformer`.

    Args:
        config: of the model. What a jitted function was traced with stays, whatever changes later.
        input_shape: accepted as in transformers; parameters do not depend on it.
        seed: of the initial weights.
        dtype: what is computed in.
        _do_init: False makes a model without arrays, to be called with `params=`.
        param_dtype: what parameters are stored in.
        rngs: draws the initial weights in place of `seed`, by its stream "params".

    Attributes:
        deterministic: whether calls that do not say `train=` drop nothing out; `model.train()` and
            `model.eval()` set it, as in all of NNX.
    """

    framework: ClassVar[str] = "flax"
    supports_gradient_checkpointing: ClassVar[bool] = True
    _get_attention = staticmethod(get_attention)
    _unavailable = FLAX_MODEL

    def __init__(
        self,
        config: GPT2Config,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        *,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self._config = StaticConfig(self._checked(config))
        self.input_shape = tuple(input_shape)
        self.seed = seed
        precision = Precision.of(dtype, param_dtype)
        self.dtype = precision.dtype
        self.param_dtype = precision.param_dtype
        if self.can_generate():
            self._generation_config = StaticConfig(GenerationConfig.from_model_config(config))
        self.deterministic = True
        self.setup(config, precision)
        if _do_init:
            key = self.key if rngs is None else rngs.params()
            self._assign(dict(flatten(self.init_weights(key, self.input_shape))))

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        """Make the modules, without arrays."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            # NNX would take what a property is set to for an attribute, and refuse arrays in it.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def config(self) -> GPT2Config:
        """The model's config."""
        return self._config.value

    @property
    def generation_config(self) -> GenerationConfig:
        """How the model generates where nothing else is said."""
        return self._generation_config.value

    @generation_config.setter
    def generation_config(self, generation_config: GenerationConfig) -> None:
        self._generation_config = StaticConfig(generation_config)

    @property
    def key(self) -> Array:
        """The key that `seed` stands for."""
        return jax.random.PRNGKey(self.seed)

    # --- parameters ---

    def init_weights(
        self, rng: Array, input_shape: tuple[int, ...] = (1, 1), params: Params | None = None
    ) -> Any:
        """Draw initial weights and return them as a tree, like `params`.

        Normal with standard deviation `initializer_range`; biases 0, layer norms 1 and 0. The two
        projections that each block adds to the residual stream (`c_proj`) are divided by
        sqrt(2 L), so that its variance does not grow with depth (GPT-2 paper, section 2.3).

        Args:
            rng: a key of `jax.random`.
            input_shape: without effect.
            params: weights to keep; only those missing are drawn.
        """
        weights = dict(flatten(params)) if params is not None else {}
        std = self.config.initializer_range
        drawn: dict[ParameterPath, dict[ParameterPath, float]] = {}
        for path, variable in self._parameters().items():
            if path in weights:
                continue
            if "lora" in path:  # an adapter is drawn as it is added
                weights[path] = variable.get_value()
                continue
            if path[-1] in ("bias", "scale"):
                constant = np.full(variable.shape, float(path[-1] == "scale"))
                weights[path] = jnp.asarray(constant, variable.dtype)
                continue
            residual = path[-2] == "c_proj"
            # Drawn block by block: blocks have the same shapes, for which XLA compiles once.
            block = path[: path.index("h") + 2] if "h" in path else path[:1]
            drawn.setdefault(block, {})[path] = (
                std / math.sqrt(2 * self.config.n_layer) if residual else std
            )
        parameters = self._parameters()
        for number, deviations in enumerate(drawn.values()):
            shapes = tuple((parameters[path].shape, std) for path, std in deviations.items())
            arrays = draw_normal(jax.random.fold_in(rng, number), shapes)
            for path, array in zip(deviations, arrays, strict=True):
                weights[path] = array.astype(parameters[path].dtype)
        return unflatten(weights, like=params)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters, as the nested dict of transformers' Flax models: a copy of the tree, of
        the same arrays. Set it to replace them all; inside `jax.jit` or `jax.pmap` too, after which
        calls without `params=` work again once it has been set outside.
        """
        model = self._with_params(None)
        return unflatten({path: v.get_value() for path, v in model._parameters().items()})

    @params.setter
    def params(self, params: Params) -> None:
        self._check_initialized()
        arrays = dict(flatten(params))
        try:
            self._assign(arrays)
        except TraceContextError:
            _TRACED[self] = unflatten(arrays)
        else:
            _TRACED.pop(self, None)

    # The attribute behind it in transformers, which many scripts read.
    _params = params

    @property
    def required_params(self) -> set[ParameterPath]:
        """The paths of all parameters."""
        return set(self._parameters())

    @property
    def params_shape_tree(self) -> dict[str, Any]:
        """The tree of `params` with `jax.ShapeDtypeStruct`s in it."""
        return unflatten(
            {
                path: jax.ShapeDtypeStruct(variable.shape, variable.dtype)
                for path, variable in self._parameters().items()
            }
        )

    def with_params(self, params: Params | None) -> Self:
        """Return this model with other parameters; it stays as it is. None returns it itself.

        Raises:
            InvalidInputError: if a parameter is missing, unexpected or of another shape, or if
                there are neither `params` nor any in the model.
        """
        return self._with_params(params)

    # `nnx.tabulate` shows the public methods that run, and fails at one that returns a module.
    def _with_params(self, params: Params | None) -> Self:
        params = _TRACED.get(self) if params is None else params
        if params is None:
            self._check_initialized()
            return self
        arrays = dict(flatten(params))
        variables, tree = variables_of(self)
        parameters = {path: v for path, v in variables if isinstance(v, nnx.Param)}
        check_params(arrays, parameters)
        return tree.unflatten(
            [v.replace(arrays[path]) if path in parameters else v for path, v in variables]
        )

    def _parameters(self) -> dict[ParameterPath, nnx.Param]:
        return {path: v for path, v in variables_of(self)[0] if isinstance(v, nnx.Param)}

    def _assign(self, arrays: Mapping[ParameterPath, Any]) -> None:
        parameters = self._parameters()
        check_params(arrays, parameters)
        for path, variable in parameters.items():
            variable.set_value(jnp.asarray(arrays[path]))

    def _check_initialized(self) -> None:
        if isinstance(self.base_model.ln_f.scale.get_value(), jax.ShapeDtypeStruct):
            raise InvalidInputError(
                f"This {type(self).__name__} was made with _do_init=False and holds no parameters: "
                "pass params= to each call, or use model.with_params(params)."
            )

    def to_bf16(self, params: Params, mask: Any = None) -> Any:
        """Return params in bfloat16: all, or those for which the tree `mask` holds True."""
        return cast_floating(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Params, mask: Any = None) -> Any:
        """Return params in float16; see `to_bf16`."""
        return cast_floating(params, jnp.float16, mask)

    def to_fp32(self, params: Params, mask: Any = None) -> Any:
        """Return params in float32; see `to_bf16`."""
        return cast_floating(params, jnp.float32, mask)

    # --- loading and saving ---

    @classmethod
    def _from_config(cls, config: GPT2Config, **options: Any) -> Self:
        """Return a model with new weights; the options are those of the constructor."""
        if "attn_implementation" in options:
            config._attn_implementation = options.pop("attn_implementation")
        return cls(config, **options)

    @classmethod
    @documented(LOADING)
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        dtype: Any = jnp.float32,
        *,
        config: GPT2Config | str | os.PathLike[str] | None = None,
        param_dtype: Any = None,
        attn_implementation: str | None = None,
        generation_config: GenerationConfig | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        strict: bool = False,
        seed: int = 0,
        input_shape: tuple[int, ...] = (1, 1),
        _do_init: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder or from the Hugging Face hub.

        Arguments of this backend alone:
            dtype: what the model computes in; "auto" for that of the config or the weights, which
                `param_dtype` then follows.
            param_dtype: what parameters are stored in; default float32, whatever the files hold.
            seed: of the weights that are initialised.
            input_shape: without effect.
            _do_init: False returns `(model, params)`, the model without parameters of its own.
        """
        wanted = dtype if dtype == "auto" and param_dtype is None else param_dtype
        arguments = loading.take_constructor_arguments(
            cls, FlaxGPT2PreTrainedModel, kwargs, isinstance(config, GPT2Config)
        )
        # A constructor that does not know these two must do without, as in transformers.
        arguments |= {"seed": seed} if seed else {}
        arguments |= {"input_shape": input_shape} if input_shape != (1, 1) else {}
        kwargs |= {"config": config, "attn_implementation": attn_implementation, "dtype": wanted}
        source = loading.resolve(
            cls.__name__, pretrained_model_name_or_path, config_class=cls.config_class, **kwargs
        )
        with source:
            arguments["dtype"] = source.dtype if dtype == "auto" else dtype
            if source.dtype != "float32":
                arguments["param_dtype"] = source.dtype
            model = cls(source.config, _do_init=False, **arguments)
            plan = source.plan(
                cls.head,
                owner=cls.__name__,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                strict=strict,
            )
            params = model._read(plan, source.dtype)
            model._take_generation_config(generation_config, source)
        if _do_init:
            model._assign(params)
        model._load_adapter_of(source)
        results: tuple[Any, ...] = (model,) if _do_init else (model, unflatten(params))
        if output_loading_info:
            results = (*results, plan.info.as_dict())
        return results[0] if len(results) == 1 else results

    def _read(self, plan: LoadPlan, dtype: str) -> dict[ParameterPath, Array]:
        """Read the tensors of a plan and initialise the parameters it lacks."""
        self.config.dtype = dtype
        params: dict[ParameterPath, Array] = {}
        for name, array in plan.arrays(dtype):
            # A copy, since the file is closed afterwards.
            params[self._path(name)] = jnp.array(FLAX.layout(name).from_canonical(array))
        if plan.new:
            params = dict(flatten(self.init_weights(self.key, params=unflatten(params))))
        return params

    def _path(self, canonical: str) -> ParameterPath:
        return tuple(FLAX.spell(canonical, prefix=self.head is not Head.NONE).split("/"))

    @documented(SAVING)
    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        params: Params | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "5GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        *,
        variant: str | None = None,
        repo_id: str | None = None,
        create_pr: bool = False,
        **push_options: Any,
    ) -> None:
        """Write a folder that transformers (PyTorch) reads.

        Arguments of this backend alone:
            params: weights in place of the model's own.
        """
        self._check_push_options(push_options)
        model = self._with_params(params)
        if self._adapter is None:
            model._save_model(
                save_directory,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
                variant=variant,
            )
        else:
            model.save_adapter(save_directory)
        if push_to_hub:
            push_folder(save_directory, repo_id, token=token, create_pr=create_pr, **push_options)

    def _save_model(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        tensors = {}
        for path, variable in self._parameters().items():
            name = FLAX.canonical("/".join(path))
            tensors[name] = lazy(name, variable.get_value())
        self.config.dtype = tensors["wte.weight"].dtype.name
        self._save_folder(save_directory, tensors, **options)

    # --- the model's parts ---

    @property
    def module(self) -> Self:
        """The model itself; in transformers, the Linen module that it wraps."""
        return self

    def _sizes(self, only_trainable: bool) -> Iterator[tuple[int, bool]]:
        """Yield how many numbers each parameter has, and whether it is an embedding's."""
        for path, variable in self._parameters().items():
            yield math.prod(variable.shape), path[-1] == "embedding"

    def init_cache(self, batch_size: int, max_length: int, dtype: Any = None) -> KVCache:
        """Return an empty static cache for `batch_size` rows of `max_length` tokens.

        `dtype` defaults to what the model computes in.
        """
        return KVCache.create(self.config, batch_size, max_length, dtype or self.dtype)

    def _config_changed(self) -> None:
        # Functions that were jitted with the model see by its statics that they must trace again.
        self._config = self.base_model._config = StaticConfig(self.config)

    # --- gradient checkpointing ---

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.base_model.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Keep activations again."""
        self.base_model.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return self.base_model.gradient_checkpointing

    # --- embeddings ---

    def _rows(self, embedding: nnx.Embed) -> int:
        self._check_initialized()
        return embedding.num_embeddings

    def _resize(self, rows: int, std: float | None) -> None:
        """Give the token embedding and the output layer `rows` rows; see `resized`."""
        embedding, output = self.get_input_embeddings(), self.get_output_embeddings()
        if output is not None and output is not embedding:
            kernel = resized(output.kernel.get_value().T, rows, std, self.key).T
            output.kernel.set_value(kernel)
            output.out_features = rows
        embedding.embedding.set_value(resized(embedding.embedding.get_value(), rows, std, self.key))
        embedding.num_embeddings = rows

    def _dropout_key(self, dropout_rng: Array | None, train: bool | None) -> Array | None:
        """Return the key of a call's dropout, or None where nothing is dropped."""
        if self.deterministic if train is None else not train:
            return None
        active = [name for name, rate in self._dropout_rates().items() if rate]
        if dropout_rng is None and active:
            raise InvalidInputError(
                "Training drops out at random and needs dropout_rng=, a key of jax.random; or set "
                f"the config's {listed(active)} to 0."
            )
        if not isinstance(dropout_rng, Array | np.ndarray | None):
            raise InvalidInputError(
                f"dropout_rng must be a key of jax.random; got {type(dropout_rng).__name__}. Of an "
                "nnx.Rngs, pass rngs.dropout()."
            )
        return dropout_rng

    def _dropout_rates(self) -> dict[str, float]:
        """Return field of the config -> rate, of each dropout that the model has."""
        names = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
        rates = {name: getattr(self.config, name) for name in names}
        return rates | {"lora_dropout": self._adapter_dropout()}
