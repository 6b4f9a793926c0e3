"""Measures of a language model: perplexity, the last words of texts, and multiple choice."""

from gpt2x.evaluation.perplexity import perplexity
from gpt2x.evaluation.scoring import Row, Scorer, Scores
from gpt2x.evaluation.tasks import last_word, multiple_choice

__all__ = ["Row", "Scorer", "Scores", "last_word", "multiple_choice", "perplexity"]
