"""`GPT2TokenizerFast`: GPT-2's tokenizer on the `tokenizers` library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from tokenizers import (
    AddedToken,
    Encoding,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.added_tokens import Segment
from gpt2x.tokenization.base import END_OF_TEXT, GPT2TokenizerBase
from gpt2x.tokenization.bpe import is_byte_complete, unknown_symbol
from gpt2x.tokenization.encoding import EncodedSequence, Span
from gpt2x.tokenization.options import EncodeOptions
from gpt2x.tokenization.pipeline import pinned_pre_tokenizer
from gpt2x.tokenization.special_tokens import Token
from gpt2x.tokenization.template import Template
from gpt2x.tokenization.vocabulary import PathLike, Vocabulary


class GPT2TokenizerFast(GPT2TokenizerBase):
    """GPT-2's byte-level BPE tokenizer, on the `tokenizers` library.

    Gives the ids of GPT2Tokenizer for every string, and knows which characters and words each
    token comes from. Encodes the texts of a batch in parallel. Stands for transformers' class of
    the same name.

    Args:
        vocab_file: path of a vocab.json, or the id of each token.
        merges_file: path of a merges.txt, or the merges as "a b" strings or pairs.
        tokenizer_file: path of a tokenizer.json, in their place.
        unk_token: stands for what the vocabulary lacks; nothing, if it has all 256 bytes.
        bos_token, eos_token: the tokens at the beginning and end of a text.
        add_prefix_space: whether texts are encoded as if a space stood before them.
        add_bos_token: whether each text is given a `bos_token` at its beginning.
        pad_token: the token that fills rows up; GPT-2 has none of its own.
        vocab, merges: other names of `vocab_file` and `merges_file`.
        tokenizer_object: a `tokenizers.Tokenizer`, in the place of files.
        **settings: `errors`, and the others of GPT2Tokenizer.

    Special tokens that the vocabulary lacks are added to it.

    Raises:
        CheckpointError: for files that cannot be read or do not fit together.
        InvalidInputError: for an unknown argument or a value that is not allowed.
    """

    is_fast = True

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

    # Encoding -------------------------------------------------------------------------------------

    def _start_engine(self) -> None:
        self._is_byte_complete = is_byte_complete(self._vocabulary.tokens)
        self._engines: dict[tuple[bool, int | None], Tokenizer] = {}
        self._backend: Tokenizer | None = None

    def _encode_texts(
        self, texts: Sequence[Sequence[str]], options: EncodeOptions
    ) -> list[EncodedSequence]:
        ignore_special = self._ignores_special(options)
        split = [
            [
                (word, segment)
                for word, part in enumerate(parts)
                for segment in self._added.split(part, ignore_special=ignore_special)
            ]
            for parts in texts
        ]
        plain = [
            segment.text for parts in split for _, segment in parts if segment.token_id is None
        ]
        encodings = iter(self._encode_plain(plain, self._prefixes_space(options)))
        return [
            _FastSequence(
                [
                    _Plain(segment, next(encodings))
                    if segment.token_id is None
                    else _Added(segment, segment.token_id, str(self._token_of(segment.token_id)))
                    for _, segment in parts
                ],
                [word for word, _ in parts] if options.is_split_into_words else None,
            )
            for parts in split
        ]

    def _encode_plain(self, texts: list[str], prefix_space: bool) -> list[Encoding]:
        """Encode texts without added tokens, in parallel if there are several."""
        unknown_id = None if self._is_byte_complete else self._unknown_id()
        key = (prefix_space, unknown_id)
        if key not in self._engines:
            self._engines[key] = self._make_engine(prefix_space, unknown_id)
        engine = self._engines[key]
        if len(texts) == 1:
            encodings = [engine.encode(texts[0], add_special_tokens=False)]
        else:
            encodings = engine.encode_batch(texts, add_special_tokens=False)
        if not self._is_byte_complete and unknown_id is None:
            _refuse_unknown(texts, encodings)
        return encodings

    def _make_engine(self, prefix_space: bool, unknown_id: int | None) -> Tokenizer:
        """Make a tokenizer that encodes plain text by the pinned Unicode table.

        The one that users see is `backend_tokenizer`; it knows added tokens, too.
        """
        engine = Tokenizer(self._model(unknown_id))
        engine.pre_tokenizer = pinned_pre_tokenizer(add_prefix_space=prefix_space)
        return engine

    def _model(self, unknown_id: int | None) -> models.BPE:
        for engine in self._engines.values():
            if self._is_byte_complete:
                return engine.model  # shared, not copied
        tokens, merges = self._vocabulary.tokens, self._vocabulary.merges
        if self._is_byte_complete:
            return models.BPE(tokens, merges)
        # The library drops what it does not know, unless there is a token for that.
        unknown = _UNKNOWN
        if unknown_id is None:
            unknown_id = max(tokens.values(), default=0) + 1
        else:
            unknown = str(self._token_of(unknown_id))
        return models.BPE({**tokens, unknown: unknown_id}, merges, unk_token=unknown)

    # The library's objects ------------------------------------------------------------------------

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The same tokenizer as an object of the `tokenizers` library.

        Its `post_processor` is where the special tokens around texts are kept: setting it changes
        what this tokenizer adds. Other changes to it have no effect on this tokenizer.
        """
        if self._backend is None:
            backend = Tokenizer(self._model(None if self._is_byte_complete else self._unknown_id()))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(self.add_prefix_space)
            backend.decoder = decoders.ByteLevel()
            backend.add_tokens(list(self._added.by_id.values()))
            backend.post_processor = self._post_processor(self._stored_template)
            self._backend = backend
        return self._backend

    _tokenizer = backend_tokenizer

    @property
    def decoder(self) -> decoders.Decoder:
        """The decoder of `backend_tokenizer`."""
        return self.backend_tokenizer.decoder

    def _add(self, token: AddedToken) -> None:
        super()._add(token)
        if self._backend is not None:
            self._backend.add_tokens([token])

    def _template(self) -> Template:
        if self._backend is None:
            return super()._template()
        processor = self._backend.post_processor
        return Template.from_post_processor(processor and json.loads(processor.__getstate__()))

    def _set_template(self, template: Template) -> None:
        super()._set_template(template)
        if self._backend is not None:
            self._backend.post_processor = self._post_processor(template)

    def _post_processor(self, template: Template) -> processors.PostProcessor:
        processor = processors.ByteLevel(trim_offsets=False)
        state = template.to_post_processor({name: self._id_of(name) for name in template.names()})
        processor.__setstate__(json.dumps(state).encode())
        return processor

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made when it is needed (for pickle and copy)."""
        return {**self.__dict__, "_engines": {}}


#: Stands for what the vocabulary lacks, if the tokenizer has no unknown token. No merge makes it:
#: NUL is the name of no byte.
_UNKNOWN = "\0unknown"


class _Plain:
    """A segment of plain text, as the library encoded it."""

    def __init__(self, segment: Segment, encoding: Encoding) -> None:
        self._start = segment.start
        self._encoding = encoding
        self.ids: list[int] = encoding.ids

    @property
    def tokens(self) -> list[str]:
        return self._encoding.tokens

    @property
    def offsets(self) -> list[Span]:
        start = self._start
        return [(start + first, start + end) for first, end in self._encoding.offsets]

    @property
    def word_ids(self) -> list[int]:
        return [word for word in self._encoding.word_ids if word is not None]


class _Added:
    """A segment that is an added token."""

    def __init__(self, segment: Segment, token_id: int, token: str) -> None:
        self.ids = [token_id]
        self.tokens = [token]
        self.offsets = [(segment.start, segment.start + len(segment.text))]
        self.word_ids = [0]


class _FastSequence(EncodedSequence):
    """A sequence that knows its tokens' words and characters, and asks the library when needed.

    Args:
        parts: what the segments were encoded to, in order.
        words: for each part the number of the word that it is in, if the text was given as words.
    """

    def __init__(self, parts: list[_Plain | _Added], words: list[int] | None) -> None:
        self._parts = parts
        self._words = words
        super().__init__(list(chain.from_iterable(part.ids for part in parts)))

    @cached_property
    def tokens(self) -> list[str]:
        return list(chain.from_iterable(part.tokens for part in self._parts))

    @cached_property
    def offsets(self) -> list[Span]:
        return list(chain.from_iterable(part.offsets for part in self._parts))

    @cached_property
    def word_ids(self) -> list[int]:
        word_ids: list[int] = []
        if self._words is not None:
            for part, word in zip(self._parts, self._words, strict=True):
                word_ids += [word] * len(part.ids)
            return word_ids
        for part in self._parts:
            base = word_ids[-1] + 1 if word_ids else 0
            word_ids += [base + word for word in part.word_ids]
        return word_ids


def _refuse_unknown(texts: list[str], encodings: list[Encoding]) -> None:
    """Raise if any of the texts holds what the vocabulary lacks."""
    for text, encoding in zip(texts, encodings, strict=True):
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token == _UNKNOWN:
                raise InvalidInputError(unknown_symbol(text[start:end]))
