"""Formats of PyTorch, and projects that save with it."""
