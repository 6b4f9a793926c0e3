"""What a backend's slots do for texts that are written together.

A backend's `tests/.../test_slots.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import importlib
import random
from typing import Any

import numpy as np
import pytest

from gpt2x.batching.batch import Batch, Text
from gpt2x.batching.options import TextOptions
from support.contract.backend import Backend, assert_close, random_ids

# As few forms as say much: each is a computation of its own when `generate` runs it alone.
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 5, "top_p": 0.9},
    {"temperature": 1.3, "repetition_penalty": 1.4, "logit_bias": {7: 3.0, 9: -50.0}},
]

COLUMNS = 280


def text(prompt: Any, **options: Any) -> Text:
    """Return a text that goes on until it is as long as it may be."""
    given = {"max_new_tokens": 8, **options}
    return Text(prompt=list(prompt), options=TextOptions(**given), receive=lambda *_: True)


def write(batch: Batch, texts: list[Text], seed: int = 0) -> None:
    """Let texts join a batch at drawn moments, and write them to their ends."""
    waiting, rng = list(texts), random.Random(seed)
    while waiting or batch.size:
        if waiting and batch.has_room and rng.random() < 0.5:
            batch.join(waiting.pop(0))
        batch.step()
    for each in texts:
        assert each.reason == "length"


def drawn_texts(count: int, columns: int) -> list[Text]:
    """Return texts of all lengths and options."""
    rng = random.Random(0)
    found = []
    for _ in range(count):
        prompt = [rng.randrange(60) for _ in range(rng.choice((1, 5, 30, 70, 260, columns)))]
        options = {
            "max_new_tokens": min(rng.randrange(1, 12), columns + 1 - len(prompt)),
            "temperature": rng.choice((0.0, 0.7, 1.3)),
            "top_k": rng.choice((0, 5, 50)),
            "top_p": rng.choice((1.0, 0.9)),
            "min_p": rng.choice((0.0, 0.05)),
            "typical_p": rng.choice((1.0, 0.8)),
            "repetition_penalty": rng.choice((1.0, 1.0, 1.3)),
            "presence_penalty": rng.choice((0.0, 0.0, 0.5)),
            "logit_bias": rng.choice(({}, {3: 2.0})),
            "logprobs": rng.choice((None, None, 3)),
            "scores_prompt": rng.random() < 0.2,
        }
        found.append(text(prompt, **options))
    return found


class SlotsContract:
    """Texts of a batch are those that `generate` writes, each alone."""

    backend: Backend

    @pytest.fixture(scope="class")
    @classmethod
    def slots(cls) -> Any:
        module = importlib.import_module(f"{cls.backend.module.__name__}.slots")
        # Columns of two sizes.
        slots = module.Slots(cls.backend.model(n_positions=COLUMNS), rows=4)
        slots.warm_up()
        return slots

    @property
    def model(self) -> Any:
        return self.backend.model(n_positions=COLUMNS)

    def alone(self, text: Text) -> list[int]:
        """Return the new tokens that `generate` writes."""
        options = text.options
        sampling = {
            "do_sample": True,
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "seed": [(options.seed, options.stream)],
        }
        bias = {(token,): value for token, value in options.logit_bias.items()}
        prompt = np.array([text.prompt])
        output = self.model.generate(
            self.backend.tensor(prompt),
            attention_mask=self.backend.tensor(np.ones_like(prompt)),
            max_new_tokens=options.max_new_tokens,
            repetition_penalty=options.repetition_penalty,
            sequence_bias=bias or None,
            eos_token_id=None,
            pad_token_id=0,
            **(sampling if options.samples else {}),
        )
        tokens = self.backend.array(getattr(output, "sequences", output))
        return tokens[0, len(text.prompt) :].tolist()

    def texts(self, count: int) -> list[Text]:
        rng = np.random.default_rng(3)
        return [
            text(
                rng.integers(0, 60, rng.integers(3, 16)),
                max_new_tokens=int(rng.integers(2, 12)),
                seed=number,
                stream=number % 2,
                **OPTIONS[number % len(OPTIONS)],
            )
            for number in range(count)
        ]

    def test_each_text_is_the_one_that_generate_writes(self, slots):
        texts = self.texts(12)
        write(Batch(slots, piece=4), texts)
        for each in texts:
            assert each.new == self.alone(each)

    def test_a_prompt_that_begins_as_another_is_not_run_from_its_beginning(self, slots):
        prompt = random_ids(14).tolist()
        batch, first = Batch(slots), text(prompt, max_new_tokens=6)
        write(batch, [first])
        running = text(random_ids(5, seed=1), max_new_tokens=20, temperature=0)
        batch.join(running)
        batch.step()
        others = [
            text([*prompt, *first.new[:3]], temperature=0),  # goes on where the first ended
            text([*prompt[:9], 1, 2], temperature=0),  # branches off
            text([*running.prompt, *running.new, 5], temperature=0),  # from one that is written
        ]
        write(batch, others)
        assert [each.cached_tokens for each in others] == [16, 9, 7]
        for each in [running, *others]:
            assert each.new == self.alone(each)

    def test_a_text_whose_logits_are_not_numbers_ends_alone(self, slots):
        batch = Batch(slots)
        texts = [text(random_ids(4, seed=seed), temperature=0) for seed in range(3)]
        for each in texts:
            batch.join(each)
            batch.step()
        decode = slots.decode

        def spoilt(tokens: np.ndarray, starts: np.ndarray) -> Any:
            logits = self.backend.array(decode(tokens, starts)).copy()
            logits[1, 3] = np.nan
            return self.backend.tensor(logits)

        slots.decode = spoilt
        try:
            batch.step()
        finally:
            del slots.decode
        assert texts[1].reason == "error"
        assert isinstance(texts[1].error, FloatingPointError)
        while batch.size:
            batch.step()
        for each in (texts[0], texts[2]):
            assert each.new == self.alone(each)

    def test_tokens_of_a_prompt_are_told_with_probabilities(self, slots):
        prompt = random_ids(11)
        batch = Batch(slots, piece=4)
        write(batch, [text(prompt, max_new_tokens=1)])  # which has been run before
        scored = text(prompt, max_new_tokens=3, temperature=0, scores_prompt=True)
        write(batch, [scored])
        logits = self.backend.logits(self.model, prompt[None, :])[0].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        found = [each.chosen for each in scored.prompt_probabilities]
        assert_close(np.array(found), expected[np.arange(10), prompt[1:]])
        assert scored.new == self.alone(scored)

    def test_probabilities_are_those_of_the_model(self, slots):
        found: list[Any] = []

        def receive(token: int, probabilities: Any) -> bool:
            found.append((token, probabilities))
            return True

        prompt = random_ids(5)
        options = TextOptions(max_new_tokens=1, temperature=0.7, logprobs=3, logit_bias={5: 2.0})
        write(Batch(slots), [Text(prompt=prompt.tolist(), options=options, receive=receive)])
        ((token, probabilities),) = found
        logits = self.backend.logits(self.model, prompt[None, :])[0, -1]
        expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
        assert_close(np.array(probabilities.chosen), expected[token])
        ids, values = zip(*probabilities.likeliest, strict=True)
        assert list(ids) == np.argsort(-expected, kind="stable")[: len(ids)].tolist()
        assert_close(np.array(values), expected[list(ids)])


class CompiledSlotsContract(SlotsContract):
    """The same of a framework that compiles; the fixture `compiled` has what XLA compiles."""

    def test_nothing_is_compiled_while_texts_are_written(self, slots, compiled):
        write(Batch(slots), drawn_texts(16, COLUMNS))
        assert len(compiled) == 0
