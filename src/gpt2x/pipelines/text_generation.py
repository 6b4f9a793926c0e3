"""Text generation: continue texts or chats.

N sequences of each prompt, T tokens of a prompt, L of a sequence, V vocabulary.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gpt2x.config.generation import GenerationConfig
from gpt2x.config.generation_fields import DEFAULTS
from gpt2x.errors import InvalidInputError, check_choice
from gpt2x.generation.seeds import is_integer
from gpt2x.pipelines.base import MODEL_INPUTS, Piece, Pipeline
from gpt2x.weights.table import Head

#: How texts are continued, unless options say otherwise; as in transformers, these come before the
#: model's `generation_config`.
NEW_TOKENS = 256
TEMPERATURE = 0.7

#: Options that are not those of `generate`.
_OWN = (
    "return_type",
    "clean_up_tokenization_spaces",
    "continue_final_message",
    "skip_special_tokens",
    "prefix",
    "handle_long_generation",
    "encode",
)


class ReturnType(enum.Enum):
    """What an answer holds of a text."""

    TENSORS = 0
    NEW_TEXT = 1
    FULL_TEXT = 2


class TextGenerationPipeline(Pipeline):
    """Continues texts, or chats with the tokenizer's chat template.

    Without options it samples up to 256 new tokens, as far as the model has positions, at a
    temperature of 0.7. What else the model's `generation_config` says applies; options come first.

    Options, when it is made or at each call:
        return_full_text: whether `generated_text` begins with the prompt (by default it does).
        return_tensors: return `generated_token_ids`, the ids of prompt and text, instead.
        return_text: the default; for a call of a pipeline that was made with `return_tensors`.
        return_type: a `ReturnType` that stands for these three.
        clean_up_tokenization_spaces: remove spaces before punctuation (default True).
        skip_special_tokens: leave special tokens out of the text (default True).
        prefix: text to put before each prompt; it counts for neither `max_length` nor `min_length`.
        handle_long_generation: "hole" drops the beginning of a prompt that leaves too little room.
        stop_sequence: a text whose tokens end a text.
        continue_final_message: continue the last message of a chat; by default if it is the
            assistant's.
        add_special_tokens, padding, truncation, tokenizer_encode_kwargs: of the tokenizer.
            `max_length` is the tokenizer's as well, with `truncation`.
        seed: prompt p draws from the streams of row p of `generate`, whatever the batch.
        **: all options of `generate`.

    Answers with a list of N dicts for each prompt: `generated_text`, a string, or for a chat its
    messages. With `return_dict_in_generate` they also hold, as lists, `scores` and `logits`
    [L - T, V] (without beams) and `sequences_scores` and `beam_indices` (of beams).
    """

    name = "text-generation"
    heads: ClassVar[tuple[Head, ...]] = (Head.LM, Head.DOUBLE)

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        fields = {name: value for name, value in self._settings.items() if name in DEFAULTS}
        for name in fields:
            del self._settings[name]
        self._length_is_open = not _asks_for_a_length(fields)
        self.generation_config = self._default_config(fields)

    def _default_config(self, fields: Mapping[str, Any]) -> GenerationConfig:
        """Return how to generate: the options, before the pipeline's, before those of the model."""
        config = GenerationConfig(
            max_new_tokens=NEW_TOKENS, do_sample=True, temperature=TEMPERATURE
        ).with_defaults_of(self.model.generation_config)
        config.update(**fields)
        if config.max_length_given and config.max_new_tokens == NEW_TOKENS:
            config.max_new_tokens = None
        specific = dict((self.model.config.task_specific_params or {}).get(self.name) or {})
        prefix = specific.pop("prefix", getattr(self.model.config, "prefix", None))
        if prefix is not None:
            self._settings.setdefault("prefix", prefix)
        config.update(**{name: v for name, v in specific.items() if name not in fields})
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        return config

    def _parse(
        self,
        *,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        return_type: ReturnType | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool | None = None,
        prefix: str | None = None,
        handle_long_generation: str | None = None,
        stop_sequence: str | None = None,
        continue_final_message: bool | None = None,
        add_special_tokens: bool | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        tokenizer_encode_kwargs: Mapping[str, Any] | None = None,
        **generate: Any,
    ) -> dict[str, Any]:
        if handle_long_generation is not None:
            check_choice("handle_long_generation", handle_long_generation, ["hole"])
        encode = {
            "add_special_tokens": add_special_tokens,
            "padding": padding,
            "truncation": truncation,
            **(tokenizer_encode_kwargs or {}),
        }
        if truncation:
            encode.setdefault("max_length", generate.pop("max_length", None))
        if stop_sequence is not None:
            generate["eos_token_id"] = self.tokenizer.encode(
                stop_sequence, add_special_tokens=False
            )
        own = {
            "return_type": return_type or _kind(return_full_text, return_tensors, return_text),
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "continue_final_message": continue_final_message,
            "skip_special_tokens": skip_special_tokens,
            "prefix": prefix,
            "handle_long_generation": handle_long_generation,
            "encode": {name: value for name, value in encode.items() if value is not None} or None,
        }
        return generate | {name: value for name, value in own.items() if value is not None}

    def _is_one(self, inputs: Any) -> bool:
        is_chat = isinstance(inputs, list | tuple) and inputs and isinstance(inputs[0], Mapping)
        return isinstance(inputs, str) or bool(is_chat)

    # --- the prompt ---

    def _pieces(self, value: Any, settings: Mapping[str, Any]) -> list[Piece]:
        encoding = self._encode(value, settings)
        inputs = {name: list(encoding[name]) for name in MODEL_INPUTS if name in encoding}
        if settings.get("handle_long_generation") == "hole":
            inputs = self._shortened(inputs, settings)
        return [Piece(inputs, value)]

    def _encode(self, value: Any, settings: Mapping[str, Any]) -> Any:
        options = dict(settings.get("encode", {}))
        if isinstance(value, str):
            return self.tokenizer(settings.get("prefix", "") + value, **options)
        _check_chat(value)
        options.pop("add_special_tokens", None)  # the template has them
        continues = _continues(value, settings)
        return self.tokenizer.apply_chat_template(
            list(value),
            add_generation_prompt=not continues,
            continue_final_message=continues,
            return_dict=True,
            **options,
        )

    def _shortened(
        self, inputs: dict[str, list[int]], settings: Mapping[str, Any]
    ) -> dict[str, list[int]]:
        """Drop the beginning of a prompt so that the new tokens fit behind it."""
        length, room = len(inputs["input_ids"]), self.tokenizer.model_max_length
        config = self._config(settings)
        new = config.max_new_tokens
        if new is None:
            new = max(config.max_length - length, 0)
        if length + new <= room:
            return inputs
        if new >= room:
            raise InvalidInputError(
                f'handle_long_generation="hole" cannot make room for {new} new tokens: the '
                f"tokenizer's model_max_length is {room}. Lower max_new_tokens."
            )
        return {name: values[new - room :] for name, values in inputs.items()}

    # --- generation ---

    def _config(self, settings: Mapping[str, Any]) -> GenerationConfig:
        """Return the options of `generate` after those of a call."""
        own, given = self.model.generation_config, settings.get("generation_config")
        config = self.generation_config if given is None else given
        if not isinstance(config, GenerationConfig):
            raise InvalidInputError(
                f"generation_config must be a GenerationConfig; got {type(config).__name__}. "
                "Options may also be keywords of the call."
            )
        tokens_only = given is None or not own.is_since_4_50
        config = config.with_defaults_of(own, tokens_only=tokens_only)
        config.update(**{n: v for n, v in self._arguments(settings).items() if n in DEFAULTS})
        return config

    def _arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate` among the options of a call.

        A `max_length` of the call replaces a `max_new_tokens` that nobody asked for. The prefix
        counts for neither length.
        """
        arguments = {name: value for name, value in settings.items() if name not in _OWN}
        own, asks = self.generation_config, _asks_for_a_length(arguments)
        is_open = self._length_is_open and arguments.get("generation_config") is None
        if arguments.get("max_length") is not None and is_open:
            arguments.setdefault("max_new_tokens", None)
        if settings.get("prefix"):
            prefix = len(self.tokenizer(settings["prefix"], add_special_tokens=False)["input_ids"])
            if not asks and own.max_length_given and own.max_new_tokens is None:
                arguments["max_length"] = own.max_length
            for name in ("max_length", "min_length"):
                if arguments.get(name) is not None:
                    arguments[name] += prefix
        return arguments

    def _forward(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> Iterator[Any]:
        arguments = self._arguments(settings)
        longest = max(map(len, pieces)) or 1
        if self._length_is_open and not _asks_for_a_length(arguments):
            room = self.model.config.n_positions - longest
            new = self.generation_config.max_new_tokens
            if new is not None and new > room and len(pieces) > 1:
                # The longest prompt of a batch does not take room from the others.
                return (next(self._forward([piece], settings)) for piece in pieces)
            if new is not None:
                arguments["max_new_tokens"] = max(1, min(room, new))
        return self._generated(pieces, longest, arguments, self._config(settings))

    def _generated(
        self,
        pieces: Sequence[Piece],
        width: int,
        arguments: dict[str, Any],
        config: GenerationConfig,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield, of each prompt, ids int [N, L] and what else `generate` returned."""
        prompts = [self._started(piece, config) for piece in pieces]
        batch = self._batch(prompts, width, side="left")
        beams, sequences = config.num_beams, config.num_return_sequences
        if is_integer(arguments.get("seed")):
            rows = beams if beams > 1 else sequences
            arguments["seed"] = [
                (arguments["seed"], piece.number * rows + row)
                for piece in pieces
                for row in range(rows)
            ]
        defaults: dict[str, Any] = {"tokenizer": self.tokenizer}
        if arguments.get("generation_config") is None:
            defaults |= {"generation_config": self.generation_config, "use_model_defaults": False}
        inputs = {name: self._engine.to_device(self.model, array) for name, array in batch.items()}
        output = self.model.generate(**inputs, **(defaults | arguments))
        found = self._arrays(output)
        for number, prompt in enumerate(prompts):
            group = slice(number * sequences, (number + 1) * sequences)
            of_prompt = {name: array[group] for name, array in found.items()}
            if len(prompts) > 1:
                start = width - len(prompt)
                kept = _length(of_prompt["sequences"], width, config.eos_token_id)
                of_prompt["sequences"] = of_prompt["sequences"][:, start:kept]
            yield of_prompt

    def _started(self, piece: Piece, config: GenerationConfig) -> Piece:
        """Return the piece, or that of bos alone for an empty prompt."""
        if len(piece):
            return piece
        if config.bos_token_id is None:
            raise InvalidInputError(
                "The prompt is empty, and the model has no bos_token_id to start from; give a text."
            )
        return Piece({"input_ids": [config.bos_token_id]}, piece.context, piece.number)

    def _arrays(self, output: Any) -> dict[str, np.ndarray]:
        """Return sequences int [R, L], and what an output has for each of their R rows."""
        to_host = self._engine.to_host
        found = {"sequences": to_host(getattr(output, "sequences", output))}
        rows = len(found["sequences"])
        for name in ("scores", "logits"):
            steps = getattr(output, name, None)
            if steps is not None and len(steps[0]) == rows:
                found[name] = np.stack([to_host(step) for step in steps], axis=1)
        for name in ("sequences_scores", "beam_indices"):
            array = getattr(output, name, None)
            if array is not None:
                found[name] = to_host(array)[:, None]
        return found

    # --- the answer ---

    def _answer(self, pieces: Sequence[Piece], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        (piece,) = pieces
        found = dict(piece.output)
        sequences = found.pop("sequences").tolist()
        if settings.get("return_type") is ReturnType.TENSORS:
            return [{"generated_token_ids": ids} for ids in sequences]
        start = len(self._text(piece.inputs["input_ids"], settings))
        answers = []
        for row, ids in enumerate(sequences):
            text = _as_asked(piece.context, self._text(ids, settings)[start:], settings)
            rest = {name: array[row].tolist() for name, array in found.items()}
            answers.append({"generated_text": text, **rest})
        return answers

    def _text(self, ids: list[int], settings: Mapping[str, Any]) -> str:
        return self.tokenizer.decode(
            ids,
            skip_special_tokens=settings.get("skip_special_tokens", True),
            clean_up_tokenization_spaces=settings.get("clean_up_tokenization_spaces", True),
        )


def _asks_for_a_length(options: Mapping[str, Any]) -> bool:
    names = ("max_new_tokens", "max_length", "generation_config")
    return any(options.get(name) is not None for name in names)


def _kind(full_text: bool | None, tensors: bool | None, text: bool | None) -> ReturnType | None:
    """Return what the options ask for; None if they are not given."""
    given = {"return_full_text": full_text, "return_tensors": tensors, "return_text": text}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InvalidInputError(f"{' and '.join(names)} exclude each other; give one of them.")
    if tensors:
        return ReturnType.TENSORS
    if full_text is not None:
        return ReturnType.FULL_TEXT if full_text else ReturnType.NEW_TEXT
    return None if text is None and tensors is None else ReturnType.FULL_TEXT


def _check_chat(value: Any) -> None:
    """Raise unless an input that is not a text is a chat."""
    is_list = isinstance(value, list | tuple) and value
    if not is_list or not all(isinstance(message, Mapping) for message in value):
        raise InvalidInputError(
            f"A prompt is a text, or a chat: a list of messages; got {value!r}."
        )
    if not all("role" in message and "content" in message for message in value):
        raise InvalidInputError('Each message of a chat needs a "role" and a "content".')


def _continues(chat: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> bool:
    """Say whether the answer continues the last message, rather than being a new one."""
    return settings.get("continue_final_message", chat[-1]["role"] == "assistant")


def _as_asked(prompt: Any, new: str, settings: Mapping[str, Any]) -> Any:
    """Return the new text, after its prompt or as a message of its chat, if that is asked for."""
    if settings.get("return_type", ReturnType.FULL_TEXT) is ReturnType.NEW_TEXT:
        return new
    if isinstance(prompt, str):
        return prompt + new
    if not _continues(prompt, settings):
        return [*prompt, {"role": "assistant", "content": new}]
    last = prompt[-1]
    return [*prompt[:-1], {"role": last["role"], "content": last["content"] + new}]


def _length(sequences: np.ndarray, start: int, ends: Any) -> int:
    """Return how many columns of ids [N, L] hold text, which may end from `start` on.

    The rest filled up the rows of a batch after all of these had ended.
    """
    is_end = np.isin(sequences[:, start:], [] if ends is None else ends)
    if not is_end.shape[1] or not is_end.any(axis=1).all():
        return sequences.shape[1]
    return start + int(is_end.argmax(axis=1).max()) + 1
