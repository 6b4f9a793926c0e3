"""The special tokens around one sequence and around a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2x.errors import CheckpointError

#: A sequence in a template; the other pieces are texts of special tokens.
FIRST, SECOND = 0, 1


@dataclass(frozen=True)
class Template:
    """The order of special tokens and sequences.

    Attributes:
        single: pieces around one sequence, which is FIRST; texts are special tokens.
        pair: pieces around two sequences, FIRST and SECOND.
        single_types, pair_types: the token type of each piece.

    >>> Template.with_bos("<s>").pair
    ('<s>', 0, '<s>', 1)
    """

    single: tuple[int | str, ...] = (FIRST,)
    pair: tuple[int | str, ...] = (FIRST, SECOND)
    single_types: tuple[int, ...] = (0,)
    pair_types: tuple[int, ...] = (0, 1)

    @classmethod
    def with_bos(cls, bos_token: str) -> Template:
        """Return the template of `add_bos_token`: a token before each sequence."""
        return cls((bos_token, FIRST), (bos_token, FIRST, bos_token, SECOND), (0, 0), (0, 0, 1, 1))

    def pieces(self, *, pair: bool) -> list[tuple[int | str, int]]:
        """Return the pieces and their token types."""
        if pair:
            return list(zip(self.pair, self.pair_types, strict=True))
        return list(zip(self.single, self.single_types, strict=True))

    def number_of_special_tokens(self, *, pair: bool) -> int:
        """Return the number of tokens that are added to one sequence, or to a pair."""
        return sum(isinstance(piece, str) for piece, _ in self.pieces(pair=pair))

    def names(self) -> list[str]:
        """The special tokens in it, each once."""
        return sorted({piece for piece in (*self.single, *self.pair) if isinstance(piece, str)})

    # The form of tokenizer.json -------------------------------------------------------------------

    @classmethod
    def from_post_processor(cls, state: Mapping[str, Any] | None) -> Template:
        """Read the `post_processor` of a tokenizer.json.

        Raises:
            CheckpointError: if it is not ByteLevel, TemplateProcessing or a sequence of them.
        """
        if state is None or state.get("type") == "ByteLevel":
            return cls()
        if state.get("type") == "Sequence":
            templates = {cls.from_post_processor(part) for part in state["processors"]} - {cls()}
            if len(templates) <= 1:
                return templates.pop() if templates else cls()
        if state.get("type") == "TemplateProcessing":
            return cls._from_template_processing(state)
        raise CheckpointError(
            f"The tokenizer's post-processor is {state.get('type')!r}; GPT-2's tokenizers know "
            "ByteLevel and TemplateProcessing."
        )

    @classmethod
    def _from_template_processing(cls, state: Mapping[str, Any]) -> Template:
        def read(pieces: list[dict[str, Any]]) -> tuple[tuple[int | str, ...], tuple[int, ...]]:
            names: list[int | str] = []
            types = []
            for piece in pieces:
                ((kind, content),) = piece.items()
                types.append(content["type_id"])
                if kind == "Sequence":
                    names.append(FIRST if content["id"] == "A" else SECOND)
                else:
                    names += state["special_tokens"][content["id"]]["tokens"]
                    types += [types[-1]] * (len(names) - len(types))
            return tuple(names), tuple(types)

        single, single_types = read(state["single"])
        pair, pair_types = read(state["pair"])
        return cls(single, pair, single_types, pair_types)

    def to_post_processor(self, ids: Mapping[str, int]) -> dict[str, Any]:
        """Write the `post_processor` of a tokenizer.json.

        Args:
            ids: id of each special token of the template.
        """
        if self == Template():
            return byte_level(add_prefix_space=True, trim_offsets=False)

        def write(*, pair: bool) -> list[dict[str, Any]]:
            return [
                {"SpecialToken": {"id": piece, "type_id": type_id}}
                if isinstance(piece, str)
                else {"Sequence": {"id": "AB"[piece], "type_id": type_id}}
                for piece, type_id in self.pieces(pair=pair)
            ]

        return {
            "type": "TemplateProcessing",
            "single": write(pair=False),
            "pair": write(pair=True),
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in self.names()
            },
        }


def byte_level(*, add_prefix_space: bool, trim_offsets: bool) -> dict[str, Any]:
    """The ByteLevel part of a tokenizer.json: its pre-tokenizer, post-processor and decoder."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": True,
    }
