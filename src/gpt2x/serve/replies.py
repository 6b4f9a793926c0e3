"""The answers of the endpoints, as OpenAI's API has them, and those of gpt2x's own.

Answers are made of these types, and so is `/openapi.json`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

FinishReason = Literal["stop", "length"]


class Error(Struct):
    """What went wrong."""

    message: str
    type: str
    param: Annotated[str | None, Meta(description="The field of the body that is wrong.")]
    code: str | None


class ErrorReply(Struct):
    """The body of every error."""

    error: Error


class PromptTokens(Struct):
    """More about the tokens of prompts."""

    cached_tokens: Annotated[int, Meta(description="Those that had been run before.")]


class Usage(Struct):
    """Counts of tokens: each prompt once, and all that was written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class CompletionLogprobs(Struct):
    """Logarithms of the probabilities of tokens; None for the first token of a prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: Annotated[
        list[int], Meta(description="Characters of the choice's text before each token.")
    ]


class CompletionChoice(Struct):
    """A text, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Struct, kw_only=True, tag_field="object", tag="text_completion"):
    """What POST /v1/completions answers."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(Struct, kw_only=True, tag_field="object", tag="text_completion"):
    """A part of its stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET


class Alternative(Struct):
    """A token with the logarithm of its probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Alternative):
    """A token that was written, and the likeliest in its place."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Struct):
    """Of the tokens of a message."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(Struct):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class Delta(Struct, omit_defaults=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChoice(Struct):
    """A message."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatChunkChoice(Struct):
    """A piece of a message."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class Chat(Struct, kw_only=True, tag_field="object", tag="chat.completion"):
    """What POST /v1/chat/completions answers."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(Struct, kw_only=True, tag_field="object", tag="chat.completion.chunk"):
    """A part of its stream."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class Embedding(Struct, tag_field="object", tag="embedding"):
    """What a model makes of a text."""

    index: int
    embedding: Annotated[
        list[float] | str, Meta(description="Numbers, or base64 of little-endian float32.")
    ]


class EmbeddingUsage(Struct):
    """Counts of tokens."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, tag_field="object", tag="list"):
    """What POST /v1/embeddings answers."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(Struct, tag_field="object", tag="model"):
    """A model that is served."""

    id: str
    created: Annotated[int, Meta(description="Seconds since 1970; 0 while it is not loaded.")]
    owned_by: str = "gpt2x"


class ModelCards(Struct, tag_field="object", tag="list"):
    """What GET /v1/models answers; the first is the default."""

    data: list[ModelCard]


#: Where a token begins and ends.
Span = Annotated[list[int], Meta(min_length=2, max_length=2)]


class Tokens(Struct):
    """What POST /tokenize answers."""

    tokens: list[int]
    count: int
    max_model_len: Annotated[int, Meta(description="Tokens that the model can read.")]
    offsets: Annotated[
        list[Span],
        Meta(description="Start and end of each token in the text, in characters (code points)."),
    ]


class Detokenized(Struct):
    """What POST /detokenize answers."""

    text: str


class Health(Struct):
    """Whether the process lives, and whether it takes requests."""

    status: Literal["starting", "ready", "stopping"]
    live: bool
    ready: bool
