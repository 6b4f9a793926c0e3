"""EleutherAI's lm-eval, run on models of any backend: `pip install "gpt2x[lm-eval]"`.

On the command line with lm-eval's own options:

    python -m gpt2x.integrations.lm_eval run --model gpt2x \
        --model_args pretrained=gpt2,backend=flax --tasks hellaswag,lambada_openai

From Python, `lm_eval.simple_evaluate(model=GPT2XLM("gpt2"), tasks=["hellaswag"])`.

Numbers are those of lm-eval's own "hf" model, which runs transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from gpt2x import backends
from gpt2x.errors import InvalidInputError, check_count
from gpt2x.evaluation import Row, Scorer
from gpt2x.pipelines import pipeline


@register_model("gpt2x")
class GPT2XLM(TemplateLM):
    """A model and its tokenizer, as lm-eval calls them.

    Args:
        pretrained: a folder, a name on the hub, or a model; by default the embedded model.
        tokenizer: a tokenizer, or the folder or name of one; by default the model's.
        backend: "pt", "tf" or "flax"; by default the first that is installed.
        batch_size: rows that the model reads at once; "auto" takes as many as 4,096 tokens make.
        max_length: tokens that the model sees at once, at most and by default its n_positions.
        dtype, device, revision: of `gpt2x.pipeline`.
        max_gen_toks: tokens to write where a task does not say how many.
        max_batch_size: has no effect.

    Raises:
        InvalidInputError: for a value that cannot be used.
    """

    def __init__(
        self,
        pretrained: Any = None,
        tokenizer: Any = None,
        *,
        backend: str | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        dtype: str | None = None,
        device: Any = None,
        revision: str | None = None,
        max_gen_toks: int = 256,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        rows = _rows(batch_size)
        pipe = pipeline(
            "text-generation",
            pretrained,
            tokenizer=tokenizer,
            backend=backend,
            dtype=dtype,
            device=device,
            revision=revision,
        )
        self.model, self.tokenizer = pipe.model, pipe.tokenizer
        self._device = pipe.device
        self._scorer = Scorer(self.model, rows)
        self._batch_size = rows or 1
        self._inference = backends.load(pipe.framework, module="inference")
        check_count("max_length", max_length, 2)
        self.max_length = self._scorer.n_positions if max_length is None else max_length
        if self.max_length > self._scorer.n_positions:
            raise InvalidInputError(
                f"max_length is {max_length}, but the model has {self._scorer.n_positions} "
                "positions."
            )
        self.max_gen_toks = max_gen_toks

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        """The name by which lm-eval keeps tokenised requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer(string, verbose=False, **given)["input_ids"]

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        # Rows of about the same length go together; the longest first, as memory is shortest there.
        order = sorted(range(len(requests)), key=lambda n: -sum(map(len, requests[n][1:])))
        rows = (self._row(*requests[number][1:]) for number in order)
        found: list[Any] = [None] * len(requests)
        scored = tqdm(
            self._scorer.scores(rows),
            total=len(order),
            disable=disable_tqdm,
            desc="Running loglikelihood requests",
        )
        for number, scores in zip(order, scored, strict=True):
            answer = float(scores.log_probabilities.sum()), bool(scores.is_likeliest.all())
            found[number] = answer
            if requests[number][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
        return found

    def _row(self, context: list[int], continuation: list[int]) -> Row:
        ids = (context + continuation)[-self.max_length - 1 :]
        return Row(ids, max(1, len(ids) - len(continuation)))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        found = []
        for (text,) in tqdm([request.args for request in requests], disable=disable_tqdm):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            rows = (self._row(*utils.make_disjoint_window(window)) for window in windows)
            total = sum(
                (float(scores.log_probabilities.sum()) for scores in self._scorer.scores(rows)), 0.0
            )
            found.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [request.args for request in requests]
        # Those that are decoded in the same way go together, and of these the ones as long.
        order = sorted(
            range(len(asked)), key=lambda n: (repr(asked[n][1]), -len(self.tok_encode(asked[n][0])))
        )
        found = [""] * len(asked)
        bar = tqdm(total=len(asked), disable=disable_tqdm, desc="Running generate_until requests")
        for _, same in groupby(order, key=lambda number: repr(asked[number][1])):
            for numbers in _batches(list(same), self._batch_size):
                contexts = [asked[number][0] for number in numbers]
                options = asked[numbers[0]][1]
                for number, text in zip(numbers, self._write(contexts, options), strict=True):
                    found[number] = text
                    self.cache_hook.add_partial("generate_until", asked[number], text)
                bar.update(len(numbers))
        bar.close()
        return found

    def _write(self, contexts: list[str], options: dict[str, Any]) -> Iterator[str]:
        """Yield what the model writes after each context, up to where it is to stop."""
        given: dict[str, Any] = dict(normalize_gen_kwargs(options, self.max_gen_toks))
        stops = [stop for stop in given.pop("until") if stop]
        new = given.pop("max_gen_toks")
        if not given.get("do_sample"):
            given.pop("temperature", None)
        room = self.max_length - new
        if room < 1:
            raise InvalidInputError(
                f"max_gen_toks is {new}, which leaves no room for a context: the model sees "
                f"{self.max_length} tokens."
            )
        rows = [self.tok_encode(text)[-room:] or [self.eot_token_id] for text in contexts]
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self.eot_token_id)
        mask = np.zeros((len(rows), width), np.int64)
        for number, row in enumerate(rows):
            ids[number, width - len(row) :] = row
            mask[number, width - len(row) :] = 1
        tensors = {
            name: self._inference.to_device(self.model, array)
            for name, array in (("input_ids", ids), ("attention_mask", mask))
        }
        if stops:
            given |= {"stop_strings": stops, "tokenizer": self.tokenizer}
        output = self.model.generate(
            **tensors, max_new_tokens=new, pad_token_id=self.eot_token_id, **given
        )
        sequences = getattr(output, "sequences", output)
        for row in self._inference.to_host(sequences)[:, width:].tolist():
            text = self.tokenizer.decode(row, skip_special_tokens=True)
            yield text[: min((text.find(stop) for stop in stops if stop in text), default=None)]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        if chat_template is False or self.tokenizer.chat_template is None:
            return ""
        name = chat_template if isinstance(chat_template, str) else None
        return self.tokenizer.get_chat_template(name)


def _rows(batch_size: int | str | None) -> int | None:
    """Return a batch size that lm-eval gives, None if it is to be found."""
    if batch_size is None or str(batch_size).startswith("auto"):
        return None
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise InvalidInputError(
            f"batch_size is {batch_size!r}; it must be an integer of at least 1, or 'auto'."
        )
    return int(batch_size)


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
