"""Formats of Keras and KerasHub."""
