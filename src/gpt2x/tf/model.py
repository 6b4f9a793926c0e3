"""The body of GPT-2 in Keras 3 on TensorFlow. Read it from the bottom up: Model, MainLayer, Block,
MLP, Attention, Conv1D.

B batch, T query length, S key length (past and new), E n_embd, H heads, D head_dim, I n_inner,
L layers, V vocab_size, P n_positions.

Layers carry OpenAI's names and weights transformers' names and shapes. Every layer makes its
weights in `build`, from the config alone, so that a model is complete before its first call.
Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); transformers
4.57, `TFGPT2Model`, with the numbers of its PyTorch `GPT2Model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import stages
from gpt2x.models.attention import attention_scaling
from gpt2x.models.cache import LayerCache
from gpt2x.models.pretrained import documented
from gpt2x.models.stages import BlockInputs, Records
from gpt2x.tf.activations import ACTIVATIONS
from gpt2x.tf.attention import (
    eager_attention,
    get_attention,
    packed_mask,
    padding_mask,
    raise_hidden_rows,
    score_dtype,
    self_attention_mask,
)
from gpt2x.tf.cache import KVCache
from gpt2x.tf.checkpointing import recomputed
from gpt2x.tf.dropout import Dropout
from gpt2x.tf.inputs import (
    Inputs,
    check_inputs,
    is_counting_on,
    positions,
    rows,
    visible,
)
from gpt2x.tf.keras.arguments import as_ids
from gpt2x.tf.lora import LowRank
from gpt2x.tf.ops import shape_of
from gpt2x.tf.outputs import TFBaseModelOutputWithPastAndCrossAttentions
from gpt2x.tf.pretrained import TFGPT2PreTrainedModel
from gpt2x.tf.tracking import Embedding, LayerNormalization, TrackedLayer

Past = KVCache | Sequence[Sequence[tf.Tensor]] | Sequence[tf.Tensor]


def normal(stddev: float) -> keras.initializers.Initializer:
    """Return a new normal initializer; one that is used twice would draw the same numbers."""
    return keras.initializers.RandomNormal(stddev=stddev)


class Conv1D(TrackedLayer):
    """A linear layer whose weight is stored (in, out), as OpenAI's 1x1 convolutions were."""

    def __init__(self, nf: int, nx: int, stddev: float, **options: Any) -> None:
        super().__init__(**options)
        self.nf = nf
        self.nx = nx
        self.stddev = stddev
        self.lora: LowRank | None = None

    def build(self, input_shape: Any = None) -> None:
        self.weight = self.add_weight(
            shape=(self.nx, self.nf), initializer=normal(self.stddev), name="weight"
        )
        # Of rank 2, as transformers' TensorFlow models have it.
        self.bias = self.add_weight(shape=(1, self.nf), initializer="zeros", name="bias")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map [..., nx] to [..., nf]."""
        flat = tf.reshape(x, [-1, self.nx])
        out = tf.matmul(flat, self.weight) + self.bias
        if self.lora is not None:
            out += tf.cast(self.lora(x), out.dtype)
        return tf.reshape(out, [*shape_of(x)[:-1], self.nf])


class TFGPT2Attention(TrackedLayer):
    """Multi-head attention: to the text itself, or to an encoder's states (cross-attention)."""

    def __init__(
        self,
        config: GPT2Config,
        *,
        layer_idx: int,
        is_cross_attention: bool = False,
        **options: Any,
    ) -> None:
        # Layers cast their inputs to half precision, where a mask would become infinite. Here all
        # inputs have the right type, and the layers inside still cast their weights.
        super().__init__(autocast=False, **options)
        self.config = config
        self.layer_idx = layer_idx
        self.is_cross_attention = is_cross_attention
        self.num_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.upcast = config.reorder_and_upcast_attn

        width, std, dtype = config.n_embd, config.initializer_range, self.dtype_policy
        if is_cross_attention:
            self.c_attn = Conv1D(2 * width, width, std, name="c_attn", dtype=dtype)
            self.q_attn = Conv1D(width, width, std, name="q_attn", dtype=dtype)
        else:
            self.c_attn = Conv1D(3 * width, width, std, name="c_attn", dtype=dtype)
        self.c_proj = Conv1D(width, width, _residual_stddev(config), name="c_proj", dtype=dtype)
        # A layer casts its inputs to its own type, here that of the weights.
        wide = score_dtype(self.compute_dtype).name
        self.attn_dropout = Dropout(
            config.attn_pdrop, name="attn_dropout", dtype=wide if self.upcast else dtype
        )
        self.resid_dropout = Dropout(config.resid_pdrop, name="resid_dropout", dtype=dtype)

    def build(self, input_shape: Any = None) -> None:
        self.c_attn.build()
        if self.is_cross_attention:
            self.q_attn.build()
        self.c_proj.build()

    # Not `mask`, here and in the block: Keras sets that argument itself, to its own masks.
    def call(
        self,
        hidden_states: tf.Tensor,
        cache: LayerCache | None = None,
        attention_mask: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Attend from hidden_states [B, T, E]; return [B, T, E] and the weights [B, H, T, S].

        `attention_mask` is additive, broadcast to [B, H, T, S]; None hides nothing. The weights are
        None unless `output_attentions`.
        """
        if self.is_cross_attention:
            query = self._split_heads(self.q_attn(hidden_states))  # [B, H, T, D]
            key, value = self._encoder_keys_and_values(encoder_hidden_states, cache)
        else:
            query, key, value = map(
                self._split_heads, tf.split(self.c_attn(hidden_states), 3, axis=-1)
            )  # 3 x [B, H, T, D]
            if cache is not None:
                key, value = cache.update(key, value)  # [B, H, S, D]

        dtype = value.dtype
        if self.upcast:
            # Half-precision training overflows in the scores first: compute them in float32.
            wide = score_dtype(dtype)
            query, key, value = (tf.cast(x, wide) for x in (query, key, value))
        out, weights = self._attend(query, key, value, attention_mask, head_mask, output_attentions)
        out = tf.transpose(tf.cast(out, dtype), [0, 2, 1, 3])  # [B, T, H, D]
        out = tf.reshape(out, shape_of(hidden_states))  # [B, T, E]
        return self.resid_dropout(self.c_proj(out)), weights

    def _attend(
        self,
        query: tf.Tensor,
        key: tf.Tensor,
        value: tf.Tensor,
        mask: tf.Tensor | None,
        head_mask: tf.Tensor | None,
        output_attentions: bool,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        options: dict[str, Any] = {
            "scaling": attention_scaling(self.config, self.layer_idx),
            "dropout": self.attn_dropout,
        }
        if output_attentions or head_mask is not None:
            out, weights = eager_attention(query, key, value, mask, head_mask=head_mask, **options)
            return out, weights if output_attentions else None
        attend = get_attention(self.config._attn_implementation or "sdpa")
        return attend(query, key, value, mask, **options), None  # [B, H, T, D]

    def _encoder_keys_and_values(
        self, encoder_hidden_states: tf.Tensor | None, cache: LayerCache | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Project the encoder's states to [B, H, encoder length, D], once per cache."""
        cached = cache.cross() if cache is not None else None
        if cached is not None:
            return cached
        key, value = map(
            self._split_heads, tf.split(self.c_attn(encoder_hidden_states), 2, axis=-1)
        )
        if cache is not None:
            cache.update_cross(key, value)
        return key, value

    def _split_heads(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(x, [*shape_of(x)[:2], self.num_heads, self.head_dim])  # [B, T, H, D]
        return tf.transpose(x, [0, 2, 1, 3])


class TFGPT2MLP(TrackedLayer):
    """Two layers with an activation between them: E -> I -> E."""

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(**options)
        width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        std, dtype = config.initializer_range, self.dtype_policy
        self.c_fc = Conv1D(inner, width, std, name="c_fc", dtype=dtype)
        self.c_proj = Conv1D(width, inner, _residual_stddev(config), name="c_proj", dtype=dtype)
        self.act = ACTIVATIONS[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop, name="dropout", dtype=dtype)

    def build(self, input_shape: Any = None) -> None:
        self.c_fc.build()
        self.c_proj.build()

    def call(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """Map [B, T, E] to [B, T, E]."""
        return self.dropout(self.c_proj(self.act(self.c_fc(hidden_states))))


class TFGPT2Block(TrackedLayer):
    """Attention, cross-attention if the config has it, and MLP, each added to its input."""

    def __init__(self, config: GPT2Config, *, layer_idx: int, **options: Any) -> None:
        super().__init__(autocast=False, **options)  # see TFGPT2Attention
        self.config = config
        dtype = self.dtype_policy
        self.ln_1 = _layer_norm(config, "ln_1", dtype)
        self.attn = TFGPT2Attention(config, layer_idx=layer_idx, name="attn", dtype=dtype)
        self.ln_2 = _layer_norm(config, "ln_2", dtype)
        if config.add_cross_attention:
            self.crossattention = TFGPT2Attention(
                config,
                layer_idx=layer_idx,
                is_cross_attention=True,
                name="crossattention",
                dtype=dtype,
            )
            self.ln_cross_attn = _layer_norm(config, "ln_cross_attn", dtype)
        self.mlp = TFGPT2MLP(config, name="mlp", dtype=dtype)

    def build(self, input_shape: Any = None) -> None:
        hidden_states = (None, None, self.config.n_embd)
        self.ln_1.build(hidden_states)
        self.attn.build()
        self.ln_2.build(hidden_states)
        if self.config.add_cross_attention:
            self.crossattention.build()
            self.ln_cross_attn.build(hidden_states)
        self.mlp.build()

    def call(
        self,
        hidden_states: tf.Tensor,
        cache: LayerCache | None = None,
        attention_mask: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        cross_attend: bool = False,
        output_attentions: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
        """Map [B, T, E] to [B, T, E]; also return the weights of both attentions (or None)."""
        attended, weights = self.attn(
            self.ln_1(hidden_states),
            cache=cache,
            attention_mask=attention_mask,
            head_mask=head_mask,
            output_attentions=output_attentions,
        )
        hidden_states = hidden_states + attended
        cross_weights = None
        if cross_attend:
            attended, cross_weights = self.crossattention(
                self.ln_cross_attn(hidden_states),
                cache=cache,
                attention_mask=encoder_attention_mask,
                head_mask=head_mask,
                encoder_hidden_states=encoder_hidden_states,
                output_attentions=output_attentions,
            )
            hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.ln_2(hidden_states))
        return hidden_states, weights, cross_weights


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2MainLayer(TrackedLayer):
    """The body as a layer: embeddings, L blocks and a final layer norm."""

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(**options)
        self.config = config
        width, std, dtype = config.n_embd, config.initializer_range, self.dtype_policy
        self.wte = Embedding(config.vocab_size, width, normal(std), name="wte", dtype=dtype)
        self.wpe = Embedding(config.n_positions, width, normal(std), name="wpe", dtype=dtype)
        self.drop = Dropout(config.embd_pdrop, name="drop", dtype=dtype)
        # transformers' name of a list's item; a layer's name cannot contain a slash.
        self.h = [
            TFGPT2Block(config, layer_idx=i, name=f"h_._{i}", dtype=dtype)
            for i in range(config.n_layer)
        ]
        self.ln_f = _layer_norm(config, "ln_f", dtype)
        # Configs of 2020 and 2021 switch it on.
        self.gradient_checkpointing = bool(getattr(config, "gradient_checkpointing", False))
        for block in self.h:  # for tf.train.Checkpoint, which does not find layers in Keras's lists
            self._track_trackable(block, block.name)

    def build(self, input_shape: Any = None) -> None:
        self.wte.build()
        self.wpe.build()
        for block in self.h:
            block.build()
        self.ln_f.build((None, None, self.config.n_embd))

    @tf.autograph.experimental.do_not_convert
    def __call__(self, input_ids: tf.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Call the layer; see `call`. Ids that Keras traces as floats become integers."""
        for name in ("token_type_ids", "position_ids"):
            if name in kwargs:
                kwargs[name] = as_ids(kwargs[name])
        return super().__call__(as_ids(input_ids), *args, **kwargs)

    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> TFBaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run the body; the arguments are those of `TFGPT2Model`."""
        use_cache, output_attentions, output_hidden_states = stages.asked(
            self.config,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        is_checkpointing = self.gradient_checkpointing and bool(training)
        if is_checkpointing:
            if past_key_values is not None:
                raise InvalidInputError(
                    "past_key_values cannot be used while gradient checkpointing trains: blocks "
                    "run twice. Pass training=False or call model.gradient_checkpointing_disable()."
                )
            use_cache = False
        cache = self._open_cache(past_key_values, use_cache)
        inputs = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        check_inputs(self.config, cache, inputs)

        given = self._prepare(inputs, cache)
        hidden_states, records = self._run_blocks(
            given, cache, output_attentions, output_hidden_states, recompute=is_checkpointing
        )
        past = _close_cache(cache, past_key_values) if use_cache else None
        output = self._finish(given, hidden_states, records, past)
        wanted = self.config.use_return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    def _prepare(self, inputs: Inputs, cache: KVCache | None) -> BlockInputs:
        """Add the embeddings [B, T, E], and make the masks additive."""
        ids, embeds = inputs["input_ids"], inputs["inputs_embeds"]
        if embeds is None:
            shape, embeds = shape_of(ids), self.wte(rows(ids))  # [..., T], [B, T, E]
        else:
            shape = shape_of(embeds)[:-1]
        past, T = 0 if cache is None else cache.length, shape[-1]
        dtype = score_dtype(self.compute_dtype)
        S = cache.max_length if cache is not None and cache.shows_room else past + T

        attention_mask, position_ids = inputs["attention_mask"], inputs["position_ids"]
        may_be_packed = position_ids is not None and attention_mask is None and cache is None
        attention_mask = visible(attention_mask)  # [B, S] or rank 4
        if position_ids is None:
            position_ids = positions(attention_mask, past, T)
        position_ids = rows(position_ids)  # [B or 1, T]
        mask = self_attention_mask(attention_mask, T, S, past, dtype)
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
        recompute: bool,
    ) -> tuple[tf.Tensor, Records]:
        """Return the hidden states [B, T, E] of the last block, and the records of all blocks."""
        hidden_states = given.hidden_states
        all_hidden_states: tuple[tf.Tensor, ...] = ()
        all_attentions: tuple[tf.Tensor, ...] = ()
        all_cross_attentions: tuple[tf.Tensor, ...] = ()
        for layer, (block, head_mask) in enumerate(zip(self.h, given.head_masks, strict=True)):
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            run = partial(recomputed, block) if recompute else block
            hidden_states, weights, cross_weights = run(
                hidden_states,
                cache=None if cache is None else LayerCache(cache, layer),
                attention_mask=given.mask,
                head_mask=head_mask,
                encoder_hidden_states=given.encoder_hidden_states,
                encoder_attention_mask=given.encoder_mask,
                cross_attend=given.cross_attend,
                output_attentions=output_attentions,
            )
            if output_attentions:
                all_attentions += (weights,)
                if given.cross_attend:
                    all_cross_attentions += (cross_weights,)
        if cache is not None:
            cache.advance(given.shape[-1])
        return hidden_states, Records(all_hidden_states, all_attentions, all_cross_attentions)

    def _finish(
        self, given: BlockInputs, hidden_states: tf.Tensor, records: Records, past: Past | None
    ) -> TFBaseModelOutputWithPastAndCrossAttentions:
        """Normalise [B, T, E], restore the shape [..., T, E] of the tokens, and make the output."""
        hidden_states = self.ln_f(hidden_states)
        hidden_states = tf.reshape(hidden_states, [*given.shape, self.config.n_embd])
        all_hidden_states = records.hidden_states
        return TFBaseModelOutputWithPastAndCrossAttentions(
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
        cache = past.fork() if isinstance(past, KVCache) else KVCache.from_tuple(past)
        stages.check_layers(cache, layers)
        return cache

    def _head_masks(
        self, head_mask: tf.Tensor | None, dtype: tf.DType
    ) -> Sequence[tf.Tensor | None]:
        """Return a mask per layer, broadcast to [B, H, T, S], of [H], [L, H] or [L, B, H, T, S]."""
        layers = len(self.h)
        if head_mask is None:
            return [None] * layers
        head_mask = tf.cast(head_mask, dtype)
        if head_mask.shape.rank == 1:
            head_mask = tf.repeat(head_mask[None], layers, axis=0)
        if head_mask.shape.rank == 2:
            head_mask = head_mask[:, None, :, None, None]
        return tf.unstack(head_mask, num=layers)

    def get_config(self) -> dict[str, Any]:
        """Return the config from which `from_config` makes the layer."""
        return {**super().get_config(), "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TFGPT2MainLayer:
        """Return a layer with new weights from a config of `get_config`."""
        return cls(**{**config, "config": GPT2Config.from_dict(config["config"])})


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2Model(TFGPT2PreTrainedModel):
    """The body: embeddings, L blocks and a final layer norm.

    >>> from gpt2x import GPT2Config
    >>> model = TFGPT2Model(GPT2Config(n_layer=2, n_embd=64, n_head=4))
    >>> model(tf.constant([[464, 3290]])).last_hidden_state.shape
    TensorShape([1, 2, 64])
    """

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=self.dtype_policy)
        self.post_init()

    @documented(stages.FORWARD)
    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        encoder_hidden_states: tf.Tensor | None = None,
        encoder_attention_mask: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
    ) -> TFBaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run the body.

        All inputs may also come together as the first argument: a dictionary, or a list in the
        order given here.

        Arguments of this backend alone:
            past_key_values: a `KVCache`; or, per layer, a pair [B, H, past, D] (four tensors with
                cross-attention) or one tensor [2, B, H, past, D]. The longer past is returned in
                the same form; gradients flow through it. The older name `past` is accepted.
            training: whether dropout is active.
        """
        return self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
            training=training,
        )


def _layer_norm(config: GPT2Config, name: str, dtype: keras.DTypePolicy) -> LayerNormalization:
    return LayerNormalization(epsilon=config.layer_norm_epsilon, name=name, dtype=dtype)


def _residual_stddev(config: GPT2Config) -> float:
    """Return the standard deviation for a layer whose output a block adds to its input.

    There are two such layers in each block; their weights start smaller by the square root of their
    number, so that the sum over all blocks does not grow with the depth (GPT-2's paper,
    section 2.3).
    """
    return config.initializer_range / (2 * config.n_layer) ** 0.5


def _close_cache(cache: KVCache | None, given: Past | None) -> Past | None:
    """Return the cache in the form of the given past."""
    if cache is None or given is None or isinstance(given, KVCache):
        return cache
    return cache.to_stacked() if given and hasattr(given[0], "shape") else cache.to_tuple()
