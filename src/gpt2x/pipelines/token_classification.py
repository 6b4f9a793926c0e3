"""Token classification: the entities in texts.

T tokens, W columns of the batch, C labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpt2x.errors import InvalidInputError, check_choice, check_count
from gpt2x.models.checks import reject_unknown
from gpt2x.pipelines.base import Piece, Pipeline
from gpt2x.pipelines.entities import AggregationStrategy, Aggregator, Token, without_overlaps
from gpt2x.pipelines.scores import softmax
from gpt2x.weights.table import Head

Span = tuple[int, int]

# Strategies that need to know where words end.
_OF_WORDS = (AggregationStrategy.FIRST, AggregationStrategy.AVERAGE, AggregationStrategy.MAX)


@dataclass(frozen=True)
class _Row:
    """A row's text, its special tokens, and the characters of its tokens (None if unknown)."""

    text: str
    is_special: Sequence[int]
    spans: Sequence[Span] | None


class TokenClassificationPipeline(Pipeline):
    """Finds entities in texts.

    Options, when it is made or at each call:
        aggregation_strategy: "none", "simple", "first", "average" or "max" (see
            `AggregationStrategy`). A token continues a word unless a space begins it.
        ignore_labels: labels to leave out; by default ["O"].
        stride: read texts of any length in rows that share so many tokens. Without it, texts are
            cut at the tokenizer's `model_max_length`.
        is_split_into_words: an input is a list of words; they are joined by `delimiter`, a space by
            default, to the text that `start` and `end` count in.
        offset_mapping: the characters of each token, in place of the tokenizer's own.
        grouped_entities, ignore_subwords: older names of "simple" and, together, "first".

    Answers with a list of dicts: `entity`, `score`, `index`, `word`, `start` and `end` of each
    token, or `entity_group`, `score`, `word`, `start` and `end` of each entity.
    """

    name = "token-classification"
    heads: ClassVar[tuple[Head, ...]] = (Head.TOKEN_CLASSIFICATION,)

    def _parse(
        self,
        *,
        aggregation_strategy: str | AggregationStrategy | None = None,
        ignore_labels: Sequence[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool | None = None,
        delimiter: str | None = None,
        offset_mapping: Sequence[Any] | None = None,
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        reject_unknown(self._parse, unknown)
        check_count("stride", stride)
        strategy = _old_strategy(grouped_entities, ignore_subwords)
        if aggregation_strategy is not None and strategy is None:
            name = getattr(aggregation_strategy, "value", aggregation_strategy)
            check_choice("aggregation_strategy", name, [s.value for s in AggregationStrategy])
            strategy = AggregationStrategy(name)
        settings = {
            "strategy": strategy,
            "ignore_labels": ignore_labels,
            "stride": stride,
            "is_split_into_words": is_split_into_words,
            "delimiter": delimiter,
            "offset_mapping": offset_mapping,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        self._check(given)
        return given

    def _check(self, settings: Mapping[str, Any]) -> None:
        """Raise if the tokenizer cannot do what is asked for."""
        strategy, stride = settings.get("strategy"), settings.get("stride")
        if stride is not None and stride >= self._row_length():
            raise InvalidInputError(
                f"stride is {stride}; it must be less than a row's {self._row_length()} tokens."
            )
        if stride is not None and strategy is AggregationStrategy.NONE:
            raise InvalidInputError(
                'stride joins entities, so it needs another aggregation_strategy than "none".'
            )
        wants = {
            "stride": stride is not None,
            "is_split_into_words": settings.get("is_split_into_words"),
            f"aggregation_strategy={getattr(strategy, 'value', None)!r}": strategy in _OF_WORDS,
        }
        names = [name for name, is_wanted in wants.items() if is_wanted]
        if names and not self.tokenizer.is_fast:
            raise InvalidInputError(
                f"{names[0]} needs the characters of tokens, which only GPT2TokenizerFast knows; "
                "pass one as tokenizer=."
            )

    def _row_length(self) -> int:
        return min(self.tokenizer.model_max_length, self.model.config.n_positions)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Find entities; see `Pipeline.__call__`."""
        name = "is_split_into_words"
        in_words = options.get(name, self._settings.get(name)) and isinstance(inputs, list | tuple)
        if in_words and not all(isinstance(words, list | tuple) for words in inputs):
            inputs = [inputs]  # one text; transformers answers with a list here too
        return super().__call__(inputs, **options)

    def _pieces(self, value: Any, settings: Mapping[str, Any]) -> list[Piece]:
        text, starts = _joined(value, settings)
        stride = settings.get("stride")
        options = {} if stride is None else {"return_overflowing_tokens": True, "stride": stride}
        encoding = self.tokenizer(
            [value],
            is_split_into_words=starts is not None,
            truncation=True,
            max_length=self._row_length(),
            return_special_tokens_mask=True,
            return_offsets_mapping=self.tokenizer.is_fast,
            **options,
        )
        pieces = []
        for row, ids in enumerate(encoding["input_ids"]):
            spans = encoding["offset_mapping"][row] if self.tokenizer.is_fast else None
            if starts is not None and spans is not None:
                spans = _moved(spans, encoding.word_ids(row), starts)
            mapping = settings.get("offset_mapping")
            if mapping is not None:
                spans = mapping[0] if isinstance(mapping[0][0], list | tuple) else mapping
            context = _Row(text, encoding["special_tokens_mask"][row], spans)
            inputs = {"input_ids": ids, "attention_mask": encoding["attention_mask"][row]}
            pieces.append(self._piece(inputs, context))
        return pieces

    def _forward(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> list[np.ndarray]:
        logits = self._engine.to_host(self._outputs(pieces).logits)  # [B, W, C]
        return [softmax(row[: len(piece)]) for row, piece in zip(logits, pieces, strict=True)]

    def _answer(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        aggregator = Aggregator(
            settings.get("strategy", AggregationStrategy.NONE),
            self.model.config.id2label,
            self.tokenizer.convert_tokens_to_string,
        )
        ignored = settings.get("ignore_labels", ["O"])
        entities = [
            entity
            for piece in pieces
            for entity in aggregator.entities(self._tokens(piece))
            if entity.get("entity", entity.get("entity_group")) not in ignored
        ]
        return without_overlaps(entities) if len(pieces) > 1 else entities

    def _tokens(self, piece: Piece) -> list[Token]:
        """Return the tokens of a row, without special ones that were added to the text."""
        row: _Row = piece.context
        tokens = []
        for index, (token_id, scores) in enumerate(
            zip(piece.inputs["input_ids"], piece.output, strict=True)
        ):
            if row.is_special[index]:
                continue
            word, continues = self.tokenizer.convert_ids_to_tokens(token_id), False
            start, end = (None, None) if row.spans is None else row.spans[index]
            if start is not None:
                continues = start > 0 and " " not in row.text[start - 1 : start + 1]
                if token_id == self.tokenizer.unk_token_id:
                    word, continues = row.text[start:end], False
            tokens.append(Token(word, scores, index, start, end, continues))
        return tokens


def _old_strategy(
    grouped_entities: bool | None, ignore_subwords: bool | None
) -> AggregationStrategy | None:
    """Return the strategy that the older options ask for, if they are given."""
    if grouped_entities is None and ignore_subwords is None:
        return None
    strategy = AggregationStrategy.NONE
    if grouped_entities:
        strategy = AggregationStrategy.FIRST if ignore_subwords else AggregationStrategy.SIMPLE
    warnings.warn(
        "grouped_entities and ignore_subwords are older options; use "
        f'aggregation_strategy="{strategy.value}".',
        FutureWarning,
        stacklevel=5,
    )
    return strategy


def _joined(value: Any, settings: Mapping[str, Any]) -> tuple[str, list[int] | None]:
    """Return the text of an input and, for a list of words, the first character of each."""
    if not settings.get("is_split_into_words"):
        if not isinstance(value, str):
            raise InvalidInputError(
                "token-classification takes texts, or lists of words with "
                f"is_split_into_words=True; got {value!r}."
            )
        return value, None
    if isinstance(value, str):
        raise InvalidInputError(f"is_split_into_words=True takes lists of words; got {value!r}.")
    delimiter = settings.get("delimiter", " ")
    lengths = [len(word) + len(delimiter) for word in value]
    return delimiter.join(value), [sum(lengths[:number]) for number in range(len(value))]


def _moved(spans: Sequence[Span], words: Sequence[int | None], starts: Sequence[int]) -> list[Span]:
    """Return the characters of tokens in the text, from those in their words."""
    return [
        (start, end) if word is None else (start + starts[word], end + starts[word])
        for (start, end), word in zip(spans, words, strict=True)
    ]
