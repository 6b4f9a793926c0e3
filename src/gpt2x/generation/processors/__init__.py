"""Logits processors: functions from scores to scores, written once for every framework."""

from gpt2x.generation.processors.base import (
    BuiltInProcessor,
    Context,
    LogitsProcessor,
    LogitsProcessorList,
    Processors,
    UserProcessor,
    to_device,
)

__all__ = [
    "BuiltInProcessor",
    "Context",
    "LogitsProcessor",
    "LogitsProcessorList",
    "Processors",
    "UserProcessor",
    "to_device",
]
