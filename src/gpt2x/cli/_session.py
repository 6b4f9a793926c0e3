"""`gpt2x generate --interactive`: write a text in turns with the model."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NamedTuple

import typer

from gpt2x.cli._printing import stream
from gpt2x.cli._writer import Writer

HELP = """\
Type a line: it is added to the text, which the model continues. An empty line lets it go on.
:retry  write the last continuation again    :undo  take the last turn back
:text   show the text so far                :quit  end (or Ctrl-D)"""


class Turn(NamedTuple):
    """What one turn added to the text: the user's line, and what the model wrote."""

    line: str
    continuation: str


class Session:
    """A text that a user and a model write in turns.

    Each continuation, also one that is written again, draws from a stream of its own. If the text
    outgrows the model, its beginning is no longer read.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.turns: list[Turn] = []
        self._written = 0

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(turn.line + turn.continuation for turn in self.turns)

    def add(self, line: str) -> None:
        """Add a line of the user, and let the model continue the text. It begins a new line."""
        starts_line = bool(line and self.turns)
        self._continue(f"\n{line}" if starts_line else line)

    def retry(self) -> None:
        """Let the model write its last continuation again."""
        if self._has_turns():
            self._continue(self.turns.pop().line)

    def undo(self) -> None:
        """Take the last turn back, and show the end of the text."""
        if self._has_turns():
            self.turns.pop()
            self.show()

    def show(self) -> None:
        """Print the text so far."""
        typer.echo(self.text)

    def _has_turns(self) -> bool:
        if not self.turns:
            typer.echo("There is no turn yet.", err=True)
        return bool(self.turns)

    def _continue(self, line: str) -> None:
        writer = self.writer
        prompt = writer.latest(writer.prompt(self.text + line))
        if writer.config.num_beams == 1:
            found = stream(writer, prompt, self._written)
        else:
            ((found,),) = writer.write([prompt], self._written)
            typer.echo(writer.text(found.tokens))
        self._written += 1
        self.turns.append(Turn(line, writer.text(found.tokens)))


def converse(writer: Writer, beginning: str | None) -> None:
    """Read lines and commands from standard input until it ends or the user quits.

    Args:
        writer: of one text a prompt.
        beginning: the first line, if there is one.
    """
    with suppress(ImportError):  # not everywhere: gives `input` its history of lines
        import readline  # noqa: F401
    session = Session(writer)
    commands = {":retry": session.retry, ":undo": session.undo, ":text": session.show}
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        typer.echo(HELP, err=True)
    if beginning is not None:
        typer.secho(beginning, bold=True, nl=False)
        session.add(beginning)
    while True:
        try:
            line = input("> " if at_terminal else "")
        except EOFError:
            return
        command = line.strip()
        if command in (":quit", ":q"):
            return
        if command in commands:
            commands[command]()
        elif command.startswith(":"):
            typer.echo(HELP, err=True)
        else:
            session.add(line)
