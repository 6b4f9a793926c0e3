"""From a request to the texts that it asks for, and their counts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpt2x.batching.options import TextOptions
from gpt2x.serve.failures import RequestError
from gpt2x.serve.grammars import constraint_of, grammar_of
from gpt2x.serve.messages import (
    ChatRequest,
    CompletionRequest,
    Message,
    Prompts,
    Sampling,
)
from gpt2x.serve.models import ServedModel
from gpt2x.serve.writing import Wanted


class Job(NamedTuple):
    """What a request asks for.

    Attributes:
        model: that writes.
        texts: to be written.
        prompt_count: different prompts; each has as many texts, which follow one another.
    """

    model: ServedModel
    texts: list[Wanted]
    prompt_count: int


def completion(model: ServedModel, body: CompletionRequest, deadline: float | None) -> Job:
    """Return the texts of a request to continue prompts.

    Raises RequestError for what cannot be done.
    """
    if body.suffix:
        raise RequestError(400, "suffix is not available: a GPT-2 writes forwards.", "suffix")
    keep = body.n or 1
    count = keep if body.best_of is None else body.best_of
    if count < keep:
        raise RequestError(400, f"best_of is {count}; it must be at least n, {keep}.", "best_of")
    if count > keep and body.stream:
        raise RequestError(400, "best_of cannot be streamed.", "best_of")
    if count > keep and (body.num_beams or 1) > 1:
        raise RequestError(400, "num_beams finds the best texts; leave out best_of.", "best_of")
    logprobs = body.logprobs
    if count > keep and logprobs is None:
        logprobs = 0  # the best ones are found by them
    texts = _texts(
        model,
        body,
        prompts_of(model, body.prompt, is_cut=body.truncate_prompt_tokens is not None),
        asked=16 if body.max_tokens is None else body.max_tokens,
        param="max_tokens",
        source="prompt",
        count=count,
        logprobs=logprobs,
        deadline=deadline,
        echo=bool(body.echo),
    )
    return Job(model, texts, len(texts) // count)


def conversation(model: ServedModel, body: ChatRequest, deadline: float | None) -> Job:
    """Return the texts of a request to answer in a conversation.

    Raises RequestError for what cannot be done.
    """
    name = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    if body.truncate_prompt_tokens is None:
        said = sum(len(_content(message)) for message in body.messages)
        check_length(model, said, "messages")
    prompt = prompt_of_messages(model, body.messages)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    texts = _texts(
        model,
        body,
        [prompt],
        asked=getattr(body, name),
        param=name,
        source="messages",
        count=body.n or 1,
        logprobs=logprobs,
        deadline=deadline,
    )
    return Job(model, texts, 1)


def prompt_of_messages(model: ServedModel, messages: Sequence[Message]) -> list[int]:
    """Return the prompt of a conversation.

    It is made by the tokenizer's chat template; without one each message is a paragraph that begins
    with who speaks, as in a play, and the prompt ends where the assistant begins to speak.
    """
    said = [(message.role, _content(message)) for message in messages]
    if model.tokenizer.chat_template is not None:
        given = [{"role": role, "content": content} for role, content in said]
        try:
            return list(model.tokenizer.apply_chat_template(given, add_generation_prompt=True))
        except Exception as error:  # whatever a template raises
            message = f"The model's chat template refuses the messages: {error}"
            raise RequestError(400, message, "messages") from error
    lines = [f"{role.upper()}.\n{content}\n\n" for role, content in said]
    return model.encode("".join(lines) + "ASSISTANT.\n")


def _content(message: Message) -> str:
    if message.content is None:
        return ""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.type != "text" or not isinstance(part.text, str):
            raise RequestError(400, "messages may have parts of the type text only.", "messages")
    return "".join(str(part.text) for part in message.content)


def _texts(
    model: ServedModel,
    body: Sampling,
    prompts: Sequence[list[int]],
    *,
    asked: int | None,
    param: str,
    source: str,
    count: int,
    logprobs: int | None,
    deadline: float | None,
    echo: bool = False,
) -> list[Wanted]:
    """Return `count` texts of each prompt.

    `param` is the field that asks for so many tokens, and `source` the one of the prompts.
    """
    is_searched = (body.num_beams or 1) > 1
    if is_searched:
        check_search(body, count, logprobs)
    # What can never be waited for is not a matter of trying again.
    waiting = len(prompts) * (1 if is_searched else count)
    most = model.runner.max_queue
    if waiting > most:
        message = f"{waiting} texts are asked for; a request gets {most} at most."
        raise RequestError(400, message, "n" if count > 1 else source)
    grammar = grammar_of(model, body)
    seed = secrets.randbits(63) if body.seed is None else body.seed
    stop = [body.stop] if isinstance(body.stop, str) else list(body.stop or [])
    texts: list[Wanted] = []
    for prompt in prompts:
        if body.truncate_prompt_tokens is not None:
            prompt = prompt[-body.truncate_prompt_tokens :]
        new = new_tokens(model, prompt, asked, param, source)
        search = search_of(model, body) if is_searched and new > 0 else None
        for _ in range(count):
            options = options_of(model, body, max(new, 1), logprobs, seed, len(texts), echo)
            allowed = None if grammar is None or search is not None else grammar()
            wanted = Wanted(prompt, options, allowed, stop, deadline, echo, new > 0, search)
            texts.append(wanted)
    return texts


def check_search(body: Sampling, count: int, logprobs: int | None) -> None:
    """Raise RequestError for what does not go with num_beams, which searches for likely texts."""
    beams = body.num_beams or 1
    if count > beams:
        raise RequestError(400, f"n is {count}; num_beams, {beams}, finds no more texts.", "n")
    drawn: dict[str, tuple[Any, ...]] = {
        "temperature": (0, 1),
        "top_p": (1,),
        "top_k": (0,),
        "min_p": (0,),
        "typical_p": (1,),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
    }
    given = {name: getattr(body, name) for name in drawn}
    others = [name for name in drawn if given[name] not in (None, *drawn[name])]
    if logprobs is not None:
        others.append("logprobs")
    if others:
        message = f"num_beams searches for the likeliest texts; leave out {others[0]}."
        raise RequestError(400, message, others[0])


def search_of(model: ServedModel, body: Sampling) -> dict[str, Any]:
    """Return what a beam search reads besides lengths: arguments of `generate`."""
    bias = _bias(model, body.logit_bias or {})
    given = {
        "num_beams": body.num_beams,
        "repetition_penalty": body.repetition_penalty,
        "sequence_bias": {(token,): value for token, value in bias.items()} or None,
        **constraint_of(body)[1],
    }
    return {name: value for name, value in given.items() if value is not None}


def prompts_of(
    model: ServedModel, given: Prompts, param: str = "prompt", is_cut: bool = False
) -> list[list[int]]:
    """Return the tokens of a request's texts: a text, texts, tokens, or lists of tokens.

    An empty text is the beginning of a new document. With `is_cut` a text may be longer than the
    model can read.
    """
    items: Any = [given] if isinstance(given, str) else given
    if not items:
        raise RequestError(400, f"{param} must not be empty.", param)
    if len({type(each) for each in items}) > 1:
        message = f"{param} must hold texts, or tokens, or lists of tokens."
        raise RequestError(400, message, param)
    if isinstance(items[0], int):
        items = [items]
    if not is_cut:
        longest = max(len(each) if isinstance(each, str) else 0 for each in items)
        check_length(model, longest, param)
    start = model.tokenizer.bos_token or ""
    found = [model.encode(each or start) if isinstance(each, str) else each for each in items]
    for tokens in found:
        if not tokens:
            raise RequestError(400, f"{param} has no tokens.", param)
        check_tokens(model, tokens, param)
    return found


def check_length(model: ServedModel, characters: int, param: str) -> None:
    """Raise RequestError for a text that is too long whatever its tokens are.

    Encoding it, to say how many they are, could take seconds.
    """
    most = model.columns * model.tokens.longest
    if characters > most:
        message = f"The model reads {model.columns} tokens; {param} has {characters} characters."
        raise RequestError(400, message, param, code="context_length_exceeded")


def check_tokens(model: ServedModel, tokens: Sequence[int], param: str) -> None:
    """Raise RequestError for a token that the model does not have."""
    last = model.vocab_size - 1
    if tokens and max(tokens) > last:
        raise RequestError(400, f"{param} has token {max(tokens)}; there are 0 to {last}.", param)


def new_tokens(
    model: ServedModel, prompt: Sequence[int], asked: int | None, param: str, source: str
) -> int:
    """Return how many tokens a prompt gets at most; see `_texts`.

    Raises RequestError if the model cannot read so many.
    """
    room = model.columns - len(prompt)
    if asked == 0 <= room:
        return 0
    if room >= 1 and (asked or 0) <= room:
        return room if asked is None else asked
    message = (
        f"The model reads {model.columns} tokens; the prompt has {len(prompt)}, and {param} "
        f"asks for {asked or 'some'} more."
    )
    wrong = param if room >= 1 else source
    raise RequestError(400, message, wrong, code="context_length_exceeded")


def options_of(
    model: ServedModel,
    body: Sampling,
    max_new_tokens: int,
    logprobs: int | None,
    seed: int,
    stream: int,
    echo: bool,
) -> TextOptions:
    """Return the options of a request's text; `stream` numbers the texts of its seed."""
    return TextOptions(
        max_new_tokens=max_new_tokens,
        temperature=_given(body.temperature, 1.0),
        top_k=_given(body.top_k, 0),
        top_p=_given(body.top_p, 1.0),
        min_p=_given(body.min_p, 0.0),
        typical_p=_given(body.typical_p, 1.0),
        repetition_penalty=_given(body.repetition_penalty, 1.0),
        presence_penalty=_given(body.presence_penalty, 0.0),
        frequency_penalty=_given(body.frequency_penalty, 0.0),
        logit_bias=_bias(model, body.logit_bias or {}),
        logprobs=logprobs,
        scores_prompt=echo and logprobs is not None,
        seed=seed,
        stream=stream,
    )


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _bias(model: ServedModel, given: dict[str, float]) -> dict[int, float]:
    """Return the biases by token; JSON has their names as strings."""
    found = {int(token): bias for token, bias in given.items()}
    if any(token >= model.vocab_size for token in found):
        raise RequestError(
            400,
            f"logit_bias names a token that is not one of 0 to {model.vocab_size - 1}.",
            "logit_bias",
        )
    return found
