"""Texts that are written together, each as if it were alone (continuous batching).

`Runner` runs a `Batch` in a thread of its own; texts join and leave it at any step. A framework
brings `Slots`, rows of a cache; `choice` chooses the next token of each row by the options of its
text.
"""
