"""Uploading a saved folder to the hub, by its public name."""

from gpt2x.storage.publishing import push_folder

__all__ = ["push_folder"]
