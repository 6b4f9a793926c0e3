"""Formats of TensorFlow."""
