"""The task heads: losses, outputs, and what they refuse. Their numbers are in test_golden.py."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils import _pytree as pytree

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from support.contract.heads import HeadsContract
from support.ignored_labels import IGNORED, ids_for
from support.pt_models import BACKEND, random_ids, tensors, tiny_config, tiny_model

CLASSES = [
    pt.GPT2Model,
    pt.GPT2LMHeadModel,
    pt.GPT2DoubleHeadsModel,
    pt.GPT2ForSequenceClassification,
    pt.GPT2ForTokenClassification,
    pt.GPT2ForQuestionAnswering,
]
BODY = "input_ids past_key_values cache_position attention_mask token_type_ids position_ids"
BODY += " head_mask inputs_embeds"
ENDING = "use_cache output_attentions output_hidden_states return_dict"
PLAIN = BODY.replace(" cache_position", "")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (pt.GPT2Model, f"{BODY} encoder_hidden_states encoder_attention_mask {ENDING}"),
        (
            pt.GPT2LMHeadModel,
            f"{BODY} encoder_hidden_states encoder_attention_mask labels {ENDING} logits_to_keep",
        ),
        (pt.GPT2DoubleHeadsModel, f"{BODY} mc_token_ids labels mc_labels {ENDING}"),
        (pt.GPT2ForSequenceClassification, f"{PLAIN} labels {ENDING}"),
        (pt.GPT2ForTokenClassification, f"{PLAIN} labels {ENDING}"),
        (
            pt.GPT2ForQuestionAnswering,
            PLAIN.replace(" past_key_values", "")
            + " start_positions end_positions"
            + ENDING.replace("use_cache", ""),
        ),
    ],
)
def test_positional_order_is_that_of_transformers(kind: Any, names: str):
    parameters = inspect.signature(kind.forward).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["self", *names.split()]


@pytest.mark.parametrize("kind", CLASSES)
def test_unknown_keywords_name_the_nearest(kind: Any):
    model = tiny_model(kind, pad_token_id=0)
    with pytest.raises(InvalidInputError, match=r"'attention_maks'.*'attention_mask'"):
        model(random_ids(1, 3), attention_maks=torch.ones(1, 3))


@pytest.mark.parametrize("value", [[[1, 2]], np.ones((1, 2), int)])
def test_inputs_that_are_no_tensors_are_refused(value: Any):
    model = tiny_model(pt.GPT2LMHeadModel)
    with pytest.raises(InvalidInputError, match=r"input_ids must be a torch\.Tensor; got"):
        model(value)
    with pytest.raises(InvalidInputError, match=r"attention_mask must be a torch\.Tensor; got"):
        model(random_ids(1, 2), attention_mask=value)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (pt.GPT2LMHeadModel, {"labels": torch.ones(2, 5)}),
        (pt.GPT2ForSequenceClassification, {"labels": torch.ones(2)}),
        (pt.GPT2ForTokenClassification, {"labels": torch.ones(2, 5)}),
        (
            pt.GPT2ForQuestionAnswering,
            {"start_positions": torch.ones(2), "end_positions": torch.ones(2)},
        ),
    ],
)
def test_labels_may_be_of_any_integer_type(kind: Any, labels: dict[str, torch.Tensor]):
    model = tiny_model(kind, pad_token_id=0)
    ids = random_ids(2, 5)
    wide, narrow = (
        model(ids, **{name: value.to(dtype) for name, value in labels.items()}).loss
        for dtype in (torch.int64, torch.int32)
    )
    assert torch.equal(wide, narrow)


@pytest.mark.parametrize("kind", CLASSES)
def test_trainers_find_what_they_look_for(kind: Any):
    """Transformers' Trainer asks for these, and waits for each argument named after labels."""
    names = [p.name for p in inspect.signature(kind.forward).parameters.values()]
    assert kind.accepts_loss_kwargs == ("loss_options" in names)
    labels = {name for name in names if "label" in name}
    assert labels <= ({"labels", "mc_labels"} if kind is pt.GPT2DoubleHeadsModel else {"labels"})
    assert kind._keys_to_ignore_on_save == (["lm_head.weight"] if kind.can_generate() else None)
    assert tiny_config().keys_to_ignore_at_inference == ["past_key_values"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_may_be_of_any_integer_type(dtype: torch.dtype):
    model, ids = tiny_model(pt.GPT2LMHeadModel), random_ids(2, 5)
    positions = torch.arange(5)[None]
    expected = model(ids, token_type_ids=ids, position_ids=positions).logits
    narrow = ids.to(dtype)
    logits = model(narrow, token_type_ids=narrow, position_ids=positions.to(dtype)).logits
    assert torch.equal(logits, expected)
    texts = model.generate(narrow, max_new_tokens=2)
    assert torch.equal(texts, model.generate(ids, max_new_tokens=2))


@pytest.mark.parametrize("kind", CLASSES)
def test_both_or_neither_input_is_refused(kind: Any):
    model = tiny_model(kind, pad_token_id=0)
    with pytest.raises(InvalidInputError, match="neither"):
        model()
    with pytest.raises(InvalidInputError, match="both"):
        model(random_ids(1, 3), inputs_embeds=torch.zeros(1, 3, 24))


def test_checks_run_before_anything_changes():
    model = tiny_model()
    with torch.no_grad():
        cache = pt.KVCache.create(model.config, 1, 8)
        model(random_ids(1, 3), past_key_values=cache)
        for inputs in (
            {"input_ids": torch.tensor([[61]])},
            {"input_ids": torch.tensor([[-1]])},
            {"input_ids": random_ids(1, 30)},
            {"input_ids": random_ids(1, 2), "attention_mask": torch.ones(1, 2)},
        ):
            with pytest.raises(InvalidInputError):
                model(past_key_values=cache, **inputs)
            assert cache.length == 3


@pytest.mark.parametrize("kind", CLASSES)
def test_return_dict_false_gives_the_tuple(kind: Any):
    model = tiny_model(kind, pad_token_id=0)
    ids = random_ids(2, 5)
    options = {"output_hidden_states": True, "output_attentions": True}
    output = model(ids, **options)
    as_tuple = model(ids, return_dict=False, **options)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(output)
    torch.testing.assert_close(as_tuple[0], output[0])
    torch.testing.assert_close(as_tuple[-2], output.hidden_states)
    torch.testing.assert_close(as_tuple[-1], output.attentions)
    assert isinstance(tiny_model(kind, pad_token_id=0, torchscript=True)(ids), tuple)


def test_outputs_read_in_every_way():
    ids = random_ids(2, 5)
    output = tiny_model()(ids, labels=ids)
    assert list(output) == list(output.keys()) == ["loss", "logits", "past_key_values"]
    assert output.loss is output["loss"] is output[0] is output.to_tuple()[0]
    assert output[1:][0] is output.logits
    loss, logits = output[:2]
    assert loss is output.loss
    assert logits is output.logits
    assert dict(**output)["logits"] is output.logits
    assert output.hidden_states is None
    assert "hidden_states" not in output
    with pytest.raises(KeyError):
        output["hidden_states"]
    with pytest.raises(AttributeError):
        _ = output.hidden_state
    doubled = pytree.tree_map(lambda tensor: tensor * 2, output)
    assert isinstance(doubled, pt.CausalLMOutputWithCrossAttentions)
    torch.testing.assert_close(doubled.loss, output.loss * 2)
    output["loss"] = None
    assert output[0] is output.logits


def test_outputs_are_dicts_and_can_be_made_of_them():
    ids = random_ids(2, 5)
    output = tiny_model(pt.GPT2ForTokenClassification)(ids, labels=ids % 2)
    assert isinstance(output, dict)
    kind, items = type(output), list(output.items())
    for other in (
        kind(dict(output)),  # as accelerate does
        kind((name, value) for name, value in items),  # as torch.nn.DataParallel does
        copy.copy(output),
        pickle.loads(pickle.dumps(output)),
    ):
        assert type(other) is kind
        assert list(other) == list(dict.keys(other)) == ["loss", "logits"]
        torch.testing.assert_close(other.logits, output["logits"])
    output.loss = None
    assert list(dict.items(output)) == list(output.items()) == items[1:]
    for change in (lambda: output.pop("logits"), lambda: output.update(loss=1), output.clear):
        with pytest.raises(TypeError, match="not added or removed"):
            change()


def test_config_decides_what_is_returned():
    output = tiny_model(output_attentions=True, output_hidden_states=True)(random_ids(1, 4))
    assert len(output.attentions) == 2
    assert len(output.hidden_states) == 3


@pytest.mark.parametrize("name", IGNORED)
def test_the_mean_over_no_label_is_nan_and_moves_nothing(name: str):
    model = tiny_model(getattr(pt, f"GPT2{name}"), pad_token_id=60)
    output = model(torch.tensor(ids_for(name)), **tensors(IGNORED[name]))
    losses = [output[field] for field in ("loss", "mc_loss") if field in output]
    assert all(loss.isnan() for loss in losses)
    sum(losses).backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


# --- language model ---


def test_loss_of_a_language_model():
    model = tiny_model()
    ids = random_ids(2, 6)
    labels = ids.clone()
    labels[0, 2:4] = -100
    output = model(ids, labels=labels)
    each = F.cross_entropy(output.logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    kept = labels[:, 1:] != -100
    torch.testing.assert_close(output.loss, each[kept].mean())
    for items in (7, torch.tensor(7)):
        loss = model(ids, labels=labels, num_items_in_batch=items).loss
        torch.testing.assert_close(loss, each[kept].sum() / 7)
        assert model(ids, labels=labels * 0 - 100, num_items_in_batch=items).loss == 0
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
    torch.testing.assert_close(model(ids, shift_labels=shifted).loss, output.loss)
    torch.testing.assert_close(model(ids, labels=ids, shift_labels=shifted).loss, output.loss)
    zeroed = labels.masked_fill(labels == -100, 5)
    loss = model(ids, labels=zeroed, ignore_index=5).loss
    torch.testing.assert_close(loss, each[kept & (zeroed[:, 1:] != 5)].mean())


def test_labels_are_checked():
    model = tiny_model()
    ids = random_ids(2, 6)
    with pytest.raises(InvalidInputError, match="labels holds 61"):
        model(ids, labels=torch.full((2, 6), 61))
    with pytest.raises(InvalidInputError, match=r"labels has shape \[2, 5\]"):
        model(ids, labels=ids[:, 1:])
    with pytest.raises(InvalidInputError, match="every position"):
        model(ids, labels=ids, logits_to_keep=1)


def test_logits_to_keep():
    model = tiny_model()
    ids = random_ids(2, 6)
    logits = model(ids).logits
    for kept, expected in (
        (1, logits[:, -1:]),
        (3, logits[:, -3:]),
        (0, logits),
        (torch.tensor([0, 4]), logits[:, [0, 4]]),
    ):
        torch.testing.assert_close(model(ids, logits_to_keep=kept).logits, expected)
    shifted = ids[:, 1:4]
    loss = model(ids, shift_labels=shifted, logits_to_keep=torch.arange(3)).loss
    torch.testing.assert_close(
        loss, F.cross_entropy(logits[:, :3].flatten(0, 1), shifted.flatten())
    )


# --- double heads ---


def test_choices_keep_their_shape():
    model = tiny_model(pt.GPT2DoubleHeadsModel, summary_first_dropout=0.0)
    ids = random_ids(2, 3, 5)
    output = model(ids, output_hidden_states=True)
    assert output.logits.shape == (2, 3, 5, 61)
    assert output.mc_logits.shape == (2, 3)
    flat = model(ids.view(6, 5))
    torch.testing.assert_close(output.logits.view(6, 5, 61), flat.logits)
    torch.testing.assert_close(output.mc_logits.view(6), flat.mc_logits)
    assert model.config.num_labels == 2  # the caller's config stays as it is
    with pytest.raises(InvalidInputError, match="mc_token_ids holds 5"):
        model(ids, mc_token_ids=torch.full((2, 3), 5))
    with pytest.raises(InvalidInputError, match="mc_labels holds 3"):
        model(ids, mc_labels=torch.tensor([0, 3]))
    with pytest.raises(InvalidInputError, match="'attn' is not implemented"):
        pt.GPT2DoubleHeadsModel(tiny_config(summary_type="attn"))


# --- classification ---


def test_the_mask_says_where_a_text_ends():
    """Over the pad id, and without one; alone a row gives the same."""
    model = tiny_model(pt.GPT2ForSequenceClassification, num_labels=3)
    ids = random_ids(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
    logits = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[0], model(ids[:1, :4]).logits[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1], model(ids[1:, 3:]).logits[0], rtol=1e-5, atol=1e-5)
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=mask).logits, logits)
    model.config.pad_token_id = int(ids[0, 3])  # a real token that has the pad's id is still real
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, logits)


def test_rows_without_mask_or_pad_id_are_refused():
    model = tiny_model(pt.GPT2ForSequenceClassification)
    assert model(random_ids(1, 4)).logits.shape == (1, 2)
    for inputs in ({"input_ids": random_ids(2, 4)}, {"inputs_embeds": torch.zeros(2, 4, 24)}):
        with pytest.raises(InvalidInputError, match=r"attention_mask, or set config\.pad_token_id"):
            model(**inputs)


@pytest.mark.parametrize(
    ("fields", "labels", "loss"),
    [
        ({"num_labels": 1}, torch.tensor([0.5, 2.0]), "mse"),
        ({"num_labels": 1}, torch.tensor([1, 2]), "mse"),
        ({"num_labels": 3}, torch.tensor([0, 2]), "ce"),
        ({"num_labels": 3}, torch.tensor([[0.0, 1, 1], [1, 0, 0]]), "bce"),
        (
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            torch.tensor([[0, 1, 1], [1, 0, 0]]),
            "bce",
        ),
        ({"num_labels": 3, "problem_type": "regression"}, torch.randn(2, 3), "mse"),
    ],
)
def test_losses_of_a_sequence_classifier(fields: Any, labels: torch.Tensor, loss: str):
    model = tiny_model(pt.GPT2ForSequenceClassification, pad_token_id=0, **fields)
    output = model(random_ids(2, 4), labels=labels)
    expected = {
        "mse": lambda: F.mse_loss(output.logits, labels.view(output.logits.shape).float()),
        "ce": lambda: F.cross_entropy(output.logits, labels),
        "bce": lambda: F.binary_cross_entropy_with_logits(output.logits, labels.float()),
    }[loss]()
    torch.testing.assert_close(output.loss, expected)
    assert model.config.problem_type == fields.get("problem_type")  # decided each time


def test_dropout_of_the_token_classifier():
    for fields, rate in (
        ({}, 0.1),
        ({"hidden_dropout": 0.3}, 0.3),
        ({"hidden_dropout": 0.3, "classifier_dropout": 0.0}, 0.0),
    ):
        assert pt.GPT2ForTokenClassification(tiny_config(**fields)).dropout.p == rate


def test_half_a_span_is_refused():
    model = tiny_model(pt.GPT2ForQuestionAnswering)
    with pytest.raises(InvalidInputError, match="both start_positions and end_positions"):
        model(random_ids(2, 4), start_positions=torch.zeros(2, dtype=torch.long))


class TestHeads(HeadsContract):
    backend = BACKEND
