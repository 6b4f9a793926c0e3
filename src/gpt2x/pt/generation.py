"""`generate` in PyTorch, over the decoding core.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, V
vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2x.config.compilation import CompileConfig
from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation.documentation import GENERATING, HEALING
from gpt2x.generation.engine import DriverEngine, Extras, Prompt, Prompts, StaticArguments, assemble
from gpt2x.generation.generate import generate, heal_tokens
from gpt2x.generation.host import Host
from gpt2x.generation.plan import Plan
from gpt2x.generation.prefill import PREFILLING, prefill
from gpt2x.generation.results import TransitionScores
from gpt2x.generation.strategies import Needs, Settings, Strategy
from gpt2x.models.pretrained import documented
from gpt2x.models.views import view_of
from gpt2x.pt.cache import KVCache
from gpt2x.pt.cpu.copies import Copies, copied_weights
from gpt2x.pt.engine import TorchEngine
from gpt2x.pt.interop.foreign_cache import as_cache
from gpt2x.pt.interop.prepared import PreparationMixin, PreparedEngine
from gpt2x.pt.ops import torch_ops
from gpt2x.pt.processes import any_process_runs, is_synced
from gpt2x.pt.static import StaticEngine, steps_of

# From this many new tokens on, faster copies of the weights save more time than they take.
_LONG = 24

_COMPILE = """
    compile: whether `torch.compile` compiles the model's step, with a cache of a fixed size, as
        `compile_config` says. None: on a GPU, if `cache_implementation` is "static".
        `disable_compile` wins."""

_DTYPES = {"b": torch.bool, "i": torch.int64, "f": torch.float32}


class TorchHost(Host):
    """A PyTorch model, for one call of `generate`; see `gpt2x.generation.host`."""

    fuses = False  # the Python loop is the same
    buckets = False
    with_length = False

    def __init__(self, model: Any, compile: bool | None = None) -> None:
        if compile is not None and not isinstance(compile, bool):
            raise InvalidInputError(f"compile must be True, False or None; got {compile!r}.")
        super().__init__(model, model.forward, torch_ops(model.device))
        self._compile = compile
        self._prepares_itself = model._prepares_itself()
        self._copies: Copies = {}
        self._contexts = 1  # how often a step runs the model
        self.synced = False  # whether steps are those of all processes

    def argument_names(self) -> list[str]:
        names = super().argument_names()
        if self._prepares_itself:
            prepare = inspect.signature(self.model.prepare_inputs_for_generation).parameters
            variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names += [name for name, p in prepare.items() if p.kind not in variable]
        return names

    def read(self, name: str, value: Any) -> np.ndarray:
        return self.embeddings(value, name).cpu().numpy()

    def embeddings(self, value: Any, name: str = "inputs_embeds") -> Tensor:
        if not isinstance(value, Tensor):
            raise InvalidInputError(f"{name} must be a tensor; got {value!r}.")
        return value

    def to_run(self, array: Any, start: Any, slots: Any) -> Any:
        return array if self._prepares_itself else super().to_run(array, start, slots)

    def to_device(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype == np.uint32:
            value = value.view(np.int32)  # random words
            return torch.as_tensor(value, device=self.model.device)
        return torch.as_tensor(value, dtype=_DTYPES[value.dtype.kind], device=self.model.device)

    def to_host(self, array: Tensor) -> Tensor:
        return array.cpu()

    def place(self, settings: Settings, prompts: Prompts) -> tuple[Settings, Prompts]:
        settings, prompts = super().place(settings, prompts)
        return settings, prompts.map(self._with_positions)

    def _with_positions(self, prompt: Prompt) -> Prompt:
        """Count a prompt's positions once here, not at every step."""
        mask = prompt.columns.get("attention_mask")
        if mask is None or self._prepares_itself:
            return prompt
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return prompt._replace(columns={"position_ids": positions, **prompt.columns})

    @property
    def itemsize(self) -> int:
        return self.model.get_input_embeddings().weight.itemsize

    def available_memory(self) -> int | None:
        device = self.model.device
        if device.type != "cuda":
            return super().available_memory() if device.type == "cpu" else None
        free, _ = torch.cuda.mem_get_info(device)
        # Memory of tensors that are gone can be used again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

    def compiles_rows(self, config: GenerationConfig) -> bool:
        return self._is_static(config) and self._compilation(config) is not None

    def of_rows(self, name: str, value: Any, batch: int) -> bool:
        if self._prepares_itself:  # the model's own arguments have any names
            return isinstance(value, Tensor) and value.shape[:1] == (batch,)
        return super().of_rows(name, value, batch)

    def draw_seed(self) -> int:
        low, high = torch.randint(0, 2**32, (2,), dtype=torch.int64).tolist()
        return low | high << 32

    def open_past(self, past: Any, batch: int) -> Any:
        if isinstance(past, tuple | list) and len(past) == 0:
            return None
        cache = as_cache(past, len(self.model.base_model.h))
        if not cache.is_initialized:
            return cache.fork()
        # `extend` will copy the pairs: what was given stays as it is.
        return KVCache.from_tuple(cache.to_tuple())

    def early_exit(self, count: int) -> Any:
        body = self.model.base_model
        part = view_of(body, _modules=body._modules | {"h": body.h[:count]})
        name = self.model.base_model_prefix
        return view_of(self.model, _modules=self.model._modules | {name: part})

    def loop_arguments(self, rows: int, static: StaticArguments) -> dict[str, Any]:
        engine = TorchEngine(self.model, static)
        arguments: dict[str, Any] = {}
        if "logits_to_keep" in engine.options:
            arguments["logits_to_keep"] = 1
        if static.use_cache:
            arguments["past_key_values"] = engine.cache_of(rows, static.slots)
        return arguments

    @contextmanager
    def running(self, plan: Plan) -> Iterator[None]:
        if self.synced:
            any_process_runs(True, self.model.device)
        is_long = plan.max_length - plan.prompt_length >= _LONG
        with torch.no_grad(), copied_weights(is_long, self._copies):
            yield

    def stepper(
        self, plan: Plan, static: StaticArguments, prompts: Prompts
    ) -> tuple[DriverEngine, Strategy]:
        self._contexts = 2 if prompts.negative else 1
        if self._prepares_itself:
            if static.needs != Needs() or prompts.negative or prompts.assistant:
                raise InvalidInputError(
                    "This model overrides prepare_inputs_for_generation, which is asked for one "
                    "token at a time: guidance, assistants, prompt lookup, contrastive search and "
                    "DoLa need the model's own inputs."
                )
            engine: DriverEngine = PreparedEngine(self.model, self.ops, static, prompts.main)
        else:
            make = self._make_engine(plan.config, static, prompts)
            engine = assemble(self.ops, make, self.models, static, prompts, self.keep)
        return engine, static.strategy

    def _make_engine(
        self, config: GenerationConfig, static: StaticArguments, prompts: Prompts
    ) -> Callable[[Any, StaticArguments], TorchEngine]:
        """Return what makes the engine of a model of this call."""
        # What is returned of steps, and the embeddings of a prompt, have sizes of their own.
        has_own_sizes = static.records or (static.needs.siblings and prompts.main.has_embeds)
        if has_own_sizes or not self._is_static(config):
            return TorchEngine
        steps = steps_of(self.model, self._compilation(config))

        def make(model: Any, static: StaticArguments) -> StaticEngine:
            return StaticEngine(
                model, static, steps=steps, role="main" if model is self.model else "assistant"
            )

        return make

    def _is_static(self, config: GenerationConfig) -> bool:
        """Return whether the cache has a size that stays the same."""
        wanted = self._compile is True and not config.disable_compile
        return not self._prepares_itself and (wanted or config.cache_implementation == "static")

    def _compilation(self, config: GenerationConfig) -> CompileConfig | None:
        """Return how to compile steps; None does not."""
        given = config.compile_config
        everywhere = given is not None and given._compile_all_devices
        wanted = self._compile
        if wanted is None:  # as in transformers
            wanted = everywhere or self.model.device.type == "cuda"
        return (given or CompileConfig()) if wanted and not config.disable_compile else None

    def result(self, plan: Plan, settings: Settings, state: Any, **records: Any) -> Any:
        past = records.get("past_key_values")
        if past is not None and self._is_static(plan.config):
            records["past_key_values"] = past.fork()  # the next call writes into its buffers
        return super().result(plan, settings, state, **records)

    def keep(self, extras: Extras, count: int, columns: int) -> Extras:
        return extras

    def finish(self) -> None:
        """Run the model, if it is synced, until no process needs it any more."""
        token = torch.zeros((1, 1), dtype=torch.int64, device=self.model.device)
        while self.synced and any_process_runs(False, self.model.device):
            for _ in range(self._contexts):
                self.model(token, use_cache=False)


class GenerationMixin(PreparationMixin, TransitionScores):
    """Gives a model with `lm_head` the method `generate`."""

    config: Any
    device: torch.device
    generation_config: GenerationConfig
    forward: Callable[..., Any]

    @torch.no_grad()
    @documented(
        GENERATING.format(
            processors="(input_ids [R, length], scores [R, V]) -> scores",
            generator="PyTorch's global generator (`torch.manual_seed`)",
            more=_COMPILE,
        )
    )
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: Any = None,
        negative_prompt_ids: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        use_model_defaults: bool | None = None,
        custom_generate: Any = None,
        *,
        seed: int | list[tuple[int, int]] | None = None,
        tokenizer: Any = None,
        regex: str | None = None,
        json_schema: Mapping[str, Any] | str | None = None,
        choices: Sequence[str] | None = None,
        grammar: str | None = None,
        batch_size: int | None = None,
        compile: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Continue the prompts."""
        host = self.generation_host(compile)
        host.synced = is_synced(self, synced_gpus)
        result = generate(
            host,
            kwargs=kwargs if inputs is None else {"inputs": inputs, **kwargs},
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            streamer=streamer,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            use_model_defaults=use_model_defaults,
            custom_generate=custom_generate,
            seed=seed,
            tokenizer=tokenizer,
            regex=regex,
            json_schema=json_schema,
            choices=choices,
            grammar=grammar,
            batch_size=batch_size,
        )
        host.finish()
        return result

    @torch.no_grad()
    @documented(PREFILLING.format(more=""))
    def prefill(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> KVCache:
        """Compute a prompt once, for many calls of `generate`."""
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        return prefill(self.generation_host(), {**kwargs, "past_key_values": past_key_values})

    @documented(HEALING)
    def heal_tokens(self, input_ids: Tensor, tokenizer: Any = None) -> Tensor:
        """Choose the last token of each prompt again, among those that begin with its text."""
        return heal_tokens(self.generation_host(), input_ids, tokenizer)

    def generation_host(self, compile: bool | None = None) -> TorchHost:
        """Return the host with which `gpt2x.generation.generate.steps` runs this model."""
        return TorchHost(self, compile)
