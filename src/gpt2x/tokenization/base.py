"""`GPT2TokenizerBase`: what GPT2Tokenizer and GPT2TokenizerFast share, which is all but the engine.

A tokenizer has a table of tokens (vocabulary, added tokens, special tokens), an engine (texts to
ids and back), an assembler (ids to rows) and, for chats, a formatter. Its public API, that of
transformers' `PreTrainedTokenizerBase`, delegates to them. It is spread over four classes, each of
which uses only those before it: `TokenAPI`, `RowAPI`, `TextAPI` and, here, chats, training, files.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken

from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.storage.loading import WHERE
from gpt2x.storage.publishing import PushToHubMixin, check_push_options, push_folder
from gpt2x.tokenization import files
from gpt2x.tokenization.chat import ChatFormatter, check_mask, choose_template
from gpt2x.tokenization.settings import KNOWN, SETTINGS, complete_settings
from gpt2x.tokenization.special_tokens import ADDITIONAL, NAMED_TOKENS, Token
from gpt2x.tokenization.text_api import TextAPI
from gpt2x.tokenization.training import train_vocabulary
from gpt2x.tokenization.vocabulary import Vocabulary, added_token, added_token_state

logger = logging.getLogger(__name__)


class GPT2TokenizerBase(TextAPI, PushToHubMixin):
    """A byte-level BPE tokenizer with GPT-2's rules.

    Args:
        vocabulary: tokens, merges, and what a tokenizer.json says beside them.
        settings: special tokens by role, `add_bos_token`, and any of SETTINGS; None for a default.
    """

    vocab_files_names = files.VOCAB_FILES_NAMES

    def __init__(self, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
        unknown = [name for name in settings if name not in KNOWN]
        self._refuse_methods(unknown)
        given = {k: v for k, v in settings.items() if v is not None and k in KNOWN}
        super().__init__(vocabulary, complete_settings(given, vocabulary.add_prefix_space or False))
        added = {**vocabulary.added_tokens, **given.get("added_tokens_decoder", {})}
        for token_id, token in added.items():
            self._table.register(int(token_id), token)
        self._assign_roles(given)
        if vocabulary.template is not None:
            self._template = vocabulary.template
        if "add_bos_token" in given:
            self.add_bos_token = given["add_bos_token"]
        self._keep_arguments(settings)
        if unknown and self.verbose:
            # Those of from_pretrained as well, which hands on what it does not know.
            message = unknown_arguments(type(self).__name__, unknown, [*KNOWN, *WHERE])
            logger.warning(f"{message} It is kept in init_kwargs and changes nothing.")

    def _refuse_methods(self, names: Sequence[str]) -> None:
        """Raise for an argument that must be meant for a method, as transformers does."""
        for name in names:
            if callable(getattr(type(self), name, None)):
                raise AttributeError(
                    f"{name!r} cannot be an argument of {type(self).__name__}: it is a method."
                )

    def _assign_roles(self, given: Mapping[str, Any]) -> None:
        """Give the roles their tokens, and add those that the vocabulary lacks."""
        extra = given.get("extra_special_tokens") or {}
        if not isinstance(extra, Mapping):  # a list, in transformers 5
            given = {**given, ADDITIONAL: [*given.get(ADDITIONAL, []), *extra]}
            extra = {}
        self.extra_special_tokens = dict(extra)
        self._table.assign_roles(given, extra)

    def _keep_arguments(self, settings: Mapping[str, Any]) -> None:
        self.init_inputs: tuple[Any, ...] = ()
        #: The arguments that this tokenizer was made with, those of tokenizer_config.json included.
        #: What is not a setting is written back by save_pretrained.
        kept = {name: value for name, value in settings.items() if name != "added_tokens_decoder"}
        self.init_kwargs: dict[str, Any] = {"errors": self.errors, **copy.deepcopy(kept)}
        for name in ("add_prefix_space", "add_bos_token"):
            self.init_kwargs[name] = getattr(self, name)
        for role in set(NAMED_TOKENS).intersection(settings):
            self.init_kwargs[role] = self._table.special.by_role[role]

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, **settings: Any) -> Self:
        """Make a tokenizer of a vocabulary that was read already."""
        return cls(vocabulary, **settings)

    def settings(self) -> dict[str, Any]:
        """The constructor arguments beside the vocabulary and special tokens."""
        names = [name for name in SETTINGS if name != "name_or_path"]
        return {name: getattr(self, name) for name in (*names, "add_bos_token")}

    def other_arguments(self) -> dict[str, Any]:
        """The arguments that are neither settings nor files."""
        known = {*KNOWN, *self.vocab_files_names}
        return {name: value for name, value in self.init_kwargs.items() if name not in known}

    def current_vocabulary(self) -> Vocabulary:
        """The vocabulary with the tokens that were added, and the settings that go with it."""
        return replace(
            self._table.vocabulary,
            added_tokens=self.added_tokens_decoder,
            template=self._template,
            add_prefix_space=self.add_prefix_space,
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, "
            f"vocab_size={self.vocab_size}, model_max_length={self.model_max_length}, "
            f"is_fast={self.is_fast}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"added_tokens={self.added_tokens_encoder})"
        )

    # Chats ----------------------------------------------------------------------------------------

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Make the text of a chat, or of several, with a chat template, and encode it.

        A template comes from the publisher of the tokenizer. It runs in Jinja's sandbox, where it
        reads only its arguments, but its time and the length of its text are not limited.

        Args:
            conversation: the messages of a chat, dictionaries with the keys "role" and "content"
                (and others that the template knows); or a list of chats. An object with
                `messages` counts as a chat.
            tools: functions that the model may call, or their schemas; a function's type hints and
                docstring make its schema (`get_json_schema`).
            documents: texts that the model may quote, dictionaries with the keys "title" and
                "text".
            chat_template: the template, or the name of one of the tokenizer's; see
                `get_chat_template`.
            add_generation_prompt: whether the text ends where the assistant's answer begins.
            continue_final_message: whether the text ends with the words of the last message, for
                the model to continue.
            tokenize: False to return the text, or a list of texts.
            padding, truncation, max_length, return_tensors: as in `__call__`.
            return_dict: True for the whole result of `__call__`, False for `input_ids` only.
            return_assistant_tokens_mask: whether to add `assistant_masks`: 1 for the tokens of the
                template's ``{% generation %}`` blocks, 0 for others (GPT2TokenizerFast with
                `return_dict` only).
            tokenizer_kwargs: further arguments of `__call__`.
            **kwargs: variables for the template, beside the special tokens by role.

        Raises:
            InvalidInputError: for arguments that contradict each other, without a template, if the
                text does not contain the message to continue, or if the template fails, for example
                on messages without content.
            MissingBackendError: if jinja2 is not installed.
            jinja2.TemplateError: if the template is not valid, or raises it.
        """
        if return_dict and not tokenize:
            raise InvalidInputError("return_dict=True needs tokenize=True: a text has no entries.")
        if return_assistant_tokens_mask:
            check_mask(return_dict, continue_final_message, self.is_fast)
        if continue_final_message and add_generation_prompt:
            raise InvalidInputError(
                "add_generation_prompt=True opens a new message of the assistant and "
                "continue_final_message=True continues the last one; pass one of them."
            )
        formatter = ChatFormatter(self.get_chat_template(chat_template, tools))
        if return_assistant_tokens_mask and not formatter.marks_generation:
            self.warn_once(
                "generation blocks",
                "return_assistant_tokens_mask=True marks nothing: the chat template has no "
                "{% generation %} blocks.",
            )
        chats = formatter.render(
            conversation,
            tools=tools,
            documents=documents,
            continue_final_message=continue_final_message,
            variables={
                "add_generation_prompt": add_generation_prompt,
                **self.special_tokens_map,
                **kwargs,
            },
        )
        text = chats.texts if chats.is_batch else chats.texts[0]
        if not tokenize:
            return text
        encoded = self(
            text,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        if return_assistant_tokens_mask:
            masks = chats.assistant_masks(encoded)
            has_rows = chats.is_batch or return_tensors or "overflow_to_sample_mapping" in encoded
            encoded["assistant_masks"] = masks if has_rows else masks[0]
            encoded.convert_to_tensors(return_tensors)
        return encoded if return_dict else encoded["input_ids"]

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the template that `apply_chat_template` uses.

        Args:
            chat_template: a template, or the name of one of the tokenizer's. By default the
                tokenizer's own; of several, "tool_use" if there are tools, else "default".
            tools: the tools; it only matters whether there are any.

        Raises:
            InvalidInputError: if there is no template, or several and none is "default".
        """
        return choose_template(self.chat_template, chat_template, tools)

    def encode_message_with_chat_template(
        self,
        message: Mapping[str, Any],
        conversation_history: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Return the ids that a message adds to those of the chat before it.

        These are the ids from the first one that differs from those of the chat without the
        message. With some templates they include more than the message.

        Args:
            message: the message.
            conversation_history: the messages before it.
            **kwargs: arguments of `apply_chat_template`, except `add_generation_prompt`.
        """
        if "add_generation_prompt" in kwargs:
            raise InvalidInputError(
                "encode_message_with_chat_template() does not take add_generation_prompt: it "
                "encodes one message. Encode the prompt with apply_chat_template()."
            )
        history = list(conversation_history or [])
        ids = self.apply_chat_template([*history, message], **kwargs)
        before = self.apply_chat_template(history, **kwargs) if history else []
        shared = min(len(ids), len(before))
        first = (i for i in range(shared) if ids[i] != before[i])
        return ids[next(first, shared) :]

    # Training -------------------------------------------------------------------------------------

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Token] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer_options: Any,
    ) -> Self:
        """Train a tokenizer with the settings and special tokens of this one on other texts.

        Args:
            text_iterator: texts, or batches of texts.
            vocab_size: tokens of the new tokenizer, special ones included.
            length: how many items `text_iterator` has, for the progress bar.
            new_special_tokens: special tokens beside those of this tokenizer.
            special_tokens_map: new texts of this tokenizer's special tokens, by their old texts.
            **trainer_options: `min_frequency`, `max_token_length` and `show_progress`, as in
                `tokenizers.trainers.BpeTrainer`.

        Returns:
            The new tokenizer. Its special tokens have the first ids; tokens that were added to
            this one and are not special are gone.
        """
        new_names = special_tokens_map or {}
        as_added_token = self._table.as_added_token

        def renamed(token: Token) -> AddedToken:
            state = added_token_state(as_added_token(token, special=True))
            return added_token({**state, "content": new_names.get(str(token), str(token))})

        roles: dict[str, Any] = {
            role: [renamed(token) for token in value] if isinstance(value, list) else renamed(value)
            for role, value in self.special_tokens_map_extended.items()
        }
        new = [
            self._table.as_added_token(token, special=True) for token in new_special_tokens or []
        ]
        roles[ADDITIONAL] = [*roles.get(ADDITIONAL, []), *new]
        marked = [renamed(token) for token in self._table.added.by_id.values() if token.special]
        vocabulary = train_vocabulary(
            text_iterator,
            vocab_size,
            special_tokens=list({str(token): token for token in [*marked, *new]}.values()),
            add_prefix_space=self.add_prefix_space,
            length=length,
            trainer_options=trainer_options,
        )
        roles["extra_special_tokens"] = {r: roles.pop(r) for r in self.extra_special_tokens}
        new_tokenizer = self.from_vocabulary(
            vocabulary,
            **{**self.settings(), **dict.fromkeys(NAMED_TOKENS), **roles},
        )
        new_tokenizer.init_kwargs = {**self.other_arguments(), **new_tokenizer.init_kwargs}
        return new_tokenizer

    # Files ----------------------------------------------------------------------------------------

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
            **push_options: others of `gpt2x.publishing.push_folder` (`commit_message` ...).

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
        return files.save_vocabulary(self._table.vocabulary, save_directory, filename_prefix)
