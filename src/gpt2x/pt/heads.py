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
from gpt2x.errors import InvalidInputError
from gpt2x.models import checks
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.pt.activations import ACTIVATIONS
from gpt2x.pt.cpu.linear import Linear
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


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of each token given those before it, in float32.

    Args:
        logits: [..., T, V].
        labels: [..., T]; position t is what the logits of position t - 1 predict.
        num_items_in_batch: divide the sum by this number instead of the number of labels, as
            gradient accumulation needs it. Without it, the mean over no label is NaN.
        ignore_index: label that is left out.
        shift_labels: [..., T] labels that are shifted already, in place of `labels`.
    """
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = F.cross_entropy(
        logits.float().reshape(-1, logits.size(-1)),
        shift_labels.reshape(-1).to(logits.device, torch.int64),
        ignore_index=ignore_index,
        reduction=reduction,
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch


class GPT2LMHeadModel(GenerationMixin, GPT2PreTrainedModel):
    """The body with a language model on top, whose weight is the token embedding's."""

    head: ClassVar[Head] = Head.LM
    accepts_loss_kwargs: ClassVar[bool] = True
    _tied_weights_keys: ClassVar[list[str]] = ["lm_head.weight"]
    _keys_to_ignore_on_save: ClassVar[list[str]] = _tied_weights_keys

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **loss_options: Any,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Predict the next token at every position. For the inputs of the body see `GPT2Model`.

        Args:
            labels: [B, T], token ids or `ignore_index`; shifted here, so `labels=input_ids` is the
                usual call.
            logits_to_keep: how many of the last positions get logits (decoding needs one), or an
                index tensor of positions [n]; 0 for all.
            **loss_options: `num_items_in_batch`, `ignore_index` and `shift_labels` (labels [B, T]
                that are shifted already; the loss uses them): see `causal_lm_loss`.

        Raises:
            InvalidInputError: if an input cannot be used or a keyword is unknown.
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
            shape, classes = tuple(logits.shape[:-1]), logits.size(-1)
            ignored = loss_options.get("ignore_index", IGNORE_INDEX)
            checks.check_labels("labels", targets, [shape], classes, host_values, ignored)
            loss = causal_lm_loss(logits, targets, **loss_options)
        output = CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )
        return self._as_asked(output, return_dict)


class GPT2SequenceSummary(nn.Module):
    """One vector per choice out of its hidden states, projected to a score."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        if config.summary_type == "attn":
            raise InvalidInputError(
                "summary_type 'attn' is not implemented (nor is it in transformers); use "
                "'cls_index', 'last', 'first' or 'mean'."
            )
        self.summary_type = config.summary_type
        self.summary: nn.Module = nn.Identity()
        if config.summary_use_proj:
            # One score a choice, whatever num_labels says: the choices are rows, not labels.
            n_out = 1 if config.summary_proj_to_labels else config.n_embd
            self.summary = nn.Linear(config.n_embd, n_out)
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.last_dropout = nn.Dropout(getattr(config, "summary_last_dropout", None) or 0.0)

    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """Summarise [B, C, T, E] to [B, C, 1] (or [B, C, E], by the config).

        `cls_index` [B, C] is the token that summary type "cls_index" reads, by default the last.
        The other types reduce the second axis, as in transformers: tokens of [B, T, E], but
        choices of [B, C, T, E].
        """
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


class GPT2DoubleHeadsModel(GenerationMixin, GPT2PreTrainedModel):
    """The body with a language model and a choice between C continuations (RocStories, SWAG)."""

    head: ClassVar[Head] = Head.DOUBLE
    _tied_weights_keys: ClassVar[list[str]] = ["lm_head.weight"]
    _keys_to_ignore_on_save: ClassVar[list[str]] = _tied_weights_keys

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.multiple_choice_head = GPT2SequenceSummary(config)
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
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> GPT2DoubleHeadsModelOutput | tuple[Any, ...]:
        """Predict the next tokens of every choice, and score the choices.

        Args:
            input_ids: [B, C, T].
            mc_token_ids: [B, C], the position in each choice that the score is read from; by
                default the last.
            labels: [B, C, T], as for the language model.
            mc_labels: [B], the right choice.

        Raises:
            InvalidInputError: if an input cannot be used or a keyword is unknown.
        """
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
        *choices, T = hidden_states.shape[:-1]
        if mc_token_ids is not None:
            checks.check_positions("mc_token_ids", mc_token_ids, [(*choices,)], T, host_values)
        logits = self.lm_head(hidden_states)  # [B, C, T, V]
        mc_logits = self.multiple_choice_head(hidden_states, mc_token_ids).squeeze(-1)  # [B, C]

        loss = mc_loss = None
        if labels is not None:
            shape, classes = (*choices, T), logits.size(-1)
            checks.check_labels("labels", labels, [shape], classes, host_values)
            loss = causal_lm_loss(logits, labels)
        if mc_labels is not None:
            shapes, classes = [tuple(mc_logits.shape[:-1])], mc_logits.size(-1)
            shapes.append((*shapes[0], 1))
            checks.check_labels("mc_labels", mc_labels, shapes, classes, host_values)
            targets = mc_labels.reshape(-1).long()
            mc_loss = F.cross_entropy(mc_logits.float().reshape(-1, classes), targets)
        output = GPT2DoubleHeadsModelOutput(
            loss=loss,
            mc_loss=mc_loss,
            logits=logits,
            mc_logits=mc_logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
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
        """Classify each text by its last token.

        That is the last one that `attention_mask` (rank 2) attends to. Without a mask it is the
        last that is not `config.pad_token_id`, or, for `inputs_embeds`, the very last.

        Args:
            labels: [B] class ids; [B] numbers for a regression with one label; [B, num_labels]
                numbers for one with several, or 0/1 numbers for several classes at once. Which it
                is, `config.problem_type` says, or else `num_labels` and the labels' type.

        Raises:
            InvalidInputError: if an input cannot be used or a keyword is unknown.
        """
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
        output = SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
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
        logits = logits.float()
        if problem == "single_label_classification":
            return F.cross_entropy(logits, labels.reshape(-1).long())
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
        rates = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
        self.dropout = nn.Dropout(next((rate for rate in rates if rate is not None), 0.1))
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

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
        """Classify every token.

        Args:
            labels: [B, T] class ids, or -100 for tokens that the loss leaves out.

        Raises:
            InvalidInputError: if an input cannot be used or a keyword is unknown.
        """
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
            shapes = [tuple(logits.shape[:-1])]
            checks.check_labels("labels", labels, shapes, self.num_labels, host_values)
            targets = labels.reshape(-1).long()
            loss = F.cross_entropy(logits.float().reshape(-1, self.num_labels), targets)
        output = TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self._as_asked(output, return_dict)


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """The body with a head that finds the span of the text which answers a question (SQuAD)."""

    head: ClassVar[Head] = Head.QUESTION_ANSWERING

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.qa_outputs = nn.Linear(config.n_embd, 2)
        self.post_init()

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
        """Score every token as the start and as the end of the answer.

        Args:
            start_positions: [B], the first token of the answer.
            end_positions: [B], its last token. Positions outside of the text leave the row out of
                the loss if they lie behind it, and count as the first token if before it.

        Raises:
            InvalidInputError: if an input cannot be used or a keyword is unknown.
        """
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
        B = start_logits.size(0)
        if checks.check_span(start_positions, end_positions, B):
            start_loss = _position_loss(start_logits, start_positions)
            end_loss = _position_loss(end_logits, end_positions)
            loss = (start_loss + end_loss) / 2
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self._as_asked(output, return_dict)


def _position_loss(scores: Tensor, positions: Any) -> Tensor:
    """Return the cross-entropy of positions [B] (or [B, 1]) under scores [B, T]."""
    T = scores.size(1)
    targets = positions.reshape(-1).clamp(0, T).long()
    return F.cross_entropy(scores.float(), targets, ignore_index=T)
