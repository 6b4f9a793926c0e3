"""Text classification: the labels of texts, or of pairs of texts."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2x.errors import InvalidInputError, check_choice, check_count
from gpt2x.pipelines.base import Piece, Pipeline
from gpt2x.pipelines.scores import sigmoid, softmax
from gpt2x.weights.table import Head

# `top_k=None` asks for all labels.
_NOT_GIVEN: Any = object()


class ClassificationFunction(enum.Enum):
    """What makes scores of logits."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    NONE = "none"


class TextClassificationPipeline(Pipeline):
    """Says which label a text has.

    An input is a text, or a dict of `text` and `text_pair`.

    Options, when it is made or at each call:
        top_k: return the best k labels, best first; None for all.
        function_to_apply: "softmax", "sigmoid" or "none"; by default "none" for a regression,
            "sigmoid" for a single label or several at once, else "softmax".
        return_all_scores: an older option; True returns all labels in their order.
        **: options of the tokenizer.

    Answers with a dict of `label` and `score`, or with `top_k` a list of them. As in transformers,
    a single string without `top_k` at the call gives a list of one answer.
    """

    name = "text-classification"
    heads: ClassVar[tuple[Head, ...]] = (Head.SEQUENCE_CLASSIFICATION,)

    def _parse(
        self,
        *,
        top_k: int | None = _NOT_GIVEN,
        function_to_apply: str | ClassificationFunction | None = None,
        return_all_scores: bool | None = None,
        **encode: Any,
    ) -> dict[str, Any]:
        settings: dict[str, Any] = {"encode": encode} if encode else {}
        if top_k is not _NOT_GIVEN:
            check_count("top_k", top_k, 1)
            settings |= {"top_k": top_k, "is_sorted": True}
        elif return_all_scores is not None:
            warnings.warn(
                "return_all_scores is an older option; use top_k=None for True, top_k=1 for False.",
                FutureWarning,
                stacklevel=4,
            )
            settings["top_k"] = None if return_all_scores else 1
        if function_to_apply is not None:
            name = getattr(function_to_apply, "value", function_to_apply)
            check_choice("function_to_apply", name, [f.value for f in ClassificationFunction])
            settings["function"] = ClassificationFunction(name)
        return settings

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classify; see `Pipeline.__call__`."""
        answer = super().__call__(inputs, **options)
        return [answer] if isinstance(inputs, str) and "top_k" not in options else answer

    def _pieces(self, value: Any, settings: Mapping[str, Any]) -> list[Piece]:
        options = settings.get("encode", {})
        if isinstance(value, Mapping):
            return [self._piece(self.tokenizer(**value, **options))]
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
            return [self._piece(self.tokenizer(*value[0], **options))]
        if not isinstance(value, str):
            raise InvalidInputError(
                f"{self.task} takes texts, or for pairs dicts of text and text_pair; got {value!r}."
            )
        return [self._piece(self.tokenizer(value, **options))]

    def _forward(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Sequence[Any]:
        return self._engine.to_host(self._outputs(pieces).logits)

    def _answer(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Any:
        logits = pieces[0].output
        function = settings.get("function") or self._function()
        scores = self._scores(logits, function)
        names = self.model.config.id2label
        answers = [{"label": names[i], "score": float(score)} for i, score in enumerate(scores)]
        top_k = settings.get("top_k", 1)
        if settings.get("is_sorted"):
            return sorted(answers, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return answers[int(scores.argmax())] if top_k == 1 else answers

    def _scores(self, logits: np.ndarray, function: ClassificationFunction) -> np.ndarray:
        if function is ClassificationFunction.NONE:
            return logits
        return softmax(logits) if function is ClassificationFunction.SOFTMAX else sigmoid(logits)

    def _function(self) -> ClassificationFunction:
        """Return the function for the model's problem."""
        config = self.model.config
        if config.problem_type == "regression":
            return ClassificationFunction.NONE
        if config.problem_type == "multi_label_classification" or config.num_labels == 1:
            return ClassificationFunction.SIGMOID
        return ClassificationFunction.SOFTMAX
