"""GPT-2's splitting of text as a pre-tokenizer of the `tokenizers` library."""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

from gpt2x.tokenization.pretokenization import explicit_pattern


def pinned_pre_tokenizer(*, add_prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    """Return what the library calls ByteLevel, with our Unicode table in the place of its own.

    Args:
        add_prefix_space: whether text is taken as if after a space, unless it begins with one.
    """
    steps = [
        pre_tokenizers.Split(Regex(explicit_pattern()), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    if add_prefix_space:
        # Metaspace with a space for its mark does that and nothing else. (ByteLevel would put a
        # space before every word that Split found.)
        steps.insert(0, pre_tokenizers.Metaspace(" ", prepend_scheme="always", split=False))
    return pre_tokenizers.Sequence(steps)
