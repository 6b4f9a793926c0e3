"""Decoding strategies: pure functions over `Ops`, one module for each family."""

from gpt2x.generation.strategies.base import Needs, Outputs, Request, Settings, Strategy
from gpt2x.generation.strategies.beam import BeamSearch, BeamState
from gpt2x.generation.strategies.constrained_beam import ConstrainedBeamSearch
from gpt2x.generation.strategies.contrastive import ContrastiveSearch, ContrastiveSettings
from gpt2x.generation.strategies.dola import DoLaGreedy, DoLaSample
from gpt2x.generation.strategies.group_beam import GroupBeamSearch
from gpt2x.generation.strategies.rows import Greedy, RowState, Sample
from gpt2x.generation.strategies.speculation import (
    Assisted,
    Confidence,
    PromptLookup,
    Speculation,
    SpeculationState,
)

__all__ = [
    "Assisted",
    "BeamSearch",
    "BeamState",
    "Confidence",
    "ConstrainedBeamSearch",
    "ContrastiveSearch",
    "ContrastiveSettings",
    "DoLaGreedy",
    "DoLaSample",
    "Greedy",
    "Needs",
    "Outputs",
    "GroupBeamSearch",
    "PromptLookup",
    "Request",
    "RowState",
    "Sample",
    "Settings",
    "Speculation",
    "SpeculationState",
    "Strategy",
]
