"""TFGPT2Tokenizer: GPT-2's tokenizer as a Keras layer, from strings to ids and back in the graph.

Only core TensorFlow ops are used, and all tables are part of the graph: a SavedModel that holds the
layer runs where nothing but TensorFlow is installed.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from tokenizers import AddedToken

from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.tf.text.padding import Layout
from gpt2x.tf.text.text_decoder import TextDecoder
from gpt2x.tf.text.text_encoder import TextEncoder
from gpt2x.tokenization import GPT2Tokenizer, GPT2TokenizerFast
from gpt2x.tokenization.bpe import token_to_bytes
from gpt2x.tokenization.settings import END_OF_TEXT
from gpt2x.tokenization.vocabulary import (
    Vocabulary,
    added_token,
    added_token_state,
    parse_merges,
)

# Strings live on the CPU alone, and what is computed between them is too little to move.
_DEVICE = "CPU:0"

# Arguments of the layer that are attributes of the layer and of the other tokenizers.
_SHARED_SETTINGS = (
    "pad_token_id",
    "unk_token",
    "add_prefix_space",
    "split_special_tokens",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
    "errors",
)


@keras.saving.register_keras_serializable(package="gpt2x")
class TFGPT2Tokenizer(keras.layers.Layer):
    """GPT-2's byte-level BPE tokenizer in the TensorFlow graph.

    For valid UTF-8 it gives exactly the ids of `GPT2Tokenizer`, added tokens in the text included.
    Invalid UTF-8 is read as Python's ``bytes.decode("utf-8", errors="replace")`` reads it.

    Make one with `from_tokenizer` or `from_pretrained`. It works eagerly, in `tf.function`, in
    `tf.data.Dataset.map`, in functional Keras models over string inputs, and in SavedModels. Its
    ops run on the CPU and, as all string ops, outside XLA.

    >>> tokenizer = TFGPT2Tokenizer.from_pretrained("gpt2", pad_token_id=50256)
    >>> tokenizer(["Hello world", "Hi"], padding=True)["input_ids"].numpy().tolist()
    [[15496, 995], [17250, 50256]]

    Differs from transformers' class of the same name in that it recognises added tokens, in that
    the attention mask is 0 on padding, and in that it truncates where `max_length` is given without
    a pad token (transformers pads with id 0 there).

    Args:
        vocab: id of each token, tokens spelt as in vocab.json.
        merges: merges in the order of their ranks, spelt as in merges.txt ("h e"), or as pairs.
        max_length: default of the argument of the same name in a call.
        pad_token_id: default of the argument of the same name in a call.
        added_tokens_decoder: by id, tokens that are found in text before it is split into words;
            each an AddedToken or its JSON form. None stands for ``<|endoftext|>``, if the
            vocabulary has it.
        special_token_ids: ids that `detokenize` can skip, beside those of special added tokens.
        unk_token: stands for bytes that the vocabulary lacks (GPT-2's has all). If the vocabulary
            lacks it too, they are an error.
        prefix_token_ids: special tokens before each text (``add_bos_token``).
        suffix_token_ids: special tokens after each text.
        add_prefix_space: whether text that does not begin with a space is given one.
        split_special_tokens: whether special tokens in the text are taken for plain text.
        padding_side: "right" or "left".
        truncation_side: "right" or "left", where ids are removed.
        clean_up_tokenization_spaces: default of the argument of the same name in `detokenize`.
        errors: what `detokenize` does with bytes that are not UTF-8: "replace", "ignore", "strict".
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        CheckpointError: if the merges do not fit the vocabulary.
        InvalidInputError: for a value that is not allowed.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[str | Sequence[str]],
        max_length: int | None = None,
        pad_token_id: int | None = None,
        *,
        added_tokens_decoder: Mapping[Any, AddedToken | Mapping[str, Any]] | None = None,
        special_token_ids: Collection[int] = (),
        unk_token: str | None = END_OF_TEXT,
        prefix_token_ids: Sequence[int] = (),
        suffix_token_ids: Sequence[int] = (),
        add_prefix_space: bool = False,
        split_special_tokens: bool = False,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        errors: str = "replace",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Strings are converted here, and a list of them is one input.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True

        if added_tokens_decoder is None:
            special = AddedToken(END_OF_TEXT, normalized=False, special=True)
            added_tokens_decoder = {vocab[END_OF_TEXT]: special} if END_OF_TEXT in vocab else {}
        added_tokens = {
            int(token_id): token if isinstance(token, AddedToken) else added_token(token)
            for token_id, token in added_tokens_decoder.items()
        }
        # One object, of which Keras does not track every entry.
        self._vocabulary = Vocabulary(dict(vocab), parse_merges(merges), added_tokens)
        self.max_length = max_length
        self.pad_token_id = pad_token_id
        self.special_token_ids = tuple(special_token_ids)
        self.unk_token = unk_token
        self.prefix_token_ids = tuple(prefix_token_ids)
        self.suffix_token_ids = tuple(suffix_token_ids)
        self.add_prefix_space = add_prefix_space
        self.split_special_tokens = split_special_tokens
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.errors = errors
        self._layout(n_special=0, padding=False, truncation=False)  # checks the values above

        ids = dict(vocab) | {token.content: token_id for token_id, token in added_tokens.items()}
        with tf.device(_DEVICE):
            self._encoder = TextEncoder(
                self._vocabulary.tokens,
                self._vocabulary.merges,
                {
                    token_id: token
                    for token_id, token in added_tokens.items()
                    if not (split_special_tokens and token.special)
                },
                None if unk_token is None else ids.get(unk_token),
                add_prefix_space,
            )
            self._decoder = TextDecoder(
                {token_id: token_to_bytes(token) for token, token_id in vocab.items()}
                | {token_id: token.content.encode() for token_id, token in added_tokens.items()},
                {*special_token_ids, *(i for i, token in added_tokens.items() if token.special)},
                errors,
            )

    @property
    def vocab(self) -> dict[str, int]:
        """The id of each token that was not added."""
        return dict(self._vocabulary.tokens)

    @property
    def merges(self) -> list[str]:
        """The merges by rank, spelt as in merges.txt."""
        return [" ".join(pair) for pair in self._vocabulary.merges]

    def current_vocabulary(self) -> Vocabulary:
        """The vocabulary, as of the other tokenizers."""
        return self._vocabulary

    # Making one -----------------------------------------------------------------------------------

    @classmethod
    def from_tokenizer(
        cls, tokenizer: GPT2Tokenizer | GPT2TokenizerFast, *args: Any, **kwargs: Any
    ) -> TFGPT2Tokenizer:
        """Make a layer that does what a tokenizer does: its tokens, special tokens and settings.

        Args:
            tokenizer: a `GPT2Tokenizer` or `GPT2TokenizerFast`. What is done to it afterwards does
                not change the layer.
            *args: the layer's `max_length` and `pad_token_id`. The latter is the tokenizer's, if it
                has a pad token.
            **kwargs: other arguments of the layer, which win over the tokenizer's settings.
        """
        settings = _settings_of(tokenizer) | kwargs
        for name in ("max_length", "pad_token_id")[: len(args)]:
            settings.pop(name, None)
        return cls(settings.pop("vocab"), settings.pop("merges"), *args, **settings)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> TFGPT2Tokenizer:
        """Make a layer from a model's tokenizer files (see `GPT2TokenizerFast.from_pretrained`).

        Args:
            pretrained_model_name_or_path: a folder, or a name on the hub.
            *args: the layer's `max_length` and `pad_token_id`.
            **kwargs: other arguments of the layer; what it does not know goes to
                `GPT2Tokenizer.from_pretrained` (``revision``, ``subfolder``, ``cache_dir`` ...),
                which warns of what it does not know either.
        """
        own = {name: kwargs.pop(name) for name in _LAYER_ARGUMENTS if name in kwargs}
        tokenizer = GPT2Tokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls.from_tokenizer(tokenizer, *args, **own)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer again, in JSON types."""
        return {
            **super().get_config(),
            "vocab": self.vocab,
            "merges": self.merges,
            "max_length": self.max_length,
            "added_tokens_decoder": {
                str(token_id): added_token_state(token)
                for token_id, token in self._vocabulary.added_tokens.items()
            },
            "special_token_ids": list(self.special_token_ids),
            "prefix_token_ids": list(self.prefix_token_ids),
            "suffix_token_ids": list(self.suffix_token_ids),
            **{name: getattr(self, name) for name in _SHARED_SETTINGS},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TFGPT2Tokenizer:
        """Make a layer from what `get_config` returned."""
        return cls(**config)

    # Text to ids ----------------------------------------------------------------------------------

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Check the arguments, then `call`; Keras adds text of its own to errors raised there."""
        options = dict(zip(_CALL_ARGUMENTS, args, strict=False)) | kwargs
        options.pop("training", None)  # Keras gives it to every layer
        unknown = [name for name in options if name not in _CALL_ARGUMENTS]
        if unknown:
            raise InvalidInputError(
                unknown_arguments(type(self).__name__, unknown, _CALL_ARGUMENTS)
            )
        around = self._special_tokens_around(options.pop("add_special_tokens", True))
        self._layout(sum(map(len, around)), **options)
        return super().__call__(_as_strings(x), *args, **kwargs)

    def call(
        self,
        x: Any,
        max_length: int | None = None,
        pad_token_id: int | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        add_special_tokens: bool = True,
    ) -> dict[str, Any]:
        """Encode texts.

        Args:
            x: strings of shape [B], or [B, 1], or one string.
            max_length: longest row, special tokens included; None for the layer's.
            pad_token_id: id to pad with; None for the layer's.
            padding: True or "longest" pads to the longest row, "max_length" to `max_length`, and
                False or "do_not_pad" returns ragged rows. None stands for "max_length" where both
                `max_length` and `pad_token_id` are known, else for False.
            truncation: True cuts rows to `max_length`, False leaves them (and dense rows can then
                be wider than `max_length`). None stands for True where `max_length` is known.
            padding_side: "right" or "left"; None for the layer's.
            truncation_side: "right" or "left"; None for the layer's.
            pad_to_multiple_of: dense rows are a multiple of this wide.
            add_special_tokens: whether `prefix_token_ids` and `suffix_token_ids` are added.

        Returns:
            ``input_ids`` and ``attention_mask`` (1 at tokens, 0 at padding), both int32: ragged
            [B, (T)] or dense [B, T], or [T] for one string.

        Raises:
            InvalidInputError: for a value that is not allowed, padding without a pad token, and
                another shape or type of `x`.
        """
        before, after = self._special_tokens_around(add_special_tokens)
        layout = self._layout(
            len(before) + len(after),
            max_length=max_length,
            pad_token_id=pad_token_id,
            padding=padding,
            truncation=truncation,
            padding_side=padding_side,
            truncation_side=truncation_side,
            pad_to_multiple_of=pad_to_multiple_of,
        )
        with tf.device(_DEVICE):
            texts = _as_strings(x)
            rows = self._encoder(tf.reshape(texts, [-1]))
            rows = layout.cut(rows)
            rows = _surround(rows, before, after)
            ids, mask = layout.pad(rows)
            if texts.shape.rank == 0:
                ids, mask = ids[0], mask[0]
        return {"input_ids": ids, "attention_mask": mask}

    def _special_tokens_around(self, wanted: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.prefix_token_ids, self.suffix_token_ids) if wanted else ((), ())

    def _layout(self, n_special: int, **options: Any) -> Layout:
        for name in ("max_length", "pad_token_id", "padding_side", "truncation_side"):
            if options.get(name) is None:
                options[name] = getattr(self, name)
        return Layout.resolve(n_special=n_special, **options)

    # Ids to text ----------------------------------------------------------------------------------

    def detokenize(
        self,
        ids: Any,
        attention_mask: Any = None,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> tf.Tensor:
        """Turn ids into text; the inverse of a call, for every valid text.

        Args:
            ids: int32 or int64, ragged [B, (T)] or dense [B, T] or [T].
            attention_mask: of the shape of `ids`; ids where it is 0 are left out.
            skip_special_tokens: whether special tokens are left out (and with them padding, if the
                pad token is one).
            clean_up_tokenization_spaces: whether spaces before punctuation and English contractions
                are removed, which may change the text; None for the layer's setting.

        Returns:
            UTF-8 strings of shape [B], or one string. Bytes that are not UTF-8, as of a character
            that generation cut short, are treated as the layer's `errors` says.

        Raises:
            InvalidInputError: for a negative id (in a graph it is a
                `tf.errors.InvalidArgumentError`, raised when the graph runs), and for another shape
                or type. Ids without a token have no text, as a model may have more embeddings than
                there are tokens.
        """
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        with tf.device(_DEVICE):
            rows, is_single = _as_rows(ids, "ids")
            if attention_mask is not None:
                mask, _ = _as_rows(attention_mask, "attention_mask")
                if not mask.shape.is_compatible_with(rows.shape):
                    raise InvalidInputError(
                        f"attention_mask has the shape {mask.shape}, but ids {rows.shape}; they "
                        "must be the same."
                    )
                rows = tf.ragged.boolean_mask(rows, tf.cast(mask, tf.bool))
            texts = self._decoder(
                rows,
                skip_special_tokens=skip_special_tokens,
                clean_up_spaces=clean_up_tokenization_spaces,
            )
            return texts[0] if is_single else texts


def _settings_of(tokenizer: GPT2Tokenizer | GPT2TokenizerFast) -> dict[str, Any]:
    """List the arguments of the layer that does what `tokenizer` does."""
    text = -1  # stands for the ids of the text
    template = tokenizer.build_inputs_with_special_tokens([text])
    vocabulary = tokenizer.current_vocabulary()
    return {
        "vocab": vocabulary.tokens,
        "merges": vocabulary.merges,
        "added_tokens_decoder": vocabulary.added_tokens,
        "special_token_ids": sorted(tokenizer.all_special_ids),
        "prefix_token_ids": template[: template.index(text)],
        "suffix_token_ids": template[template.index(text) + 1 :],
        **{name: getattr(tokenizer, name) for name in _SHARED_SETTINGS},
    }


def _as_strings(x: Any) -> Any:
    """Check the texts of a call, and return them as a tensor of shape [], [B] or [B, 1]."""
    if not isinstance(x, keras.KerasTensor):
        try:
            x = tf.convert_to_tensor(x)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(_not_strings(f"a {type(x).__name__}")) from error
    if tf.as_dtype(x.dtype) != tf.string:
        # An empty list is taken for one of numbers.
        if isinstance(x, keras.KerasTensor) or x.shape != (0,):
            raise InvalidInputError(_not_strings(f"of type {tf.as_dtype(x.dtype).name}"))
        x = tf.zeros([0], tf.string)
    rank = len(x.shape)
    if not (rank < 2 or (rank == 2 and x.shape[1] in (1, None))):
        raise InvalidInputError(_not_strings(f"of shape {tuple(x.shape)}"))
    return x


def _not_strings(what: str) -> str:
    return f"The texts are {what}; they must be strings of shape [B] or [B, 1], or one string."


def _as_rows(values: Any, what: str) -> tuple[tf.RaggedTensor, bool]:
    """Return values of shape [T], [B, T] or [B, (T)] as ragged rows, and whether it was one row."""
    if isinstance(values, (list, tuple)):
        values = tf.ragged.constant(values)
        if tf.size(values) == 0:  # nothing says which type it is
            values = tf.cast(values, tf.int32)
    elif not tf.is_tensor(values):
        values = tf.convert_to_tensor(values)
    if not (values.dtype.is_integer or values.dtype.is_bool) or values.shape.rank not in (1, 2):
        raise InvalidInputError(
            f"{what} is of type {values.dtype.name} and shape {values.shape}; it must be integers "
            "of shape [B, T] or [T]."
        )
    is_single = values.shape.rank == 1
    if is_single:
        values = values[None]
    if not isinstance(values, tf.RaggedTensor):
        values = tf.RaggedTensor.from_tensor(values)
    return values, is_single


def _surround(
    rows: tf.RaggedTensor, before: Sequence[int], after: Sequence[int]
) -> tf.RaggedTensor:
    """Put the same ids before and after each row."""
    if not before and not after:
        return rows

    def repeated(ids: Sequence[int]) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_tensor(
            tf.tile(tf.constant(ids, tf.int32, [1, len(ids)]), [rows.nrows(), 1])
        )

    return tf.concat([repeated(before), rows, repeated(after)], axis=1)


def _arguments_of(function: Callable[..., Any], without: Collection[str]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in without]


_CALL_ARGUMENTS = _arguments_of(TFGPT2Tokenizer.call, {"self", "x"})
_LAYER_ARGUMENTS = _arguments_of(
    TFGPT2Tokenizer.__init__, {"self", "vocab", "merges", "kwargs"}
) + ["name", "dtype", "trainable"]
