"""GPT-2 with a head for each task, and their losses, in Flax NNX.

B batch, T query length, C choices, E n_embd, V vocab_size.

Source: transformers 4.57, its PyTorch classes; in Flax it has only the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax import nnx
from gpt2x.config import GPT2Config
from gpt2x.flax.activations import ACTIVATIONS
from gpt2x.flax.dropout import dropout, subkey
from gpt2x.flax.generation import GenerationMixin
from gpt2x.flax.inputs import host_values
from gpt2x.flax.model import FlaxGPT2Model, Past, tied_logits
from gpt2x.flax.outputs import (
    FlaxCausalLMOutputWithCrossAttentions,
    FlaxGPT2DoubleHeadsModelOutput,
    FlaxQuestionAnsweringModelOutput,
    FlaxSequenceClassifierOutputWithPast,
    FlaxTokenClassifierOutput,
)
from gpt2x.flax.parameters import Precision
from gpt2x.flax.pretrained import FlaxGPT2PreTrainedModel
from gpt2x.models import checks, heads
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.models.pretrained import documented
from gpt2x.train.dropout import HEAD
from gpt2x.weights.table import Head


def cross_entropy(logits: Array, labels: Array, ignore_index: int = IGNORE_INDEX) -> Array:
    """Return the mean cross-entropy, in float32, of labels [...] that are not `ignore_index`.

    logits: [..., classes]. Without labels it is NaN, as in PyTorch.
    """
    total, count = _summed_cross_entropy(logits, labels, ignore_index)
    return total / count


def _summed_cross_entropy(logits: Array, labels: Array, ignore_index: int) -> tuple[Array, Array]:
    labels = jnp.asarray(labels)
    counted = labels != ignore_index
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    chosen = jnp.where(counted, labels, 0)[..., None]
    losses = -jnp.take_along_axis(log_probs, chosen, axis=-1)[..., 0]
    return jnp.where(counted, losses, 0.0).sum(), counted.sum(dtype=losses.dtype)


@documented(heads.CAUSAL_LM_LOSS)
def causal_lm_loss(
    logits: Array,
    labels: Array,
    *,
    num_items_in_batch: Array | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Array | None = None,
) -> Array:
    """Return the mean cross-entropy of each token given those before it, in float32."""
    if shift_labels is None:
        labels = jnp.asarray(labels)
        ends = jnp.full_like(labels[..., :1], ignore_index)
        shift_labels = jnp.concatenate([labels[..., 1:], ends], axis=-1)
    total, count = _summed_cross_entropy(logits, shift_labels, ignore_index)
    if num_items_in_batch is not None:
        count = jnp.asarray(num_items_in_batch, total.dtype)
    return total / count


class _LanguageModel(FlaxGPT2PreTrainedModel):
    """The body and the output layer of the two classes that have a language model."""

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        self.transformer: Any = _body(config, precision)
        if not config.tie_word_embeddings:
            self.lm_head = precision.linear(config.n_embd, config.vocab_size, use_bias=False)

    def _next_token_logits(self, hidden_states: Array) -> Array:
        """[..., E] -> [..., V], by the output layer or by the table that is tied to it."""
        if not self.config.tie_word_embeddings:
            return self.lm_head(hidden_states)
        return tied_logits(hidden_states, self.transformer.wte.embedding[...])


class FlaxGPT2LMHeadModel(GenerationMixin, _LanguageModel):
    """The body with a language model on top, whose weight is the token embedding's."""

    head: ClassVar[Head] = Head.LM

    @documented(heads.CAUSAL_LM)
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
        labels: Array | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Array = 0,
        num_items_in_batch: Array | int | None = None,
        ignore_index: int = IGNORE_INDEX,
        shift_labels: Array | None = None,
        **unknown: Any,
    ) -> FlaxCausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Predict the next token at every position."""
        checks.reject_unknown(self.__call__, unknown)
        checks.check_logits_to_keep(labels, shift_labels, logits_to_keep)
        model = self._with_params(params)
        outputs = model.transformer(
            input_ids,
            attention_mask,
            position_ids,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            cache_position=cache_position,
            use_cache=use_cache,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = model._next_token_logits(outputs.last_hidden_state[..., kept, :])  # [B, kept, V]

        loss = None
        targets = labels if shift_labels is None else shift_labels
        if targets is not None:
            checks.check_targets("labels", targets, logits.shape, host_values, ignore_index)
            loss = causal_lm_loss(
                logits,
                targets,
                num_items_in_batch=num_items_in_batch,
                ignore_index=ignore_index,
                shift_labels=shift_labels,
            )
        output = FlaxCausalLMOutputWithCrossAttentions.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)


class FlaxGPT2SequenceSummary(nnx.Module):
    """Projects one vector of each choice's hidden states to a score."""

    def __init__(self, config: GPT2Config, *, precision: Precision) -> None:
        self.summary_type = config.summary_type
        self.summary_use_proj = config.summary_use_proj
        n_out = heads.summary_outputs(config)
        if n_out is not None:
            self.summary = precision.linear(config.n_embd, n_out, use_bias=True)
        self.activation = config.summary_activation or "linear"
        self.first_dropout = config.summary_first_dropout
        self.last_dropout = heads.last_dropout(config)

    @documented(heads.SUMMARY)
    def __call__(
        self,
        hidden_states: Array,
        cls_index: Array | None = None,
        dropout_key: Array | None = None,
    ) -> Array:
        """Summarise the hidden states of each choice."""
        if self.summary_type == "mean":
            summary = hidden_states.mean(axis=1)
        elif self.summary_type == "first":
            summary = hidden_states[:, 0]
        elif self.summary_type == "last":
            summary = hidden_states[:, -1]
        elif cls_index is None:
            summary = hidden_states[..., -1, :]
        else:
            index = jnp.asarray(cls_index)[..., None, None]
            summary = jnp.take_along_axis(hidden_states, index, axis=-2)[..., 0, :]  # [B, C, E]
        summary = dropout(summary, rate=self.first_dropout, key=subkey(dropout_key, 0))
        if self.summary_use_proj:
            summary = self.summary(summary)
        summary = ACTIVATIONS[self.activation](summary)
        return dropout(summary, rate=self.last_dropout, key=subkey(dropout_key, 1))


class FlaxGPT2DoubleHeadsModel(GenerationMixin, _LanguageModel):
    """The body with a language model and a choice between C continuations (RocStories, SWAG)."""

    head: ClassVar[Head] = Head.DOUBLE

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        super().setup(config, precision)
        self.multiple_choice_head = FlaxGPT2SequenceSummary(config, precision=precision)

    def _dropout_rates(self) -> dict[str, float]:
        head = self.multiple_choice_head
        summary = {
            "summary_first_dropout": head.first_dropout,
            "summary_last_dropout": head.last_dropout,
        }
        return {**super()._dropout_rates(), **summary}

    @documented(heads.DOUBLE_HEADS)
    def __call__(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
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
        mc_token_ids: Array | None = None,
        labels: Array | None = None,
        mc_labels: Array | None = None,
        use_cache: bool | None = None,
        **unknown: Any,
    ) -> FlaxGPT2DoubleHeadsModelOutput | tuple[Any, ...]:
        """Predict the next tokens of every choice, and score the choices."""
        checks.reject_unknown(self.__call__, unknown)
        key = subkey(self._dropout_key(dropout_rng, train), HEAD)
        model = self._with_params(params)
        outputs = model.transformer(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            cache_position=cache_position,
            use_cache=use_cache,
        )
        hidden_states = outputs.last_hidden_state  # [B, C, T, E]
        *leading, T = hidden_states.shape[:-1]
        if mc_token_ids is not None:
            checks.check_positions("mc_token_ids", mc_token_ids, [(*leading,)], T, host_values)
        logits = model._next_token_logits(hidden_states)  # [B, C, T, V]
        mc_logits = model.multiple_choice_head(hidden_states, mc_token_ids, key)
        mc_logits = mc_logits.squeeze(-1) if mc_logits.shape[-1] == 1 else mc_logits  # [B, C]

        loss = mc_loss = None
        if labels is not None:
            checks.check_targets("labels", labels, logits.shape, host_values)
            loss = causal_lm_loss(logits, labels)
        if mc_labels is not None:
            shape = mc_logits.shape
            checks.check_targets("mc_labels", mc_labels, shape, host_values, or_column=True)
            mc_loss = cross_entropy(mc_logits, jnp.reshape(mc_labels, shape[:-1]))
        output = FlaxGPT2DoubleHeadsModelOutput.of(
            outputs, loss=loss, mc_loss=mc_loss, logits=logits, mc_logits=mc_logits
        )
        return self._as_asked(output, return_dict)


class FlaxGPT2ForSequenceClassification(FlaxGPT2PreTrainedModel):
    """The body with a classifier (or a regression) on the last token of each text."""

    head: ClassVar[Head] = Head.SEQUENCE_CLASSIFICATION

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        self.num_labels = config.num_labels
        self.transformer: Any = _body(config, precision)
        self.score = precision.linear(config.n_embd, config.num_labels, use_bias=False)

    @documented(heads.SEQUENCE_CLASSIFICATION)
    def __call__(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
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
        labels: Array | None = None,
        use_cache: bool | None = None,
        **unknown: Any,
    ) -> FlaxSequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Classify each text by its last token."""
        checks.reject_unknown(self.__call__, unknown)
        model = self._with_params(params)
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        by_mask = attention_mask is not None and np.ndim(attention_mask) == 2
        if inputs is not None:
            checks.check_can_pool(self.config, by_mask, np.shape(inputs)[0])
        outputs = model.transformer(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        hidden_states = outputs.last_hidden_state  # [B, T, E]
        B, T = hidden_states.shape[:2]
        last = self._last_token(input_ids, attention_mask if by_mask else None, B, T)
        pooled = jnp.take_along_axis(hidden_states, last[:, None, None], axis=1)[:, 0]  # [B, E]
        logits = model.score(pooled)  # [B, num_labels]

        loss = None
        if labels is not None:
            named = self.config.problem_type
            problem = checks.check_problem(named, self.num_labels, labels, B, host_values)
            loss = self._loss(problem, logits, jnp.asarray(labels))
        output = FlaxSequenceClassifierOutputWithPast.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)

    def _last_token(
        self, input_ids: Array | None, attention_mask: Array | None, B: int, T: int
    ) -> Array:
        """Return the position [B] of each row's last token; 0 for a row without any."""
        if attention_mask is not None:
            is_token = jnp.asarray(attention_mask)[:, -T:].astype(bool)
        elif input_ids is not None and self.config.pad_token_id is not None:
            is_token = jnp.asarray(input_ids) != self.config.pad_token_id
        else:
            return jnp.full((B,), T - 1)
        return jnp.where(is_token, jnp.arange(T), 0).argmax(axis=-1)

    def _loss(self, problem: str, logits: Array, labels: Array) -> Array:
        if problem == "single_label_classification":
            return cross_entropy(logits, labels.reshape(-1))
        logits = logits.astype(jnp.float32)
        labels = labels.reshape(logits.shape).astype(logits.dtype)
        if problem == "regression":
            return jnp.square(logits - labels).mean()
        # The binary cross-entropy of sigmoid(logits), without its overflow.
        losses = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        return losses.mean()


class FlaxGPT2ForTokenClassification(FlaxGPT2PreTrainedModel):
    """The body with a classifier on every token (named entities, for example)."""

    head: ClassVar[Head] = Head.TOKEN_CLASSIFICATION

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        self.num_labels = config.num_labels
        self.transformer: Any = _body(config, precision)
        self.dropout = heads.classifier_dropout(config)
        self.classifier = precision.linear(config.n_embd, config.num_labels, use_bias=True)

    def _dropout_rates(self) -> dict[str, float]:
        return {**super()._dropout_rates(), "classifier_dropout": self.dropout}

    @documented(heads.TOKEN_CLASSIFICATION)
    def __call__(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
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
        labels: Array | None = None,
        use_cache: bool | None = None,
        **unknown: Any,
    ) -> FlaxTokenClassifierOutput | tuple[Any, ...]:
        """Classify every token."""
        checks.reject_unknown(self.__call__, unknown)
        key = subkey(self._dropout_key(dropout_rng, train), HEAD)
        model = self._with_params(params)
        outputs = model.transformer(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values=past_key_values,
            dropout_rng=dropout_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        hidden_states = dropout(outputs.last_hidden_state, rate=self.dropout, key=key)
        logits = model.classifier(hidden_states)  # [B, T, num_labels]

        loss = None
        if labels is not None:
            checks.check_targets("labels", labels, logits.shape, host_values)
            loss = cross_entropy(logits, labels)
        output = FlaxTokenClassifierOutput.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)


class FlaxGPT2ForQuestionAnswering(FlaxGPT2PreTrainedModel):
    """The body with a head that finds the answer to a question as a span of the text (SQuAD)."""

    head: ClassVar[Head] = Head.QUESTION_ANSWERING

    def setup(self, config: GPT2Config, precision: Precision) -> None:
        self.num_labels = config.num_labels
        self.transformer: Any = _body(config, precision)
        self.qa_outputs = precision.linear(config.n_embd, 2, use_bias=True)

    @documented(heads.QUESTION_ANSWERING)
    def __call__(
        self,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        position_ids: Array | None = None,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
        train: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        token_type_ids: Array | None = None,
        head_mask: Array | None = None,
        inputs_embeds: Array | None = None,
        start_positions: Array | None = None,
        end_positions: Array | None = None,
        **unknown: Any,
    ) -> FlaxQuestionAnsweringModelOutput | tuple[Any, ...]:
        """Score every token as the start and as the end of the answer."""
        checks.reject_unknown(self.__call__, unknown)
        model = self._with_params(params)
        outputs = model.transformer(
            input_ids,
            attention_mask,
            position_ids,
            dropout_rng=dropout_rng,
            train=train,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )
        logits = model.qa_outputs(outputs.last_hidden_state)
        start_logits, end_logits = logits[..., 0], logits[..., 1]  # 2 x [B, T]

        loss = None
        if checks.check_span(start_positions, end_positions, start_logits.shape[0]):
            start_loss = _position_loss(start_logits, start_positions)
            end_loss = _position_loss(end_logits, end_positions)
            loss = (start_loss + end_loss) / 2
        output = FlaxQuestionAnsweringModelOutput.of(
            outputs, loss=loss, start_logits=start_logits, end_logits=end_logits
        )
        return self._as_asked(output, return_dict)


def _body(config: GPT2Config, precision: Precision) -> FlaxGPT2Model:
    dtype, param_dtype = precision.dtype, precision.param_dtype
    return FlaxGPT2Model(config, dtype=dtype, _do_init=False, param_dtype=param_dtype)


def _position_loss(scores: Array, positions: Any) -> Array:
    """Return the cross-entropy of positions [B] (or [B, 1]) under scores [B, T]."""
    T = scores.shape[1]
    return cross_entropy(scores, jnp.clip(jnp.reshape(positions, -1), 0, T), ignore_index=T)
