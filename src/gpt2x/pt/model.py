"""The body of GPT-2 in PyTorch. Read it from the bottom up: Model, Block, MLP, Attention, Conv1D.

B batch, T query length, S key length (past and new), E n_embd, H heads, D head_dim, I n_inner,
L layers, V vocab_size, P n_positions.

Modules carry OpenAI's names and parameters transformers' names and shapes, so that a state dict has
transformers' keys. Source: Radford et al., "Language Models are Unsupervised Multitask Learners"
(2019); transformers 4.57, `GPT2Model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import checks, stages
from gpt2x.models.attention import attention_scaling
from gpt2x.models.pretrained import documented
from gpt2x.models.stages import BlockInputs, Records
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
from gpt2x.pt.cpu.linear import linear
from gpt2x.pt.dropout import Dropout, is_keyed
from gpt2x.pt.inputs import Inputs, check_inputs, is_counting_on, positions, rows, visible
from gpt2x.pt.interop.foreign_cache import append, as_cache, is_foreign
from gpt2x.pt.interop.recognition import Recognised
from gpt2x.pt.lora import LowRank
from gpt2x.pt.outputs import BaseModelOutputWithPastAndCrossAttentions
from gpt2x.pt.pretrained import GPT2PreTrainedModel

Past = KVCache | Sequence[Sequence[Tensor]]


class Conv1D(Recognised):
    """A linear layer whose weight has the shape (in, out), as OpenAI's 1x1 convolutions had.

    `adds_to_residual`: whether a block adds the result to its input. Such layers start smaller, see
    `GPT2PreTrainedModel._init_weights`.
    """

    _stands_for = ("transformers.pytorch_utils", "Conv1D")

    def __init__(self, nf: int, nx: int, *, adds_to_residual: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.empty(nf))
        self.adds_to_residual = adds_to_residual
        self.lora: LowRank | None = None

    @property
    def nx(self) -> int:
        """Size of the input, by transformers' name."""
        return self.weight.size(0)

    @property
    def nf(self) -> int:
        """Size of the output, by transformers' name."""
        return self.weight.size(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., nx] to [..., nf]."""
        out = linear(x, self.weight.t(), self.bias)
        return out if self.lora is None else out + self.lora(x)

    def extra_repr(self) -> str:
        n_in, n_out = self.weight.shape
        return f"in_features={n_in}, out_features={n_out}"


class GPT2Attention(nn.Module):
    """Multi-head attention: to the text itself, or to an encoder's states (cross-attention)."""

    def __init__(
        self, config: GPT2Config, is_cross_attention: bool = False, layer_idx: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx or 0  # the layer of the cache; may be set
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
        self.attn_dropout = Dropout(config.attn_pdrop)
        self.resid_dropout = Dropout(config.resid_pdrop)

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

        The masks are additive, broadcast to [B, H, T, S]; without `attention_mask` the order is
        causal. Cross-attention reads only `encoder_attention_mask`. The weights are None unless
        `output_attentions`. `cache_position` and `use_cache` have no effect: the call appends to a
        given cache, which knows its length.
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
            wide = score_dtype(query.dtype)
            with without_autocast(query.device):
                out, weights = self._attend(
                    query.to(wide), key.to(wide), value.to(wide), mask, head_mask, output_attentions
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
        # One query attends to all keys; only several need an order. (A trace's sizes are tensors.)
        is_causal = mask is None and bool(query.size(2) > 1) and not self.is_cross_attention
        options: dict[str, Any] = {
            "is_causal": is_causal,
            "scaling": attention_scaling(self.config, self.layer_idx),
            "dropout": self.attn_dropout.p if self.training else 0.0,
        }
        keyed = is_keyed(self.attn_dropout)
        if keyed:
            options["dropout"] = self.attn_dropout  # a fused kernel draws on its own
        if output_attentions or head_mask is not None or keyed:
            out, weights = eager_attention(query, key, value, mask, head_mask=head_mask, **options)
            return out, weights if output_attentions else None
        attend = get_attention(self.config._attn_implementation or "sdpa")
        return attend(query, key, value, mask, **options), None  # [B, H, T, D]

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
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map [B, T, E] to [B, T, E]."""
        return self.dropout(self.c_proj(self.act(self.c_fc(hidden_states))))


class GPT2Block(nn.Module):
    """Attention, cross-attention if the config has it, and MLP, each added to its input."""

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

        With `output_attentions` the attention weights follow, and those of cross-attention if there
        is an encoder: its states, or a cache that has seen them.
        """
        # By keyword: a user's replacement of `attn` has transformers' arguments.
        attended, weights = self.attn(
            self.ln_1(hidden_states),
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            head_mask=head_mask,
            output_attentions=output_attentions,
        )
        hidden_states = hidden_states + attended
        outputs = (weights,) if output_attentions else ()
        if stages.attends_to_encoder(encoder_hidden_states, past_key_values):
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
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, layer_idx=i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        # Configs of 2020 and 2021 switch it on.
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        self.post_init()

    @documented(stages.FORWARD)
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

        Arguments of this backend alone:
            past_key_values: a `KVCache`, to which the call appends in place and which it returns;
                or, per layer, a pair [B, H, past, D] (four tensors with cross-attention), which
                does not change: the call returns a longer tuple; or a `Cache` of transformers, to
                which the call appends. Gradients flow through all of them. In training with
                gradient checkpointing no past can be given, and `use_cache` returns none.
            cache_position: [T], must be the positions that follow the past.
        """
        checks.reject_unknown(self.forward, unknown)
        use_cache, output_attentions, output_hidden_states = stages.asked(
            self.config,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        if self._is_checkpointing:
            if past_key_values is not None:
                raise InvalidInputError(
                    "past_key_values cannot be used while gradient checkpointing trains: blocks "
                    "run twice. Call model.eval() or model.gradient_checkpointing_disable()."
                )
            use_cache = False
        cache = self._open_cache(past_key_values, use_cache)
        inputs = {
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
        check_inputs(self.config, cache, inputs)

        given = self._prepare(inputs, cache)
        hidden_states, records = self._run_blocks(
            given,
            cache,
            output_attentions,
            output_hidden_states,
            use_cache=use_cache,
            cache_position=cache_position,
        )
        past = _close_cache(cache, past_key_values) if use_cache else None
        return self._as_asked(self._finish(given, hidden_states, records, past), return_dict)

    @property
    def _is_checkpointing(self) -> bool:
        return self.gradient_checkpointing and self.training

    def _prepare(self, inputs: Inputs, cache: KVCache | None) -> BlockInputs:
        """Add the embeddings [B, T, E], and make the masks additive."""
        ids, embeds = inputs["input_ids"], inputs["inputs_embeds"]
        if embeds is None:
            assert ids is not None, "one of the two is given: checked before"
            shape, embeds = ids.shape, self.wte(rows(ids))  # [..., T], [B, T, E]
        else:
            shape = embeds.shape[:-1]
        past, T = 0 if cache is None else cache.length, shape[-1]
        dtype = score_dtype(embeds.dtype)

        attention_mask, position_ids = inputs["attention_mask"], inputs["position_ids"]
        may_be_packed = position_ids is not None and attention_mask is None and cache is None
        attention_mask = visible(attention_mask, past + T)  # [B, S] or rank 4
        if position_ids is None:
            position_ids = positions(attention_mask, past, T, embeds.device)
        position_ids = rows(position_ids)  # [B or 1, T]
        mask = self_attention_mask(attention_mask, T, past + T, dtype, embeds.device)
        if may_be_packed and not is_counting_on(position_ids):
            mask = packed_mask(position_ids, dtype)

        hidden_states = embeds + self.wpe(position_ids)  # [B, T, E]
        token_type_ids = inputs["token_type_ids"]
        if token_type_ids is not None:
            hidden_states = hidden_states + self.wte(rows(token_type_ids))
        hidden_states = self.drop(hidden_states)

        encoder_hidden_states = inputs["encoder_hidden_states"]  # [B, encoder length, E]
        cross_attend = stages.attends_to_encoder(encoder_hidden_states, cache)
        encoder_mask = inputs["encoder_attention_mask"] if cross_attend else None
        if encoder_mask is not None:
            encoder_mask = raise_hidden_rows(padding_mask(encoder_mask, dtype))
        return BlockInputs(
            hidden_states,
            mask,
            self._head_masks(inputs["head_mask"], hidden_states.dtype),
            cross_attend,
            encoder_hidden_states,
            encoder_mask,
            shape,
        )

    def _run_blocks(
        self,
        given: BlockInputs,
        cache: KVCache | None,
        output_attentions: bool,
        output_hidden_states: bool,
        *,
        use_cache: bool,
        cache_position: Tensor | None,
    ) -> tuple[Tensor, Records]:
        """Return the hidden states [B, T, E] of the last block, and the records of all blocks."""
        hidden_states = given.hidden_states
        all_hidden_states: tuple[Tensor, ...] = ()
        all_attentions: tuple[Tensor, ...] = ()
        all_cross_attentions: tuple[Tensor, ...] = ()
        for block, head_mask in zip(self.h, given.head_masks, strict=True):
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            arguments = (
                hidden_states,
                cache,
                cache_position,
                given.mask,
                head_mask,
                given.encoder_hidden_states,
                given.encoder_mask,
                use_cache,
                output_attentions,
            )
            if self._is_checkpointing:
                outputs = checkpoint(block, *arguments, **self.gradient_checkpointing_kwargs)
            else:
                outputs = block(*arguments)
            hidden_states = outputs[0]  # a hook may have left out the rest
            if output_attentions:
                all_attentions += (outputs[1],)
                if given.cross_attend:
                    all_cross_attentions += (outputs[2],)
        if cache is not None:
            cache.advance(given.shape[-1])
        return hidden_states, Records(all_hidden_states, all_attentions, all_cross_attentions)

    def _finish(
        self, given: BlockInputs, hidden_states: Tensor, records: Records, past: Past | None
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Normalise [B, T, E], restore the shape [..., T, E] of the tokens, and make the output."""
        hidden_states = self.ln_f(hidden_states)
        hidden_states = hidden_states.view(*given.shape, hidden_states.size(-1))
        all_hidden_states = records.hidden_states
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=past,
            hidden_states=(*all_hidden_states, hidden_states) if all_hidden_states else None,
            attentions=records.attentions or None,
            cross_attentions=records.cross_attentions or None,
        )

    def _open_cache(self, past: Past | None, use_cache: bool) -> KVCache | None:
        """Return the cache that the blocks append to, or None if none is needed."""
        layers = len(self.h)  # not config.n_layer: users cut `h`
        if past is None or stages.is_empty(past):
            return KVCache.empty(layers) if use_cache else None
        if not isinstance(past, KVCache):
            cache = as_cache(past, layers)
        elif past.length == 0 and not use_cache:
            return None
        else:
            # A cache that is not returned must not change: append to a view of it.
            cache = past if use_cache else KVCache.from_tuple(past.to_tuple())
        stages.check_layers(cache, layers)
        return cache

    def _head_masks(self, head_mask: Tensor | None, dtype: torch.dtype) -> Sequence[Tensor | None]:
        """Return a mask per layer, broadcast to [B, H, T, S], of [H], [L, H] or [L, B, H, T, S]."""
        layers = len(self.h)
        if head_mask is None:
            return [None] * layers
        head_mask = head_mask.to(dtype)
        if head_mask.dim() == 1:
            head_mask = head_mask.expand(layers, -1)
        if head_mask.dim() == 2:
            head_mask = head_mask[:, None, :, None, None]
        return head_mask.unbind(0)


def _close_cache(cache: KVCache | None, given: Past | None) -> Past | None:
    """Return the cache in the form of the given past; in a trace always a tuple."""
    if cache is None or isinstance(given, KVCache):
        return cache
    if is_foreign(given):
        append(given, cache)
        return given
    if given is None and not torch.jit.is_tracing():
        return cache
    return cache.to_tuple()
