"""Pipelines: from texts to answers in one call, in any framework.

A task is one file over `base.Pipeline`: it makes the rows that the model reads of an input, and an
answer of the model's output. A backend brings its `inference` module, which is loaded on demand.

Source: transformers 4.57, `transformers.pipelines`; docs/pipelines.md lists what differs.
"""

from gpt2x.pipelines.base import Pipeline, Results
from gpt2x.pipelines.entities import AggregationStrategy
from gpt2x.pipelines.feature_extraction import FeatureExtractionPipeline
from gpt2x.pipelines.loading import TASKS, pipeline
from gpt2x.pipelines.question_answering import QuestionAnsweringPipeline
from gpt2x.pipelines.text_classification import ClassificationFunction, TextClassificationPipeline
from gpt2x.pipelines.text_generation import ReturnType, TextGenerationPipeline
from gpt2x.pipelines.token_classification import TokenClassificationPipeline

__all__ = [
    "pipeline",
    "TASKS",
    "Pipeline",
    "Results",
    "TextGenerationPipeline",
    "TextClassificationPipeline",
    "TokenClassificationPipeline",
    "QuestionAnsweringPipeline",
    "FeatureExtractionPipeline",
    "ReturnType",
    "ClassificationFunction",
    "AggregationStrategy",
]
