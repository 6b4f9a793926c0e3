"""What describes a model (`GPT2Config`), an adapter (`LoraConfig`), and how a model decodes
(`GenerationConfig`).
"""

from gpt2x.config.generation import GenerationConfig
from gpt2x.config.lora import LoraConfig
from gpt2x.config.model import GPT2Config

__all__ = ["GPT2Config", "GenerationConfig", "LoraConfig"]
