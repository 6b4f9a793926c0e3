"""`GPT2TokenizerFast`: GPT-2's tokenizer on the `tokenizers` library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors

from gpt2x.tokenization.base import GPT2TokenizerBase
from gpt2x.tokenization.library_engine import LibraryEngine
from gpt2x.tokenization.settings import END_OF_TEXT
from gpt2x.tokenization.special_tokens import Token
from gpt2x.tokenization.template import Template
from gpt2x.tokenization.vocabulary import PathLike, Vocabulary


class GPT2TokenizerFast(GPT2TokenizerBase):
    """GPT-2's byte-level BPE tokenizer, on the `tokenizers` library.

    Gives the ids of GPT2Tokenizer for every string, and knows the characters and words of each
    token. Encodes the texts of a batch in parallel. Replaces transformers' class of the same name.

    Args, in transformers' order: those of GPT2Tokenizer, and
        tokenizer_object: a `tokenizers.Tokenizer`, in the place of files.

    Special tokens that the vocabulary lacks are added to it.

    Raises:
        CheckpointError: for files that cannot be read or do not fit together.
        InvalidInputError: for an unknown argument or a value that is not allowed.
    """

    is_fast = True
    _engine_class = LibraryEngine

    _engine: LibraryEngine
    _backend: Tokenizer | None = None

    def __init__(
        self,
        vocab_file: PathLike | Mapping[str, int] | None = None,
        merges_file: PathLike | Iterable[Any] | None = None,
        tokenizer_file: PathLike | None = None,
        unk_token: Token | None = END_OF_TEXT,
        bos_token: Token | None = END_OF_TEXT,
        eos_token: Token | None = END_OF_TEXT,
        add_prefix_space: bool | None = None,
        add_bos_token: bool | None = None,
        *,
        pad_token: Token | None = None,
        vocab: PathLike | Mapping[str, int] | None = None,
        merges: PathLike | Iterable[Any] | None = None,
        tokenizer_object: Tokenizer | None = None,
        **settings: Any,
    ) -> None:
        vocabulary = Vocabulary.from_arguments(
            type(self).__name__,
            vocab_file if vocab is None else vocab,
            merges_file if merges is None else merges,
            tokenizer_file if tokenizer_object is None else json.loads(tokenizer_object.to_str()),
        )
        super().__init__(
            vocabulary,
            {
                "unk_token": unk_token,
                "bos_token": bos_token,
                "eos_token": eos_token,
                "pad_token": pad_token,
                "add_prefix_space": add_prefix_space,
                "add_bos_token": add_bos_token,
                **settings,
            },
        )
        for name, file in (("vocab_file", vocab_file), ("merges_file", merges_file)):
            self.init_kwargs[name] = file if isinstance(file, (str, os.PathLike)) else None

    # The library's objects ------------------------------------------------------------------------

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The same tokenizer as an object of the `tokenizers` library.

        Its `post_processor` has the special tokens around texts: setting it changes the tokens that
        this tokenizer adds. Other changes have no effect on this tokenizer.
        """
        if self._backend is None:
            backend = Tokenizer(self._engine.model())
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(self.add_prefix_space)
            backend.decoder = decoders.ByteLevel()
            backend.add_tokens(list(self._table.added.by_id.values()))
            backend.post_processor = self._post_processor(self._own_template)
            self._backend = backend
        return self._backend

    _tokenizer = backend_tokenizer

    @property
    def decoder(self) -> decoders.Decoder:
        """The decoder of `backend_tokenizer`."""
        return self.backend_tokenizer.decoder

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        # Its docstring is that of `TokenAPI`.
        n_new = super().add_tokens(new_tokens, special_tokens)
        if self._backend is not None:
            self._backend.add_tokens(list(self._table.added.by_id.values()))
        return n_new

    @property
    def _template(self) -> Template:
        if self._backend is None:
            return self._own_template
        processor = self._backend.post_processor
        return Template.from_post_processor(processor and json.loads(processor.__getstate__()))

    @_template.setter
    def _template(self, template: Template) -> None:
        self._own_template = template
        if self._backend is not None:
            self._backend.post_processor = self._post_processor(template)

    def _post_processor(self, template: Template) -> processors.PostProcessor:
        processor = processors.ByteLevel(trim_offsets=False)
        ids = {name: self._table.required_id(name) for name in template.names()}
        processor.__setstate__(json.dumps(template.to_post_processor(ids)).encode())
        return processor
