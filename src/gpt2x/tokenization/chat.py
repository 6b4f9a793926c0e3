"""Chats: messages to text, by a tokenizer's chat template.

Source: transformers 4.57, `PreTrainedTokenizerBase.apply_chat_template`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import isfunction
from types import ModuleType
from typing import Any

from gpt2x.errors import InvalidInputError
from gpt2x.tokenization.batch_encoding import BatchEncoding
from gpt2x.tokenization.chat_schema import get_json_schema

Span = tuple[int, int]

# Marks the end of the message to continue. The space shows whether the template keeps white space
# at the end of a message.
_END = "CONTINUE_FINAL_MESSAGE_TAG "


@dataclass(frozen=True)
class Rendered:
    """The texts of chats.

    Attributes:
        texts: one a chat.
        spans: for each text the first and last + 1 character of each ``{% generation %}`` block.
        is_batch: whether there may be several chats.
    """

    texts: list[str]
    spans: list[list[Span]]
    is_batch: bool

    def assistant_masks(self, encoded: BatchEncoding) -> list[list[int]]:
        """Return for each row 1 for tokens of the characters of a span, 0 for others."""
        rows = encoded.encodings or []
        chats = encoded.get("overflow_to_sample_mapping", range(len(rows)))
        return [
            [
                int(of_text is not None and any(b < end and start < e for b, e in self.spans[chat]))
                for (start, end), of_text in zip(row.offsets, row.sequence_ids, strict=True)
            ]
            for row, chat in zip(rows, chats, strict=True)
        ]


class ChatFormatter:
    """Makes texts of chats.

    Args:
        template: a chat template.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        self._jinja = _jinja()

    @property
    def marks_generation(self) -> bool:
        """Whether the template marks what the assistant wrote."""
        return self._jinja.has_generation_blocks(self.template)

    def render(
        self,
        conversation: Any,
        *,
        tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        continue_final_message: bool = False,
        variables: Mapping[str, Any],
    ) -> Rendered:
        """Return the texts of a chat, or of several.

        Args:
            conversation, tools, documents, continue_final_message: as in `apply_chat_template`.
            variables: what else the template reads, by name.

        Raises:
            InvalidInputError: for a value that is not allowed, if a text does not hold the message
                to continue, and where the template fails.
            jinja2.TemplateError: what the template raises, and if it is not valid.
        """
        chats, is_batch = _chats(conversation)
        variables = {
            "tools": None if tools is None else [_tool(tool) for tool in tools],
            "documents": _checked_documents(documents),
            **variables,
        }
        texts, spans = [], []
        for chat in chats:
            messages = _left_open(chat) if continue_final_message else chat
            text, generated = self._jinja.render(self.template, {"messages": messages, **variables})
            texts.append(_cut(text, _last_text(chat)) if continue_final_message else text)
            spans.append(generated)
        return Rendered(texts, spans, is_batch)


def choose_template(
    own: str | Mapping[str, str] | None, chat_template: str | None = None, tools: Any = None
) -> str:
    """Return the template to use: see `GPT2TokenizerBase.get_chat_template`.

    Args:
        own: the tokenizer's template, or its templates by name.
        chat_template: a template, or the name of one of them.
        tools: the tools; only whether there are any counts.
    """
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


def check_mask(return_dict: bool, continue_final_message: bool, is_fast: bool) -> None:
    """Raise for arguments of `apply_chat_template` that a mask of tokens cannot go with."""
    asked = "return_assistant_tokens_mask=True"
    if not return_dict:
        raise InvalidInputError(f"{asked} needs return_dict=True, to be an entry of.")
    if continue_final_message:
        raise InvalidInputError(f"{asked} and continue_final_message=True contradict.")
    if not is_fast:
        raise InvalidInputError(
            f"{asked} needs GPT2TokenizerFast; GPT2Tokenizer does not know which characters a "
            "token comes from."
        )


def _jinja() -> ModuleType:
    """Return the module that renders; its library is in an extra."""
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
    """Return the dictionary and the key of the last text of a message."""
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
    """Return the messages of a chat with a mark at the end of the last text."""
    message = copy.deepcopy(chat[-1])
    place, key = _text_place(message)
    place[key] += _END
    return [*chat[:-1], message]


def _cut(text: str, message: str) -> str:
    """Cut a rendered chat at the mark; if the template trims messages, trim it too."""
    mark = text.rfind(_END.strip())
    if mark < 0 or message.strip() not in text:
        raise InvalidInputError(
            "continue_final_message=True, but the chat template's text does not contain the final "
            "message as it is: the template leaves parts of it out or changes them."
        )
    return text[:mark] if text.startswith(_END, mark) else text[:mark].rstrip()
