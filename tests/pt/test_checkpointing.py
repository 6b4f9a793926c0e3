"""Training: gradient checkpointing, tied gradients, and that a loss goes down."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from support.pt_models import random_ids, tiny_config, tiny_model


def gradients(model: Any, **inputs: Any) -> dict[str, torch.Tensor]:
    """Return the gradients of one training step, dropout drawn from the same seed."""
    torch.manual_seed(5)
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_checkpointing_gives_equal_gradients(use_reentrant: bool | None, cross: bool):
    model = tiny_model(add_cross_attention=cross).train()
    ids = random_ids(2, 6)
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones(2, 6)}
    inputs["attention_mask"][0, :2] = 0
    if cross:
        inputs["encoder_hidden_states"] = torch.randn(2, 4, 24)
    expected = gradients(model, **inputs)
    kwargs = None if use_reentrant is None else {"use_reentrant": use_reentrant}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    assert model.is_gradient_checkpointing
    for name, gradient in gradients(model, **inputs).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_old_configs_switch_checkpointing_on():
    assert tiny_model(gradient_checkpointing=True).is_gradient_checkpointing
    assert not tiny_model(gradient_checkpointing=False).is_gradient_checkpointing


def test_checkpointing_recomputes_blocks():
    model = tiny_model().train()
    calls = []
    model.transformer.h[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = random_ids(2, 6)
    model.gradient_checkpointing_enable()
    output = model(ids, labels=ids, use_cache=True, output_attentions=True)
    assert output.past_key_values is None
    assert len(output.attentions) == 2
    output.loss.backward()
    assert len(calls) == 2
    past = tiny_model()(ids).past_key_values
    with pytest.raises(InvalidInputError, match="while gradient checkpointing trains"):
        model(ids, past_key_values=past)
    assert model.eval()(ids).past_key_values.length == 6


def test_the_tied_weight_gets_both_gradients():
    model = tiny_model()
    untied = tiny_model(tie_word_embeddings=False)
    untied.load_state_dict(model.state_dict())
    ids = random_ids(2, 6)
    for each in (model, untied):
        each(ids, labels=ids).loss.backward()
    total = untied.transformer.wte.weight.grad + untied.lm_head.weight.grad
    torch.testing.assert_close(model.lm_head.weight.grad, total)


@pytest.mark.parametrize("kind", [pt.GPT2LMHeadModel, pt.GPT2ForSequenceClassification])
def test_the_loss_goes_down(kind: Any):
    model = kind(tiny_config(pad_token_id=0, initializer_range=0.02)).train()
    ids = random_ids(4, 8) + 1
    labels = ids if kind is pt.GPT2LMHeadModel else torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
