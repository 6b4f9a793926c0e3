"""What describes a model (`GPT2Config`) and how it decodes (`GenerationConfig`)."""

from gpt2x.config.generation import GenerationConfig
from gpt2x.config.model import GPT2Config

__all__ = ["GPT2Config", "GenerationConfig"]
