"""`train`: a run, from its arguments to the folder that it leaves."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpt2x import backends
from gpt2x.config.lora import ADAPTER_CONFIG_NAME
from gpt2x.errors import CheckpointError, DataError, InvalidInputError, check_choice, listed
from gpt2x.storage.atomic import atomic_folder, check_folder
from gpt2x.storage.publishing import push_folder
from gpt2x.train import checkpoints, log
from gpt2x.train.arguments import TrainingArguments
from gpt2x.train.card import training_card
from gpt2x.train.checkpoints import Progress
from gpt2x.train.engine import Engine, EngineOptions, OptimizerSettings
from gpt2x.train.exclusive import only_run
from gpt2x.train.feed import ShuffledFeed, Stream, StreamedFeed
from gpt2x.train.job import Data, Job, Prediction
from gpt2x.train.loop import Loop, Reporter
from gpt2x.train.resuming import check_settings, check_steps, origin
from gpt2x.train.tasks import TASKS

# Arguments that one backend alone has.
_ONLY_IN = {"mesh": "flax", "fsdp": "pt", "torch_compile": "pt", "torch_compile_backend": "pt"}

TRAIN_RESULTS, EVAL_RESULTS = "train_results.json", "eval_results.json"
TEST_RESULTS, PREDICTIONS = "test_results.json", "predictions.jsonl"

# In the order in which they move in.
_WEIGHTS = ("model-*-of-*.safetensors", "model.safetensors", "model.safetensors.index.json")

_NOT_UPLOADED = (PREDICTIONS, log.LOG)


def train(
    task: str = "lm", *, reporter: Reporter | None = None, **arguments: Any
) -> dict[str, Any]:
    """Train a model as the command ``gpt2x train TASK`` does.

    Args:
        task: lm, classify or tag.
        reporter: hears of each step, of lines of the log and of samples.
        arguments: the command's flags by their names, such as `train_file` and `output_dir`.

    Returns:
        What train_results.json and eval_results.json hold: `train_loss`, `steps`, `eval_loss` ...

    Raises:
        InvalidInputError: before anything is computed, for an argument that cannot be used.
        DataError: for a record or file that cannot be used; it names the file and the line.
        TrainingError: if a loss is not finite.

    >>> train(train_file="poems.txt", output_dir="poet", max_steps=100)  # doctest: +SKIP
    """
    check_choice("task", task, TASKS)
    return _Run(task, TASKS[task].arguments.of(arguments), reporter or Reporter()).results()


class _Run:
    """A run: it finds where to go on, brings the parts together, and leaves the results."""

    def __init__(self, task: str, arguments: TrainingArguments, reporter: Reporter) -> None:
        self._arguments, self._reporter = arguments, reporter
        self._output_dir = Path(arguments.output_dir)
        self._backend = arguments.backend or backends.default()
        self._training = backends.load(self._backend, "Training", "training")
        self._skipped: list[DataError] = []
        self._checkpoint = self._find_checkpoint()
        self._progress = Progress()
        self._origin = origin(task, arguments)
        if self._checkpoint is not None:
            self._progress = checkpoints.read_progress(self._checkpoint)
            check_settings(self._progress.settings, self._origin)
            if arguments.max_steps > 0:
                check_steps(self._progress.step, arguments.max_steps, "max_steps")
        self._job: Job = TASKS[task].make_job(
            arguments, self._backend, self._checkpoint, self._on_bad
        )

    def _find_checkpoint(self) -> Path | None:
        """Return the checkpoint to go on from.

        Raises InvalidInputError if an earlier run in the folder would be overwritten.
        """
        check_folder(self._output_dir)
        found = checkpoints.found(self._output_dir)
        if self._arguments.overwrite_output_dir:
            self._check_not_needed(found.values())
            return None
        if found and not self._arguments.resume:
            names = listed(path.name for path in found.values())
            raise InvalidInputError(
                f"{str(self._output_dir)!r} holds a run, with {names}. Pass resume to go on with "
                "it, overwrite_output_dir to begin anew, or another folder."
            )
        return [*found.values()][-1] if found else None

    def _check_not_needed(self, found: Iterable[Path]) -> None:
        """Raise InvalidInputError if a run would delete a checkpoint from which it starts."""
        a = self._arguments
        for name in filter(None, (a.model_name_or_path, a.tokenizer_name)):
            if Path(name).expanduser().resolve() in {path.resolve() for path in found}:
                raise InvalidInputError(
                    f"overwrite_output_dir would delete {name!r}, from which this run starts; give "
                    "another output_dir."
                )

    def results(self) -> dict[str, Any]:
        """Train; write and return the results."""
        engine = self._make_engine()
        data = self._job.data(engine.model.config)
        loop = self._make_loop(engine, data)
        if engine.world.rank != 0:
            return self._run(loop, data)
        with only_run(self._output_dir):
            # Not before all that can be refused has been checked.
            if self._arguments.overwrite_output_dir:
                for path in checkpoints.found(self._output_dir).values():
                    checkpoints.delete(path)
            return self._run(loop, data)

    def _run(self, loop: Loop, data: Data) -> dict[str, Any]:
        loop.run()
        return self._finish(loop, data)

    def _on_bad(self, error: DataError) -> None:
        if not self._arguments.skip_bad_records:
            raise error
        self._skipped.append(error)

    def _make_engine(self) -> Engine:
        engine = self._engine_of(self._checkpoint)
        if self._checkpoint is not None:
            engine.restore(checkpoints.read_moments(self._checkpoint), self._progress.step)
        return engine

    def _engine_of(self, checkpoint: Path | None) -> Engine:
        """Return the engine of a checkpoint's model, or of that from which the run begins."""
        a = self._arguments
        settings = OptimizerSettings(
            a.adam_beta1, a.adam_beta2, a.adam_epsilon, a.weight_decay, a.max_grad_norm
        )
        for name, backend in _ONLY_IN.items():
            if getattr(a, name) and self._backend != backend:
                raise InvalidInputError(
                    f"{name} is for the backend {backend}; this run is one of {self._backend}."
                )
        compiler = a.torch_compile_backend or ("inductor" if a.torch_compile else None)
        options = EngineOptions(
            bf16=a.bf16,
            gradient_checkpointing=a.gradient_checkpointing,
            mesh=a.mesh,
            fsdp=a.fsdp,
            torch_compile=compiler,
            same_dropout=a.same_dropout,
        )
        with tempfile.TemporaryDirectory() as folder:
            start = self._job.start(Path(folder), checkpoint)
            load = partial(self._job.load, self._backend, start, checkpoint)
            engine: Engine = self._training.Engine(load, settings, options)
        return engine

    def _make_loop(self, engine: Engine, data: Data) -> Loop:
        """Return the loop over the data.

        Raises InvalidInputError if there is too little of it, or it is not that of the checkpoint.
        """
        a, world = self._arguments, engine.world
        size = a.per_device_train_batch_size * a.gradient_accumulation_steps
        size *= world.devices * world.processes
        progress = self._progress
        settings = {"seed": a.seed, **self._origin, **data.settings}
        check_settings(progress.settings, settings)
        # What a run may leave out when it goes on stays known.
        progress.settings = {**settings, **progress.settings}
        if a.early_stopping_patience is not None and data.validation is None:
            raise InvalidInputError("early_stopping_patience needs data to evaluate with.")
        if data.validation is not None and len(data.validation) == 0:
            raise InvalidInputError("The validation data is too short for a single row.")
        feed, steps = self._feed(data, size)
        check_steps(progress.step, steps, f"num_train_epochs={a.num_train_epochs:g}")
        return Loop(
            arguments=a,
            steps=steps,
            engine=engine,
            task=self._job.task,
            feed=feed,
            validation=data.validation,
            progress=progress,
            reporter=self._reporter if world.rank == 0 else Reporter(),
        )

    def _feed(self, data: Data, size: int) -> tuple[ShuffledFeed | StreamedFeed, int]:
        """Return the rows of each step, of this size, and the number of steps."""
        a = self._arguments
        if isinstance(data.train, Stream):
            return StreamedFeed(data.train, size), a.max_steps
        if len(data.train) == 0:
            raise InvalidInputError(
                "The training data is too short for a single row; a smaller block_size may help."
            )
        steps = math.ceil(len(data.train) * a.num_train_epochs / size)
        return ShuffledFeed(data.train, a.seed, size), a.max_steps if a.max_steps > 0 else steps

    # --- what is left behind ---

    def _finish(self, loop: Loop, data: Data) -> dict[str, Any]:
        """Write the model and the results, after the last checkpoint."""
        progress, path = loop.progress, self._output_dir
        results: dict[str, Any] = {
            "epoch": loop.epoch,
            "steps": progress.step,
            "tokens": progress.tokens,
            "train_loss": progress.loss_sum / max(1, progress.step),
            "train_runtime": progress.seconds,
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
            "bad_records": len(self._skipped),
            **data.counts,
        }
        is_best = self._arguments.early_stopping_patience is not None
        step = progress.best_step if is_best else progress.step
        logits = self._logits(loop, step, data.prediction)
        if loop.engine.world.rank != 0:
            return results
        evaluated = log.evaluation(log.read(path / log.LOG), step)
        scores = data.prediction.scores(logits) if data.prediction else {}
        # An evaluation has the epoch of its step.
        every = {**results, **evaluated, **scores, "epoch": results["epoch"]}
        model = checkpoints.path_of(path, step)
        with atomic_folder(path, replaces=_replaced(model)) as folder:
            _copy_model(model, folder)
            _write_json(folder / TRAIN_RESULTS, results)
            if evaluated:
                _write_json(folder / EVAL_RESULTS, evaluated)
            if scores:
                _write_json(folder / TEST_RESULTS, scores)
            if data.prediction is not None:
                lines = map(partial(json.dumps, ensure_ascii=False), data.prediction.lines(logits))
                (folder / PREDICTIONS).write_text("".join(f"{line}\n" for line in lines), "utf-8")
            card = training_card(
                self._output_dir.resolve().name, asdict(self._arguments), every, folder
            )
            (folder / "README.md").write_text(card, "utf-8")
        if self._arguments.push_to_hub:
            self._push()
        return every

    def _logits(self, loop: Loop, step: int, prediction: Prediction | None) -> Sequence[np.ndarray]:
        """Return what the model of a step predicts for each row, the same in every process."""
        if prediction is None:
            return ()
        is_last = step == loop.progress.step
        checkpoint = checkpoints.path_of(self._output_dir, step)
        engine = loop.engine if is_last else self._engine_of(checkpoint)
        return [*loop.logits(prediction.rows, engine)]

    def _push(self) -> None:
        """Upload the model's files, without those that are the run's own or hold its texts.

        Raises CheckpointError if the hub does not take them.
        """
        a = self._arguments
        name = a.hub_model_id or self._output_dir.resolve().name
        with tempfile.TemporaryDirectory() as folder:
            for file in self._output_dir.iterdir():
                if file.is_file() and file.name[0] != "." and file.name not in _NOT_UPLOADED:
                    shutil.copy(file, folder)
            try:
                push_folder(folder, name, token=a.hub_token)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{error} The run is done, and all that it leaves is in "
                    f"{str(self._output_dir)!r}. To upload it later, give the same arguments with "
                    "resume: no step is left to make."
                ) from error


def _replaced(checkpoint: Path) -> tuple[str, ...]:
    """Return patterns of the files that an earlier run may have left, which go if not replaced."""
    results = (EVAL_RESULTS, TEST_RESULTS, PREDICTIONS)
    if (checkpoint / ADAPTER_CONFIG_NAME).is_file():  # the model beside it may be its own
        return results
    # An adapter that stays would be put on the new model; weights in one file, before new shards.
    return (*results, ADAPTER_CONFIG_NAME, "adapter_model.*", *_WEIGHTS)


def _copy_model(checkpoint: Path, folder: Path) -> None:
    for file in checkpoint.iterdir():
        if file.is_file() and file.name not in checkpoints.OWN_FILES and file.name[0] != ".":
            shutil.copy(file, folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=2) + "\n", "utf-8")
