"""`generate` in PyTorch, over the decoding core.

B prompts, R rows given to the model (B x returned sequences or beams), T columns of the prompt, V
vocabulary, E n_embd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError
from gpt2x.generation import driver, results
from gpt2x.generation.plan import make_plan, resolve_config
from gpt2x.generation.prompt import bos_token, infer_mask, padding_first, refuse_arguments
from gpt2x.generation.seeds import streams
from gpt2x.generation.streamers import as_streamer
from gpt2x.models import checks
from gpt2x.pt.cpu.copies import copied_weights
from gpt2x.pt.engine import TorchEngine
from gpt2x.pt.interop.prepared import PreparationMixin, PreparedEngine
from gpt2x.pt.ops import torch_ops

# New tokens from which copies of the weights that are multiplied faster save the time they take.
_LONG = 24

# Arguments of `forward` that generation sets itself, or that make no sense in it.
_OWN_ARGUMENTS = (
    "labels",
    "mc_labels",
    "cache_position",
    "logits_to_keep",
    "return_dict",
    "loss_options",
    "unknown",
)


class GenerationMixin(PreparationMixin):
    """Gives a model with `lm_head` the method `generate`."""

    config: Any
    device: torch.device
    generation_config: GenerationConfig
    forward: Callable[..., Any]

    @torch.no_grad()
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
        **kwargs: Any,
    ) -> Any:
        """Continue the prompts.

        Args:
            inputs: token ids of the prompts, int [B, T]; also as `input_ids=`. Padding on the
                right is moved to the left, in the result too. None or [B, 0] starts from bos.
            generation_config: how to decode; by default the model's own. Its fields may also be
                given as keywords, which come first.
            logits_processor: functions ``(input_ids [R, length], scores [R, V]) -> scores``, which
                come after the built-in ones; one of a built-in's class takes its place.
            stopping_criteria: functions ``(input_ids, scores) -> bool [R]`` that end rows.
            prefix_allowed_tokens_fn: ``(prompt index, tokens [length]) -> allowed token ids``.
            synced_gpus, assistant_model, negative_prompt_ids, negative_prompt_attention_mask,
                custom_generate: not available; must be left out.
            streamer: an object with `put` and `end` (see `gpt2x.generation.streamers`), or a
                function of each step's tokens. Not for beam search.
            use_model_defaults: see `gpt2x.generation.plan.resolve_config`.
            seed: makes sampling repeatable, in every backend and batch alike: row r draws from
                stream (seed, r); a list gives each row its own (seed, row). None draws a seed from
                PyTorch's global generator (`torch.manual_seed`).
            tokenizer: needed by `stop_strings`.
            **kwargs: fields of the config, and arguments of the model: `attention_mask` [B, T] (1
                for text, 0 for padding; by default 0 where the prompt holds `pad_token_id`, if that
                is not an eos), `inputs_embeds` [B, T, E] (the result then holds new tokens only,
                unless ids are given too), `past_key_values` (the prompt must hold the whole text),
                `position_ids`, `token_type_ids`, `encoder_hidden_states` ...

        Returns:
            Token ids, int64 [B x num_return_sequences, length], prompts included; rows that end
            early are filled with `pad_token_id` (or the first eos). With
            `return_dict_in_generate`, a `GenerateDecoderOnlyOutput` or
            `GenerateBeamDecoderOnlyOutput`.

        Raises:
            InvalidInputError: before anything is computed, if an argument is unknown, or cannot be
                used with the others or with this prompt.
        """
        refuse_arguments(
            synced_gpus=synced_gpus,
            assistant_model=assistant_model,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            custom_generate=custom_generate,
        )
        config, arguments = resolve_config(
            self.generation_config, generation_config, kwargs, self._arguments(), use_model_defaults
        )
        input_ids, mask = self._prompt(inputs, config, arguments)
        embeds = arguments.get("inputs_embeds")
        plan = make_plan(
            config,
            batch_size=input_ids.size(0),
            prompt_length=input_ids.size(1),
            n_positions=self.config.n_positions,
            vocab_size=self.config.vocab_size,
            hidden_length=0 if embeds is None else embeds.size(1) - input_ids.size(1),
            user_processors=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            tokenizer=tokenizer,
        )
        streamer = as_streamer(streamer)
        if streamer is not None and config.num_beams > 1:
            raise InvalidInputError(
                "Beam search cannot be streamed: its texts change until it ends. Set num_beams=1."
            )
        ops = torch_ops(input_ids.device)
        keys: Any = ()
        if plan.samples:
            keys = streams(_random_seed() if seed is None else seed, plan.rows).keys(ops)
        hidden = 0 if mask is None else mask.size(1) - input_ids.size(1)
        ids_mask = None if mask is None else mask[:, hidden:]
        settings = plan.settings(ops, input_ids, ids_mask, keys)
        make_engine = PreparedEngine if self._prepares_itself() else TorchEngine
        engine = make_engine(self, plan, input_ids, mask, arguments)
        with copied_weights(plan.max_length - input_ids.size(1) >= _LONG):
            if streamer is None:
                carry = driver.fused(ops, plan.strategy, engine, settings)
            else:
                streamer.put(input_ids.cpu())
                carry = driver.stepwise(
                    ops, plan.strategy, engine, settings, lambda tokens: streamer.put(tokens.cpu())
                )
                streamer.end()
        return results.result(
            ops,
            plan,
            settings,
            carry.state,
            attentions=_tuple(engine.attentions),
            hidden_states=_tuple(engine.hidden_states),
            past_key_values=carry.cache if config.use_cache else None,
        )

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: tuple[Tensor, ...],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """Return the score of each generated token; see `gpt2x.generation.results`."""
        ops = torch_ops(sequences.device)
        return results.transition_scores(ops, sequences, scores, beam_indices, normalize_logits)

    def _arguments(self) -> list[str]:
        """Return the names of the arguments that `generate` passes on to the model."""
        names = dict(inspect.signature(self.forward).parameters)
        if self._prepares_itself():
            prepare = inspect.signature(self.prepare_inputs_for_generation).parameters
            variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            names |= {name: p for name, p in prepare.items() if p.kind not in variable}
        return [name for name in names if name not in _OWN_ARGUMENTS]

    def _prompt(
        self, inputs: Tensor | None, config: GenerationConfig, arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the prompt's ids [B, T] and its mask [B, T or T'], or None if nothing is padding.

        Takes both out of `arguments`.
        """
        input_ids = arguments.pop("input_ids", None)
        if inputs is not None and input_ids is not None:
            raise InvalidInputError("Give the prompt as inputs or as input_ids, not as both.")
        input_ids = inputs if input_ids is None else input_ids
        mask, embeds = arguments.pop("attention_mask", None), arguments.get("inputs_embeds")
        if input_ids is not None and (not isinstance(input_ids, Tensor) or input_ids.dim() != 2):
            raise InvalidInputError(
                "The prompt must be a tensor of token ids of shape [batch, length]; got "
                f"{tuple(input_ids.shape) if isinstance(input_ids, Tensor) else input_ids!r}."
            )
        if embeds is not None:
            checks.check_shape("inputs_embeds", embeds, [(None, None, self.config.n_embd)])
        if input_ids is None or (input_ids.size(1) == 0 and embeds is None):
            tensors = [value for value in (input_ids, embeds, mask) if value is not None]
            batch = tensors[0].size(0) if tensors else 1
            bos = [] if embeds is not None else [bos_token(config)]
            input_ids = torch.tensor([bos] * batch, dtype=torch.int64)
            mask = mask if embeds is not None else None
        ids = input_ids.cpu().numpy()
        checks.check_ids("input_ids", input_ids, self.config.vocab_size, lambda _: ids)
        if mask is None and embeds is None:
            inferred = infer_mask(ids, config)
            mask = None if inferred is None else torch.from_numpy(inferred)
        if mask is not None:
            width = input_ids.size(1) if embeds is None else embeds.size(1)
            checks.check_shape("attention_mask", mask, [(input_ids.size(0), width)])
            input_ids, mask = padding_first(
                input_ids,
                mask,
                arguments,
                host=lambda array: array.cpu().numpy(),
                take=lambda array, columns: array.gather(
                    1, torch.from_numpy(columns).to(array.device)
                ),
            )
            mask = None if bool((mask != 0).all()) else (mask != 0).long().to(self.device)
        return input_ids.to(self.device), mask


def _random_seed() -> int:
    low, high = torch.randint(0, 2**32, (2,), dtype=torch.int64).tolist()
    return low | high << 32


def _tuple(record: list[Any] | None) -> tuple[Any, ...] | None:
    return None if record is None else tuple(record)
