"""The data of training: texts to tokens on the disk, rows of tokens, and their order."""

from gpt2x.train.data.order import Order
from gpt2x.train.data.preparation import prepare, prepare_pieces
from gpt2x.train.data.rows import Blocks, Documents
from gpt2x.train.data.store import TokenCorpus

__all__ = [
    "Blocks",
    "Documents",
    "Order",
    "TokenCorpus",
    "prepare",
    "prepare_pieces",
]
