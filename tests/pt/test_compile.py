"""torch.compile without graph breaks, and other transformations of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from gpt2x import pt
from support.pt_models import random_ids, tiny_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def compiled(model: Any) -> tuple[Any, CompileCounter]:
    """Return the model traced whole (a graph break raises), and a counter of its graphs."""
    counter = CompileCounter()
    return torch.compile(model, fullgraph=True, backend=counter), counter


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_forward(implementation: str):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    whole, counter = compiled(model)
    ids = random_ids(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    inputs = {"attention_mask": mask, "labels": ids, "output_hidden_states": True}
    output, expected = whole(ids, **inputs), model(ids, **inputs)
    assert isinstance(output.past_key_values, pt.KVCache)
    torch.testing.assert_close(output.loss, expected.loss, **CLOSE)
    torch.testing.assert_close(output.hidden_states, expected.hidden_states, **CLOSE)
    assert counter.frame_count == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_decoding_with_a_cache_compiles_once():
    """One graph for the prompt, one for the first step, one for every later step."""
    model = tiny_model()
    whole, counter = compiled(model)
    ids = random_ids(2, 12)
    expected = model(ids).logits
    with torch.no_grad():
        cache = pt.KVCache.create(model.config, 2, 12)
        mask = torch.ones(2, 5, dtype=torch.long)
        logits = [whole(ids[:, :5], past_key_values=cache, attention_mask=mask).logits]
        for end in range(6, 13):
            mask = torch.ones(2, end, dtype=torch.long)
            output = whole(
                ids[:, end - 1 : end],
                attention_mask=mask,
                past_key_values=cache,
                logits_to_keep=1,
            )
            assert output.past_key_values is cache
            assert cache.length == end
            logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, **CLOSE)
    assert counter.frame_count <= 3
    assert not torch._dynamo.utils.counters["graph_break"]


def test_gradients_of_the_compiled_graph():
    """Through AOTAutograd, which is what every compiler backend is given."""
    model = tiny_model(n_layer=1)
    ids = random_ids(2, 6)
    model(ids, labels=ids).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    whole(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_export():
    model = tiny_model()
    ids = random_ids(2, 6)
    length = torch.export.Dim("length", min=2, max=32)
    program = torch.export.export(
        model,
        (ids,),
        {"use_cache": False},
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None},
    )
    longer = random_ids(2, 9)
    output = program.module()(longer, use_cache=False)
    torch.testing.assert_close(output.logits, model(longer).logits, **CLOSE)


def test_functional_call_and_vmap():
    """Per-example gradients, as torch.func computes them."""
    model = tiny_model()
    model.set_attn_implementation("eager")  # torch has no batched kernel for the fused one
    weights = {name: p.detach() for name, p in model.named_parameters()}
    ids = random_ids(3, 5)

    def loss(weights: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        inputs = {"labels": row[None], "use_cache": False}
        return torch.func.functional_call(model, weights, (row[None],), inputs).loss

    per_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, ids)
    for row in range(3):
        alone = torch.func.grad(loss)(weights, ids[row])
        name = "transformer.h.0.attn.c_attn.weight"
        torch.testing.assert_close(per_row[name][row], alone[name], rtol=1e-4, atol=1e-5)
