"""Formats of Flax and Orbax."""
