"""Streamers: receive the tokens of `generate` while it runs.

`generate(streamer=...)` calls `put` with the prompts (int [B, T]), then with the new token of each
row (int [R]), and `end` when it is done. A plain function is called with the new tokens only. The
first token arrives before the model computes on it. So does every token in PyTorch; compiled loops
may compute a few tokens together, within 1/50 second or so, and pass them on before the next ones.

B prompts, R rows of text (B x returned sequences), T columns of the prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import Queue
from typing import Any, Self

from gpt2x.errors import InvalidInputError


class BaseStreamer:
    """The methods of a streamer that `generate` calls."""

    def put(self, value: Any) -> None:
        """Receive the prompts, int [B, T], then each step's tokens, int [R].

        PyTorch's models pass tensors on the CPU, int64, as transformers does; the others numpy
        arrays, int32.
        """
        raise NotImplementedError

    def end(self) -> None:
        """End the stream: the generation is complete."""
        raise NotImplementedError


class CallbackStreamer(BaseStreamer):
    """Call a function with each step's tokens, one int for each row: a list of length R."""

    def __init__(self, callback: Callable[[list[int]], Any]) -> None:
        self._callback = callback
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        if self._prompt_seen:
            self._callback(value.tolist())
        self._prompt_seen = True

    def end(self) -> None:
        self._prompt_seen = False


class TextStreamer(BaseStreamer):
    """Print text as it is written, word by word: a word is printed once the next one begins.

    tokenizer: anything with ``decode(ids, **decode_kwargs)``.
    skip_prompt: print only what is generated.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._tokens: list[int] = []  # of the line that is being written
        self._printed = 0  # characters of it
        self._at_prompt = True

    def put(self, value: Any) -> None:
        """Receive tokens, [1, T] or [T], and print the words that they complete."""
        if value.ndim > 1 and value.shape[0] > 1:
            raise InvalidInputError(
                f"{type(self).__name__} writes one text, but got a batch of {value.shape[0]}; use "
                "a batch of 1 with num_return_sequences=1, or a callback."
            )
        if self._at_prompt and self.skip_prompt:
            self._at_prompt = False
            return
        self._at_prompt = False
        self._tokens.extend(value.reshape(-1).tolist())
        text = self.tokenizer.decode(self._tokens, **self.decode_kwargs)
        if text.endswith("\n"):
            new = text[self._printed :]
            self._tokens, self._printed = [], 0
        else:
            end = len(text) if text and _is_cjk(text[-1]) else text.rfind(" ") + 1
            new = text[self._printed : end]
            self._printed += len(new)
        self.on_finalized_text(new)

    def end(self) -> None:
        """Print the rest."""
        text = self.tokenizer.decode(self._tokens, **self.decode_kwargs) if self._tokens else ""
        rest = text[self._printed :]
        self._tokens, self._printed, self._at_prompt = [], 0, True
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print text that no later token changes; override this to use the text otherwise."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """Pass the text to another thread, which iterates over the streamer.

    timeout: seconds that the iterator waits for text before it raises `queue.Empty`; None waits
        for ever.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[str | None] = Queue()
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text_queue.put(text, timeout=self.timeout)
        if stream_end:
            self.text_queue.put(None, timeout=self.timeout)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        text = self.text_queue.get(timeout=self.timeout)
        if text is None:
            raise StopIteration
        return text


class AsyncTextIteratorStreamer(TextStreamer):
    """Pass the text to a coroutine, which iterates over the streamer with `async for`.

    Make it inside the event loop that iterates; `generate` runs in another thread.

    timeout: seconds that the iterator waits for text before it raises `TimeoutError`; None waits
        for ever.
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.timeout = timeout
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, text)
        if stream_end:
            self.loop.call_soon_threadsafe(self.text_queue.put_nowait, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        text = await asyncio.wait_for(self.text_queue.get(), self.timeout)
        if text is None:
            raise StopAsyncIteration
        return text


def as_streamer(streamer: Any) -> BaseStreamer | None:
    """Return a streamer for a user's argument: a streamer, a function, or None."""
    if streamer is None or (hasattr(streamer, "put") and hasattr(streamer, "end")):
        return streamer
    if callable(streamer):
        return CallbackStreamer(streamer)
    raise InvalidInputError(
        "streamer must be a function of a list of tokens or have the methods put() and end(); got "
        f"{type(streamer).__name__}."
    )


def _is_cjk(character: str) -> bool:
    """Return whether a character is a CJK ideograph: Chinese text has no spaces between words."""
    code = ord(character)
    ranges = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
    return any(first <= code <= last for first, last in ranges)
