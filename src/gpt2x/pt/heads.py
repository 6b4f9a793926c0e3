"""GPT-2 with a head for each task, and their losses, in PyTorch.

B batch, T query length, C choices, E n_embd, V vocab_size.

Source: transformers 4.57, the classes of the same names.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2x.config import GPT2Config
from gpt2x.models import checks, heads
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.models.pretrained import documented
from gpt2x.pt.activations import ACTIVATIONS
from gpt2x.pt.cpu.linear import Linear
from gpt2x.pt.dropout import Dropout
from gpt2x.pt.generation import GenerationMixin
from gpt2x.pt.inputs import host_values
from gpt2x.pt.model import GPT2Model, Past
from gpt2x.pt.outputs import (
    CausalLMOutputWithCrossAttentions,
    GPT2DoubleHeadsModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from gpt2x.pt.pretrained import GPT2PreTrainedModel
from gpt2x.weights.table import Head

_LOSS_OPTIONS = ("num_items_in_batch", "ignore_index", "shift_labels")


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return the mean cross-entropy, in float32, of labels [...] that are not `ignore_index`.

    logits: [..., classes]. Without any label it is NaN.
    """
    return _total(logits, labels, ignore_index, "mean")


def _total(logits: Tensor, labels: Tensor, ignore_index: int, reduction: str) -> Tensor:
    targets = labels.reshape(-1).to(logits.device, torch.int64)
    rows = logits.float().reshape(-1, logits.size(-1))
    return F.cross_entropy(rows, targets, ignore_index=ignore_index, reduction=reduction)


@documented(heads.CAUSAL_LM_LOSS)
def causal_lm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of each token given those before it, in float32."""
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    if num_items_in_batch is None:
        return cross_entropy(logits, shift_labels, ignore_index)
    return _total(logits, shift_labels, ignore_index, "sum") / num_items_in_batch


class _LanguageModel(GPT2PreTrainedModel):
    """The body and the output layer of the two classes that have a language model."""

    _tied_weights_keys: ClassVar[list[str]] = ["lm_head.weight"]
    _keys_to_ignore_on_save: ClassVar[list[str]] = _tied_weights_keys

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)


class GPT2LMHeadModel(GenerationMixin, _LanguageModel):
    """The body with a language model on top, whose weight is the token embedding's."""

    head: ClassVar[Head] = Head.LM
    accepts_loss_kwargs: ClassVar[bool] = True

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.post_init()

    @documented(heads.CAUSAL_LM)
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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **loss_options: Any,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Predict the next token at every position.

        `**loss_options` are `num_items_in_batch`, `ignore_index` and `shift_labels`.
        """
        # Not named above: transformers' Trainer waits for every argument with "label" in its name.
        checks.reject_unknown(self.forward, loss_options, _LOSS_OPTIONS)
        shift_labels = loss_options.get("shift_labels")
        if isinstance(logits_to_keep, Tensor) and logits_to_keep.ndim == 0:
            logits_to_keep = int(logits_to_keep)  # PyTorch's older ONNX exporter passes tensor(0)
        checks.check_logits_to_keep(labels, shift_labels, logits_to_keep)
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            cache_position=cache_position,
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
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[..., kept, :])  # [B, kept, V]

        loss = None
        targets = labels if shift_labels is None else shift_labels
        if targets is not None:
            ignored = loss_options.get("ignore_index", IGNORE_INDEX)
            checks.check_targets("labels", targets, logits.shape, host_values, ignored)
            loss = causal_lm_loss(logits, targets, **loss_options)
        output = CausalLMOutputWithCrossAttentions.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)


class GPT2SequenceSummary(nn.Module):
    """Projects one vector of each choice's hidden states to a score."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.summary_type = config.summary_type
        self.summary: nn.Module = nn.Identity()
        n_out = heads.summary_outputs(config)
        if n_out is not None:
            self.summary = nn.Linear(config.n_embd, n_out)
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.first_dropout = Dropout(config.summary_first_dropout)
        self.last_dropout = Dropout(heads.last_dropout(config))

    @documented(heads.SUMMARY)
    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """Summarise the hidden states of each choice."""
        if self.summary_type == "mean":
            summary = hidden_states.mean(dim=1)
        elif self.summary_type == "first":
            summary = hidden_states[:, 0]
        elif self.summary_type == "last":
            summary = hidden_states[:, -1]
        elif cls_index is None:
            summary = hidden_states[..., -1, :]
        else:
            index = cls_index[..., None, None].expand(*cls_index.shape, 1, hidden_states.size(-1))
            summary = hidden_states.gather(-2, index).squeeze(-2)  # [B, C, E]
        summary = self.summary(self.first_dropout(summary))
        return self.last_dropout(self.activation(summary))


class GPT2DoubleHeadsModel(GenerationMixin, _LanguageModel):
    """The body with a language model and a choice between C continuations (RocStories, SWAG)."""

    head: ClassVar[Head] = Head.DOUBLE

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.multiple_choice_head = GPT2SequenceSummary(config)
        self.post_init()

    @documented(heads.DOUBLE_HEADS)
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
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> GPT2DoubleHeadsModelOutput | tuple[Any, ...]:
        """Predict the next tokens of every choice, and score the choices."""
        checks.reject_unknown(self.forward, unknown)
        outputs = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            cache_position=cache_position,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state  # [B, C, T, E]
        *leading, T = hidden_states.shape[:-1]
        if mc_token_ids is not None:
            checks.check_positions("mc_token_ids", mc_token_ids, [(*leading,)], T, host_values)
        logits = self.lm_head(hidden_states)  # [B, C, T, V]
        mc_logits = self.multiple_choice_head(hidden_states, mc_token_ids).squeeze(-1)  # [B, C]

        loss = mc_loss = None
        if labels is not None:
            checks.check_targets("labels", labels, logits.shape, host_values)
            loss = causal_lm_loss(logits, labels)
        if mc_labels is not None:
            shape = mc_logits.shape
            checks.check_targets("mc_labels", mc_labels, shape, host_values, or_column=True)
            mc_loss = cross_entropy(mc_logits, mc_labels)
        output = GPT2DoubleHeadsModelOutput.of(
            outputs, loss=loss, mc_loss=mc_loss, logits=logits, mc_logits=mc_logits
        )
        return self._as_asked(output, return_dict)


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """The body with a classifier (or a regression) on the last token of each text."""

    head: ClassVar[Head] = Head.SEQUENCE_CLASSIFICATION

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)
        self.post_init()

    @documented(heads.SEQUENCE_CLASSIFICATION)
    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Classify each text by its last token."""
        checks.reject_unknown(self.forward, unknown)
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        by_mask = attention_mask is not None and attention_mask.dim() == 2
        if inputs is not None:
            checks.check_can_pool(self.config, by_mask, inputs.size(0))
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
        )
        hidden_states = outputs.last_hidden_state  # [B, T, E]
        B, T = hidden_states.shape[:2]
        rows = torch.arange(B, device=hidden_states.device)
        last = self._last_token(input_ids, attention_mask if by_mask else None, T)
        logits = self.score(hidden_states[rows, last])  # [B, num_labels]

        loss = None
        if labels is not None:
            problem = checks.check_problem(
                self.config.problem_type, self.num_labels, labels, B, host_values
            )
            loss = self._loss(problem, logits, labels)
        output = SequenceClassifierOutputWithPast.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)

    def _last_token(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, T: int
    ) -> Tensor | int:
        """Return the position [B] of each row's last token; 0 for a row without any."""
        if attention_mask is not None:
            is_token = attention_mask[:, -T:] != 0
        elif input_ids is not None and self.config.pad_token_id is not None:
            is_token = input_ids != self.config.pad_token_id
        else:
            return -1
        return (is_token * torch.arange(T, device=is_token.device)).argmax(dim=-1)

    def _loss(self, problem: str, logits: Tensor, labels: Tensor) -> Tensor:
        if problem == "single_label_classification":
            return cross_entropy(logits, labels)
        logits = logits.float()
        labels = labels.reshape(logits.shape).to(logits.dtype)
        if problem == "regression":
            return F.mse_loss(logits, labels)
        return F.binary_cross_entropy_with_logits(logits, labels)


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """The body with a classifier on every token (named entities, for example)."""

    head: ClassVar[Head] = Head.TOKEN_CLASSIFICATION

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.dropout = Dropout(heads.classifier_dropout(config))
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    @documented(heads.TOKEN_CLASSIFICATION)
    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Past | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Classify every token."""
        checks.reject_unknown(self.forward, unknown)
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
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))  # [B, T, num_labels]

        loss = None
        if labels is not None:
            checks.check_targets("labels", labels, logits.shape, host_values)
            loss = cross_entropy(logits, labels)
        output = TokenClassifierOutput.of(outputs, loss=loss, logits=logits)
        return self._as_asked(output, return_dict)


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """The body with a head that finds the answer to a question as a span of the text (SQuAD)."""

    head: ClassVar[Head] = Head.QUESTION_ANSWERING

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.qa_outputs = nn.Linear(config.n_embd, 2)
        self.post_init()

    @documented(heads.QUESTION_ANSWERING)
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """Score every token as the start and as the end of the answer."""
        checks.reject_unknown(self.forward, unknown)
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
        )
        logits = self.qa_outputs(outputs.last_hidden_state)
        start_logits, end_logits = logits.unbind(dim=-1)  # 2 x [B, T]

        loss = None
        if checks.check_span(start_positions, end_positions, start_logits.size(0)):
            start_loss = _position_loss(start_logits, start_positions)
            end_loss = _position_loss(end_logits, end_positions)
            loss = (start_loss + end_loss) / 2
        output = QuestionAnsweringModelOutput.of(
            outputs,
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
        )
        return self._as_asked(output, return_dict)


def _position_loss(scores: Tensor, positions: Any) -> Tensor:
    """Return the cross-entropy of positions [B] (or [B, 1]) under scores [B, T]."""
    T = scores.size(1)
    return cross_entropy(scores, positions.clamp(0, T), ignore_index=T)
