"""Texts to train on: found in files of several formats, and read one document at a time."""

from gpt2x.corpus.documents import FILE_FORMATS, Piece, read_documents
from gpt2x.corpus.files import STDIN, find_files, total_size

__all__ = ["FILE_FORMATS", "STDIN", "Piece", "find_files", "read_documents", "total_size"]
