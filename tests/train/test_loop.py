"""The loop, with an engine in numpy."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2x.errors import TrainingError
from gpt2x.models.checks import IGNORE_INDEX
from gpt2x.train import checkpoints
from gpt2x.train.loop import Reporter
from support.training import WEIGHTS, Sequences, log_of, make_loop


class KilledError(Exception):
    """Stands for the end of a process."""


class StopAt(Reporter):
    """Ends a run behind a step, as a kill does: whatever is not on the disk is lost."""

    def __init__(self, number):
        self.number = number

    def step(self, progress):
        if progress.step == self.number:
            raise KilledError


def newest_weights(folder):
    step, path = [*checkpoints.found(Path(folder)).items()][-1]
    return step, json.loads((path / WEIGHTS).read_text())


def test_training_lowers_the_loss(tmp_path):
    loop = make_loop(tmp_path, validation=Sequences(10, seed=1), eval_steps=4)
    loop.run()
    losses = [line["loss"] for line in log_of(tmp_path) if "loss" in line]
    evaluations = [line["eval_loss"] for line in log_of(tmp_path) if "eval_loss" in line]
    assert losses[-1] < losses[0]
    assert evaluations[-1] < evaluations[0]
    assert [line["step"] for line in log_of(tmp_path)] == [4, 4, 8, 8, 12, 12, 16, 16, 20, 20]
    assert log_of(tmp_path)[-2] == {
        "step": 20,
        "epoch": round(40 / 30, 4),
        "loss": losses[-1],
        "learning_rate": pytest.approx(0.1 / 20),
        "grad_norm": log_of(tmp_path)[-2]["grad_norm"],
        "tokens": 20 * 2 * 8,
    }


@settings(max_examples=8, deadline=None)
@given(
    stops=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    save_steps=st.integers(1, 7),
    logging_steps=st.integers(1, 7),
    accumulation=st.integers(1, 2),
)
def test_a_run_that_goes_on_is_an_unbroken_one(
    tmp_path_factory, stops, save_steps, logging_steps, accumulation
):
    options = {
        "save_steps": save_steps,
        "logging_steps": logging_steps,
        "gradient_accumulation_steps": accumulation,
        "validation": Sequences(5, seed=1),
        "eval_steps": 5,
    }
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    make_loop(whole, **options).run()
    for number in sorted(stops):
        try:
            make_loop(broken, reporter=StopAt(number), **options).run()
        except KilledError:
            continue
    make_loop(broken, **options).run()
    assert newest_weights(broken) == newest_weights(whole)
    assert log_of(broken) == log_of(whole)


KILLED = """
import sys
from support.training import Sequences, make_loop
make_loop(sys.argv[1], steps=60, save_steps=3, validation=Sequences(5, seed=1), eval_steps=7).run()
"""


def test_a_run_killed_at_any_moment_goes_on(tmp_path):
    command = [sys.executable, "-c", KILLED]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, tmp_path / "whole"], env=environment, check=True)
    rng = np.random.default_rng(3)
    for _ in range(10):
        before = len(checkpoints.found(tmp_path / "broken"))
        process = subprocess.Popen([*command, tmp_path / "broken"], env=environment)
        # Some moments after it began to write, wherever that is.
        while process.poll() is None and not (tmp_path / "broken" / "log.jsonl").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.4 if before else 0.1))
        process.kill()
        process.wait()
    subprocess.run([*command, tmp_path / "broken"], env=environment, check=True)
    assert newest_weights(tmp_path / "broken") == newest_weights(tmp_path / "whole")
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    assert len(checkpoints.found(tmp_path / "broken")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_first(tmp_path, number):
    told = []

    class Signals(Reporter):
        def step(self, progress):
            if progress.step == 7:
                os.kill(os.getpid(), number)

        def stopped(self, checkpoint):
            told.extend([checkpoint, checkpoints.read_progress(checkpoint).step])

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_loop(tmp_path / "broken", reporter=Signals()).run()
    assert told == [tmp_path / "broken" / "checkpoint-8", 8]
    assert [*checkpoints.found(tmp_path / "broken")] == [8]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    make_loop(tmp_path / "broken").run()
    make_loop(tmp_path / "whole").run()
    assert newest_weights(tmp_path / "broken") == newest_weights(tmp_path / "whole")


def test_micro_batches_divide_a_step_by_their_labels(tmp_path):
    data = Sequences(8)
    labels = data.ids.copy()
    labels[:, 3:] = IGNORE_INDEX
    labels[0] = IGNORE_INDEX
    data.labels = labels
    loop = make_loop(
        tmp_path, data, steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=8
    )
    loop.run()
    (batches,) = loop.engine.steps
    assert [batch.weight for batch in batches] == pytest.approx([1 / 7] * 7)
    assert len({batch.seed for batch in batches}) == 7


def test_accumulated_steps_are_those_of_large_batches(tmp_path):
    weights = []
    for size, accumulation in ((6, 1), (2, 3)):
        loop = make_loop(
            tmp_path / str(size),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            steps=5,
        )
        # Noise is drawn for each micro-batch; without it the gradients are the same.
        loop.engine.model.loss = lambda i, t, k=None, m=loop.engine.model: type(m).loss(m, i, t)
        loop.run()
        weights.append(loop.engine.model.weights)
    np.testing.assert_allclose(*weights, rtol=1e-10)


def test_evaluation_is_the_mean_over_all_labels(tmp_path):
    validation = Sequences(7, seed=1)
    validation.labels = validation.ids.copy()
    validation.labels[2, 2:] = IGNORE_INDEX
    loop = make_loop(tmp_path, validation=validation, per_device_eval_batch_size=3)
    loss, _ = loop.engine.model.loss(validation.ids, validation.labels)
    assert loop.measure(validation)["eval_loss"] == pytest.approx(loss)


def test_early_stopping_keeps_the_best_model(tmp_path):
    # Validation data that contradicts the training data gets worse from the first step on.
    wrong = Sequences(5, seed=1)
    wrong.ids = wrong.labels = (wrong.ids[:, ::-1]).copy()
    loop = make_loop(
        tmp_path,
        validation=wrong,
        eval_steps=2,
        early_stopping_patience=3,
        save_total_limit=1,
        save_steps=3,
    )
    loop.run()
    assert loop.progress.step == 8
    assert loop.progress.best_step == 2
    assert [*checkpoints.found(tmp_path)] == [2, 8]


def test_the_newest_checkpoints_are_kept(tmp_path):
    make_loop(tmp_path, save_steps=3, save_total_limit=3).run()
    assert [*checkpoints.found(tmp_path)] == [15, 18, 20]


def test_a_loss_that_is_not_finite_names_its_rows(tmp_path):
    class Breaks(Reporter):
        def step(self, progress):
            if progress.step == 5:
                loop.engine.model.weights[:] = np.nan

    loop = make_loop(tmp_path, save_steps=4, reporter=Breaks())
    with pytest.raises(TrainingError, match=r"loss is nan at step 6.* rows\.txt.*line"):
        loop.run()
    step, weights = newest_weights(tmp_path)
    assert step == 4
    assert np.isfinite(weights).all()


def test_an_error_of_the_data_ends_the_run(tmp_path):
    class Missing(Sequences):
        def rows(self, indices):
            if 3 in indices:
                raise OSError("the disk is gone")
            return super().rows(indices)

    with pytest.raises(OSError, match="the disk is gone"):
        make_loop(tmp_path, Missing(10)).run()


def test_an_early_end_leaves_the_losses_and_the_time_of_its_last_steps(tmp_path):
    validation = Sequences(4, seed=1)
    options = {"learning_rate": 0.0, "eval_steps": 3, "early_stopping_patience": 1}
    loop = make_loop(tmp_path, validation=validation, logging_steps=100, **options)
    loop.run()
    (line,) = [line for line in log_of(tmp_path) if "loss" in line]
    assert line["step"] == loop.progress.step == 6
    assert line["loss"] == pytest.approx(loop.progress.loss_sum / 6)
    saved = checkpoints.read_progress(tmp_path / "checkpoint-6")
    assert saved.logged == 0
    assert saved.seconds > 0


def test_a_checkpoint_between_lines_of_the_log_counts_their_time(tmp_path):
    make_loop(tmp_path, steps=4, save_steps=3).run()
    assert checkpoints.read_progress(tmp_path / "checkpoint-3").seconds > 0
