"""What every PyTorch model of gpt2x can do besides its forward pass: be loaded and saved,
initialised, resized, counted. B batch, E n_embd, V vocab_size, L layers.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gpt2x.checkpoint.adapter import write_adapter
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerationConfig
from gpt2x.models import loading
from gpt2x.models.pretrained import LOADING, SAVING, PretrainedMixin, documented
from gpt2x.pt.arrays import lazy, to_torch
from gpt2x.pt.attention import get_attention
from gpt2x.pt.checkpointing import CheckpointingMixin
from gpt2x.pt.interop.counting import CountingMixin
from gpt2x.pt.interop.recognition import Recognised
from gpt2x.pt.interop.state_dict import StateDictMixin
from gpt2x.pt.lora import LoraMixin
from gpt2x.storage.publishing import push_folder
from gpt2x.unavailable import MODEL, explain
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import LoadPlan
from gpt2x.weights.table import PYTORCH, canonical_pytorch_name, parameter_shapes

# Values of `device_map` that let transformers choose.
_ANY_DEVICE = ("auto", "balanced", "balanced_low_0", "sequential")


class GPT2PreTrainedModel(
    PretrainedMixin, LoraMixin, StateDictMixin, CheckpointingMixin, CountingMixin, Recognised
):
    """Base of the models: configuration, weights, embeddings.

    A model class of your own derives from it, makes its body as `self.transformer` and ends its
    constructor with `self.post_init()`. `save_pretrained` writes the layers that it adds under
    their own names, and `from_pretrained` reads them; without any in the files it leaves them as
    they were initialised.
    """

    framework: ClassVar[str] = "pt"
    supports_gradient_checkpointing: ClassVar[bool] = True
    # Asked by transformers' Trainer: may it pass num_items_in_batch? (`**unknown` looks like yes.)
    accepts_loss_kwargs: ClassVar[bool] = False
    _get_attention = staticmethod(get_attention)
    _unavailable = MODEL
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
        self.config = self._checked(config)
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
        is_conv1d = hasattr(module, "adds_to_residual")
        if is_conv1d and module.adds_to_residual:
            std /= math.sqrt(2 * self.config.n_layer)
        with torch.no_grad():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()  # ones and zeros
            elif is_conv1d or isinstance(module, nn.Linear | nn.Embedding):
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
    @documented(LOADING)
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

        Arguments of this backend alone:
            *model_args: arguments of the constructor of a class of your own, after the config.
            state_dict: weights in place of the files'; with `config` they need no name.
            device_map: the device to load onto, or a dictionary that names one; "auto" takes the
                accelerator if there is one. A GPT-2 is never split between several.
        """
        device = None if device_map is None else _one_device(device_map)
        model_kwargs = loading.take_constructor_arguments(
            cls, GPT2PreTrainedModel, kwargs, isinstance(config, GPT2Config)
        )
        kwargs |= {"config": config, "attn_implementation": attn_implementation}
        if state_dict is not None:
            source = loading.from_tensors(_canonical(state_dict, copy=True), **kwargs)
        elif pretrained_model_name_or_path is None:
            raise InvalidInputError("Pass the name or folder of a model, or a state_dict.")
        else:
            source = loading.resolve(
                cls.__name__, pretrained_model_name_or_path, config_class=cls.config_class, **kwargs
            )
        with source:
            model = cls._build(source.config, *model_args, **model_kwargs)
            own = model._find_added(source.checkpoint)
            plan = source.plan(
                cls.head,
                owner=cls.__name__,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                strict=strict,
                others=own.values(),
            )
            tensors = {name: source.checkpoint[key] for name, key in own.items()}
            model._assign(plan, source.dtype, tensors)
            model._take_generation_config(generation_config, source)
        model._load_adapter_of(source)
        model.eval()
        if device is not None:
            model.to(device).tie_weights()
        return (model, plan.info.as_dict()) if output_loading_info else model

    @classmethod
    def _build(cls, config: GPT2Config, *model_args: Any, **model_kwargs: Any) -> Self:
        """Return the model without memory for its parameters, which `_assign` brings."""
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

    def _assign(self, plan: LoadPlan, dtype: str, own: Mapping[str, LazyTensor]) -> None:
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

    @documented(SAVING)
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
        """Write a folder that transformers reads.

        Arguments of this backend alone:
            is_main_process: False writes nothing, for all but one of several processes.
            state_dict: weights in place of the model's own (gathered from shards, for example).
            save_function: not called: files are written tensor by tensor. Scripts pass the one of
                accelerate, with `is_main_process`.
        """
        self._check_push_options(push_options)
        if not is_main_process:
            return
        state = self.state_dict() if state_dict is None else state_dict
        if self._adapter is None:
            self._save_model(
                save_directory,
                state,
                max_shard_size=max_shard_size,
                safe_serialization=safe_serialization,
                variant=variant,
            )
        else:
            write_adapter(save_directory, self._adapter_in(state), self.head)
        if push_to_hub:
            push_folder(save_directory, repo_id, token=token, create_pr=create_pr, **push_options)

    def _save_model(
        self,
        save_directory: str | os.PathLike[str],
        state_dict: Mapping[str, Tensor],
        **options: Any,
    ) -> None:
        tensors = _canonical(state_dict)
        # What a class of a user's own adds keeps its name.
        own = {name: tensors.pop(key) for name, key in self._find_added(tensors).items()}
        if self.config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
        self.config.dtype = self.dtype
        self._save_folder(
            save_directory,
            tensors,
            others=own,
            prefix=self.base_model is not self,
            architecture=type(self).__name__ if own else None,
            **options,
        )

    # --- the model's parts ---

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # of nn.Module, which Python asks after what the class has
            explain(type(self), name)
            raise

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether the class is not transformers' own, which it asks before it converts weights."""
        return True

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

    # --- embeddings ---

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

    def _rows(self, embedding: nn.Embedding) -> int:
        return embedding.num_embeddings

    def _resize(self, rows: int, std: float | None) -> None:
        """Give the token embedding and the output layer `rows` rows; see `_resized`."""
        embedding, output = self.get_input_embeddings(), self.get_output_embeddings()
        if output is not None and not self.config.tie_word_embeddings:
            output.weight = _resized(output.weight, rows, std)
            output.out_features = rows
        embedding.weight = _resized(embedding.weight, rows, std)
        embedding.num_embeddings = rows
        self.tie_weights()


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


def _canonical(state_dict: Mapping[str, Tensor], copy: bool = False) -> dict[str, LazyTensor]:
    """Name tensors as `gpt2x.weights.table` does, without reading them."""
    return {
        name: lazy(tensor, copy)
        for key, tensor in state_dict.items()
        if (name := canonical_pytorch_name(key)) is not None
    }
