"""The bodies of requests, as OpenAI's API has them, with fields of gpt2x's own.

A body is checked against these types before anything is done with it, and `/openapi.json` is made
of them. Fields that nobody knows are ignored, as clients send new ones before servers know them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Token = Annotated[int, Meta(ge=0)]
TokenName = Annotated[str, Meta(pattern="^[0-9]{1,18}$")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(min_length=1)]
#: A text, several, its tokens, or the tokens of several.
Prompts = str | list[str | Token | list[Token]]


class StreamOptions(Struct):
    """How a stream ends."""

    include_usage: Annotated[
        bool, Meta(description="Send a last chunk with the counts of tokens.")
    ] = False


class Sampling(Struct, kw_only=True, omit_defaults=True):
    """How texts are continued; what all endpoints that write have."""

    model: Annotated[
        str | None, Meta(description="Its name in /v1/models; by default the first there.")
    ] = None
    temperature: Annotated[
        Annotated[float, Meta(ge=0, le=2)] | None,
        Meta(description="0 takes the likeliest token."),
    ] = 1.0
    top_p: Share | None = 1.0
    n: Annotated[int, Meta(ge=1, le=128)] | None = 1
    stop: Annotated[list[Text], Meta(max_length=16)] | str | None = None
    seed: Annotated[
        Seed | None, Meta(description="The same seed and request give the same text.")
    ] = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    logit_bias: Annotated[
        dict[TokenName, Annotated[float, Meta(ge=-100, le=100)]] | None,
        Meta(description="By the ids of tokens, which JSON writes as strings."),
    ] = None
    user: str | None = None

    top_k: Annotated[int, Meta(ge=0)] | None = 0
    min_p: Share | None = 0.0
    typical_p: Annotated[float, Meta(gt=0, le=1)] | None = 1.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = 1.0
    truncate_prompt_tokens: Annotated[
        Count | None, Meta(description="Of a longer prompt only the last tokens are read.")
    ] = None
    num_beams: Annotated[int, Meta(ge=1, le=16)] | None = 1
    regex: str | None = None
    json_schema: dict[str, Any] | None = None


class CompletionRequest(Sampling, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: Prompts = "<|endoftext|>"
    max_tokens: Annotated[int, Meta(ge=0)] | None = 16
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = False
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    suffix: str | None = None


class Part(Struct):
    """A part of a message's content."""

    type: str
    text: str | UnsetType = UNSET


class Message(Struct):
    """One message of a conversation."""

    role: Text
    content: str | list[Part] | None = None
    name: str | None = None


class JsonSchema(Struct):
    """A schema that the answer follows."""

    schema: dict[str, Any]
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    """The form of the answer; others than text need the extra `guided`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Sampling, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class EmbeddingRequest(Struct, kw_only=True):
    """The body of POST /v1/embeddings."""

    input: Prompts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Count | None = None
    user: str | None = None


class TokenizeRequest(Struct, kw_only=True):
    """The body of POST /tokenize."""

    text: str
    model: str | None = None
    add_special_tokens: Annotated[
        bool, Meta(description="Whether those that the tokenizer adds to every text are added.")
    ] = True


class DetokenizeRequest(Struct, kw_only=True):
    """The body of POST /detokenize."""

    tokens: list[Token]
    model: str | None = None
