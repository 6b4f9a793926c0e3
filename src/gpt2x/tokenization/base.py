"""What GPT2Tokenizer and GPT2TokenizerFast share: vocabulary, special tokens, decoding, files.

They differ in how they encode plain text, and in nothing else.
"""

from __future__ import annotations

import codecs
import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken

from gpt2x.errors import CheckpointError, InvalidInputError, check_choice, unknown_arguments
from gpt2x.storage.loading import WHERE
from gpt2x.storage.publishing import PushToHubMixin, check_push_options, push_folder
from gpt2x.tokenization import files
from gpt2x.tokenization.added_tokens import AddedTokens
from gpt2x.tokenization.bpe import Merge
from gpt2x.tokenization.chat import ChatMixin
from gpt2x.tokenization.decoding import DecodeMixin
from gpt2x.tokenization.options import NO_MAX_LENGTH, SIDES, EncodeOptions
from gpt2x.tokenization.preparing import to_list
from gpt2x.tokenization.special_tokens import ADDITIONAL, NAMED_TOKENS, Token
from gpt2x.tokenization.template import Template
from gpt2x.tokenization.training import TrainMixin
from gpt2x.tokenization.vocabulary import Vocabulary, added_token, added_token_state

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"

#: What can be set beside special tokens and `add_bos_token`, and the defaults.
SETTINGS: dict[str, Any] = {
    "errors": "replace",
    "add_prefix_space": False,
    "model_max_length": NO_MAX_LENGTH,
    "padding_side": "right",
    "truncation_side": "right",
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": False,
    "pad_token_type_id": 0,
    "chat_template": None,
    "name_or_path": "",
    "verbose": True,
}

_KNOWN = (
    *NAMED_TOKENS,
    ADDITIONAL,
    "extra_special_tokens",
    "added_tokens_decoder",
    "add_bos_token",
    "max_len",
    *SETTINGS,
)


class GPT2TokenizerBase(PushToHubMixin, TrainMixin, DecodeMixin, ChatMixin):
    """A byte-level BPE tokenizer with GPT-2's rules.

    Args:
        vocabulary: tokens, merges, and what a tokenizer.json says beside them.
        settings: special tokens by role, `add_bos_token`, and any of SETTINGS; None for a default.
    """

    vocab_files_names = files.VOCAB_FILES_NAMES
    is_fast = False

    errors: str
    add_prefix_space: bool
    clean_up_tokenization_spaces: bool
    split_special_tokens: bool
    name_or_path: str
    verbose: bool

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
        unknown = [name for name in settings if name not in _KNOWN]
        self._check_unknown(unknown)
        given = {k: v for k, v in settings.items() if v is not None and k in _KNOWN}
        #: The topics that were warned of; set one to True, and it is not warned of.
        self.deprecation_warnings: dict[str, bool] = {}
        self._vocabulary = vocabulary
        self._added = AddedTokens()
        self._next_id = max(vocabulary.tokens.values(), default=-1) + 1
        self._stored_template = Template()
        self._start_engine()
        self._bytes_of: dict[int, bytes] = {}
        self._apply_settings(given)
        added = {**vocabulary.added_tokens, **given.get("added_tokens_decoder", {})}
        for token_id, token in added.items():
            self._register(int(token_id), token)
        self._init_special_tokens(given)
        if vocabulary.template is not None:
            self._set_template(vocabulary.template)
        if "add_bos_token" in given:
            self.add_bos_token = given["add_bos_token"]
        self._keep_arguments(settings)
        if unknown and self.verbose:
            # Those of from_pretrained as well, which hands on what it does not know.
            message = unknown_arguments(type(self).__name__, unknown, [*_KNOWN, *WHERE])
            logger.warning(f"{message} It is kept in init_kwargs and changes nothing.")

    def _check_unknown(self, names: Sequence[str]) -> None:
        """Raise for an argument that must be meant for a method, as transformers does."""
        for name in names:
            if callable(getattr(type(self), name, None)):
                raise AttributeError(
                    f"{name!r} cannot be an argument of {type(self).__name__}: it is a method."
                )

    def _keep_arguments(self, settings: Mapping[str, Any]) -> None:
        self.init_inputs: tuple[Any, ...] = ()
        #: The arguments that this tokenizer was made with, those of tokenizer_config.json included.
        #: What is not a setting is written back by save_pretrained.
        kept = {name: value for name, value in settings.items() if name != "added_tokens_decoder"}
        self.init_kwargs: dict[str, Any] = {"errors": self.errors, **copy.deepcopy(kept)}
        for name in ("add_prefix_space", "add_bos_token"):
            self.init_kwargs[name] = getattr(self, name)
        for role in set(NAMED_TOKENS).intersection(settings):
            self.init_kwargs[role] = self._special_tokens_map[role]

    def other_arguments(self) -> dict[str, Any]:
        """The arguments that are neither settings nor files."""
        known = {*_KNOWN, *self.vocab_files_names}
        return {name: value for name, value in self.init_kwargs.items() if name not in known}

    def _apply_settings(self, given: Mapping[str, Any]) -> None:
        from_file = {
            "add_prefix_space": self._vocabulary.add_prefix_space or False,
            "model_max_length": given.get("max_len", NO_MAX_LENGTH),  # its name in transformers 2
        }
        for name, default in {**SETTINGS, **from_file}.items():
            setattr(self, name, given.get(name, default))
        self.model_input_names = list(self.model_input_names)
        self.chat_template = _named_templates(self.chat_template)
        check_choice("padding_side", self.padding_side, SIDES)
        check_choice("truncation_side", self.truncation_side, SIDES)
        try:
            codecs.lookup_error(self.errors)
        except (LookupError, TypeError):
            raise InvalidInputError(
                f"errors is {self.errors!r}; allowed are the error handlers of bytes.decode: "
                "'replace', 'strict', 'ignore', 'backslashreplace'."
            ) from None

    def _start_engine(self) -> None:
        """Prepare what encodes plain text; called before tokens are added."""
        raise NotImplementedError

    def _prefixes_space(self, options: EncodeOptions) -> bool:
        """Say whether a text, or each word of a list of words, is encoded as if after a space."""
        if options.is_split_into_words:
            return True
        asked = options.add_prefix_space
        return self.add_prefix_space if asked is None else asked

    def _ignores_special(self, options: EncodeOptions) -> bool:
        """Say whether special tokens in a text are taken for plain text."""
        asked = options.split_special_tokens
        return self.split_special_tokens if asked is None else asked

    # Vocabulary -----------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added ones; `len(tokenizer)` counts those too."""
        return len(self._vocabulary.tokens)

    def __len__(self) -> int:
        tokens = self._vocabulary.tokens
        return len(tokens) + sum(content not in tokens for content in self._added.ids)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added ones included."""
        return {**self._vocabulary.tokens, **self._added.ids}

    @property
    def vocab(self) -> dict[str, int]:
        """The id of every token, added ones included."""
        return self.get_vocab()

    @property
    def bpe_ranks(self) -> dict[Merge, int]:
        """The rank of each pair of tokens; the lowest is merged first."""
        return self._vocabulary.ranks()

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary has no such token."""
        token_id = self._added.get(token)
        return self._vocabulary.tokens.get(token) if token_id is None else token_id

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the ids of a list of tokens.

        A token that the vocabulary lacks has the id of `unk_token` (None without one).
        """
        if tokens is None:
            return None
        if isinstance(tokens, (str, AddedToken)):
            token_id = self.token_to_id(str(tokens))
            return self._unknown_id() if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def _unknown_id(self) -> int | None:
        unk_token = self._special_tokens_map["unk_token"]
        return None if unk_token is None else self.token_to_id(str(unk_token))

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of several; None for an id that has none."""
        ids = to_list(ids)
        if not isinstance(ids, list):
            return self._token_of(ids)
        skipped = self._special_ids() if skip_special_tokens else ()
        return [self._token_of(token_id) for token_id in ids if token_id not in skipped]

    def _token_of(self, token_id: int) -> str | None:
        token = self._added.token(token_id)
        return self._tokens_by_id().get(token_id) if token is None else token.content

    def _tokens_by_id(self) -> dict[int, str]:
        if "_id_to_token" not in self.__dict__:
            tokens = self._vocabulary.tokens
            self._id_to_token = {token_id: token for token, token_id in tokens.items()}
        return self._id_to_token

    # Added and special tokens ---------------------------------------------------------------------

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The id of each added token, special ones included."""
        return self._added.ids

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id, special ones included."""
        return self._added.by_id

    def get_added_vocab(self) -> dict[str, int]:
        """Return the id of each added token, special ones included."""
        return self._added.ids

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that are found in text whole, before it is split into words.

        A token that the vocabulary has already keeps its id.

        Args:
            new_tokens: a token or a list of them, each a string or an AddedToken, whose options say
                whether it takes along white space on its left (`lstrip`) or right (`rstrip`), and
                whether it only counts where it stands alone (`single_word`).
            special_tokens: whether they are special: skipped by `decode(skip_special_tokens=True)`.

        Returns:
            How many tokens are new. Resize the model's embeddings to ``len(tokenizer)`` if any.
        """
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        before = len(self)
        for token in new_tokens or []:
            if not isinstance(token, (str, AddedToken)):
                raise InvalidInputError(
                    f"{token!r} is not a token: it must be a str or AddedToken."
                )
            if str(token):
                self._add(self._as_added_token(token, special_tokens))
        return len(self) - before

    def _as_added_token(self, token: Token, special: bool) -> AddedToken:
        special = special or str(token) in self.all_special_tokens
        if isinstance(token, str):
            return AddedToken(token, special=special, normalized=not special)
        return added_token(added_token_state(token), special=special or token.special)

    def _register(self, token_id: int, token: AddedToken) -> None:
        """Take over an added token of a file, under its id."""
        in_vocabulary = self._vocabulary.tokens.get(token.content, token_id)
        holder = self._tokens_by_id().get(token_id, token.content)
        if in_vocabulary != token_id or holder != token.content:
            raise CheckpointError(
                f"The added token {token.content!r} has the id {token_id}, but the vocabulary "
                f"gives it the id {in_vocabulary}, and that id to {holder!r}."
            )
        self._added.put(token_id, token)
        self._next_id = max(self._next_id, token_id + 1)

    def _add(self, token: AddedToken) -> None:
        token_id = self.token_to_id(token.content)
        if token_id is None:
            token_id = self._next_id
            self._next_id += 1
        self._added.put(token_id, token)
        self._bytes_of.pop(token_id, None)
        if token.special and token.content not in self.all_special_tokens:
            additional = self._special_tokens_map[ADDITIONAL] or []
            self._special_tokens_map[ADDITIONAL] = [*additional, token]

    def sanitize_special_tokens(self) -> int:
        """Add the special tokens that the vocabulary lacks; return how many those are."""
        return self.add_tokens(self.all_special_tokens_extended, special_tokens=True)

    def _init_special_tokens(self, given: Mapping[str, Any]) -> None:
        """Assign the roles, and add tokens that the vocabulary lacks, in the order of the roles."""
        self._clear_special_tokens()
        extra = given.get("extra_special_tokens") or {}
        if not isinstance(extra, Mapping):  # a list, in transformers 5
            given = {**given, ADDITIONAL: [*given.get(ADDITIONAL, []), *extra]}
            extra = {}
        self.extra_special_tokens = dict(extra)
        self._special_tokens_map.update(dict.fromkeys(extra))
        for role in self._special_tokens_map:
            value = extra.get(role, given.get(role))
            if value is not None:
                self._set_special_token(role, value)
        for role, value in self._special_tokens_map.items():
            if isinstance(value, list):
                value[:] = [self._adopt(token) for token in value]
            elif value is not None:
                self._special_tokens_map[role] = self._adopt(value)

    def _adopt(self, token: Token) -> AddedToken:
        """Register a role's token as a special one; options that are not given are as they were."""
        if isinstance(token, str):
            known = self._added.token(self._added.ids.get(token, -1))
            token = AddedToken(token, normalized=True) if known is None else known
        token = added_token(added_token_state(token), special=True)
        self._add(token)
        return token

    def _special_ids(self) -> frozenset[int]:
        marked = (token_id for token_id, token in self._added.by_id.items() if token.special)
        return frozenset([*self.all_special_ids, *marked])

    def _id_of(self, token: str) -> int:
        token_id = self.token_to_id(token)
        if token_id is None:
            raise InvalidInputError(
                f"The special token {token!r} is not in the vocabulary. Add it with "
                f"tokenizer.add_tokens([{token!r}], special_tokens=True)."
            )
        return token_id

    # Special tokens around texts ------------------------------------------------------------------

    def _template(self) -> Template:
        return self._stored_template

    def _set_template(self, template: Template) -> None:
        self._stored_template = template

    @property
    def add_bos_token(self) -> bool:
        """Whether each text begins with `bos_token`; once set here, both texts of a pair do."""
        return self.bos_token is not None and self._template().single[0] == self.bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        if value and self.bos_token is None:
            raise InvalidInputError("add_bos_token=True needs a bos_token, and none is set.")
        self._set_template(Template.with_bos(self.bos_token) if value else Template())

    def _set_special_token(self, role: str, value: Any) -> None:
        follows = role == "bos_token" and self.add_bos_token
        super()._set_special_token(role, value)
        if follows:
            self.add_bos_token = value is not None

    # Files ----------------------------------------------------------------------------------------

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, **settings: Any) -> Self:
        """Make a tokenizer of a vocabulary that was read already."""
        return cls(vocabulary, **settings)

    def settings(self) -> dict[str, Any]:
        """The constructor arguments beside the vocabulary and special tokens."""
        names = [name for name in SETTINGS if name != "name_or_path"]
        return {name: getattr(self, name) for name in (*names, "add_bos_token")}

    @classmethod
    def settings_names(cls) -> frozenset[str]:
        """The constructor arguments that do not say where the vocabulary is."""
        return frozenset(_KNOWN)

    def optional_settings(self) -> dict[str, Any]:
        """The settings that are saved only where they are not the default, and the defaults."""
        names = ("split_special_tokens", "model_input_names", "pad_token_type_id")
        return {name: SETTINGS[name] for name in names}

    def current_vocabulary(self) -> Vocabulary:
        """The vocabulary with the tokens that were added, and the settings that go with it."""
        return replace(
            self._vocabulary,
            added_tokens=self.added_tokens_decoder,
            template=self._template(),
            add_prefix_space=self.add_prefix_space,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Self:
        """Load a tokenizer from a folder, or from a repository of the Hugging Face Hub.

        Reads tokenizer.json if there is one, else vocab.json and merges.txt (or OpenAI's
        encoder.json and vocab.bpe); then tokenizer_config.json and, in older folders,
        special_tokens_map.json and added_tokens.json; last chat_template.jinja and the files of
        additional_chat_templates. A GGUF file holds its tokenizer itself.

        Args:
            pretrained_model_name_or_path: a folder, a .gguf file, or a name such as "gpt2".
            **options: `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only` and
                `force_download` say where to look, `gguf_file` in which file of the folder or
                repository; everything else is a constructor argument and
                wins over what the files say.

        Raises:
            CheckpointError: if files are missing, cannot be read or contradict each other.
        """
        return files.load(cls, pretrained_model_name_or_path, options)

    def save_pretrained(
        self,
        save_directory: str | Path,
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
        push_to_hub: bool = False,
        *,
        save_jinja_files: bool = True,
        repo_id: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        **push_options: Any,
    ) -> tuple[str, ...]:
        """Write the files that transformers 4 and 5 read back to the same ids.

        Args:
            save_directory: the folder; it is made if there is none.
            legacy_format: True to leave tokenizer.json out; False to leave out vocab.json,
                merges.txt and added_tokens.json; None to write all.
            filename_prefix: what the names of the files begin with, before a "-".
            push_to_hub: upload the folder as well (see `push_to_hub`).
            save_jinja_files: whether chat templates are files of their own, chat_template.jinja
                and, for named ones, additional_chat_templates/NAME.jinja; if not, they are written
                into tokenizer_config.json, where older programs look for them.
            repo_id: where to upload to; by default the folder's name, of the token's owner.
            create_pr: upload as a pull request.
            token: access token with write permission.
            **push_options: others of `gpt2x.storage.publishing.push_folder` (`commit_message` ...).

        Returns:
            The paths of the files.

        Raises:
            InvalidInputError: for an unknown keyword.
            CheckpointError: if the hub refuses or cannot be reached.
        """
        arguments = list(inspect.signature(self.save_pretrained).parameters)[:-1]
        check_push_options(f"{type(self).__name__}.save_pretrained", push_options, arguments)
        paths = files.save(self, save_directory, legacy_format, filename_prefix, save_jinja_files)
        if push_to_hub:
            push_folder(save_directory, repo_id, token=token, create_pr=create_pr, **push_options)
        return paths

    def save_vocabulary(
        self, save_directory: str | Path, filename_prefix: str | None = None
    ) -> tuple[str, str]:
        """Write vocab.json and merges.txt into a folder; return their paths."""
        return files.save_vocabulary(self._vocabulary, save_directory, filename_prefix)

    # Odds and ends --------------------------------------------------------------------------------

    def warn_once(self, topic: str, message: str) -> None:
        """Log a warning, the first time that this tokenizer meets the topic."""
        if not self.deprecation_warnings.get(topic):
            self.deprecation_warnings[topic] = True
            logger.warning(message)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, "
            f"vocab_size={self.vocab_size}, model_max_length={self.model_max_length}, "
            f"is_fast={self.is_fast}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"added_tokens={self.added_tokens_encoder})"
        )


def _named_templates(chat_template: Any) -> Any:
    """Turn the list in which tokenizer_config.json holds several templates into a dictionary."""
    if not isinstance(chat_template, (list, tuple)):
        return chat_template
    try:
        return {entry["name"]: entry["template"] for entry in chat_template}
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            "chat_template must be a template, a dictionary of templates by name, or a list of "
            'dictionaries with the keys "name" and "template".'
        ) from error
