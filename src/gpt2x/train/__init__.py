"""Training, fine-tuning: one loop over a small engine for each framework."""

from gpt2x.train.run import train

__all__ = ["train"]
