"""Contrastive search on a model without weights, and a plain search to compare it with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.generation import GenerateDecoderOnlyOutput, GenerationConfig
from gpt2x.generation.ops import Ops
from gpt2x.generation.plan import make_plan
from gpt2x.generation.strategies import ContrastiveSearch, Greedy, Outputs, Request, Sample
from support.decoding import decode

VOCAB_SIZE = 12
PROMPT = np.array([[3, 1, 4], [1, 5, 9]], np.int32)
MASK = np.array([[0, 1, 1], [1, 1, 1]], np.int32)
SEARCH = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 9}


class MeaningEngine:
    """The last token decides what is likely next, and a token's hidden state is its meaning."""

    def __init__(
        self, ops: Ops, prompt: np.ndarray = PROMPT, mask: np.ndarray | None = None
    ) -> None:
        generator = np.random.default_rng(2)
        self.ops = ops
        self.prompt = prompt
        self.is_text = np.ones(prompt.shape) if mask is None else mask
        self.table = generator.normal(0, 1, (VOCAB_SIZE, VOCAB_SIZE)).astype(np.float32)
        self.meanings = generator.normal(0, 2, (VOCAB_SIZE, 5)).astype(np.float32)

    def _outputs(self, tokens: Any) -> Outputs:
        logits = self.ops.take(self.ops.constant(self.table, "float"), tokens)
        meanings = self.ops.take(self.ops.constant(self.meanings, "float"), tokens)
        return Outputs(logits, hidden_states=meanings)

    def prefill(self) -> tuple[Outputs, Any]:
        prompt = self.ops.constant(self.prompt, "int")
        outputs = self._outputs(prompt)
        is_text = self.ops.constant(self.is_text, "bool")
        return outputs._replace(logits=outputs.logits[:, -1], is_text=is_text), prompt

    def decode(self, request: Request, cache: Any) -> tuple[Outputs, Any]:
        return self._outputs(request.tokens), cache

    def reorder(self, cache: Any, parents: Any) -> Any:
        return self.ops.take(cache, parents)

    expand = reorder


def search(prompt: np.ndarray = PROMPT, mask: np.ndarray | None = None, **options: Any) -> Any:
    return decode(
        lambda ops: MeaningEngine(ops, prompt, mask),
        prompt,
        vocab_size=VOCAB_SIZE,
        mask=mask,
        **SEARCH | options,
    )


def plainly(text: list[int], alpha: float, k: int, steps: int) -> list[int]:
    """Search as the paper says, for one text without padding."""
    engine, text = MeaningEngine(None), list(text)
    directions = engine.meanings / np.linalg.norm(engine.meanings, axis=1, keepdims=True)
    for _ in range(steps):
        probabilities = np.exp(engine.table[text[-1]].astype(np.float64))
        probabilities /= probabilities.sum()
        candidates = np.argsort(-probabilities)[:k]
        similar = (directions[candidates] @ directions[text].T).max(axis=1)
        scores = (1 - alpha) * probabilities[candidates] - alpha * similar
        text.append(int(candidates[scores.argmax()]))
    return text


@pytest.mark.parametrize(("alpha", "k"), [(0.6, 4), (0.1, 2), (1.0, 12)])
def test_the_search_is_the_one_of_the_paper(alpha, k):
    found = search(penalty_alpha=alpha, top_k=k)
    np.testing.assert_array_equal(found, [plainly(row, alpha, k, 9) for row in PROMPT.tolist()])


def test_padding_is_no_part_of_the_text_that_a_candidate_repeats():
    found = search(mask=MASK, penalty_alpha=0.9)
    assert found[0].tolist() == [3, *plainly([1, 4], 0.9, 4, 9)]
    assert found[0].tolist() != plainly([3, 1, 4], 0.9, 4, 9)  # it would matter here
    assert found[1].tolist() == plainly([1, 5, 9], 0.9, 4, 9)


def test_fused_and_stepwise_search_write_the_same_and_stream_every_token():
    seen = []
    stepped = search(on_tokens=seen.append, mask=MASK)
    np.testing.assert_array_equal(stepped, search(mask=MASK))
    assert len(seen) == 10  # the prompt, and nine choices


def test_a_text_ends_with_eos_and_is_filled():
    free = search()[0].tolist()
    end = free[6]
    found = search(eos_token_id=end, pad_token_id=11)
    stop = found[0].tolist().index(end, 3)
    assert found[0, : stop + 1].tolist() == free[: stop + 1]
    assert set(found[0, stop + 1 :].tolist()) <= {11}


def test_a_forbidden_token_is_never_taken_however_new_it_is():
    def allow(row, tokens):
        return [7]

    found = search(
        penalty_alpha=1.0, plan_options={"prefix_allowed_tokens_fn": allow}, stepwise=True
    )
    assert (found[:, 3:] == 7).all()


def test_scores_are_those_that_the_candidates_came_from():
    output = search(
        suppress_tokens=[2],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert len(output.scores) == len(output.logits) == 9
    table = MeaningEngine(None).table
    for step in range(9):
        np.testing.assert_array_equal(output.logits[step], table[output.sequences[:, 2 + step]])
    assert (output.scores[3][:, 2] == -np.inf).all()


def test_functions_of_users_see_every_text_once_and_none_beyond_the_end():
    lengths = {"processor": [], "criterion": []}

    def processor(ids, scores):
        lengths["processor"].append(ids.shape[1])
        return scores

    def criterion(ids, scores):
        lengths["criterion"].append(ids.shape[1])
        return ids.shape[1] >= 7

    options = {"user_processors": processor, "stopping_criteria": criterion}
    assert search(plan_options=options, stepwise=True).shape == (2, 7)
    assert lengths == {"processor": [3, 4, 5, 6], "criterion": [4, 5, 6, 7]}


def plan_for(**fields):
    return make_plan(
        GenerationConfig(**fields),
        batch_size=1,
        prompt_length=4,
        n_positions=40,
        vocab_size=30,
        buckets=True,
    )


def test_the_mode_follows_the_config():
    assert type(plan_for(penalty_alpha=0.6, top_k=4).strategy) is ContrastiveSearch
    assert type(plan_for(penalty_alpha=0.6, top_k=1).strategy) is Greedy
    assert type(plan_for(penalty_alpha=0.0, top_k=4).strategy) is Greedy
    assert type(plan_for(penalty_alpha=0.6, top_k=4, do_sample=True).strategy) is Sample


def test_alpha_is_a_value_and_top_k_is_static():
    first, second = (plan_for(penalty_alpha=alpha, top_k=4) for alpha in (0.6, 1))
    assert first.strategy == second.strategy
    assert second.own.penalty_alpha == 1.0
    assert first.strategy != plan_for(penalty_alpha=0.6, top_k=5).strategy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_cache": False}, "cannot be combined with use_cache=False"),
        ({"top_k": 31}, "top_k=31 likeliest tokens, but the vocabulary has 30"),
        ({"dola_layers": "low"}, "the other options ask for contrastive search"),
        ({"max_length": 41}, "can write at most 40"),  # its last token is run, too
        ({"penalty_alpha": -1}, "penalty_alpha must be a number at least 0"),
    ],
)
def test_what_rules_the_search_out_is_refused(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        plan_for(**{"penalty_alpha": 0.6, "top_k": 4, **fields})


def test_top_k_of_the_search_has_an_effect():
    GenerationConfig(penalty_alpha=0.6, top_k=4).validate(strict=True)
