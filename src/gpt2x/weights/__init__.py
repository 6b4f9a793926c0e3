"""The parameters of GPT-2: names and layouts in every framework, and how they are loaded."""

from gpt2x.weights.table import FLAX, PYTORCH, TENSORFLOW, Head, parameter_shapes

__all__ = ["FLAX", "PYTORCH", "TENSORFLOW", "Head", "parameter_shapes"]
