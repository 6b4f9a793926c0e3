"""The body of GPT-2 in Flax NNX. Read it from the bottom up: Model, Block, MLP, Attention, Conv1D.

B batch, T query length, S key length (past and new), E n_embd, H heads, D head_dim, I n_inner,
L layers, V vocab_size, P n_positions.

Modules carry OpenAI's names and parameters the names and shapes of transformers' Flax models, so
that `model.params` is their tree. Modules are made without arrays; a model's `post_init` or
`from_pretrained` adds them. A call changes nothing: dropout takes keys, and the cache is returned.
Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); transformers
4.57, `FlaxGPT2Model`, with the numbers of its PyTorch `GPT2Model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flax import nnx
from gpt2x.config import GPT2Config
from gpt2x.flax.activations import ACTIVATIONS
from gpt2x.flax.attention import (
    eager_attention,
    get_attention,
    packed_mask,
    padding_mask,
    raise_hidden_rows,
    score_dtype,
    self_attention_mask,
)
from gpt2x.flax.cache import KVCache, LayerCache
from gpt2x.flax.cpu.products import project
from gpt2x.flax.dropout import dropout, subkey
from gpt2x.flax.inputs import Inputs, check_inputs, is_counting_on, positions, rows, visible
from gpt2x.flax.lora import LowRank
from gpt2x.flax.outputs import FlaxBaseModelOutputWithPastAndCrossAttentions
from gpt2x.flax.parameters import Precision, parameter
from gpt2x.flax.pretrained import FlaxGPT2PreTrainedModel
from gpt2x.flax.sharding import check_automatic
from gpt2x.models import checks, stages
from gpt2x.models.attention import AttentionFunction, attention_scaling
from gpt2x.models.pretrained import documented
from gpt2x.models.stages import BlockInputs, Records

Past = KVCache | Sequence[Sequence[Array]] | Mapping[str, Any]


class Conv1D(nnx.Module):
    """A linear layer whose kernel is stored (out, in), as transformers' Flax models store it."""

    def __init__(self, nf: int, nx: int, precision: Precision) -> None:
        self.kernel = parameter((nf, nx), precision)
        self.bias = parameter((nf,), precision)
        self.dtype = precision.dtype
        self.lora: LowRank | None = None

    def __call__(self, x: Array, dropout_key: Array | None = None) -> Array:
        """Map [..., nx] to [..., nf]; only an adapter has dropout."""
        out = project(x, self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype))
        return out if self.lora is None else out + self.lora(x, dropout_key)


class FlaxGPT2Attention(nnx.Module):
    """Multi-head attention: to the text itself, or to an encoder's states (cross-attention)."""

    def __init__(
        self,
        config: GPT2Config,
        *,
        layer_idx: int,
        precision: Precision,
        is_cross_attention: bool = False,
    ) -> None:
        self.is_cross_attention = is_cross_attention
        self.num_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.scaling = attention_scaling(config, layer_idx)  # modules hold no config
        self.upcast = config.reorder_and_upcast_attn

        if is_cross_attention:
            self.c_attn = Conv1D(2 * config.n_embd, config.n_embd, precision)
            self.q_attn = Conv1D(config.n_embd, config.n_embd, precision)
        else:
            self.c_attn = Conv1D(3 * config.n_embd, config.n_embd, precision)
        self.c_proj = Conv1D(config.n_embd, config.n_embd, precision)
        self.attn_pdrop = config.attn_pdrop
        self.resid_pdrop = config.resid_pdrop

    def __call__(
        self,
        hidden_states: Array,
        cache: LayerCache | None = None,
        attention_mask: Array | None = None,
        head_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        dropout_key: Array | None = None,
        *,
        attend: AttentionFunction,
        output_attentions: bool = False,
    ) -> tuple[Array, Array | None, LayerCache | None]:
        """Attend from hidden_states [B, T, E]; return [B, T, E], the weights [B, H, T, S] and the
        layer's cache.

        `attention_mask` is additive, broadcast to [B, H, T, S]; None hides nothing. `attend` is the
        attention implementation. The weights are None unless `output_attentions`.
        """
        if self.is_cross_attention:
            query = self.q_attn(hidden_states, subkey(dropout_key, 4))
            query = self._split_heads(query)  # [B, H, T, D]
            key, value = self._encoder_keys_and_values(
                encoder_hidden_states, cache, subkey(dropout_key, 2)
            )
            if cache is not None:
                cache = cache._replace(cross_key=key, cross_value=value)
        else:
            projected = self.c_attn(hidden_states, subkey(dropout_key, 2))
            query, key, value = map(
                self._split_heads, jnp.split(projected, 3, axis=-1)
            )  # 3 x [B, H, T, D]
            if cache is not None:
                cache, key, value = cache.append(key, value)  # [B, H, S, D]

        if self.upcast:
            # Half-precision training overflows in the scores first: compute them in float32.
            wide = score_dtype(query.dtype)
            query, key, value = (x.astype(wide) for x in (query, key, value))
        out, weights = self._attend(
            query, key, value, attention_mask, head_mask, output_attentions, attend, dropout_key
        )
        out = out.astype(hidden_states.dtype).swapaxes(1, 2)  # [B, T, H, D]
        out = out.reshape(hidden_states.shape)  # [B, T, E]
        out = self.c_proj(out, subkey(dropout_key, 3))
        out = dropout(out, rate=self.resid_pdrop, key=subkey(dropout_key, 1))
        return out, weights, cache

    def _attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        head_mask: Array | None,
        output_attentions: bool,
        attend: AttentionFunction,
        dropout_key: Array | None,
    ) -> tuple[Array, Array | None]:
        options: dict[str, Any] = {"scaling": self.scaling, "dropout": None}
        if dropout_key is not None and self.attn_pdrop > 0:
            key_of_weights = subkey(dropout_key, 0)
            options["dropout"] = partial(dropout, rate=self.attn_pdrop, key=key_of_weights)
        if output_attentions or head_mask is not None:
            out, weights = eager_attention(query, key, value, mask, head_mask=head_mask, **options)
            return out, weights if output_attentions else None
        return attend(query, key, value, mask, **options), None  # [B, H, T, D]

    def _encoder_keys_and_values(
        self,
        encoder_hidden_states: Array | None,
        cache: LayerCache | None,
        dropout_key: Array | None,
    ) -> tuple[Array, Array]:
        """Project the encoder's states to [B, H, encoder length, D], once per cache."""
        cached = cache.cross if cache is not None else None
        if cached is not None:
            return cached
        projected = self.c_attn(encoder_hidden_states, dropout_key)
        return tuple(map(self._split_heads, jnp.split(projected, 2, axis=-1)))

    def _split_heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).swapaxes(1, 2)


class FlaxGPT2MLP(nnx.Module):
    """Two layers with an activation between them: E -> I -> E."""

    def __init__(self, config: GPT2Config, *, precision: Precision) -> None:
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(inner, config.n_embd, precision)
        self.c_proj = Conv1D(config.n_embd, inner, precision)
        self.activation_function = config.activation_function
        self.resid_pdrop = config.resid_pdrop

    def __call__(self, hidden_states: Array, dropout_key: Array | None = None) -> Array:
        """Map [B, T, E] to [B, T, E]."""
        act = ACTIVATIONS[self.activation_function]
        inner = act(self.c_fc(hidden_states, subkey(dropout_key, 0)))
        out = self.c_proj(inner, subkey(dropout_key, 1))
        return dropout(out, rate=self.resid_pdrop, key=dropout_key)


class FlaxGPT2Block(nnx.Module):
    """Attention, cross-attention if the config has it, and MLP, each added to its input."""

    def __init__(self, config: GPT2Config, *, layer_idx: int, precision: Precision) -> None:
        self.ln_1 = precision.layer_norm(config)
        self.attn = FlaxGPT2Attention(config, layer_idx=layer_idx, precision=precision)
        self.ln_2 = precision.layer_norm(config)
        if config.add_cross_attention:
            self.crossattention = FlaxGPT2Attention(
                config, layer_idx=layer_idx, precision=precision, is_cross_attention=True
            )
            self.ln_cross_attn = precision.layer_norm(config)
        self.mlp = FlaxGPT2MLP(config, precision=precision)

    def __call__(
        self,
        hidden_states: Array,
        cache: LayerCache | None = None,
        attention_mask: Array | None = None,
        head_mask: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        dropout_key: Array | None = None,
        *,
        attend: AttentionFunction,
        cross_attend: bool = False,
        output_attentions: bool = False,
    ) -> tuple[Array, Array | None, Array | None, LayerCache | None]:
        """Map [B, T, E] to [B, T, E]; also return the weights of both attentions (or None) and the
        cache of the layer.
        """
        options: dict[str, Any] = {"attend": attend, "output_attentions": output_attentions}
        attended, weights, cache = self.attn(
            self.ln_1(hidden_states),
            cache,
            attention_mask,
            head_mask,
            dropout_key=subkey(dropout_key, 0),
            **options,
        )
        hidden_states = hidden_states + attended
        cross_weights = None
        if cross_attend:
            attended, cross_weights, cache = self.crossattention(
                self.ln_cross_attn(hidden_states),
                cache,
                encoder_attention_mask,
                head_mask,
                encoder_hidden_states,
                subkey(dropout_key, 1),
                **options,
            )
            hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.ln_2(hidden_states), subkey(dropout_key, 2))
        return hidden_states, weights, cross_weights, cache


class FlaxGPT2Model(FlaxGPT2PreTrainedModel):
    """The body: embeddings, L blocks and a final layer norm.

    >>> from gpt2x import GPT2Config
    >>> model = FlaxGPT2Model(GPT2Config(n_layer=2, n_embd=64, n_head=4))
    >>> model(jnp.array([[464, 3290]])).last_hidden_state.shape
    (1, 2, 64)
    """

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        self.wte = precision.embedding(config.vocab_size, config.n_embd)
        self.wpe = precision.embedding(config.n_positions, config.n_embd)
        self.h = nnx.List(
            FlaxGPT2Block(config, layer_idx=i, precision=precision) for i in range(config.n_layer)
        )
        self.ln_f = precision.layer_norm(config)
        self.embd_pdrop = config.embd_pdrop
        # Configs of 2020 and 2021 switch it on.
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))

    @documented(stages.FORWARD)
    def __call__(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        encoder_hidden_states: Array | None = None,
        encoder_attention_mask: Array | None = None,
        params: Mapping[str, Any] | None = None,
        past_key_values: Past | None = None,
        dropout_rng: Array | None = None,
        train: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        token_type_ids: Array | None = None,
        head_mask: Array | None = None,
        inputs_embeds: Array | None = None,
        cache_position: Array | None = None,
        use_cache: bool | None = None,
        **unknown: Any,
    ) -> FlaxBaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run the body.

        The first twelve arguments are those of transformers, in its order.

        Arguments of this backend alone:
            params: parameters to use in place of the model's own, in the form of `model.params`.
            past_key_values: a `KVCache`; or, per layer, a pair [B, H, past, D] (four arrays with
                cross-attention); or the dict of transformers' Flax models. The longer past is
                returned in the same form. With a static cache, `attention_mask` may also be as
                wide as that.
            dropout_rng: the key of all dropout in this call; needed to train with dropout.
            train: whether to apply dropout; by default as `model.train()` or `model.eval()` has set
                it, and False before either.
            cache_position: [T], must be the positions that follow the past.
        """
        checks.reject_unknown(self.__call__, unknown)
        model = self._with_params(params)
        use_cache, output_attentions, output_hidden_states = stages.asked(
            self.config,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        dropout_key = self._dropout_key(dropout_rng, train)
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

        may_be_packed = position_ids is not None and attention_mask is None and cache is None
        inputs["attention_mask"] = visible(attention_mask, cache)
        inputs["cache_position"] = None  # checked, but not needed in the computation
        # Outside of `jax.jit` the body is compiled as a whole; inside, this is an ordinary call.
        output = _forward(
            model,
            {name: None if x is None else jnp.asarray(x) for name, x in inputs.items()},
            cache,
            dropout_key,
            # Looked up here, since the compiled function depends on it.
            attend=get_attention(str(self.config._attn_implementation)),
            packed=may_be_packed and not is_counting_on(position_ids),
            output_attentions=bool(output_attentions),
            output_hidden_states=bool(output_hidden_states),
        )
        past = _close_cache(output.past_key_values, past_key_values) if use_cache else None
        return self._as_asked(output.replace(past_key_values=past), return_dict)

    def forward(
        self,
        inputs: Inputs,
        cache: KVCache | None,
        dropout_key: Array | None,
        *,
        attend: AttentionFunction,
        packed: bool,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> FlaxBaseModelOutputWithPastAndCrossAttentions:
        """Compute the output of `__call__` from checked inputs."""
        check_automatic((self, inputs, cache))
        given = self._prepare(inputs, cache, packed=packed, dropout_key=dropout_key)
        hidden_states, records, cache = self._run_blocks(
            given,
            cache,
            output_attentions,
            output_hidden_states,
            attend=attend,
            dropout_key=dropout_key,
        )
        return self._finish(given, hidden_states, records, cache)

    def _prepare(
        self, inputs: Inputs, cache: KVCache | None, *, packed: bool, dropout_key: Array | None
    ) -> BlockInputs:
        """Add the embeddings [B, T, E], and make the masks additive."""
        ids, embeds = inputs["input_ids"], inputs["inputs_embeds"]
        if embeds is None:
            shape, embeds = ids.shape, self._embed(self.wte, rows(ids))  # [..., T], [B, T, E]
        else:
            shape, embeds = embeds.shape[:-1], embeds.astype(self.dtype)
        past, T = 0 if cache is None else cache.offset, shape[-1]
        dtype = score_dtype(self.dtype)
        # Unfilled positions are read, and masked: shapes must not depend on the length.
        S = past + T if cache is None or cache.is_full else cache.max_length

        attention_mask, position_ids = inputs["attention_mask"], inputs["position_ids"]
        if attention_mask is not None and attention_mask.ndim != 4:
            attention_mask = rows(attention_mask)  # [B, S]
        if position_ids is None:
            position_ids = positions(attention_mask, past, T)
        position_ids = rows(position_ids)  # [B or 1, T]
        if packed:
            mask = packed_mask(position_ids, dtype)
        else:
            mask = self_attention_mask(attention_mask, T, S, past, dtype)

        hidden_states = embeds + self._embed(self.wpe, position_ids)  # [B, T, E]
        token_type_ids = inputs["token_type_ids"]
        if token_type_ids is not None:
            hidden_states = hidden_states + self._embed(self.wte, rows(token_type_ids))
        key = subkey(dropout_key, len(self.h))
        hidden_states = dropout(hidden_states, rate=self.embd_pdrop, key=key)

        encoder_hidden_states = inputs["encoder_hidden_states"]  # [B, encoder length, E]
        cross_attend = stages.attends_to_encoder(encoder_hidden_states, cache)
        if encoder_hidden_states is not None:
            encoder_hidden_states = encoder_hidden_states.astype(self.dtype)
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
        attend: AttentionFunction,
        dropout_key: Array | None,
    ) -> tuple[Array, Records, KVCache | None]:
        """Return the last hidden states [B, T, E], the records of all blocks, and the new cache."""
        run = partial(
            _run_block,
            attend=attend,
            cross_attend=given.cross_attend,
            output_attentions=output_attentions,
        )
        if self.gradient_checkpointing:
            run = jax.checkpoint(run)
        hidden_states = given.hidden_states
        all_hidden_states: tuple[Array, ...] = ()
        all_attentions: tuple[Array, ...] = ()
        all_cross_attentions: tuple[Array, ...] = ()
        layers: list[LayerCache] = []
        for layer, (block, head_mask) in enumerate(zip(self.h, given.head_masks, strict=True)):
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            hidden_states, weights, cross_weights, layer_cache = run(
                block,
                hidden_states,
                None if cache is None else cache.layer(layer),
                given.mask,
                head_mask,
                given.encoder_hidden_states,
                given.encoder_mask,
                subkey(dropout_key, layer),
            )
            layers.append(layer_cache)
            if output_attentions:
                all_attentions += (weights,)
                if given.cross_attend:
                    all_cross_attentions += (cross_weights,)
        cache = None if cache is None else cache.advanced(layers, given.shape[-1])
        records = Records(all_hidden_states, all_attentions, all_cross_attentions)
        return hidden_states, records, cache

    def _finish(
        self, given: BlockInputs, hidden_states: Array, records: Records, past: KVCache | None
    ) -> FlaxBaseModelOutputWithPastAndCrossAttentions:
        """Normalise [B, T, E], restore the shape [..., T, E] of the tokens, and make the output."""
        hidden_states = self.ln_f(hidden_states)
        hidden_states = hidden_states.reshape(*given.shape, hidden_states.shape[-1])
        all_hidden_states = records.hidden_states
        return FlaxBaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            past_key_values=past,
            hidden_states=(*all_hidden_states, hidden_states) if all_hidden_states else None,
            attentions=records.attentions or None,
            cross_attentions=records.cross_attentions or None,
        )

    def _open_cache(self, past: Past | None, use_cache: bool) -> KVCache | None:
        """Return the cache that the blocks append to, or None if none is needed."""
        layers = len(self.h)
        if past is None or stages.is_empty(past):
            return KVCache.empty(layers) if use_cache else None
        if isinstance(past, Mapping):
            past = KVCache.from_dict(past)
        cache = past if isinstance(past, KVCache) else KVCache.from_tuple(past)
        stages.check_layers(cache, layers)
        return cache

    def _head_masks(self, head_mask: Array | None, dtype: Any) -> Sequence[Array | None]:
        """Return a mask per layer, broadcast to [B, H, T, S], of [H], [L, H] or [L, B, H, T, S]."""
        layers = len(self.h)
        if head_mask is None:
            return [None] * layers
        head_mask = jnp.asarray(head_mask, dtype)
        if head_mask.ndim == 1:
            head_mask = jnp.broadcast_to(head_mask, (layers, *head_mask.shape))
        if head_mask.ndim == 2:
            head_mask = head_mask[:, None, :, None, None]
        return [head_mask[layer] for layer in range(layers)]

    def _embed(self, embedding: nnx.Embed, ids: Array) -> Array:
        """Look up ids [B, T] in a table: [B, T, E]; only the result is cast, not the table."""
        return jnp.take(embedding.embedding[...], ids, axis=0).astype(self.dtype)


_forward = jax.jit(
    FlaxGPT2Model.forward,
    static_argnames=("attend", "packed", "output_attentions", "output_hidden_states"),
)


@partial(jax.jit, inline=True)
def tied_logits(hidden_states: Array, table: Array) -> Array:
    """Multiply states [..., E] with the token embedding [V, E]: logits [..., V].

    Compiled, because operation by operation the barriers in `project` would copy the table.
    """
    return project(hidden_states, table.astype(hidden_states.dtype))


def _run_block(block: FlaxGPT2Block, *arrays: Any, **options: Any) -> Any:
    return block(*arrays, **options)


def _close_cache(cache: KVCache | None, given: Past | None) -> Past | None:
    """Return the cache in the form of the given past."""
    if isinstance(given, Mapping) and cache is not None and given:
        return cache.to_dict(prefix="transformer" in given)
    if cache is None or given is None or isinstance(given, KVCache):
        return cache
    return cache.to_tuple()
