"""Question answering: the part of a context that answers a question.

T tokens of a row, W columns of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpt2x.errors import InvalidInputError, check_count
from gpt2x.models.checks import reject_unknown
from gpt2x.pipelines.base import MODEL_INPUTS, Piece, Pipeline
from gpt2x.pipelines.spans import best_spans, span_scores
from gpt2x.tokenization.encoding import Encoding
from gpt2x.weights.table import Head

#: The longest row, if the tokenizer does not set a shorter one, and the tokens that rows share.
ROW_LENGTH = 384
STRIDE = 128
LONGEST_ANSWER = 15


@dataclass(frozen=True)
class _Row:
    """A row's context, its encoding, and the number (0 or 1) of the context in it."""

    context: str
    encoding: Encoding
    sequence: int

    @property
    def is_context(self) -> np.ndarray:
        """Which tokens are the context's, bool [T]."""
        return np.array([number == self.sequence for number in self.encoding.sequence_ids])

    def characters(self, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
        """Return the characters of two tokens and all between, up to whole words if asked for."""
        ends = [self.encoding.offsets[token] for token in (first, last)]
        if align_to_words:
            words = [self._word(token) for token in (first, last)]
            ends = [word or end for word, end in zip(words, ends, strict=True)]
        return ends[0][0], ends[1][1]

    def _word(self, token: int) -> tuple[int, int] | None:
        word = self.encoding.token_to_word(token)
        return None if word is None else self.encoding.word_to_chars(word, self.sequence)


class QuestionAnsweringPipeline(Pipeline):
    """Answers questions with parts of their contexts.

    Call it with `question=` and `context=`: two strings, a list of questions for one context, or
    two lists; or with a dict of `question` and `context`, a list or an iterator of these. A list of
    one gives the answer itself, as in transformers.

    Options, when it is made or at each call:
        top_k: the number of answers (default 1); `topk` is an older name.
        max_answer_len: tokens of the longest answer (default 15).
        max_seq_len: tokens of a row, question and context (default 384 or the tokenizer's
            `model_max_length`). A longer context is read in several rows.
        doc_stride: tokens of the context that two rows share (default 128, at most half a row).
        handle_impossible_answer: whether the empty string may be an answer.
        align_to_words: whether answers are whole words (default True).
        padding: of the tokenizer.
        max_question_len: has no effect, as with transformers' fast tokenizers.

    Answers with a dict of `score`, `start`, `end` and `answer`, or a list of several; `start` and
    `end` count characters of the context.
    """

    name = "question-answering"
    heads: ClassVar[tuple[Head, ...]] = (Head.QUESTION_ANSWERING,)

    def _parse(
        self,
        *,
        top_k: int | None = None,
        topk: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        padding: bool | str | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        reject_unknown(self._parse, unknown)
        if not self.tokenizer.is_fast:
            raise InvalidInputError(
                "question-answering needs the characters of tokens, which only GPT2TokenizerFast "
                "knows; pass one as tokenizer=."
            )
        counts = {
            "top_k": topk if top_k is None else top_k,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "doc_stride": doc_stride,
        }
        for name, value in counts.items():
            check_count(name, value, 0 if name == "doc_stride" else 1)
        others = {
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
            "padding": padding,
        }
        return {name: value for name, value in (counts | others).items() if value is not None}

    def __call__(
        self,
        inputs: Any = None,
        *others: Any,
        question: Any = None,
        context: Any = None,
        **options: Any,
    ) -> Any:
        """Answer questions; see the class and `Pipeline.__call__`."""
        if inputs is None:
            inputs = _examples(question, context)
        elif others and isinstance(inputs, str) and isinstance(others[0], str):
            inputs = {"question": inputs, "context": others[0]}
        elif others:
            inputs = [inputs, *others]
        if isinstance(inputs, list | tuple):
            for example in inputs:
                _check(example)
            inputs = inputs[0] if len(inputs) == 1 else inputs
        return super().__call__(inputs, **options)

    def _is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str | Mapping)  # a string raises, rather than be read by letters

    def _pieces(self, value: Any, settings: Mapping[str, Any]) -> list[Piece]:
        _check(value)
        tokenizer = self.tokenizer
        longest = settings.get("max_seq_len", min(tokenizer.model_max_length, ROW_LENGTH))
        stride = settings.get("doc_stride", min(longest // 2, STRIDE))
        if stride > longest:
            raise InvalidInputError(
                f"doc_stride ({stride}) is larger than max_seq_len ({longest}); lower it."
            )
        # With padding on the left, the context comes first, so that the texts stay together.
        question_first = tokenizer.padding_side == "right"
        texts = [value["question"], value["context"]]
        encoding = tokenizer(
            *(texts if question_first else reversed(texts)),
            padding=settings.get("padding", False),
            truncation="only_second" if question_first else "only_first",
            max_length=longest,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        return [
            self._piece(
                {name: encoding[name][row] for name in MODEL_INPUTS if name in encoding},
                _Row(value["context"], of_row, int(question_first)),
            )
            for row, of_row in enumerate(encoding.encodings)
        ]

    def _forward(
        self, pieces: Sequence[Piece], settings: Mapping[str, Any]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        outputs = self._outputs(pieces)
        start, end = map(self._engine.to_host, (outputs.start_logits, outputs.end_logits))  # [B, W]
        for row, piece in enumerate(pieces):
            yield start[row, : len(piece)], end[row, : len(piece)]

    def _answer(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Any:
        top_k, aligns = settings.get("top_k", 1), settings.get("align_to_words", True)
        # Spans become equal when they are widened to words, so more are looked at than asked for.
        candidates = 2 * top_k + 10 if aligns else top_k
        longest = settings.get("max_answer_len", LONGEST_ANSWER)
        answers: dict[str, dict[str, Any]] = {}
        no_answer = 1e6
        for piece in pieces:
            row: _Row = piece.context
            start_logits, end_logits = piece.output
            start, end = span_scores(start_logits, end_logits, row.is_context)
            no_answer = min(no_answer, float(start[0] * end[0]))
            for first, last, score in best_spans(start, end, candidates, longest):
                begin, stop = row.characters(first, last, aligns)
                text = row.context[begin:stop]
                found = {"score": 0.0, "start": begin, "end": stop, "answer": text}
                answers.setdefault(text.lower(), found)["score"] += score
        every = list(answers.values())
        if settings.get("handle_impossible_answer", False):
            every.append({"score": no_answer, "start": 0, "end": 0, "answer": ""})
        every = sorted(every, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return every[0] if len(every) == 1 else every


def _examples(question: Any, context: Any) -> Any:
    """Return the examples of the arguments `question` and `context`."""
    if isinstance(question, list | tuple):
        contexts = [context] * len(question) if isinstance(context, str) else context
        if isinstance(contexts, list | tuple) and len(contexts) == len(question):
            return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]
        raise InvalidInputError(
            "context must be a text, or a list with as many texts as there are questions; got "
            f"{len(question)} questions and {context!r}."
        )
    return {"question": question, "context": context}


def _check(example: Any) -> None:
    """Raise unless an example has a question and a context."""
    if not isinstance(example, Mapping) or not {"question", "context"} <= example.keys():
        raise InvalidInputError(
            "question-answering takes question= and context=, or dicts of these two; got "
            f"{example!r}."
        )
    for name in ("question", "context"):
        if not isinstance(example[name], str) or not example[name]:
            raise InvalidInputError(f"{name} must be a text, and not empty; got {example[name]!r}.")
