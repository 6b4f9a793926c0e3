"""The body of GPT-2 in PyTorch. Read it from the bottom up: Model, Block, MLP, Attention.

B batch, T query length, S key length (past and new), E n_embd, H heads, D head_dim, I n_inner,
L layers, V vocab_size, P n_positions.

Modules carry OpenAI's names and parameters transformers' names and shapes, so that a state dict has
transformers' keys. Source: Radford et al., "Language Models are Unsupervised Multitask Learners"
(2019); transformers 4.57, `GPT2Model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import checks
from gpt2x.pt.activations import Activation
from gpt2x.pt.attention import (
    eager_attention,
    get_attention,
    packed_mask,
    padding_mask,
    raise_hidden_rows,
    score_dtype,
    self_attention_mask,
    without_autocast,
)
from gpt2x.pt.cache import KVCache
from gpt2x.pt.cpu.linear import Conv1D
from gpt2x.pt.interop.foreign_cache import append, as_cache, is_foreign
from gpt2x.pt.outputs import BaseModelOutputWithPastAndCrossAttentions
from gpt2x.pt.pretrained import GPT2PreTrainedModel

Past = KVCache | Sequence[Sequence[Tensor]]


class GPT2Attention(nn.Module):
    """Multi-head attention: to the text itself, or to an encoder's states (cross-attention)."""

    def __init__(
        self, config: GPT2Config, is_cross_attention: bool = False, layer_idx: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx or 0  # the layer of the cache; may be set where blocks are moved
        self.is_cross_attention = is_cross_attention
        self.embed_dim = self.split_size = config.n_embd
        self.num_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.upcast = config.reorder_and_upcast_attn

        if is_cross_attention:
            self.c_attn = Conv1D(2 * config.n_embd, config.n_embd)
            self.q_attn = Conv1D(config.n_embd, config.n_embd)
        else:
            self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd, adds_to_residual=True)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: KVCache | None = None,
        cache_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        use_cache: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from hidden_states [B, T, E]; return [B, T, E] and the weights [B, H, T, S].

        The masks are additive, broadcast to [B, H, T, S]; no `attention_mask` is causal order.
        Cross-attention reads `encoder_attention_mask` alone. The weights are None unless
        `output_attentions`. `cache_position` and `use_cache` change nothing: a cache that is given
        knows its length and is appended to.
        """
        cache = past_key_values
        mask = encoder_attention_mask if self.is_cross_attention else attention_mask
        if self.is_cross_attention:
            query = self._split_heads(self.q_attn(hidden_states))  # [B, H, T, D]
            key, value = self._encoder_keys_and_values(encoder_hidden_states, cache)
        else:
            query, key, value = map(
                self._split_heads, self.c_attn(hidden_states).chunk(3, dim=-1)
            )  # 3 x [B, H, T, D]
            if cache is not None:
                key, value = cache.update(self.layer_idx, key, value)  # [B, H, S, D]

        if self.upcast:
            # Half-precision training overflows in the scores first: compute them in float32.
            with without_autocast(query.device):
                out, weights = self._attend(
                    query.float(), key.float(), value.float(), mask, head_mask, output_attentions
                )
                out = out.to(value.dtype)
        else:
            out, weights = self._attend(query, key, value, mask, head_mask, output_attentions)
        out = out.transpose(1, 2).flatten(2)  # [B, T, H, D] -> [B, T, E]
        return self.resid_dropout(self.c_proj(out)), weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        head_mask: Tensor | None,
        output_attentions: bool,
    ) -> tuple[Tensor, Tensor | None]:
        # One query attends to all keys: order matters only for more. (A trace's sizes are tensors.)
        is_causal = mask is None and bool(query.size(2) > 1) and not self.is_cross_attention
        options: dict[str, Any] = {
            "is_causal": is_causal,
            "scaling": self._scaling(),
            "dropout": self.attn_dropout.p if self.training else 0.0,
        }
        if output_attentions or head_mask is not None:
            out, weights = eager_attention(query, key, value, mask, head_mask=head_mask, **options)
            return out, weights if output_attentions else None
        attend = get_attention(self.config._attn_implementation or "sdpa")
        return attend(query, key, value, mask, **options), None  # [B, H, T, D]

    def _scaling(self) -> float:
        scaling = self.head_dim**-0.5 if self.config.scale_attn_weights else 1.0
        if self.config.scale_attn_by_inverse_layer_idx:
            scaling /= self.layer_idx + 1
        return scaling

    def _encoder_keys_and_values(
        self, encoder_hidden_states: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor]:
        """Project the encoder's states to [B, H, encoder length, D], once per cache."""
        cached = cache.cross(self.layer_idx) if cache is not None else None
        if cached is not None:
            return cached
        key, value = map(self._split_heads, self.c_attn(encoder_hidden_states).chunk(2, dim=-1))
        if cache is not None:
            cache.update_cross(self.layer_idx, key, value)
        return key, value

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)


class GPT2MLP(nn.Module):
    """Two layers with an activation between them: E -> I -> E."""

    def __init__(self, intermediate_size: int, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(intermediate_size, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, intermediate_size, adds_to_residual=True)
        self.act = Activation(config.activation_function)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [B, T, E] to [B, T, E]."""
        return self.dropout(self.c_proj(self.act(self.c_fc(hidden_states))))


class GPT2Block(nn.Module):
    """Attention, cross-attention where the config has it, and MLP, each added to its input."""

    def __init__(self, config: GPT2Config, layer_idx: int | None = None) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx=layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if config.add_cross_attention:
            self.crossattention = GPT2Attention(
                config, is_cross_attention=True, layer_idx=layer_idx
            )
            self.ln_cross_attn = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config.n_inner or 4 * config.n_embd, config)

    def forward(
        self,
        hidden_states: Tensor,
        past_key_values: KVCache | None = None,
        cache_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """Map [B, T, E] to a tuple that begins with [B, T, E]; see `GPT2Attention`.

        With `output_attentions` the weights of attention follow, and those of cross-attention where
        there is an encoder: its states, or a cache that has seen them.
        """
        # By keyword: what a user puts in the place of `attn` has transformers' arguments.
        attended, weights = self.attn(
            self.ln_1(hidden_states),
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            head_mask=head_mask,
            output_attentions=output_attentions,
        )
        hidden_states = hidden_states + attended
        outputs = (weights,) if output_attentions else ()
        if encoder_hidden_states is not None or (
            past_key_values is not None and past_key_values.has_cross
        ):
            attended, weights = self.crossattention(
                self.ln_cross_attn(hidden_states),
                past_key_values=past_key_values,
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                output_attentions=output_attentions,
            )
            hidden_states = hidden_states + attended
            outputs += (weights,) if output_attentions else ()
        hidden_states = hidden_states + self.mlp(self.ln_2(hidden_states))
        return (hidden_states, *outputs)


class GPT2Model(GPT2PreTrainedModel):
    """The body: embeddings, L blocks and a final layer norm.

    >>> from gpt2x import GPT2Config
    >>> model = GPT2Model(GPT2Config(n_layer=2, n_embd=64, n_head=4))
    >>> model(torch.tensor([[464, 3290]])).last_hidden_state.shape
    torch.Size([1, 2, 64])
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.embed_dim = config.n_embd
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, layer_idx=i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        # Configs of 2020 and 2021 switch it on.
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        cache_position: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run the body.

        Args:
            input_ids: token ids [B, T]; further leading dimensions are kept in the output. With a
                past, only the tokens that are not in it.
            past_key_values: a `KVCache`, which is appended to in place and returned; or, per layer,
                a pair [B, H, past, D] (four tensors with cross-attention), which is left as it is
                and comes back as a longer tuple; or a `Cache` of transformers, which is appended
                to. All let gradients through.
            cache_position: [T], the positions that follow the past; nothing else is allowed.
            attention_mask: [B, S], nonzero where a token, past or new, may be attended to; or
                [B, 1 or H, T, S], boolean or additive, which replaces the causal order; or
                [B, 1 or H, 1, S], which is added to it.
            token_type_ids: [B, T], embedded with the tokens' embedding and added.
            position_ids: [B, T]. Default: the number of attended tokens before each token, where a
                mask of rank 2 is given, so that a padded row gives what it gives alone (padding
                behind the last of them counts on by one); else the positions that follow the past.
                Without mask and cache, positions that start again keep packed texts apart.
            head_mask: [H] or [L, H] (or [L, B, H, T, S]), multiplied with the attention weights;
                the call then computes attention eagerly.
            inputs_embeds: [B, T, E] in place of `input_ids`.
            encoder_hidden_states: [B, encoder length, E], for cross-attention. Once a cache has
                seen them they may be left out.
            encoder_attention_mask: [B, encoder length] or [B, T, encoder length], nonzero where
                it may be attended to, or rank 4 as above.
            use_cache: return the keys and values; the config decides by default. Never while
                gradient checkpointing trains.
            output_attentions: return attention weights, which are then computed eagerly.
            output_hidden_states: return the hidden states of every layer.
            return_dict: an output object (default) or the tuple of its fields that are not None.

        Raises:
            InvalidInputError: if an input cannot be used or a keyword is unknown. Ids are checked
                only where that is free: on the CPU, outside of compilation.
        """
        checks.reject_unknown(self.forward, unknown)
        config = self.config
        use_cache = config.use_cache if use_cache is None else use_cache
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        checkpointing = self.gradient_checkpointing and self.training
        if checkpointing:
            if past_key_values is not None:
                raise InvalidInputError(
                    "past_key_values cannot be used while gradient checkpointing trains: blocks "
                    "run twice. Call model.eval() or model.gradient_checkpointing_disable()."
                )
            use_cache = False

        cache = self._open_cache(past_key_values, use_cache)
        past_length = 0 if cache is None else cache.length
        tensors = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "cache_position": cache_position,
            "head_mask": head_mask,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        _check_tensors(tensors)
        checks.check_model_inputs(
            config,
            host_values,
            past_length=past_length,
            past_key=None if cache is None else cache.keys[0],
            **tensors,
        )

        if inputs_embeds is None:
            assert input_ids is not None, "one of the two is given: checked above"
            leading = input_ids.shape[:-1]
            inputs_embeds = self.wte(_indices(input_ids).reshape(-1, input_ids.size(-1)))
        else:
            leading = inputs_embeds.shape[:-2]
        T = inputs_embeds.size(1)
        S = past_length + T
        may_be_packed = position_ids is not None and attention_mask is None and cache is None
        if attention_mask is not None and attention_mask.dim() != 4:
            attention_mask = attention_mask.reshape(-1, S)
            if _is_all_ones(attention_mask):
                attention_mask = None
        if position_ids is None:
            position_ids = _positions(attention_mask, past_length, T, inputs_embeds.device)
        position_ids = _indices(position_ids).reshape(-1, T)
        mask_dtype = score_dtype(inputs_embeds.dtype)
        mask = self_attention_mask(attention_mask, T, S, mask_dtype, inputs_embeds.device)
        if may_be_packed and not _is_counting_on(position_ids):
            mask = packed_mask(position_ids, mask_dtype)

        hidden_states = inputs_embeds + self.wpe(position_ids)  # [B, T, E]
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(_indices(token_type_ids).reshape(-1, T))
        hidden_states = self.drop(hidden_states)

        cross_attend = encoder_hidden_states is not None or (cache is not None and cache.has_cross)
        encoder_mask = None
        if encoder_attention_mask is not None and cross_attend:
            encoder_mask = raise_hidden_rows(padding_mask(encoder_attention_mask, mask_dtype))
        head_masks = self._head_masks(head_mask, hidden_states.dtype)

        all_hidden_states: tuple[Tensor, ...] = ()
        all_attentions: tuple[Tensor | None, ...] = ()
        all_cross_attentions: tuple[Tensor | None, ...] = ()
        for block, block_head_mask in zip(self.h, head_masks, strict=True):
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            arguments = (
                hidden_states,
                cache,
                cache_position,
                mask,
                block_head_mask,
                encoder_hidden_states,
                encoder_mask,
                use_cache,
                output_attentions,
            )
            if checkpointing:
                outputs = checkpoint(block, *arguments, **self.gradient_checkpointing_kwargs)
            else:
                outputs = block(*arguments)
            hidden_states = outputs[0]  # a hook may have left out the rest
            if output_attentions:
                all_attentions += (outputs[1],)
                if cross_attend:
                    all_cross_attentions += (outputs[2],)
        if cache is not None:
            cache.advance(T)

        hidden_states = self.ln_f(hidden_states)
        hidden_states = hidden_states.view(*leading, T, hidden_states.size(-1))
        if output_hidden_states:
            all_hidden_states += (hidden_states,)
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=_close_cache(cache, past_key_values) if use_cache else None,
            hidden_states=all_hidden_states or None,
            attentions=all_attentions or None,
            cross_attentions=all_cross_attentions or None,
        )
        return_dict = config.use_return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _open_cache(self, past: Past | None, use_cache: bool) -> KVCache | None:
        """Return the cache that the blocks append to, or None where there is nothing to keep."""
        layers = len(self.h)  # not config.n_layer: users cut `h`
        if past is None or (isinstance(past, tuple | list) and len(past) == 0):
            return KVCache.empty(layers) if use_cache else None
        if isinstance(past, KVCache) and past.length == 0 and not use_cache:
            return None
        if not isinstance(past, KVCache):
            cache = as_cache(past, layers)
        else:
            # What is not to be returned must not change either: append to a view of it.
            cache = past if use_cache else KVCache.from_tuple(past.to_tuple())
        if len(cache) != layers:
            raise InvalidInputError(
                f"past_key_values has {len(cache)} layers; this model has {layers}."
            )
        return cache

    def _head_masks(self, head_mask: Tensor | None, dtype: torch.dtype) -> Sequence[Tensor | None]:
        """Bring [H], [L, H] or [L, B, H, T, S] to one mask per layer, broadcast to [B, H, T, S]."""
        layers = len(self.h)
        if head_mask is None:
            return [None] * layers
        head_mask = head_mask.to(dtype)
        if head_mask.dim() == 1:
            head_mask = head_mask.expand(layers, -1)
        if head_mask.dim() == 2:
            head_mask = head_mask[:, None, :, None, None]
        return head_mask.unbind(0)


def host_values(tensor: Tensor) -> np.ndarray | None:
    """Return a tensor's values where reading them costs nothing: on the CPU, outside of tracing."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensor.device.type != "cpu":
        return None
    try:
        return tensor.detach().numpy()
    except RuntimeError:  # inside vmap and other transformations there are no values
        return None


def _indices(ids: Tensor) -> Tensor:
    """Return ids of a type that embeddings take, whatever integers they are."""
    return ids if ids.dtype in (torch.int32, torch.int64) else ids.long()


def _is_all_ones(attention_mask: Tensor) -> bool:
    """Whether the mask is known to hide nothing; then the faster path without a mask is taken."""
    values = host_values(attention_mask)
    return values is not None and bool(values.all())


def _is_counting_on(position_ids: Tensor) -> bool:
    """Whether positions [B, T] are known to count on by one in every row."""
    values = host_values(position_ids)
    return values is not None and bool((np.diff(values) == 1).all())


def _positions(
    attention_mask: Tensor | None, past_length: int, T: int, device: torch.device
) -> Tensor:
    """Return the positions [B or 1, T] of the last T tokens, by the mask [B, S] if there is one."""
    if attention_mask is None or attention_mask.dim() == 4:
        return torch.arange(past_length, past_length + T, device=device)[None]
    attended = (attention_mask != 0).long().cumsum(dim=-1)  # [B, S]
    last = (attended == attended[:, -1:]).long().argmax(dim=-1, keepdim=True)  # [B, 1]
    columns = torch.arange(past_length, past_length + T, device=attended.device)
    # Padding behind the last attended token counts on from it, as in transformers.
    return (attended[:, past_length:] - 1).clamp(min=0) + (columns - last).clamp(min=0)


def _check_tensors(inputs: Mapping[str, Any]) -> None:
    for name, value in inputs.items():
        if value is not None and not isinstance(value, Tensor):
            raise InvalidInputError(
                f"{name} must be a torch.Tensor; got {type(value).__name__}. Wrap it in "
                'torch.tensor, or tokenize with return_tensors="pt".'
            )


def _close_cache(cache: KVCache | None, given: Past | None) -> Past | None:
    """Return the cache in the form in which it was given; a trace can hold tuples alone."""
    if cache is None or isinstance(given, KVCache):
        return cache
    if is_foreign(given):
        append(given, cache)
        return given
    if given is None and not torch.jit.is_tracing():
        return cache
    return cache.to_tuple()
