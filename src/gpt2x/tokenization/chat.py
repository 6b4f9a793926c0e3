"""Chats: messages to text, by a tokenizer's chat template, and to ids.

Source: transformers 4.57, `PreTrainedTokenizerBase.apply_chat_template`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from inspect import isfunction
from types import ModuleType
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.batch_encoding import BatchEncoding
from gpt2x.tokenization.chat_schema import get_json_schema
from gpt2x.tokenization.preparing import PrepareMixin

Span = tuple[int, int]

# Stands for the end of the message that is to be continued. The space tells whether the template
# keeps the white space at a message's end.
_END = "CONTINUE_FINAL_MESSAGE_TAG "

_GENERATION_AND_CONTINUATION = (
    "add_generation_prompt=True opens a new message of the assistant and "
    "continue_final_message=True goes on with the last one; pass one of them."
)


class ChatMixin(PrepareMixin):
    """Rendering of chats."""

    chat_template: str | dict[str, str] | None

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """The roles that have a token, and its text."""
        raise NotImplementedError

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

        A template comes from whoever published the tokenizer. It runs in Jinja's sandbox, where it
        reads what it is given and reaches nothing else, but neither its time nor the length of its
        text is bounded.

        Args:
            conversation: the messages of a chat, dictionaries with the keys "role" and "content"
                (and others that the template knows); or a list of chats. An object with
                `messages` counts as a chat.
            tools: what the model may call: functions, whose type hints and docstrings are made
                into schemas (`get_json_schema`), or such schemas.
            documents: what the model may quote, dictionaries with the keys "title" and "text".
            chat_template: the template, or the name of one of the tokenizer's; see
                `get_chat_template`.
            add_generation_prompt: whether the text ends where the assistant's answer begins.
            continue_final_message: whether the text ends with the words of the last message, for
                the model to continue.
            tokenize: False to return the text, or a list of texts.
            padding, truncation, max_length, return_tensors: as in `__call__`.
            return_dict: True for all that `__call__` returns, False for `input_ids` alone.
            return_assistant_tokens_mask: whether to add `assistant_masks`: 1 for the tokens of the
                template's ``{% generation %}`` blocks, 0 for others (GPT2TokenizerFast with
                `return_dict` only).
            tokenizer_kwargs: further arguments of `__call__`.
            **kwargs: variables for the template, beside the special tokens by role.

        Raises:
            InvalidInputError: for arguments that contradict each other, without a template, if the
                text does not hold the message to continue, and where the template fails, on
                messages without content for example.
            MissingBackendError: if jinja2 is not installed.
            jinja2.TemplateError: what the template raises, and if it is not valid.
        """
        if return_dict and not tokenize:
            raise InvalidInputError("return_dict=True needs tokenize=True: a text has no entries.")
        if return_assistant_tokens_mask:
            self._check_mask(return_dict, continue_final_message)
        if continue_final_message and add_generation_prompt:
            raise InvalidInputError(_GENERATION_AND_CONTINUATION)
        template = self.get_chat_template(chat_template, tools)
        jinja = _jinja()
        if return_assistant_tokens_mask and not jinja.has_generation_blocks(template):
            self.warn_once(
                "generation blocks",
                "return_assistant_tokens_mask=True marks nothing: the chat template has no "
                "{% generation %} blocks.",
            )
        chats, is_batch = _chats(conversation)
        variables = {
            "tools": None if tools is None else [_tool(tool) for tool in tools],
            "documents": _checked_documents(documents),
            "add_generation_prompt": add_generation_prompt,
            **self.special_tokens_map,
            **kwargs,
        }
        texts, spans = [], []
        for chat in chats:
            messages = _left_open(chat) if continue_final_message else chat
            text, generated = jinja.render(template, {"messages": messages, **variables})
            texts.append(_cut(text, _last_text(chat)) if continue_final_message else text)
            spans.append(generated)
        text_or_texts = texts if is_batch else texts[0]
        if not tokenize:
            return text_or_texts
        encoded = self(
            text_or_texts,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        if return_assistant_tokens_mask:
            masks = _assistant_masks(encoded, spans)
            has_rows = is_batch or return_tensors or "overflow_to_sample_mapping" in encoded
            encoded["assistant_masks"] = masks if has_rows else masks[0]
            encoded.convert_to_tensors(return_tensors)
        return encoded if return_dict else encoded["input_ids"]

    def _check_mask(self, return_dict: bool, continue_final_message: bool) -> None:
        asked = "return_assistant_tokens_mask=True"
        if not return_dict:
            raise InvalidInputError(f"{asked} needs return_dict=True, to be an entry of.")
        if continue_final_message:
            raise InvalidInputError(f"{asked} and continue_final_message=True contradict.")
        if not self.is_fast:
            raise InvalidInputError(
                f"{asked} needs GPT2TokenizerFast; GPT2Tokenizer does not know which characters a "
                "token comes from."
            )

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the template that `apply_chat_template` uses.

        Args:
            chat_template: a template, or the name of one of the tokenizer's. By default the
                tokenizer's own; of several, "tool_use" if there are tools, else "default".
            tools: the tools; only whether there are any counts.

        Raises:
            InvalidInputError: if there is no template, or several and none is "default".
        """
        own = self.chat_template
        if isinstance(own, Mapping):
            if chat_template is not None:
                return own.get(chat_template, chat_template)
            if tools is not None and "tool_use" in own:
                return own["tool_use"]
            if "default" in own:
                return own["default"]
            raise InvalidInputError(
                f"The tokenizer has several chat templates, {', '.join(map(repr, sorted(own)))}, "
                "and none is called 'default'. Name one: chat_template=..."
            )
        template = own if chat_template is None else chat_template
        if template is not None and not isinstance(template, str):
            raise InvalidInputError(
                f"chat_template is a {type(template).__name__}; it must be a string."
            )
        if template is None:
            raise InvalidInputError(
                "The tokenizer has no chat template: GPT-2 was not trained on chats. Set the one "
                "that the model was trained with, tokenizer.chat_template = ..., or pass it as "
                "chat_template=..."
            )
        return template

    def encode_message_with_chat_template(
        self,
        message: Mapping[str, Any],
        conversation_history: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Return the ids that a message adds to those of the chat before it.

        The ids from the first one on that differs from the chat's without the message. Templates
        exist for which these are not the message's alone.

        Args:
            message: the message.
            conversation_history: the messages before it.
            **kwargs: arguments of `apply_chat_template`, but for `add_generation_prompt`.
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


def _jinja() -> ModuleType:
    """The module that renders, whose library is in an extra."""
    # Not above: loading a tokenizer does not need the code of checkpoints.
    from gpt2x.backends import require_library

    require_library("jinja2", "A chat template", extra="chat")
    from gpt2x.tokenization import chat_jinja

    return chat_jinja


# What is rendered -----------------------------------------------------------------------------


def _chats(conversation: Any) -> tuple[list[Any], bool]:
    """Return the chats' messages, and whether there may be several."""
    if hasattr(conversation, "messages"):
        return [conversation.messages], False
    if isinstance(conversation, (str, Mapping)) or not hasattr(conversation, "__len__"):
        raise InvalidInputError(
            f"The conversation is a {type(conversation).__name__}; it must be a list of messages, "
            'such as [{"role": "user", "content": "Hello"}], or a list of such lists.'
        )
    if len(conversation) == 0:
        raise InvalidInputError("The conversation is empty; it needs a message.")
    first = conversation[0]
    if not isinstance(first, (list, tuple)) and not hasattr(first, "messages"):
        return [conversation], False
    return [chat.messages if hasattr(chat, "messages") else chat for chat in conversation], True


def _tool(tool: Any) -> Any:
    if isinstance(tool, Mapping):
        return tool
    if isfunction(tool):
        return get_json_schema(tool)
    raise InvalidInputError(
        f"The tool {tool!r} is neither a function nor a dictionary with its JSON schema."
    )


def _checked_documents(documents: Any) -> Any:
    for document in documents or []:
        if not isinstance(document, Mapping):
            raise InvalidInputError(
                f"The document {document!r} is a {type(document).__name__}; it must be a "
                'dictionary with the keys "title" and "text".'
            )
    return documents


# Messages to continue -------------------------------------------------------------------------


def _text_place(message: Any) -> tuple[Any, str]:
    """Where the last text of a message is: a dictionary and its key."""
    content = message["content"] if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return message, "content"
    if isinstance(content, (list, tuple)):
        for block in reversed(content):
            if isinstance(block, Mapping) and isinstance(block.get("text"), str):
                return block, "text"
    raise InvalidInputError(
        "continue_final_message=True needs a final message whose content is a text, or a list "
        f"that holds one; it is {message!r}."
    )


def _last_text(chat: Sequence[Any]) -> str:
    place, key = _text_place(chat[-1])
    return place[key]


def _left_open(chat: Sequence[Any]) -> list[Any]:
    """The messages of a chat with the end of the last text marked."""
    message = copy.deepcopy(chat[-1])
    place, key = _text_place(message)
    place[key] += _END
    return [*chat[:-1], message]


def _cut(text: str, message: str) -> str:
    """Cut a rendered chat at the mark. Where the template trims messages, so do we."""
    mark = text.rfind(_END.strip())
    if mark < 0 or message.strip() not in text:
        raise InvalidInputError(
            "continue_final_message=True, but the chat template's text does not hold the final "
            "message as it is: the template leaves parts of it out or changes them."
        )
    return text[:mark] if text.startswith(_END, mark) else text[:mark].rstrip()


# The assistant's tokens -----------------------------------------------------------------------


def _assistant_masks(encoded: BatchEncoding, spans: list[list[Span]]) -> list[list[int]]:
    """For each row 1 for the tokens that come of the characters of a span, 0 for others."""
    rows = encoded.encodings or []
    chats = encoded.get("overflow_to_sample_mapping", range(len(rows)))
    return [
        [
            int(of_text is not None and any(b < end and start < e for b, e in spans[chat]))
            for (start, end), of_text in zip(row.offsets, row.sequence_ids, strict=True)
        ]
        for row, chat in zip(rows, chats, strict=True)
    ]
