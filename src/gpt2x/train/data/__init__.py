"""The data of training: texts to tokens on the disk, rows of tokens, and their order."""

from gpt2x.train.data.hub import DatasetStream, load_named, prepare_dataset
from gpt2x.train.data.order import Order
from gpt2x.train.data.preparation import prepare, prepare_pieces
from gpt2x.train.data.rows import Blocks, Documents
from gpt2x.train.data.store import TokenCorpus
from gpt2x.train.data.streams import DocumentStream, FileStream, StreamedBlocks

__all__ = [
    "Blocks",
    "DatasetStream",
    "DocumentStream",
    "Documents",
    "FileStream",
    "Order",
    "StreamedBlocks",
    "TokenCorpus",
    "load_named",
    "prepare",
    "prepare_dataset",
    "prepare_pieces",
]
