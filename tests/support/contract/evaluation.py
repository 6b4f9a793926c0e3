"""Perplexity, last words and multiple choice, by each backend's own logits.

A backend's `tests/.../test_evaluation.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.corpus import Piece, Place, Record
from gpt2x.errors import DataError, InvalidInputError
from gpt2x.evaluation import Row, Scorer, last_word, multiple_choice, perplexity
from support.contract.backend import Backend, random_ids

TOKENIZER = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
TEXTS = ["In the beginning God created the heaven and the earth. " * 3, "Shall I compare thee?"]
PLACE = Place("made.jsonl", 7)


def records(*rows):
    return [Record(fields, PLACE) for fields in rows]


class EvaluationContract:
    backend: Backend

    @property
    def model(self):
        special = {"eos_token_id": TOKENIZER.eos_token_id, "bos_token_id": TOKENIZER.eos_token_id}
        return self.backend.model(vocab_size=len(TOKENIZER), **special)

    @functools.cached_property
    def scorer(self):
        return Scorer(self.model, batch_size=2)

    def logits(self, ids: list[int]) -> np.ndarray:
        """The logits after each token, float64 [T, V]."""
        padded = np.array([ids + [0] * (32 - len(ids))])  # one shape, so one compilation
        return self.backend.logits(self.model, padded)[0, : len(ids)].astype(np.float64)

    def expected(self, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """The log-probability of each token but the first, and whether it is the likeliest."""
        logits = self.logits(ids)[:-1]
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        chosen = np.array(ids[1:])
        return logits[np.arange(len(chosen)), chosen], logits.argmax(-1) == chosen

    def test_rows_of_any_length_have_the_scores_of_each_alone(self):
        ids = random_ids(5, 20).tolist()
        likeliest = self.logits(ids[4])[-1].argmax()
        rows = [Row(ids[0], 1), Row(ids[1][:7], 4), Row(ids[2][:2], 1), Row(ids[3], 19)]
        rows.append(Row([*ids[4], int(likeliest)], 18))
        found = list(self.scorer.scores(rows))
        for row, scores in zip(rows, found, strict=True):
            values, are_likeliest = self.expected(row.ids)
            np.testing.assert_allclose(
                scores.log_probabilities, values[row.first - 1 :], rtol=1e-4, atol=1e-5
            )
            np.testing.assert_array_equal(scores.is_likeliest, are_likeliest[row.first - 1 :])
        assert found[4].is_likeliest[-1]

    @pytest.mark.parametrize(("stride", "from_eos"), [(5, True), (31, False)])
    def test_perplexity_is_that_of_a_window_that_slides(self, stride, from_eos):
        losses = []
        for text in TEXTS:
            ids = [TOKENIZER.eos_token_id] * from_eos + TOKENIZER.encode(text)
            scored = 1
            for begin in range(0, len(ids), stride):
                end = min(begin + 32, len(ids))
                values, _ = self.expected(ids[begin:end])
                losses += (-values[len(values) - (end - scored) :]).tolist()
                scored = end
                if end == len(ids):
                    break
        texts = [Piece(TEXTS[0][:16], PLACE, False), Piece(TEXTS[0][16:], PLACE, True), TEXTS[1]]
        found = perplexity(self.model, TOKENIZER, texts, stride=stride, from_eos=from_eos)
        nbytes, words = (sum(len(f(text)) for text in TEXTS) for f in (str.encode, str.split))
        assert found == {
            "loss": pytest.approx(np.mean(losses), rel=1e-5),
            "perplexity": pytest.approx(math.exp(np.mean(losses)), rel=1e-4),
            "bits_per_byte": pytest.approx(sum(losses) / math.log(2) / nbytes, rel=1e-5),
            "word_perplexity": pytest.approx(math.exp(sum(losses) / words), rel=1e-4),
            "tokens": len(losses),
            "bytes": nbytes,
            "words": words,
            "documents": 2,
        }

    def test_a_text_of_one_long_word(self):
        found = perplexity(self.model, TOKENIZER, ["日" * 60])
        assert found["words"] == 1
        assert found["word_perplexity"] == math.inf
        assert math.isfinite(found["perplexity"])

    def test_last_words(self):
        context = "And God said, Let there"
        ids = TOKENIZER.encode(context)
        logits = self.logits(ids)[-1]
        likeliest = TOKENIZER.decode([int(logits.argmax())])
        known = f"{context} {likeliest.strip()}"
        unknown = f"{context} be light\n"
        expected = []
        for text in (known, unknown):
            whole = TOKENIZER.encode(text.rstrip())
            before = TOKENIZER.encode(text.rstrip().rsplit(" ", 1)[0])
            expected.append(-self.expected(whole)[0][len(before) - 1 :].sum())
        found = last_word(
            self.model, TOKENIZER, records({"text": known}, {"text": unknown}), batch_size=2
        )
        is_word = likeliest == f" {likeliest.strip()}" and likeliest.strip()
        assert found["examples"] == 2
        assert found["perplexity"] == pytest.approx(math.exp(np.mean(expected)), rel=1e-4)
        assert found["accuracy"] == (0.5 if is_word else 0.0)

    def test_multiple_choice(self):
        context, endings = "The king", ["is dead.", "said unto them all, Go.", " sleeps"]
        totals = []
        for ending in endings:
            whole = TOKENIZER.encode(f"{context} {ending.strip()}")
            totals.append(self.expected(whole)[0][len(TOKENIZER.encode(context)) - 1 :])
        lengths = [len(f" {ending.strip()}") for ending in endings]
        sums = np.array([values.sum() for values in totals])
        means = np.array([values.mean() for values in totals])
        rows = [{"ctx": context, "endings": endings, "label": label} for label in (0, "1", 2)]
        found = multiple_choice(self.model, TOKENIZER, records(*rows))
        # Each of the three is called right once, so that whichever it takes is right once.
        assert found["accuracy"] == pytest.approx(1 / 3)
        for measure, name in (
            (sums, "accuracy"),
            (sums / lengths, "accuracy_per_byte"),
            (means, "accuracy_per_token"),
        ):
            row = {"ctx": context, "endings": endings, "label": int(measure.argmax())}
            assert multiple_choice(self.model, TOKENIZER, records(row))[name] == 1.0

    def test_a_long_context_loses_its_beginning(self):
        context = "word " * 60 + "and"
        before, ids = TOKENIZER.encode(context), TOKENIZER.encode(f"{context} end")
        values, _ = self.expected(ids[-33:-1])  # the model has 32 positions, and 33 tokens follow
        logits = self.logits(ids[-33:-1])[-1]
        last = logits[ids[-1]] - np.log(np.exp(logits).sum())
        found = last_word(self.model, TOKENIZER, records({"text": f"{context} end"}))
        new = len(ids) - len(before)
        expected = -last - values[len(values) - (new - 1) :].sum()
        assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)

    def test_bad_input_is_refused(self):
        model = self.model
        for options, words in (
            ({"stride": 32}, "at most 31"),
            ({"stride": 0}, "at least 1"),
            ({"window": 33}, "the model has 32 positions"),
        ):
            with pytest.raises(InvalidInputError, match=words):
                perplexity(model, TOKENIZER, TEXTS, **options)
        with pytest.raises(InvalidInputError, match="texts is one string"):
            perplexity(model, TOKENIZER, TEXTS[0])
        with pytest.raises(InvalidInputError, match="no language-model head"):
            Scorer(self.backend.model("Model"))
        with pytest.raises(DataError, match="no token"):
            perplexity(model, TOKENIZER, [])
        with pytest.raises(DataError, match=r"made\.jsonl, line 7: 'text' has no word before"):
            last_word(model, TOKENIZER, records({"text": "one"}))
        good = {"ctx": "a", "endings": ["b", "c"], "label": 0}
        for change in ({"label": 2}, {"label": None}, {"endings": ["b"]}, {"endings": "bc"}):
            with pytest.raises(DataError, match=r"made\.jsonl, line 7: '(label|endings)'"):
                multiple_choice(model, TOKENIZER, records(good | change))
        errors = []
        rows = records(good, good | {"label": 5}, good)
        assert multiple_choice(model, TOKENIZER, rows, on_bad=errors.append)["examples"] == 2
        assert len(errors) == 1
        with pytest.raises(DataError, match="no example"):
            multiple_choice(model, TOKENIZER, [])
