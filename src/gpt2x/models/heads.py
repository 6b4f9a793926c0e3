"""The shared part of the heads of the three backends: their fields of the config, their docs.

B batch, T query length, C choices, E n_embd.
"""

from __future__ import annotations

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError

CAUSAL_LM_LOSS = """
Args:
    logits: [..., T, V].
    labels: [..., T]; the logits of position t - 1 predict the label of position t.
    num_items_in_batch: divide the sum by this number instead of the number of labels, as
        gradient accumulation needs it. Without it, the mean over no label is NaN.
    ignore_index: label that is ignored.
    shift_labels: [..., T] labels that are already shifted, in place of `labels`.
"""

CAUSAL_LM = """
For the inputs of the body see the model without a head.

Args:
    labels: [B, T], token ids or `ignore_index`; the model shifts them, so the usual call is
        `labels=input_ids`.
    logits_to_keep: how many of the last positions get logits (decoding needs one), or an array of
        the positions [n]; 0 for all.
    num_items_in_batch: see `causal_lm_loss`.
    ignore_index: see `causal_lm_loss`.
    shift_labels: labels [B, T] that are already shifted, in place of `labels`.

Raises:
    InvalidInputError: if an input cannot be used or a keyword is unknown.
"""

DOUBLE_HEADS = """
For the inputs of the body see the model without a head.

Args:
    input_ids: [B, C, T].
    mc_token_ids: [B, C], the position of the token in each choice that is scored; by default the
        last.
    labels: [B, C, T], as for the language model.
    mc_labels: [B], the right choice.

Raises:
    InvalidInputError: if an input cannot be used or a keyword is unknown.
"""

SEQUENCE_CLASSIFICATION = """
The last token is the last one with a 1 in `attention_mask` (rank 2). Without a mask it is the last
that is not `config.pad_token_id`; for `inputs_embeds` it is the last position. For the inputs of
the body see the model without a head.

Args:
    labels: [B] class ids; [B] numbers for a regression with one label; [B, num_labels] numbers for
        one with several, or 0/1 numbers for several classes at once. `config.problem_type` says
        which; if it is None, `num_labels` and the labels' type.

Raises:
    InvalidInputError: if an input cannot be used or a keyword is unknown.
"""

TOKEN_CLASSIFICATION = """
For the inputs of the body see the model without a head.

Args:
    labels: [B, T] class ids, or -100 for tokens that the loss ignores.

Raises:
    InvalidInputError: if an input cannot be used or a keyword is unknown.
"""

QUESTION_ANSWERING = """
For the inputs of the body see the model without a head.

Args:
    start_positions: [B], the first token of the answer.
    end_positions: [B], its last token. Positions behind the text leave the row out of the loss;
        negative ones count as the first token.

Raises:
    InvalidInputError: if an input cannot be used or a keyword is unknown.
"""


SUMMARY = """
Args:
    hidden_states: [B, C, T, E].
    cls_index: [B, C], the token that summary type "cls_index" reads; by default the last. The
        other types reduce the second axis, as in transformers: tokens of [B, T, E], but choices of
        [B, C, T, E].

Returns:
    [B, C, 1], or [B, C, E], by the config.
"""


def summary_outputs(config: GPT2Config) -> int | None:
    """Return the outputs of a summary's projection; None where it has no projection.

    Raises:
        InvalidInputError: for a summary that there is not.
    """
    if config.summary_type == "attn":
        raise InvalidInputError(
            "summary_type 'attn' is not implemented, as in transformers; use "
            "'cls_index', 'last', 'first' or 'mean'."
        )
    if not config.summary_use_proj:
        return None
    # One score per choice, whatever num_labels is: the choices are rows, not labels.
    return 1 if config.summary_proj_to_labels else config.n_embd


def last_dropout(config: GPT2Config) -> float:
    """Return the rate of dropout behind a summary, which old configs do not name."""
    return getattr(config, "summary_last_dropout", None) or 0.0


def classifier_dropout(config: GPT2Config) -> float:
    """Return the rate of dropout before a classifier of tokens."""
    rates = (getattr(config, name, None) for name in ("classifier_dropout", "hidden_dropout"))
    return next((rate for rate in rates if rate is not None), 0.1)
