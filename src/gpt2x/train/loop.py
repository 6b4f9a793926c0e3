"""The loop of training, written once: steps, log, evaluation, checkpoints, early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gpt2x.corpus import Place
from gpt2x.errors import TrainingError, listed
from gpt2x.train import checkpoints
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.checkpoints import Progress
from gpt2x.train.engine import Engine, Inputs, MicroBatch, StepResult
from gpt2x.train.feed import Feed, Portion, Prefetched, Rows
from gpt2x.train.log import Log
from gpt2x.train.schedule import Schedule
from gpt2x.train.signals import StopSignals

#: The rows of an evaluation, and the model's logits for them, a batch at a time.
Predictions = Sequence[tuple[Inputs, np.ndarray]]


class Task(Protocol):
    """What a model is trained for."""

    def labels(self, inputs: Inputs) -> np.ndarray:
        """Return how many labels of each row count in the loss: int [rows]."""

    def metrics(self, loss: float, predictions: Predictions) -> dict[str, float]:
        """Return what an evaluation says: of its loss, and of the logits of each batch."""

    #: Whether `metrics` reads logits.
    needs_logits: bool

    @property
    def sample(self) -> Callable[[Any], str] | None:
        """What returns a text that a model writes, the same in every process; or None."""

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files, and what else an adapter's folder has of its model."""


class Reporter:
    """Hears what happens in a run; this one tells nobody."""

    def begin(self, progress: Progress, steps: int) -> None:
        """The run begins, or goes on."""

    def step(self, progress: Progress) -> None:
        """A step is done."""

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of the log was written."""

    def sample(self, text: str) -> None:
        """The model has written a text."""

    def stopped(self, checkpoint: Path) -> None:
        """A signal ends the run, after this checkpoint."""

    def end(self) -> None:
        """The run has ended, well or not."""


class _Pending(NamedTuple):
    """A step whose result was not looked at yet, so that the device need not wait for the host."""

    number: int
    result: StepResult
    places: Callable[[], list[Place]]


@dataclass
class Loop:
    """A run of training.

    Attributes:
        arguments: the run's.
        steps: optimizer steps in all.
        engine: the framework's part.
        task: what is trained.
        feed: the rows of each step.
        validation: rows to evaluate with, or None.
        progress: where the run stands; a checkpoint's, if it goes on.
        reporter: hears of it.
    """

    arguments: TrainingArguments
    steps: int
    engine: Engine
    task: Task
    feed: Feed
    validation: Rows | None
    progress: Progress
    reporter: Reporter

    def __post_init__(self) -> None:
        self.output_dir = Path(self.arguments.output_dir)
        self._schedule = Schedule(self.arguments, self.steps)
        self._pending: _Pending | None = None
        self._grad_norm = 0.0
        self._is_first = self.engine.world.rank == 0

    # --- the run ---

    def run(self) -> None:
        """Train until the last step, or until early stopping.

        Raises:
            TrainingError: if a loss is not finite; nothing of that step is saved.
            KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM, after a checkpoint.
        """
        self._log = Log(self.output_dir, self.progress.step) if self._is_first else None
        self.reporter.begin(self.progress, self.steps)
        self._mark = _Mark(time.perf_counter(), self.progress.tokens)
        self._counted = self._mark.time
        portions = Prefetched(self.feed.portions(self.progress.feed))
        try:
            with StopSignals() as signals:
                while not self._is_done():
                    self._step(next(portions))
                    must_leave = self._any(signals.received is not None)
                    self._after_step(portions, must_leave)
                    if must_leave:
                        self.reporter.stopped(
                            checkpoints.path_of(self.output_dir, self.progress.step)
                        )
                        signals.leave()
        finally:
            portions.close()
            if self._log is not None:
                self._log.close()
            self.reporter.end()

    def _is_done(self) -> bool:
        patience = self.arguments.early_stopping_patience
        is_stopped = patience is not None and self.progress.without_better >= patience
        return is_stopped or self.progress.step >= self.steps

    def _any(self, condition: bool) -> bool:
        """Whether a condition holds in any process: a signal may reach one alone."""
        if self.engine.world.processes == 1:
            return condition
        return bool(self.engine.total(np.array([float(condition)]))[0])

    def _after_step(self, portions: Prefetched, must_save: bool) -> None:
        """Do what is due behind a step."""
        step, is_last = self.progress.step, self.progress.step >= self.steps
        if _is_due(step, self.arguments.logging_steps) or is_last:
            self._write_losses(portions)
        is_better = False
        if self.validation is not None and (_is_due(step, self.arguments.eval_steps) or is_last):
            is_better = self._evaluate(self.validation)
        if self._is_done() and self.progress.logged:  # of an early end
            self._write_losses(portions)
        keeps_best = is_better and self.arguments.early_stopping_patience is not None
        is_due = _is_due(step, self.arguments.save_steps) or self._is_done()
        if is_due or keeps_best or must_save:
            self.save()
        self.reporter.step(self.progress)

    # --- a step ---

    def _step(self, portion: Portion) -> None:
        progress = self.progress
        micro_batches = [*self._micro_batches(portion.inputs)]
        rate = self._schedule.learning_rate(progress.step)
        progress.step += 1
        result = self.engine.step(micro_batches, progress.step, rate)
        self._settle()  # of the step before, while this one is computed
        self._pending = _Pending(progress.step, result, portion.places)
        progress.feed = dict(portion.state)
        progress.tokens += _tokens(portion.inputs)

    def _micro_batches(self, inputs: Inputs) -> Iterator[MicroBatch]:
        """Yield what this process reads of the rows of a step, one micro-batch after another."""
        world, same = self.engine.world, self.arguments.same_dropout
        own = world.devices * self.arguments.per_device_train_batch_size
        counts = self.task.labels(inputs)
        total = max(1, int(counts.sum()))
        for number in range(self.arguments.gradient_accumulation_steps):
            every = number * world.processes * own
            if not counts[every : every + world.processes * own].any():
                continue  # of no label the mean is NaN
            first = every + world.rank * own
            rows = slice(first, first + own)
            # 0 where the labels are other processes': all take part in a micro-batch.
            weight = int(counts[rows].sum()) / total
            stream, first_row = (0, world.rank * own) if same else (world.rank, 0)
            seed = _seed(self.arguments.seed, self.progress.step, number, stream)
            part = {name: array[rows] for name, array in inputs.items()}
            yield MicroBatch(part, weight, seed, first_row)

    def _settle(self) -> None:
        """Read the result of the last step; raises TrainingError if it is not finite."""
        if self._pending is None:
            return
        number, result, places = self._pending
        self._pending = None
        loss, norm = float(result.loss), float(result.grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss is {loss}" if not math.isfinite(loss) else f"gradients' norm is {norm}"
            where = listed(dict.fromkeys(map(str, places())))
            raise TrainingError(
                f"The {what} at step {number}, whose rows come from {where}. Checkpoints that "
                "were saved before are whole. A lower learning rate, a longer warm-up or clipping "
                "may help; or leave those rows out."
            )
        self.progress.loss_sum += loss
        self.progress.logged_loss += loss
        self.progress.logged += 1
        self._grad_norm = norm

    # --- log and evaluation ---

    def _write_losses(self, portions: Prefetched) -> None:
        """Write the line of the log for the steps since the last one."""
        self._settle()
        self._count_seconds()
        progress = self.progress
        seconds = max(self._counted - self._mark.time, 1e-9)
        self._write(
            {
                "step": progress.step,
                "epoch": self.epoch,
                "loss": progress.logged_loss / max(1, progress.logged),
                "learning_rate": self._schedule.learning_rate(progress.step - 1),
                "grad_norm": self._grad_norm,
                "tokens": progress.tokens,
                "tokens_per_second": (progress.tokens - self._mark.tokens) / seconds,
                "data_wait": portions.waited / seconds,
            }
        )
        progress.logged, progress.logged_loss = 0, 0.0
        portions.waited = 0.0
        self._mark = _Mark(self._counted, progress.tokens)

    def _count_seconds(self) -> None:
        """Count the time since this was last called as training."""
        now = time.perf_counter()
        self.progress.seconds += now - self._counted
        self._counted = now

    @property
    def epoch(self) -> float:
        """How often the training data was read."""
        return round(self.feed.epoch(self.progress.feed), 4)

    def _evaluate(self, rows: Rows) -> bool:
        """Write the line of an evaluation; return whether it is the best so far."""
        self._settle()
        start = time.perf_counter()
        metrics = self.measure(rows)
        self._write({"step": self.progress.step, "epoch": self.epoch, **metrics})
        self._sample()
        loss, progress = metrics["eval_loss"], self.progress
        is_better = progress.best_loss is None or loss < progress.best_loss
        if is_better:
            progress.best_loss, progress.best_step, progress.without_better = loss, progress.step, 0
        else:
            progress.without_better += 1
        taken = time.perf_counter() - start
        self._mark = self._mark._replace(time=self._mark.time + taken)
        self._counted += taken
        return is_better

    def _sample(self) -> None:
        """Show what the model writes now, if that is asked for."""
        if self.task.sample is None:
            return
        with self.engine.sampled() as model:
            self.reporter.sample(self.task.sample(model))

    def measure(self, rows: Rows) -> dict[str, float]:
        """Return what an evaluation of rows gives, the same in every process."""
        world, needs_logits = self.engine.world, self.task.needs_logits
        # Predictions are needed whole, so each process has them all.
        is_divided = world.processes > 1 and not (needs_logits or world.is_one_program)
        processes, rank = (world.processes, world.rank) if is_divided else (1, 0)
        size = self._evaluated_rows(self.engine)
        loss_sum, labels = 0.0, 0
        predictions = []
        starts = range(0, len(rows), size)
        for first in range(0, len(starts), processes):
            mine = starts[min(first + rank, len(starts) - 1)]
            inputs = rows.rows(np.arange(mine, min(mine + size, len(rows))))
            found = self.engine.evaluate(inputs, logits=needs_logits)
            count = int(self.task.labels(inputs).sum()) if first + rank < len(starts) else 0
            labels += count
            loss_sum += found.loss * count if count else 0.0  # of no label it is NaN
            if found.logits is not None:
                predictions.append((inputs, found.logits))
        sums = np.array([loss_sum, labels], np.float64)
        total, among = self.engine.total(sums) if is_divided else sums
        return self.task.metrics(float(total / max(1.0, among)), predictions)

    def logits(self, rows: Rows, engine: Engine) -> Iterator[np.ndarray]:
        """Yield the logits of each row, in every process."""
        size = self._evaluated_rows(engine)
        for first in range(0, len(rows), size):
            indices = np.arange(first, min(first + size, len(rows)))
            found = engine.evaluate(rows.rows(indices), logits=True).logits
            assert found is not None
            yield from found

    def _evaluated_rows(self, engine: Engine) -> int:
        """Return how many rows an evaluation takes at a time."""
        world = engine.world
        devices = world.devices * (world.processes if world.is_one_program else 1)
        return devices * self.arguments.per_device_eval_batch_size

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.add(line)
            self.reporter.line(line)

    # --- checkpoints ---

    def save(self) -> None:
        """Write a checkpoint, and delete those that are too many."""
        self._settle()
        self._count_seconds()
        moments = self.engine.state()
        if self._is_first:
            checkpoints.save(self.output_dir, self.progress, moments, self._save_model)
            keep = self.progress.best_step if self.arguments.early_stopping_patience else 0
            checkpoints.prune(self.output_dir, self.arguments.save_total_limit, keep)
        else:
            self.engine.save(self.output_dir)

    def _save_model(self, folder: Path) -> None:
        self.engine.save(folder)
        self.task.save_tokenizer(folder)


class _Mark(NamedTuple):
    """Since when the next line of the log counts."""

    time: float
    tokens: int


def _is_due(step: int, interval: int | None) -> bool:
    return interval is not None and step % interval == 0


def _tokens(inputs: Inputs) -> int:
    """Return how many tokens rows have, padding left out."""
    mask = inputs.get("attention_mask")
    return int(inputs["input_ids"].size if mask is None else mask.sum())


def _seed(*numbers: int) -> int:
    """Return a seed for each combination of numbers, from 0 to 2**63 - 1."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
