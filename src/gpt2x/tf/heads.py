"""GPT-2 with a head for each task, and their losses, in Keras 3 on TensorFlow.

B batch, T query length, C choices, E n_embd, V vocab_size.

Source: transformers 4.57, the classes of the same names, or PyTorch's if TensorFlow has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from gpt2x.config import GPT2Config
from gpt2x.models import checks, heads
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.models.pretrained import documented
from gpt2x.tf.activations import ACTIVATIONS
from gpt2x.tf.dropout import Dropout
from gpt2x.tf.generation import GenerationMixin
from gpt2x.tf.inputs import host_values
from gpt2x.tf.keras.losses import Target, choices, classes, next_tokens, numbers, positions
from gpt2x.tf.model import Past, TFGPT2MainLayer, normal
from gpt2x.tf.ops import shape_of
from gpt2x.tf.outputs import (
    TFCausalLMOutputWithCrossAttentions,
    TFGPT2DoubleHeadsModelOutput,
    TFQuestionAnsweringModelOutput,
    TFSequenceClassifierOutputWithPast,
    TFTokenClassifierOutput,
)
from gpt2x.tf.pretrained import TFGPT2PreTrainedModel
from gpt2x.tf.tracking import Dense, TrackedLayer
from gpt2x.weights.table import Head


@documented(heads.CAUSAL_LM_LOSS)
def causal_lm_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    num_items_in_batch: tf.Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the mean cross-entropy of each token given those before it, in float32."""
    if shift_labels is None:
        target = next_tokens(logits, labels, ignore_index)
    else:
        target = classes(logits, shift_labels, ignore_index)
    if num_items_in_batch is None:
        return target.loss()
    return tf.reduce_sum(target.counted()) / tf.cast(num_items_in_batch, tf.float32)


class _LanguageModel(TFGPT2PreTrainedModel):
    """The body and the output layer of the two classes that have a language model."""

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=self.dtype_policy)
        if not config.tie_word_embeddings:
            self.lm_head = _linear(config, config.vocab_size, "lm_head", self, use_bias=False)

    def _next_token_logits(self, hidden_states: tf.Tensor) -> tf.Tensor:
        """[..., E] -> [..., V]."""
        if not self.config.tie_word_embeddings:
            return self.lm_head(hidden_states)
        rows = tf.reshape(hidden_states, [-1, self.config.n_embd])
        logits = tf.matmul(rows, self.transformer.wte.embeddings, transpose_b=True)
        return tf.reshape(logits, [*shape_of(hidden_states)[:-1], self.config.vocab_size])


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2LMHeadModel(GenerationMixin, _LanguageModel):
    """The body with a language model on top, whose weight is the token embedding's."""

    head: ClassVar[Head] = Head.LM
    labels_of_outputs: ClassVar[Mapping[str, str]] = {"labels": "logits"}

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.post_init()

    @documented(heads.CAUSAL_LM)
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
        labels: tf.Tensor | None = None,
        training: bool = False,
        logits_to_keep: int | tf.Tensor = 0,
        num_items_in_batch: tf.Tensor | int | None = None,
        ignore_index: int = IGNORE_INDEX,
        shift_labels: tf.Tensor | None = None,
    ) -> TFCausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Predict the next token at every position."""
        checks.check_logits_to_keep(labels, shift_labels, logits_to_keep)
        outputs = self.transformer(
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
            return_dict=True,
            training=training,
        )
        hidden_states = outputs.last_hidden_state
        if not isinstance(logits_to_keep, int):
            hidden_states = tf.gather(hidden_states, logits_to_keep, axis=-2)
        elif logits_to_keep:
            hidden_states = hidden_states[..., -logits_to_keep:, :]
        logits = self._next_token_logits(hidden_states)  # [B, kept, V]

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
        output = TFCausalLMOutputWithCrossAttentions.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        return next_tokens(logits, labels)


class TFGPT2SequenceSummary(TrackedLayer):
    """Projects one vector of each choice's hidden states to a score."""

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(**options)
        self.config = config
        n_out = heads.summary_outputs(config)
        if n_out is not None:
            self.summary = _linear(config, n_out, "summary", self)
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.first_dropout = _dropout(config.summary_first_dropout, "first_dropout", self)
        self.last_dropout = _dropout(heads.last_dropout(config), "last_dropout", self)

    def build(self, input_shape: Any = None) -> None:
        if self.config.summary_use_proj:
            self.summary.build((None, self.config.n_embd))

    @documented(heads.SUMMARY)
    def call(self, hidden_states: tf.Tensor, cls_index: tf.Tensor | None = None) -> tf.Tensor:
        """Summarise the hidden states of each choice."""
        summary_type = self.config.summary_type
        if summary_type == "mean":
            summary = tf.reduce_mean(hidden_states, axis=1)
        elif summary_type == "first":
            summary = hidden_states[:, 0]
        elif summary_type == "last":
            summary = hidden_states[:, -1]
        elif cls_index is None:
            summary = hidden_states[..., -1, :]
        else:
            rank = cls_index.shape.rank
            summary = tf.gather(hidden_states, cls_index, axis=-2, batch_dims=rank)  # [B, C, E]
        summary = self.first_dropout(summary)
        if self.config.summary_use_proj:
            summary = self.summary(summary)
        return self.last_dropout(self.activation(summary))


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2DoubleHeadsModel(GenerationMixin, _LanguageModel):
    """The body with a language model and a choice between C continuations (RocStories, SWAG)."""

    head: ClassVar[Head] = Head.DOUBLE
    labels_of_outputs: ClassVar[Mapping[str, str]] = {"labels": "logits", "mc_labels": "mc_logits"}

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.multiple_choice_head = TFGPT2SequenceSummary(
            config, name="multiple_choice_head", dtype=self.dtype_policy
        )
        self.post_init()

    @documented(heads.DOUBLE_HEADS)
    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        mc_token_ids: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        mc_labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> TFGPT2DoubleHeadsModelOutput | tuple[Any, ...]:
        """Predict the next tokens of every choice, and score the choices."""
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        hidden_states = outputs.last_hidden_state  # [B, C, T, E]
        *leading, T = hidden_states.shape[:-1]
        if mc_token_ids is not None:
            checks.check_positions("mc_token_ids", mc_token_ids, [(*leading,)], T, host_values)
        logits = self._next_token_logits(hidden_states)  # [B, C, T, V]
        mc_logits = self.multiple_choice_head(hidden_states, cls_index=mc_token_ids)
        if mc_logits.shape[-1] == 1:
            mc_logits = tf.squeeze(mc_logits, axis=-1)  # [B, C]

        loss = mc_loss = None
        if labels is not None:
            checks.check_targets("labels", labels, logits.shape, host_values)
            loss = causal_lm_loss(logits, labels)
        if mc_labels is not None:
            shape = mc_logits.shape
            checks.check_targets("mc_labels", mc_labels, shape, host_values, or_column=True)
            mc_loss = self.target("mc_labels", mc_logits, mc_labels).loss()
        output = TFGPT2DoubleHeadsModelOutput.of(
            outputs, loss=loss, mc_loss=mc_loss, logits=logits, mc_logits=mc_logits
        )
        return self._as_asked(output, return_dict)

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        return next_tokens(logits, labels) if name == "labels" else choices(logits, labels)

    @property
    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """The inputs of `serving`: ids and mask [B, C, T], and positions of the scores [B, C]."""
        ranks = {"input_ids": 3, "attention_mask": 3, "mc_token_ids": 2}
        return {name: tf.TensorSpec([None] * rank, tf.int32, name) for name, rank in ranks.items()}


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2ForSequenceClassification(TFGPT2PreTrainedModel):
    """The body with a classifier (or a regression) on the last token of each text."""

    head: ClassVar[Head] = Head.SEQUENCE_CLASSIFICATION
    labels_of_outputs: ClassVar[Mapping[str, str]] = {"labels": "logits"}

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.num_labels = config.num_labels
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=self.dtype_policy)
        self.score = _linear(config, config.num_labels, "score", self, use_bias=False)
        self.post_init()

    @documented(heads.SEQUENCE_CLASSIFICATION)
    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> TFSequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Classify each text by its last token."""
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        by_mask = attention_mask is not None and attention_mask.shape.rank == 2
        if inputs is not None:
            checks.check_can_pool(self.config, by_mask, inputs.shape[0])
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        hidden_states = outputs.last_hidden_state  # [B, T, E]
        last = self._last_token(input_ids, attention_mask if by_mask else None, hidden_states)
        logits = self.score(tf.gather(hidden_states, last, batch_dims=1))  # [B, num_labels]

        loss = None
        if labels is not None:
            loss = self.target("labels", logits, labels).loss()
        output = TFSequenceClassifierOutputWithPast.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)

    def _last_token(
        self,
        input_ids: tf.Tensor | None,
        attention_mask: tf.Tensor | None,
        hidden_states: tf.Tensor,
    ) -> tf.Tensor:
        """Return the position [B] of each row's last token; 0 for a row without any."""
        B, T = shape_of(hidden_states)[:2]
        if attention_mask is not None:
            is_token = tf.cast(attention_mask[:, -T:], tf.bool)
        elif input_ids is not None and self.config.pad_token_id is not None:
            is_token = input_ids != self.config.pad_token_id
        else:
            return tf.fill([B], T - 1)
        return tf.reduce_max(tf.where(is_token, tf.range(T), 0), axis=-1)

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        problem = checks.check_problem(
            self.config.problem_type, self.num_labels, labels, logits.shape[0], host_values
        )
        if problem == "single_label_classification":
            return classes(logits, tf.reshape(labels, [-1]))
        loss = tf.math.squared_difference
        if problem == "multi_label_classification":
            loss = tf.nn.sigmoid_cross_entropy_with_logits
        return numbers(logits, labels, loss)


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2ForTokenClassification(TFGPT2PreTrainedModel):
    """The body with a classifier on every token (named entities, for example)."""

    head: ClassVar[Head] = Head.TOKEN_CLASSIFICATION
    labels_of_outputs: ClassVar[Mapping[str, str]] = {"labels": "logits"}

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.num_labels = config.num_labels
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=self.dtype_policy)
        self.dropout = _dropout(heads.classifier_dropout(config), "dropout", self)
        self.classifier = _linear(config, config.num_labels, "classifier", self)
        self.post_init()

    @documented(heads.TOKEN_CLASSIFICATION)
    def call(
        self,
        input_ids: tf.Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: tf.Tensor | None = None,
        training: bool = False,
    ) -> TFTokenClassifierOutput | tuple[Any, ...]:
        """Classify every token."""
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))  # [B, T, num_labels]

        loss = None
        if labels is not None:
            checks.check_targets("labels", labels, logits.shape, host_values)
            loss = classes(logits, labels).loss()
        output = TFTokenClassifierOutput.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        return classes(logits, labels)


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2ForQuestionAnswering(TFGPT2PreTrainedModel):
    """The body with a head that finds the answer to a question as a span of the text (SQuAD)."""

    head: ClassVar[Head] = Head.QUESTION_ANSWERING
    labels_of_outputs: ClassVar[Mapping[str, str]] = {
        "start_positions": "start_logits",
        "end_positions": "end_logits",
    }

    def __init__(self, config: GPT2Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.num_labels = config.num_labels
        self.transformer = TFGPT2MainLayer(config, name="transformer", dtype=self.dtype_policy)
        self.qa_outputs = _linear(config, 2, "qa_outputs", self)
        self.post_init()

    @documented(heads.QUESTION_ANSWERING)
    def call(
        self,
        input_ids: tf.Tensor | None = None,
        attention_mask: tf.Tensor | None = None,
        token_type_ids: tf.Tensor | None = None,
        position_ids: tf.Tensor | None = None,
        head_mask: tf.Tensor | None = None,
        inputs_embeds: tf.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        start_positions: tf.Tensor | None = None,
        end_positions: tf.Tensor | None = None,
        training: bool = False,
    ) -> TFQuestionAnsweringModelOutput | tuple[Any, ...]:
        """Score every token as the start and as the end of the answer."""
        outputs = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            training=training,
        )
        logits = self.qa_outputs(outputs.last_hidden_state)
        start_logits, end_logits = tf.unstack(logits, axis=-1)  # 2 x [B, T]

        loss = None
        if checks.check_span(start_positions, end_positions, start_logits.shape[0]):
            start = positions(start_logits, start_positions)
            end = positions(end_logits, end_positions)
            loss = (start.loss() + end.loss()) / 2
        output = TFQuestionAnsweringModelOutput.of(
            outputs, loss=loss, start_logits=start_logits, end_logits=end_logits
        )
        return self._as_asked(output, return_dict)

    def target(self, name: str, logits: tf.Tensor, labels: tf.Tensor) -> Target:
        return positions(logits, labels)

    def combine(self, losses: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return the mean of the two losses."""
        return super().combine(losses) / len(losses)


def _linear(
    config: GPT2Config, n_out: int, name: str, owner: keras.layers.Layer, use_bias: bool = True
) -> Dense:
    """Return a head's projection of the last axis, in the dtype of its model."""
    return Dense(
        n_out,
        use_bias=use_bias,
        kernel_initializer=normal(config.initializer_range),
        name=name,
        dtype=owner.dtype_policy,
    )


def _dropout(rate: float, name: str, owner: keras.layers.Layer) -> Dropout:
    return Dropout(rate, name=name, dtype=owner.dtype_policy)
