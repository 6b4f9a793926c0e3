"""How often `torch.compile` compiles `generate`, counted by Dynamo: once for a bucket."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from gpt2x.generation import CompileConfig
from support.compilations import STRATEGIES, calls
from support.pt_models import random_ids, tiny_model

# Dynamo traces as for any compiler; what it found then runs as it is.
TRACED = CompileConfig(fullgraph=True, backend="eager")


@pytest.fixture(autouse=True)
def _no_step_is_compiled_twice():
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def both(model, ids, **options):
    """Return the texts of a compiled and of a plain call."""
    compiled = model.generate(ids, compile=True, compile_config=TRACED, **options)
    return compiled.tolist(), model.generate(ids, **options).tolist()


#: The computations that each strategy adds to those before it: one for each number of rows and of
#: tokens a row, and for what it reads beside the logits.
ADDED = {
    "greedy": 1,
    "sampling": 0,
    "beams": 1,
    "beam sampling": 0,
    "group beams": 0,
    "constrained beams": 0,
    "guidance": 1,  # a negative prompt of three tokens makes the second context longer than 16
    "prompt lookup": 1,
    "contrastive": 1,
    "DoLa": 1,
}


def test_one_compilation_serves_strategies_other_values_and_lengths():
    model = tiny_model(n_layer=1)
    assert ADDED.keys() == STRATEGIES.keys()
    for strategy, added in ADDED.items():
        before = graphs()
        for ids, options in calls(strategy):
            options = {n: torch.tensor(v) if hasattr(v, "dtype") else v for n, v in options.items()}
            compiled, plain = both(
                model, torch.tensor(ids, dtype=torch.int64), **{"seed": 1, **options}
            )
            assert compiled == plain
        assert graphs() == before + added, strategy


def test_paddings_and_prompts_of_all_lengths_share_it():
    model, before = tiny_model(n_layer=1, eos_token_id=None), graphs()
    settings = (
        {},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.7},
        {"do_sample": True, "top_k": 0, "min_p": 0.05},
    )
    for call in range(32):
        width, options = 1 + call % 12, settings[call % 4]
        ids, mask = random_ids(2, width), torch.ones(2, width, dtype=torch.int64)
        mask[0, : call % width] = 0
        new = 2 + (call + width) % (15 - width)
        options = {**options, "attention_mask": mask, "seed": call, "max_new_tokens": new}
        compiled, plain = both(model, ids, **options)
        assert compiled == plain
    assert graphs() == before + 1
    for ids in (random_ids(2, 15), random_ids(2, 4)):  # a larger bucket, and the first again
        compiled, plain = both(model, ids, max_new_tokens=4)
        assert compiled == plain
    assert graphs() == before + 2


def test_an_early_exit_is_compiled_once_for_each_of_its_two_parts():
    model, before = tiny_model(), graphs()
    for width in (3, 5, 6):
        options = {"assistant_early_exit": 1, "num_assistant_tokens": 3, "max_new_tokens": 8}
        compiled, plain = both(model, random_ids(2, width), **options)
        assert compiled == plain
    assert graphs() == before + 2
