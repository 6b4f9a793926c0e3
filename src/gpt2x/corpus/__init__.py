"""Files of texts and records: to train tokenizers and models on, and to evaluate models with."""

from gpt2x.corpus.documents import FILE_FORMATS, Piece, read_documents, record_documents
from gpt2x.corpus.files import STDIN, find_files, total_size
from gpt2x.corpus.records import RECORD_FORMATS, OnBad, Place, Record, read_records

__all__ = [
    "FILE_FORMATS",
    "RECORD_FORMATS",
    "STDIN",
    "OnBad",
    "Piece",
    "Place",
    "Record",
    "find_files",
    "read_documents",
    "read_records",
    "record_documents",
    "total_size",
]
