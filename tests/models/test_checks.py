"""The input checks, on numpy arrays; each backend's tests show that it calls them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import cache, checks

CONFIG = GPT2Config(vocab_size=10, n_positions=8, n_embd=6, n_head=3, n_layer=2)


def check(config: GPT2Config = CONFIG, values: checks.Values = np.asarray, **inputs: Any) -> None:
    defaults = {"input_ids": np.zeros((2, 4), int), "inputs_embeds": None, "past_length": 0}
    checks.check_model_inputs(config, values, **{**defaults, **inputs})


def unknown(*shape: int | None, dtype: str = "int32") -> Any:
    """Return what a traced array shows of itself."""
    return SimpleNamespace(shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"input_ids": np.full((1, 8), 9)},
        {"input_ids": None, "inputs_embeds": np.zeros((2, 4, 6))},
        {"attention_mask": np.ones((2, 4))},
        {"attention_mask": np.ones((2, 7)), "past_length": 3},
        {"attention_mask": np.ones((2, 1, 4, 4))},
        {"attention_mask": np.ones((1, 3, 1, 7)), "past_length": 3},
        {"position_ids": np.zeros((1, 4), int)},
        {"position_ids": np.full((2, 4), 7)},
        {"token_type_ids": np.full((2, 4), 9)},
        {"cache_position": np.arange(3, 7), "past_length": 3},
        {"head_mask": np.ones(3)},
        {"head_mask": np.ones((2, 3))},
        {"head_mask": np.ones((2, 2, 3, 4, 4))},
        {"input_ids": np.zeros((2, 3, 4), int), "attention_mask": np.ones((2, 3, 4))},
    ],
)
def test_good_inputs_pass(inputs: dict[str, Any]):
    check(**inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": None}, "either input_ids or inputs_embeds; neither"),
        ({"inputs_embeds": np.zeros((2, 4, 6))}, "either input_ids or inputs_embeds; both"),
        ({"input_ids": np.zeros(4, int)}, r"input_ids has shape \[4\]; it must be \[batch, length"),
        ({"input_ids": np.zeros((2, 4))}, "input_ids must be integers; its dtype is float64"),
        ({"input_ids": np.full((2, 4), 10)}, "input_ids holds 10; vocab_size is 10.*0 to 9"),
        ({"input_ids": np.full((2, 4), -1)}, "input_ids holds -1"),
        ({"input_ids": np.zeros((2, 0), int)}, "holds no tokens"),
        ({"input_ids": np.zeros((2, 9), int)}, "too long: 9 new tokens, but n_positions is 8"),
        ({"past_length": 5}, "too long: 5 cached and 4 new tokens"),
        (
            {"input_ids": None, "inputs_embeds": np.zeros((2, 4, 5))},
            r"inputs_embeds has shape \[2, 4, 5\]; it must be \[any, any, 6\]",
        ),
        ({"attention_mask": np.ones((2, 3))}, r"attention_mask has shape \[2, 3\].*\[2, 4\]"),
        ({"attention_mask": np.ones((2, 4)), "past_length": 2}, r"it must be \[2, 6\]"),
        ({"attention_mask": np.ones((2, 4, 4))}, r"it must be \[2, 4\]"),
        ({"attention_mask": np.ones((2, 2, 4, 4))}, r"broadcast to \[2, 3, 4, 4\]"),
        ({"position_ids": np.zeros((3, 4), int)}, "position_ids has shape"),
        ({"position_ids": np.full((2, 4), 8)}, "position_ids holds 8; n_positions is 8"),
        ({"token_type_ids": np.zeros((2, 3), int)}, "token_type_ids has shape"),
        ({"cache_position": np.arange(4), "past_length": 3}, "must count from 3 to 6"),
        ({"head_mask": np.ones(2)}, r"head_mask has shape \[2\]; it must be \[3\] or \[2, 3\]"),
        ({"encoder_hidden_states": np.zeros((2, 5, 6))}, "add_cross_attention=True"),
    ],
)
def test_bad_inputs_are_refused(inputs: dict[str, Any], message: str):
    with pytest.raises(InvalidInputError, match=message):
        check(**inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"encoder_hidden_states": np.zeros((2, 5, 7))}, "encoder_hidden_states has shape"),
        ({"encoder_hidden_states": np.zeros((3, 5, 6))}, "encoder_hidden_states has shape"),
        (
            {
                "encoder_hidden_states": np.zeros((2, 5, 6)),
                "encoder_attention_mask": np.zeros((2, 4)),
            },
            r"encoder_attention_mask has shape \[2, 4\]; it must be \[2, 5\] or \[2, 4, 5\]",
        ),
    ],
)
def test_bad_encoder_inputs_are_refused(inputs: dict[str, Any], message: str):
    config = GPT2Config.from_dict(CONFIG.to_dict(), add_cross_attention=True)
    with pytest.raises(InvalidInputError, match=message):
        check(config, **inputs)


def test_traced_inputs_are_checked_by_shape():
    """A dimension that is not known yet fits; one that is known must agree; no value is read."""

    def values(array: Any) -> None:
        return None

    check(values=values, input_ids=unknown(None, None), attention_mask=unknown(None, None))
    check(values=values, input_ids=unknown(2, 4), attention_mask=unknown(2, None))
    with pytest.raises(InvalidInputError, match="attention_mask has shape"):
        check(values=values, input_ids=unknown(None, 4), attention_mask=unknown(None, 5))
    with pytest.raises(InvalidInputError, match="must be integers"):
        check(values=values, input_ids=unknown(None, 4, dtype="float32"))


def test_unknown_keywords_name_the_nearest():
    def forward(input_ids: Any, attention_mask: Any = None, **unknown: Any) -> None:
        checks.reject_unknown(forward, unknown)

    forward(1, attention_mask=2)
    with pytest.raises(InvalidInputError, match=r"'attention_maks'. Did you mean 'attention_mask'"):
        forward(1, attention_maks=2)


def test_labels():
    shape = [(2, 3)]
    checks.check_labels("labels", np.array([[0, 9, -100]] * 2), shape, 10, np.asarray)
    checks.check_labels("labels", np.array([[0, 9, -1]] * 2), shape, 10, np.asarray, -1)
    for labels, message in (
        (np.zeros((2, 2), int), r"labels has shape \[2, 2\]; it must be \[2, 3\]"),
        (np.zeros((2, 3)), "labels must be integers"),
        (np.full((2, 3), 10), "labels holds 10; allowed are 0 to 9, and -100"),
        (np.full((2, 3), -1), "labels holds -1"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            checks.check_labels("labels", labels, shape, 10, np.asarray)


def test_targets_have_the_shape_of_the_logits():
    checks.check_targets("labels", np.array([[0, 9, -100]] * 2), (2, 3, 10), np.asarray)
    checks.check_targets("mc_labels", np.array([1, 0]), (2, 3), np.asarray)
    column = np.array([[1], [0]])
    checks.check_targets("mc_labels", column, (2, 3), np.asarray, or_column=True)
    with pytest.raises(InvalidInputError, match=r"has shape \[2, 1\]; it must be \[2\]\."):
        checks.check_targets("mc_labels", column, (2, 3), np.asarray)
    with pytest.raises(InvalidInputError, match="mc_labels holds 3; allowed are 0 to 2"):
        checks.check_targets("mc_labels", np.array([1, 3]), (2, 3), np.asarray)


def test_logits_to_keep():
    checks.check_logits_to_keep(None, None, 3)
    checks.check_logits_to_keep(np.zeros(3), None, 0)
    checks.check_logits_to_keep(np.zeros(3), np.zeros(3), 3)
    with pytest.raises(InvalidInputError, match="every position"):
        checks.check_logits_to_keep(np.zeros(3), None, 3)
    with pytest.raises(InvalidInputError, match="logits_to_keep is -1"):
        checks.check_logits_to_keep(None, None, -1)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem"),
    [
        (1, np.zeros(4), "regression"),
        (1, np.zeros((4, 1), int), "regression"),
        (3, np.zeros(4, int), "single_label_classification"),
        (3, np.zeros((4, 3)), "multi_label_classification"),
    ],
)
def test_problem_types(num_labels: int, labels: np.ndarray, problem: str):
    assert checks.check_problem(None, num_labels, labels, 4, np.asarray) == problem
    with pytest.raises(InvalidInputError, match="labels has shape"):
        checks.check_problem(None, num_labels, labels[:3], 4, np.asarray)


def test_pasts():
    pair, traced = (np.zeros((2, 3, 4, 2)),) * 2, unknown(None, 3, None, 2)

    def check_past(past: Any, **options: Any) -> None:
        cache.check_past(past, lambda value: hasattr(value, "shape"), **options)

    for past in ((), [pair, pair], ((*pair, *pair),) * 2, (pair, (traced, traced))):
        check_past(past)
    check_past((np.zeros((2, 2, 3, 4, 2)), pair), stacked=True)
    for past, got in (
        (3, "got int"),
        ((pair, (None, None)), r"got tuple with \(NoneType, NoneType\) in layer 1"),
        ([pair, pair[:1]], r"got list with \(ndarray\) in layer 1"),
        ((np.zeros((2, 2, 3, 4, 2)),), "got tuple with ndarray in layer 0"),
    ):
        with pytest.raises(InvalidInputError, match=f"past_key_values must be .*{got}"):
            check_past(past)
    shorter = (pair[0][:, :, 1:],) * 2
    for past in ((pair, shorter), (pair, (pair[0], shorter[0]))):
        with pytest.raises(InvalidInputError, match=r"\[2, 3, 3, 2\] in layer 1, but \[2, 3, 4, 2"):
            check_past(past)


def test_spans_positions_and_pooling():
    assert checks.check_span(np.zeros(2, int), np.zeros((2, 1), int), 2)
    assert not checks.check_span(None, None, 2)
    with pytest.raises(InvalidInputError, match="or neither"):
        checks.check_span(np.zeros(2, int), None, 2)
    checks.check_positions("mc_token_ids", np.array([3]), [(1,)], 4, np.asarray)
    with pytest.raises(InvalidInputError, match=r"mc_token_ids holds 4.*positions 0 to 3"):
        checks.check_positions("mc_token_ids", np.array([4]), [(1,)], 4, np.asarray)
    checks.check_can_pool(CONFIG, False, 1)
    checks.check_can_pool(CONFIG, True, 2)
    checks.check_can_pool(GPT2Config(pad_token_id=0), False, 2)
    with pytest.raises(InvalidInputError, match=r"pass attention_mask, or set config\.pad_token"):
        checks.check_can_pool(CONFIG, False, 2)


def test_lists_are_no_arrays():
    with pytest.raises(InvalidInputError, match="mask must be an array; got list"):
        checks.check_shape("mask", [1, 1], [(2,)])
    with pytest.raises(InvalidInputError, match="labels must be an array; got list"):
        checks.check_problem(None, 3, [0, 1], 2, np.asarray)
