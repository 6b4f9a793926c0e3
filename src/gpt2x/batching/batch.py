"""The batch that texts join and leave at any step, each written as if it were alone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2x.batching.choice import LogProbabilities, TextTable, Variant
from gpt2x.batching.options import TextOptions
from gpt2x.batching.slots import PIECE, Slots, common_length
from gpt2x.errors import InvalidInputError

_LOG = logging.getLogger(__name__)

_NOT_NUMBERS = "The model's logits are not numbers (NaN)."


@dataclass(eq=False, kw_only=True)
class Text:
    """A text that is to be continued.

    Attributes:
        prompt: its tokens, at least one.
        options: how it is continued.
        receive: called with each new token and, if `options.logprobs` asks for them, with
            logarithms of probabilities; returns whether the text goes on.
        ended: called once, when no token will come any more.
        allowed: returns which tokens may follow the new ones, bool [V]; None if all may. It is
            called after each token.
        deadline: seconds of `time.monotonic` at which it ends in any case; None for none.
        new: the tokens that were added so far.
        prompt_probabilities: of the tokens of the prompt from the second on, if
            `options.scores_prompt` asks for them.
        cached_tokens: tokens of the prompt that had been run before.
        reason: why it ended: "stop" (`receive` said so), "length", "time", "cancelled" or "error";
            None before.
        error: what was wrong, of "error".
        is_unwanted: nobody waits for it any more; it will be removed before the next step.
    """

    prompt: Sequence[int]
    options: TextOptions
    receive: Callable[[int, LogProbabilities | None], bool]
    ended: Callable[[], None] = lambda: None
    allowed: Callable[[Sequence[int]], np.ndarray] | None = None
    deadline: float | None = None
    new: list[int] = field(default_factory=list)
    prompt_probabilities: list[LogProbabilities] = field(default_factory=list)
    cached_tokens: int = 0
    reason: str | None = None
    error: Exception | None = None
    is_unwanted: bool = False

    def end(self, reason: str, error: Exception | None = None) -> None:
        """Let it end here."""
        if self.reason is None:
            self.reason, self.error = reason, error
            try:
                self.ended()
            except Exception:  # the other texts go on
                _LOG.exception("The end of a text could not be told.")


@dataclass(eq=False)
class _Row:
    """The tokens whose keys and values a row of the slots has, and the step that used them last."""

    tokens: list[int] = field(default_factory=list)
    used: int = 0


class Batch:
    """The texts that a model continues together.

    The first rows of the slots belong to the texts that are written. The next one belongs to a text
    whose prompt is being run, if there is one. The rows behind have texts that ended: a prompt that
    begins as one of them is not run from its beginning.

    Args:
        slots: the model.
        piece: the most tokens of a prompt that one step runs, up to `PIECE`.
    """

    def __init__(self, slots: Slots, piece: int = PIECE) -> None:
        self._slots = slots
        self._piece = piece
        self._table = TextTable(slots.rows, slots.columns + 1, slots.vocab_size)
        self._rows = [_Row() for _ in range(slots.rows)]
        self._texts: list[Text] = []
        self._joining: Text | None = None
        self._arrived: deque[Text] = deque()  # their prompts are run when it is their turn
        self._steps = 0

    @property
    def size(self) -> int:
        """Texts that are written, or whose prompt is to be run."""
        return len(self._texts) + (self._joining is not None) + len(self._arrived)

    @property
    def texts(self) -> list[Text]:
        """The texts in it."""
        joining = [] if self._joining is None else [self._joining]
        return [*self._texts, *joining, *self._arrived]

    @property
    def has_room(self) -> bool:
        """Whether a text can join."""
        return self.size < self._slots.rows

    def join(self, text: Text) -> None:
        """Let a text join; there must be room.

        Raises:
            InvalidInputError: if it does not fit into the model.
        """
        self.check(text)
        self._arrived.append(text)

    def check(self, text: Text) -> None:
        """Raise InvalidInputError if a text does not fit into the model."""
        columns, vocab_size = self._slots.columns, self._slots.vocab_size
        new = text.options.max_new_tokens
        if not 1 <= len(text.prompt) <= columns or len(text.prompt) + new > columns + 1:
            raise InvalidInputError(
                f"A prompt of {len(text.prompt)} tokens and {new} new ones do not fit: a prompt "
                f"has 1 to {columns} tokens, and {columns + 1} with its continuation."
            )
        for token in (*text.prompt, *text.options.logit_bias):
            if not 0 <= token < vocab_size:
                raise InvalidInputError(
                    f"Token {token} is not one of the model's: 0 to {vocab_size - 1}."
                )

    def step(self) -> None:
        """Run pieces of the prompts of texts that join, and a token of each of the others.

        The pieces have `piece` tokens together, or more by less than one of them.
        """
        self._steps += 1
        left = self._piece
        while left > 0 and (self._joining is not None or self._arrived):
            if self._joining is None:
                self._begin()
            if self._joining is not None:
                left -= self._run_prompt(self._joining)
        if self._texts:
            self._run_texts()

    def remove(self, text: Text, reason: str, error: Exception | None = None) -> None:
        """Let a text end here, if it has not; its row is free for another at once."""
        if text is self._joining:
            self._joining = None
            text.end(reason, error)
        elif text in self._arrived:
            self._arrived.remove(text)
            text.end(reason, error)
        elif text in self._texts:
            self._leave(self._texts.index(text), reason, error)

    def abort(self, error: Exception) -> None:
        """Let all texts end for an error, after which it is not known what the rows hold."""
        texts, self._texts, self._joining = self.texts, [], None
        self._arrived.clear()
        self._rows = [_Row() for _ in self._rows]
        for text in texts:
            text.end("error", error)

    # ---- the model ----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Let the prompt of the text that arrived first be run next, in the first free row."""
        text, row = self._arrived[0], len(self._texts)
        try:
            # A prompt that is scored is run anew: the logits of what was run before are gone.
            known = [] if text.options.scores_prompt else text.prompt[:-1]
            text.cached_tokens = self._prepare_row(row, known)
        except Exception as error:
            self.abort(error)
            return
        self._table.put(row, text.prompt, text.options)
        self._joining = self._arrived.popleft()
        try:
            self._restrict(row, text)
        except Exception as error:
            self.remove(text, "error", error)

    def _run_prompt(self, text: Text) -> int:
        """Run a piece of the prompt of the text that joins; return its length."""
        row = len(self._texts)
        filled = self._rows[row].tokens
        piece = text.prompt[len(filled) : len(filled) + self._piece]
        try:
            tokens, scores = np.array(piece, np.int32), text.options.scores_prompt
            logits = self._slots.prefill(row, tokens, len(filled), every=scores)
            filled.extend(piece)
            if scores:
                logits = self._score(text, logits, len(filled) - len(piece))
            if len(filled) < len(text.prompt):
                return len(piece)
            choices = self._choices(logits, slice(row, row + 1), [text])
        except Exception as error:
            filled.clear()  # what the row holds is not known
            self.remove(text, "error", error)
            return len(piece)
        self._joining = None
        self._texts.append(text)
        self._receive(row, *choices[0])
        return len(piece)

    def _score(self, text: Text, logits: Any, start: int) -> Any:
        """Keep the probabilities of the tokens behind those of a piece; return the last logits."""
        count = min(self._piece, len(text.prompt) - start)
        followers = np.array(text.prompt[start + 1 : start + 1 + count], np.int32)
        if followers.size:
            text.prompt_probabilities += self._slots.log_probabilities(logits, followers)
        return self._slots.logits_at(logits, count - 1)

    def _run_texts(self) -> None:
        count = len(self._texts)
        try:
            choices = self._decoded(count)
        except Exception:
            _LOG.warning("A step failed; its texts are run one by one.", exc_info=True)
            self._run_alone()
            return
        # From the last on: one that leaves changes its place with the last that remains.
        for number in reversed(range(count)):
            self._rows[number].tokens.append(self._texts[number].new[-1])
            self._receive(number, *choices[number])

    def _run_alone(self) -> None:
        """Run a token of each text by itself after a step that failed; end those that fail again.

        What the step has written stands behind the known tokens of each row, and is overwritten.
        """
        for text in list(self._texts):
            number = self._texts.index(text)
            self._texts[0], self._texts[number] = text, self._texts[0]
            self._swap(number, 0)
            try:
                (choice,) = self._decoded(1)
            except Exception as error:
                self._rows[0].tokens.clear()
                self._leave(0, "error", error)
                continue
            self._rows[0].tokens.append(text.new[-1])
            self._receive(0, *choice)

    def _decoded(self, count: int) -> list[tuple[int, bool, LogProbabilities | None]]:
        """Run the last token of each of the first texts; return their choices."""
        lasts = [text.new[-1] for text in self._texts[:count]]
        starts = [len(row.tokens) for row in self._rows[:count]]
        logits = self._slots.decode(np.array(lasts, np.int32), np.array(starts, np.int32))
        return self._choices(logits, slice(0, count), self._texts[:count])

    def _choices(
        self, logits: Any, rows: slice, texts: Sequence[Text]
    ) -> list[tuple[int, bool, LogProbabilities | None]]:
        """Return the next token of each text, whether its logits are numbers, and what it asks."""
        options = [text.options for text in texts]
        variant = Variant.of(options)
        if any(text.allowed is not None for text in texts):
            variant = variant._replace(edits=True)
        tokens, is_sound = self._slots.choose(logits, self._table.values(rows, variant), variant)
        found: list[LogProbabilities | None] = [None] * len(texts)
        if any(each.logprobs is not None for each in options):
            found = [
                probabilities if each.logprobs is not None else None
                for probabilities, each in zip(
                    self._slots.log_probabilities(logits, tokens), options, strict=True
                )
            ]
        return list(zip(tokens.tolist(), is_sound.tolist(), found, strict=True))

    # ---- the texts ----------------------------------------------------------------------------

    def _receive(
        self, number: int, token: int, is_sound: bool, probabilities: LogProbabilities | None
    ) -> None:
        """Give a text its next token; an error ends it alone."""
        text = self._texts[number]
        if not is_sound:
            self._rows[number].tokens.clear()
            self._leave(number, "error", FloatingPointError(_NOT_NUMBERS))
            return
        self._table.append(number, token)
        text.new.append(token)
        try:
            goes_on = text.receive(token, probabilities)
            if goes_on:
                self._restrict(number, text)
        except Exception as error:
            self._leave(number, "error", error)
            return
        if not goes_on:
            self._leave(number, "stop")
        elif len(text.new) >= text.options.max_new_tokens:
            self._leave(number, "length")

    def _restrict(self, row: int, text: Text) -> None:
        """Forbid the tokens that may not follow."""
        if text.allowed is not None:
            self._table.allow(row, text.allowed(text.new))

    def _leave(self, number: int, reason: str, error: Exception | None = None) -> None:
        """Let a text end; the last one that is written takes its row."""
        text, last = self._texts[number], len(self._texts) - 1
        self._rows[number].used = self._steps
        self._texts[number] = self._texts[last]
        self._texts.pop()
        try:
            self._swap(number, last)
            if self._joining is not None:
                self._swap(last, last + 1)
        finally:
            text.end(reason, error)

    # ---- the rows -----------------------------------------------------------------------------

    def _prepare_row(self, row: int, prompt: Sequence[int]) -> int:
        """Let a row hold the longest beginning of a prompt that has been run; return its length."""
        lengths = [common_length(each.tokens, prompt) for each in self._rows]
        source = max(range(len(lengths)), key=lengths.__getitem__)
        length = lengths[source]
        oldest = min(range(row, len(lengths)), key=lambda i: self._rows[i].used)
        # A text that ended makes room for its continuation, but not for another that branches off.
        if source >= row and 2 * length >= len(self._rows[source].tokens):
            oldest = source
        elif length > 0 and source != oldest:
            self._slots.copy(source, oldest, length)
        self._rows[oldest] = _Row(list(prompt[:length]))
        self._swap(oldest, row)
        return length

    def _swap(self, row: int, other: int) -> None:
        """Exchange two rows."""
        if row == other:
            return
        rows = self._rows
        longest = max(len(rows[row].tokens), len(rows[other].tokens))
        self._slots.swap(row, other, longest)
        self._table.swap(row, other)
        rows[row], rows[other] = rows[other], rows[row]
