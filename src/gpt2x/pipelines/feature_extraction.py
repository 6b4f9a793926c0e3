"""Feature extraction: what a model's body makes of each token.

T tokens, E n_embd, W columns of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import reject_unknown
from gpt2x.pipelines.base import Piece, Pipeline
from gpt2x.weights.table import Head


class FeatureExtractionPipeline(Pipeline):
    """Gives the hidden states of the last layer, for every token: nothing is pooled.

    Of a model with a head it gives the logits instead.

    Options, when it is made or at each call:
        truncation: of the tokenizer.
        tokenize_kwargs: other options of the tokenizer.
        return_tensors: return an array of the framework.

    Answers with float [1, T, E], as nested lists or an array.
    """

    name = "feature-extraction"
    heads: ClassVar[tuple[Head, ...]] = tuple(Head)

    def _parse(
        self,
        *,
        truncation: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        reject_unknown(self._parse, unknown)
        encode = dict(tokenize_kwargs or {})
        if truncation is not None and "truncation" in encode:
            raise InvalidInputError("truncation is given twice: by itself and in tokenize_kwargs.")
        if truncation is not None:
            encode["truncation"] = truncation
        settings: dict[str, Any] = {"encode": encode} if encode else {}
        if return_tensors is not None:
            settings["return_tensors"] = return_tensors
        return settings

    def _pieces(self, value: Any, settings: Mapping[str, Any]) -> list[Piece]:
        return [self._piece(self.tokenizer(value, **settings.get("encode", {})))]

    def _forward(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Iterator[Any]:
        features = self._outputs(pieces)[0]  # [B, W, E]
        has_tokens = self.model.head is not Head.SEQUENCE_CLASSIFICATION
        for row, piece in enumerate(pieces):
            of_piece = features[row : row + 1]
            yield of_piece[:, : len(piece)] if has_tokens else of_piece

    def _answer(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Any:
        features = pieces[0].output
        if settings.get("return_tensors"):
            return features
        return self._engine.to_host(features).tolist()
