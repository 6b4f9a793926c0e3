"""What every PyTorch model of gpt2x can do besides its forward pass: be loaded and saved,
initialised, resized, counted. B batch, E n_embd, V vocab_size, L layers.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import os
import types
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.models import checks, pretrained
from gpt2x.models.names import FromConfig
from gpt2x.models.outputs import ModelOutput
from gpt2x.pt.arrays import lazy, to_torch
from gpt2x.pt.attention import get_attention
from gpt2x.pt.checkpointing import CheckpointingMixin
from gpt2x.pt.interop.counting import CountingMixin
from gpt2x.pt.interop.recognition import Recognised
from gpt2x.pt.interop.state_dict import StateDictMixin
from gpt2x.storage.loading import take_where
from gpt2x.storage.publishing import PushToHubMixin, check_push_options, push_folder
from gpt2x.unavailable import MODEL, explain
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.pruning import restore_heads
from gpt2x.weights.table import PYTORCH, Head, canonical_pytorch_name, parameter_shapes

Output = TypeVar("Output", bound=ModelOutput)

# Values of `device_map` that let transformers choose.
_ANY_DEVICE = ("auto", "balanced", "balanced_low_0", "sequential")


class GPT2PreTrainedModel(
    PushToHubMixin, StateDictMixin, CheckpointingMixin, CountingMixin, Recognised
):
    """Base of the models: configuration, weights, embeddings.

    A model class of your own derives from it, makes its body as `self.transformer` and ends its
    constructor with `self.post_init()`. `save_pretrained` writes the layers that it adds under
    their own names, and `from_pretrained` reads them; without any in the files it leaves them as
    they were initialised.
    """

    config_class: ClassVar[type[GPT2Config]] = GPT2Config
    base_model_prefix: ClassVar[str] = "transformer"
    main_input_name: ClassVar[str] = "input_ids"
    framework: ClassVar[str] = "pt"
    vocab_size = FromConfig("vocab_size")
    supports_gradient_checkpointing: ClassVar[bool] = True
    # Asked by transformers' Trainer: may it pass num_items_in_batch? (`**unknown` looks like yes.)
    accepts_loss_kwargs: ClassVar[bool] = False
    head: ClassVar[Head] = Head.NONE
    _stands_for = ("transformers.modeling_utils", "PreTrainedModel")
    # Asked by accelerate, PEFT, optimum and transformers' own tools: what a model can do.
    is_parallelizable: ClassVar[bool] = False
    model_tags: ClassVar[list[str] | None] = None
    _no_split_modules: ClassVar[list[str]] = ["GPT2Block"]
    _skip_keys_device_placement: ClassVar[str] = "past_key_values"
    _supports_sdpa: ClassVar[bool] = True
    _supports_flash_attn: ClassVar[bool] = False
    _supports_flex_attn: ClassVar[bool] = False
    _supports_attention_backend: ClassVar[bool] = False  # the functions of transformers' registry
    _can_compile_fullgraph: ClassVar[bool] = True
    _is_stateful: ClassVar[bool] = False
    _keep_in_fp32_modules: ClassVar[list[str] | None] = None
    _keys_to_ignore_on_save: ClassVar[list[str] | None] = None
    _keys_to_ignore_on_load_missing: ClassVar[list[str] | None] = None
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str] | None] = None
    _tied_weights_keys: ClassVar[list[str]] = []

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        checks.check_config(type(self).__name__, config)
        config._attn_implementation = config._attn_implementation or "sdpa"
        get_attention(config._attn_implementation)
        self.config = config
        self.gradient_checkpointing_kwargs: dict[str, Any] = {"use_reentrant": False}
        self.warnings_issued: dict[str, bool] = {}  # trainers note here what they warned of
        self._input_hook: RemovableHandle | None = None
        if self.can_generate():
            self.generation_config = GenerationConfig.from_model_config(config)

    def post_init(self) -> None:
        """Initialise what the constructor added to the body, and tie the output layer to it."""
        self.tie_weights()
        names = (name for name, _ in self.named_parameters())
        body, tied = f"{self.base_model_prefix}.", self._tied_weights_keys
        self.init_weights(
            name
            for name in names
            if not (name.startswith(body) or (name in tied and self.config.tie_word_embeddings))
        )

    def init_weights(self, names: Iterable[str] | None = None) -> None:
        """Draw initial weights, for all parameters or those named.

        Normal with standard deviation `initializer_range`; biases 0, layer norms 1 and 0. The two
        projections that each block adds to the residual stream (`c_proj`) are divided by
        sqrt(2 L), so that its variance does not grow with depth (GPT-2 paper, section 2.3).
        Other layers than GPT-2's stay as they were made. A class of your own may decide otherwise,
        by a `_init_weights` of its own.
        """
        wanted = {name for name, _ in self.named_parameters()} if names is None else {*names}
        with torch.no_grad():
            for path, module in self.named_modules():
                prefix = f"{path}." if path else ""
                own = dict(module.named_parameters(prefix=path, recurse=False))
                if wanted.isdisjoint(own):
                    continue
                kept = {leaf: p.clone() for leaf, p in own.items() if leaf not in wanted}
                self._init_weights(module)
                for name, value in kept.items():
                    module.get_parameter(name.removeprefix(prefix)).copy_(value)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw initial weights for what one layer of GPT-2 holds itself; leave other layers."""
        std = self.config.initializer_range
        if getattr(module, "adds_to_residual", False):
            std /= math.sqrt(2 * self.config.n_layer)
        with torch.no_grad():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()  # ones and zeros
            elif isinstance(module, nn.Linear | nn.Embedding) or hasattr(
                module,
                "adds_to_residual",  # a Conv1D
            ):
                module.weight.normal_(std=std)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()

    @classmethod
    def _from_config(
        cls,
        config: GPT2Config,
        *,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
    ) -> Self:
        """Return a model with new weights in `dtype` (default: the config's, or float32)."""
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        if dtype is not None:
            config.dtype = dtype
        return cls(config).to(getattr(torch, config.dtype or "float32"))

    # --- loading and saving ---

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: GPT2Config | str | os.PathLike[str] | None = None,
        state_dict: dict[str, Tensor] | None = None,
        attn_implementation: str | None = None,
        generation_config: GenerationConfig | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        strict: bool = False,
        device_map: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder or from the Hugging Face hub, ready for inference.

        A checkpoint with another head, or none, loads too: the head that is missing is initialised
        and named in a warning. Tensors are read one at a time, straight into the model.

        Args:
            pretrained_model_name_or_path: folder or name on the hub; None with `config` and
                `state_dict`.
            *model_args: arguments of the constructor of a class of your own, after the config.
            config: in place of the model's own.
            state_dict: weights in place of the files'.
            attn_implementation: "sdpa", "eager" or a registered one.
            generation_config: in place of the model's own.
            output_loading_info: return `(model, info)`, `info` with the keys missing_keys,
                unexpected_keys, mismatched_keys and error_msgs.
            ignore_mismatched_sizes: initialise tensors of another shape, instead of raising.
            strict: raise if anything is missing or left over.
            device_map: the device to load onto, or a dictionary that names one; "auto" takes the
                accelerator if there is one. A GPT-2 is never split between several.
            **kwargs: where to look (`revision`, `subfolder`, `cache_dir`, `token`,
                `local_files_only`, `force_download`, `variant`, `use_safetensors`, `from_tf`,
                `from_flax`), `dtype` ("auto", a torch.dtype or its name; default float32),
                fields of the config to override, and arguments of the constructor of a class of
                your own (the config has precedence, unless it is given as an object).

        Raises:
            CheckpointError: if the files cannot be found or read.
            WeightsError: if the weights do not fit the model.
            InvalidInputError: for an unknown keyword or a bad value.
        """
        device = None if device_map is None else _one_device(device_map)
        model_kwargs = pretrained.take_constructor_arguments(
            cls, GPT2PreTrainedModel, kwargs, isinstance(config, GPT2Config)
        )
        make = functools.partial(cls._build, model_args=model_args, model_kwargs=model_kwargs)
        options: dict[str, Any] = {
            "owner": cls.__name__,
            "ignore_mismatched_sizes": ignore_mismatched_sizes,
            "strict": strict,
        }
        if state_dict is not None:
            model_config, dtype = _config_for_state_dict(cls, config, kwargs)
            tensors = {
                name: lazy(tensor, copy=True)
                for key, tensor in state_dict.items()
                if (name := canonical_pytorch_name(key)) is not None
            }
            tensors |= restore_heads(tensors, model_config)
            model_config.pruned_heads = {}
            model = make(model_config, attn_implementation)
            own = model._find_added(tensors)
            plan = pretrained.plan_load(
                tensors, model_config, cls.head, others=own.values(), **options
            )
            model._assign(plan, dtype, {name: tensors[key] for name, key in own.items()})
        else:
            if pretrained_model_name_or_path is None:
                raise InvalidInputError("Pass the name or folder of a model, or a state_dict.")
            with pretrained.resolve(
                cls.__name__,
                pretrained_model_name_or_path,
                config=config,
                config_class=cls.config_class,
                **kwargs,
            ) as source:
                model = make(source.config, attn_implementation)
                checkpoint = source.checkpoint
                own = model._find_added(checkpoint)
                options |= {"name": source.name, "others": own.values()}
                plan = pretrained.plan_load(checkpoint, source.config, cls.head, **options)
                model._assign(plan, source.dtype, {n: checkpoint[key] for n, key in own.items()})
                if generation_config is None and source.generation_config is not None:
                    generation_config = GenerationConfig.from_pretrained(
                        source.generation_config.parent
                    )
        if generation_config is not None and cls.can_generate():
            model.generation_config = generation_config
        model.eval()
        if device is not None:
            model.to(device).tie_weights()
        return (model, plan.info.as_dict()) if output_loading_info else model

    @classmethod
    def _build(
        cls,
        config: GPT2Config,
        attn_implementation: str | None,
        model_args: tuple[Any, ...] = (),
        model_kwargs: Mapping[str, Any] = types.MappingProxyType({}),
    ) -> Self:
        """Return the model without memory for its parameters, which `_assign` brings."""
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        with torch.device("meta"):
            model = cls(config, *model_args, **model_kwargs)
        # What a class of a user's own adds comes from its constructor, not from a file.
        return cls(config, *model_args, **model_kwargs) if model._added() else model

    def _added(self) -> list[str]:
        """Names of the parameters and buffers that a class of a user's own adds to GPT-2."""
        known = {*parameter_shapes(self.config, self.head), None}
        if self.can_generate():
            known.add("lm_head.weight")  # of its own where it is tied but not shared (FSDP)
        tensors = itertools.chain(self.named_parameters(), self.named_buffers())
        return [name for name, _ in tensors if canonical_pytorch_name(name) not in known]

    def _find_added(self, tensors: Mapping[str, LazyTensor]) -> dict[str, str]:
        """Return which of them belong to what `_added` names, by their names in the model."""
        state = self.state_dict()
        names = {name: canonical_pytorch_name(name) or name for name in self._added()}
        return {
            name: key
            for name, key in names.items()
            if name in state and key in tensors and tensors[key].shape == tuple(state[name].shape)
        }

    def _assign(self, plan: pretrained.LoadPlan, dtype: str, own: Mapping[str, LazyTensor]) -> None:
        """Put the tensors of a plan into the model and initialise the parameters it lacks.

        `own` are tensors for what a class of a user's own adds.
        """
        self.config.dtype = dtype
        for name, array in plan.arrays(dtype):
            self._set_parameter(self._spell(name), to_torch(array))
        new = [self._spell(name) for name in plan.new]
        parameters = dict(self.named_parameters())
        for name in new:
            empty = torch.empty_like(parameters[name], dtype=getattr(torch, dtype), device="cpu")
            self._set_parameter(name, empty)
        self.init_weights(new)
        self.tie_weights()
        if self._added():
            self.to(getattr(torch, dtype))
        state = self.state_dict()
        for name, tensor in own.items():
            state[name].copy_(to_torch(tensor.read()))

    def _set_parameter(self, name: str, value: Tensor) -> None:
        owner, _, leaf = name.rpartition(".")
        module = self.get_submodule(owner)
        old = getattr(module, leaf)
        # A class of a user's own may have frozen it.
        setattr(module, leaf, nn.Parameter(value.contiguous(), requires_grad=old.requires_grad))

    def _spell(self, canonical: str) -> str:
        return PYTORCH.spell(canonical, prefix=self.base_model is not self)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
        variant: str | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        save_function: Any = None,
        **push_options: Any,
    ) -> None:
        """Write a folder that transformers reads; it appears whole or not at all.

        Args:
            save_directory: the folder, made if need be.
            is_main_process: False writes nothing, for all but one of several processes.
            state_dict: weights in place of the model's own (gathered from shards, for example).
            max_shard_size: bytes of weights in a file at most, or a string such as "5GB".
            safe_serialization: False writes pytorch_model.bin instead of safetensors.
            variant: write model.VARIANT.safetensors.
            push_to_hub: upload the folder as well (see `push_to_hub`).
            repo_id: where to; by default the folder's name, of the token's owner.
            create_pr: upload as a pull request.
            token: access token with write permission.
            save_function: not called: files are written tensor by tensor. Scripts pass the one of
                accelerate, with `is_main_process`.
            **push_options: others of `gpt2x.storage.publishing.push_folder` (`commit_message` ...).

        Raises:
            InvalidInputError: if the folder is a file, or for an unknown keyword.
            CheckpointError: if the hub refuses or cannot be reached.
        """
        arguments = list(inspect.signature(self.save_pretrained).parameters)[:-1]
        check_push_options(f"{type(self).__name__}.save_pretrained", push_options, arguments)
        if not is_main_process:
            return
        weights = self.state_dict() if state_dict is None else state_dict
        tensors = {
            name: lazy(tensor)
            for key, tensor in weights.items()
            if (name := canonical_pytorch_name(key)) is not None
        }
        # What a class of a user's own adds keeps its name.
        own = {name: tensors.pop(key) for name, key in self._find_added(tensors).items()}
        if self.config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        self.config.dtype = self.dtype
        pretrained.save_folder(
            save_directory,
            self.config,
            tensors,
            self.head,
            generation_config=self.generation_config if self.can_generate() else None,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
            variant=variant,
            others=own,
            prefix=self.base_model is not self,
            architecture=type(self).__name__ if own else None,
        )
        if push_to_hub:
            push_folder(save_directory, repo_id, token=token, create_pr=create_pr, **push_options)

    # --- the model's parts ---

    def __getattr__(self, name: str) -> Any:
        explain(type(self), name, MODEL)
        return super().__getattr__(name)

    @property
    def base_model(self) -> GPT2PreTrainedModel:
        """The body of a model with a head; the body itself is its own."""
        body: Any = getattr(self, self.base_model_prefix, self)
        return body

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the class has a language model to generate text with."""
        return cls.head in (Head.LM, Head.DOUBLE)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether the class is not transformers' own, which it asks before it converts weights."""
        return True

    @property
    def name_or_path(self) -> str:
        """Where the model was loaded from, or an empty string."""
        return self.config.name_or_path

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the bytes that the parameters (and buffers) take."""
        buffers = self.buffers() if return_buffers else ()
        return sum(t.nbytes for tensors in (self.parameters(), buffers) for t in tensors)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # asked as the class attributes above

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Switch to "sdpa", "eager" or a registered attention implementation."""
        get_attention(attn_implementation)
        self.config._attn_implementation = attn_implementation

    # --- embeddings ---

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the token embedding, weight [V, E]."""
        return self.base_model.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embedding, and with it the output layer if that is tied."""
        self.base_model.wte = value
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """Return the language model's output layer, weight [V, E], if the model has one."""
        return getattr(self, "lm_head", None)

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output layer."""
        self.lm_head = new_embeddings

    def tie_weights(self) -> None:
        """Make the output layer share the token embedding's weight, if the config ties them."""
        output = self.get_output_embeddings()
        if output is not None and self.config.tie_word_embeddings:
            weight = self.get_input_embeddings().weight
            # TorchScript has no shared parameters.
            output.weight = nn.Parameter(weight.clone()) if self.config.torchscript else weight
            output.out_features = output.weight.size(0)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Change the vocabulary to `new_num_tokens` rows; return the token embedding.

        New rows start as the mean of the old ones, so that new tokens are neither likelier nor
        less likely than the average token; with `mean_resizing=False` they are drawn like initial
        weights. The output layer follows, tied or not, and so does `config.vocab_size`.

        Args:
            new_num_tokens: rows wanted; None keeps them.
            pad_to_multiple_of: round the rows up to a multiple of this.
            mean_resizing: see above.
        """
        embedding, output = self.get_input_embeddings(), self.get_output_embeddings()
        rows = pretrained.vocabulary_rows(
            embedding.num_embeddings, new_num_tokens, pad_to_multiple_of
        )
        if rows == embedding.num_embeddings:
            return embedding
        std = None if mean_resizing else self.config.initializer_range
        if output is not None and not self.config.tie_word_embeddings:
            output.weight = _resized(output.weight, rows, std)
            output.out_features = rows
        embedding.weight = _resized(embedding.weight, rows, std)
        embedding.num_embeddings = rows
        self.config.vocab_size = rows
        self.tie_weights()
        return embedding

    def _as_asked(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        """Return the output, or its tuple where the caller or the config wants that."""
        wanted = self.config.use_return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()


def _resized(weight: nn.Parameter, rows: int, std: float | None) -> nn.Parameter:
    """Return weight [V, E] cut or grown to `rows`; new rows are the mean, or drawn with `std`."""
    with torch.no_grad():
        new = weight.new_empty(rows, weight.size(1))
        kept = min(rows, weight.size(0))
        new[:kept] = weight[:kept]
        if std is None:
            new[kept:] = weight.float().mean(dim=0).to(weight.dtype)
        else:
            new[kept:].normal_(std=std)
    return nn.Parameter(new, requires_grad=weight.requires_grad)


def _one_device(device_map: Any) -> torch.device:
    """Return the device that a `device_map` of transformers names."""
    places = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    try:
        devices = {
            (best or torch.device("cpu")) if place in _ANY_DEVICE else torch.device(place)
            for place in places
        }
    except (RuntimeError, TypeError):
        devices = set()
    if len(devices) != 1:
        raise InvalidInputError(
            f"device_map is {device_map!r}; it must name one device ('cpu', 'cuda:0', 'auto' ...): "
            "a GPT-2 is not split between several."
        )
    return devices.pop()


def _config_for_state_dict(
    cls: type[GPT2PreTrainedModel],
    config: GPT2Config | str | os.PathLike[str] | None,
    kwargs: dict[str, Any],
) -> tuple[GPT2Config, str]:
    if not isinstance(config, GPT2Config):
        raise InvalidInputError("A state_dict needs config=, a GPT2Config, beside it.")
    dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or "float32"
    take_where(kwargs)
    made = GPT2Config.from_dict(config.to_dict(), dtype=dtype, **kwargs)
    return made, made.dtype
