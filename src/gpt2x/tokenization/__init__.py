"""GPT-2's tokenizers: one in pure Python, one on the `tokenizers` library, with the same ids."""

from tokenizers import AddedToken

from gpt2x.tokenization.batch_encoding import BatchEncoding, CharSpan, TokenSpan
from gpt2x.tokenization.chat_schema import get_json_schema
from gpt2x.tokenization.fast import GPT2TokenizerFast
from gpt2x.tokenization.slow import GPT2Tokenizer

__all__ = [
    "AddedToken",
    "BatchEncoding",
    "CharSpan",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "TokenSpan",
    "get_json_schema",
]
