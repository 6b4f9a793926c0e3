"""`gpt2x generate --interactive`: write a text in turns with the model."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import typer

from gpt2x.cli._printing import stream
from gpt2x.cli._writer import Writer
from gpt2x.errors import InvalidInputError

HELP = """\
Type a line: it is added to the text, which the model continues. An empty line lets it go on.
:retry        write the last continuation again   :undo      take the last turn back
:text         show the text so far                :redo      take back what :undo did
:set OPTION   for example :set temperature=0.9    :options   show what was set
:save FILE    write the text to a file            :quit      end (or Ctrl-D)"""

#: How `:set` reads options: changes the writer, and returns what has been set so far, to be shown.
Setting = Callable[[Writer, list[str]], list[str]]

_LINES = 1000  # of the history that is kept


class Turn(NamedTuple):
    """What one turn added to the text: the user's line, and what the model wrote."""

    line: str
    continuation: str


class Session:
    """A text that a user and a model write in turns.

    Each continuation, also one that is written again, draws from a stream of its own. If the text
    outgrows the model, its beginning is no longer read.
    """

    def __init__(self, writer: Writer, setting: Setting) -> None:
        self.writer = writer
        self.turns: list[Turn] = []
        self._setting = setting
        self._undone: list[Turn] = []
        self._written = 0

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(turn.line + turn.continuation for turn in self.turns)

    def add(self, line: str) -> None:
        """Add a line of the user, and let the model continue the text. It begins a new line."""
        starts_line = bool(line and self.turns)
        self._continue(f"\n{line}" if starts_line else line)
        self._undone.clear()

    def retry(self) -> None:
        """Let the model write its last continuation again."""
        if not self._has_turns():
            return
        turn = self.turns.pop()
        try:
            self._continue(turn.line)
        except BaseException:
            self.turns.append(turn)
            raise
        self._undone.clear()

    def undo(self) -> None:
        """Take the last turn back, and show the end of the text."""
        if self._has_turns():
            self._undone.append(self.turns.pop())
            self.show()

    def redo(self) -> None:
        """Give the turn back that `undo` took last, and show the end of the text."""
        if self._undone:
            self.turns.append(self._undone.pop())
            self.show()
        else:
            typer.echo("No turn was taken back.", err=True)

    def set(self, options: str) -> None:
        """Change how the next continuations are written."""
        for line in self._setting(self.writer, shlex.split(options)):
            typer.echo(line, err=True)

    def save(self, file: str) -> None:
        """Write the text to a file, which must not exist."""
        if not file:
            raise InvalidInputError("Name a file: :save FILE.")
        with Path(file).expanduser().open("x", encoding="utf-8") as opened:
            opened.write(self.text + "\n")
        typer.echo(f"Wrote {file}.", err=True)

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


def converse(writer: Writer, beginning: str | None, setting: Setting) -> None:
    """Read lines and commands from standard input until it ends or the user quits.

    What a command cannot do is told, and the session goes on. Ctrl-C ends the continuation that is
    being written, whose turn is dropped; at the beginning of a line it ends the session.

    Args:
        writer: of one text a prompt.
        beginning: the first line, if there is one.
        setting: how `:set` reads options.
    """
    session = Session(writer, setting)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        keep_lines()
        typer.echo(HELP, err=True)
    if beginning is not None:
        typer.secho(beginning, bold=True, nl=False)
        session.add(beginning)
    while True:
        try:
            line = input("> " if at_terminal else "")
        except EOFError:
            return
        if line.strip() in (":quit", ":q"):
            return
        try:
            _obey(session, line)
        except (InvalidInputError, OSError, ValueError) as error:  # the last: of an open quote
            typer.echo(f"error: {error}", err=True)
        except KeyboardInterrupt:
            typer.echo("Stopped; this turn is not kept.", err=True)


def _obey(session: Session, line: str) -> None:
    """Do what a line says: it is a command, or the user's part of the text."""
    commands = {
        ":retry": session.retry,
        ":undo": session.undo,
        ":redo": session.redo,
        ":text": session.show,
        ":options": lambda: session.set(""),
    }
    with_argument = {":set": session.set, ":save": session.save}
    name, _, argument = line.strip().partition(" ")
    if name in with_argument:
        with_argument[name](argument.strip())
    elif line.strip() in commands:
        commands[line.strip()]()
    elif name.startswith(":"):
        typer.echo(HELP, err=True)
    else:
        session.add(line)


def keep_lines() -> None:
    """Let the arrow keys bring back lines, of earlier sessions too."""
    with suppress(ImportError):  # not everywhere
        import atexit
        import readline

        states = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        file = Path(states).expanduser() / "gpt2x" / "history"
        readline.set_history_length(_LINES)
        with suppress(OSError):  # without the file there are just the lines of this session
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.read_history_file(file)
            atexit.register(readline.write_history_file, file)
