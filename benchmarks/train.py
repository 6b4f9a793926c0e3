"""Speed and memory of a step of training: gpt2x against its peers, in one run.

    python benchmarks/train.py                                          # gpt2x alone
    python benchmarks/train.py --transformers PYTHON --nanogpt FOLDER   # and its peers
    python benchmarks/train.py --framework pt --dtype bfloat16 --subject gpt2x-compiled ...

PYTHON is the interpreter of an environment with transformers 4.57 and its frameworks, FOLDER a
checkout of nanoGPT, which runs in the environment of gpt2x. Random weights, rows of random tokens,
AdamW with weight decay and gradients clipped to 1: forward, backward and update, from numpy's array
to a loss on the host.

Each subject runs in a process of its own. The subjects of a framework take turns, a step each, and
a round's ratio is that of two steps of one turn, so that a machine whose speed drifts gives fair
numbers. Printed are the median seconds of a step, by the clock and of the processors; the most
memory of the first steps beyond what rested before them (Linux's VmHWM; the model is there,
gradients and moments are not); and the median ratio to each peer, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

FRAMEWORKS = {"pt": "torch", "tf": "tensorflow", "flax": "flax"}
RATE, DECAY, BETAS = 1e-4, 0.1, (0.9, 0.95)

#: Takes rows of tokens, int64 [B, T], makes a step, and returns its loss.
Step = Callable[[Any], float]


class Setting(NamedTuple):
    """What all subjects have in common.

    Attributes:
        shape: fields of GPT-2's config.
        dtype: float32, or bfloat16 beside weights in float32.
        rows, tokens: B and T of a step.
    """

    shape: dict[str, Any]
    dtype: str
    rows: int
    tokens: int

    @property
    def is_half(self) -> bool:
        return self.dtype == "bfloat16"


# --- subjects: each returns a function that makes a step ---


def gpt2x(framework: str, prefix: str, setting: Setting, **options: Any) -> Step:
    """Training as `gpt2x train lm` does it."""
    import numpy as np

    import gpt2x
    from gpt2x import GPT2Config, backends
    from gpt2x.train.engine import EngineOptions, MicroBatch, OptimizerSettings

    settings = OptimizerSettings(*BETAS, 1e-8, DECAY, 1.0)
    cls = getattr(gpt2x, f"{prefix}GPT2LMHeadModel")
    engine = backends.load(framework, module="training").Engine(
        lambda: cls(GPT2Config(**setting.shape)),
        settings,
        EngineOptions(bf16=setting.is_half, **options),
    )
    number = 0

    def step(ids: Any) -> float:
        nonlocal number
        number += 1
        batch = MicroBatch({"input_ids": ids, "labels": ids}, 1.0, number)
        result = engine.step([batch], number, RATE)
        loss, _ = float(np.asarray(result.loss)), float(np.asarray(result.grad_norm))
        return loss

    return step


def transformers_pt(setting: Setting, compiled: bool = False) -> Step:
    """The `Trainer` of transformers, without a file written: its step and its optimizer."""
    import tempfile

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    arguments = TrainingArguments(
        tempfile.mkdtemp(),
        bf16=setting.is_half,
        use_cpu=True,
        learning_rate=RATE,
        weight_decay=DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        torch_compile=compiled,
        report_to=[],
    )
    trainer = Trainer(GPT2LMHeadModel(GPT2Config(**setting.shape)), arguments)
    trainer.create_optimizer()
    trainer.model_wrapped = model = trainer.accelerator.prepare_model(trainer.model)
    optimizer = trainer.optimizer = trainer.accelerator.prepare_optimizer(trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1

    def step(ids: Any) -> float:
        ids = torch.as_tensor(ids)
        loss = trainer.training_step(model, {"input_ids": ids, "labels": ids})
        trainer.accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        return float(loss)

    return step


def nanogpt(setting: Setting, folder: str, compiled: bool = True) -> Step:
    """The inner loop of nanoGPT's train.py, with the model and the optimizer of its model.py."""
    import torch

    sys.path.insert(0, folder)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    shape = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, **setting.shape}
    names = ("n_layer", "n_embd", "n_head", "vocab_size")
    model = GPT(
        GPTConfig(
            **{name: shape[name] for name in names},
            block_size=shape.get("n_positions", 1024),
            dropout=shape.get("resid_pdrop", 0.1),
        )
    )
    optimizer = model.configure_optimizers(DECAY, RATE, BETAS, "cpu")
    called = torch.compile(model) if compiled else model

    def step(ids: Any) -> float:
        ids = torch.as_tensor(ids)
        # Its loader shifts the rows; the last token of each predicts nothing.
        targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-1)
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.is_half):
            _, loss = called(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def transformers_tf(setting: Setting, xla: bool = False) -> Step:
    """The TensorFlow model of transformers, by the step of `fit`, with the library's optimizer."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import numpy as np
    import tensorflow as tf
    import tf_keras
    from transformers import AdamWeightDecay, GPT2Config, TFGPT2LMHeadModel

    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16" if setting.is_half else "float32")
    model = TFGPT2LMHeadModel(GPT2Config(**setting.shape))
    model.build()
    model.compile(
        AdamWeightDecay(
            RATE,
            *BETAS,
            1e-8,
            weight_decay_rate=DECAY,
            global_clipnorm=1.0,
            exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"],
        ),
        jit_compile=xla,
    )

    def step(ids: Any) -> float:
        ids = tf.constant(ids.astype(np.int32))
        found = model.train_on_batch({"input_ids": ids, "labels": ids}, return_dict=True)
        return float(found["loss"])

    return step


def transformers_flax(setting: Setting) -> Step:
    """The Flax model of transformers, as run_clm_flax.py trains: a jitted step, optax's AdamW."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax.training import train_state
    from transformers import FlaxGPT2LMHeadModel, GPT2Config

    model = FlaxGPT2LMHeadModel(GPT2Config(**setting.shape), dtype=jnp.dtype(setting.dtype))
    adamw = optax.adamw(
        RATE, *BETAS, weight_decay=DECAY, mask=lambda tree: jax.tree.map(lambda w: w.ndim > 1, tree)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    state = train_state.TrainState.create(apply_fn=model, params=model.params, tx=optimizer)
    del model._params  # the state gives its memory up
    key = jax.random.key(0)

    def train_step(state: Any, ids: Any, key: Any) -> Any:
        def loss_of(params: Any) -> Any:
            logits = state.apply_fn(ids, params=params, dropout_rng=key, train=True)[0]
            losses = optax.softmax_cross_entropy(
                logits[:, :-1], jax.nn.one_hot(ids[:, 1:], logits.shape[-1])
            )
            return losses.mean()

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=gradients), loss

    run = jax.jit(train_step, donate_argnums=0)
    number = 0

    def step(ids: Any) -> float:
        nonlocal state, number
        number += 1
        state, loss = run(state, ids.astype(np.int32), jax.random.fold_in(key, number))
        return float(loss)

    return step


class Subject(NamedTuple):
    """What is measured.

    Attributes:
        framework: pt, tf or flax.
        owner: gpt2x, or the peer whose option says where it is.
        build: makes its step of a setting, and of the folder of nanoGPT.
    """

    framework: str
    owner: str
    build: Callable[..., Step]


SUBJECTS = {
    "gpt2x": Subject("pt", "gpt2x", partial(gpt2x, "pt", "")),
    "gpt2x-compiled": Subject("pt", "gpt2x", partial(gpt2x, "pt", "", torch_compile="inductor")),
    "nanogpt-compiled": Subject("pt", "nanogpt", nanogpt),
    "nanogpt": Subject("pt", "nanogpt", partial(nanogpt, compiled=False)),
    "transformers": Subject("pt", "transformers", transformers_pt),
    "transformers-compiled": Subject("pt", "transformers", partial(transformers_pt, compiled=True)),
    "gpt2x-tf": Subject("tf", "gpt2x", partial(gpt2x, "tf", "TF")),
    "transformers-tf": Subject("tf", "transformers", transformers_tf),
    "transformers-tf-xla": Subject("tf", "transformers", partial(transformers_tf, xla=True)),
    "gpt2x-flax": Subject("flax", "gpt2x", partial(gpt2x, "flax", "Flax")),
    "transformers-flax": Subject("flax", "transformers", transformers_flax),
}


# --- a process ---


def memory(field: str) -> int:
    """Return the bytes of a field of /proc/self/status, such as VmHWM (peak) or VmRSS (now)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This benchmark reads /proc/self/status, which only Linux has.")


def serve(name: str, setting: Setting, nanogpt: str | None) -> None:
    """Make two steps and print the memory they took; then time one for each line of the input.

    What compilers take in this process is counted, as it is where a user trains.
    """
    import numpy as np

    subject = SUBJECTS[name]
    output, sys.stdout = sys.stdout, sys.stderr  # libraries print
    given = [nanogpt] if subject.owner == "nanogpt" else []
    step = subject.build(setting, *given)
    generator = np.random.default_rng(0)
    vocabulary = setting.shape.get("vocab_size", 50257)

    def timed() -> list[float]:
        ids = generator.integers(0, vocabulary, (setting.rows, setting.tokens))
        start, processor = time.perf_counter(), time.process_time()
        loss = step(ids)
        return [time.perf_counter() - start, time.process_time() - processor, loss]

    rest = memory("VmRSS")
    first = timed()
    timed()
    print(json.dumps([memory("VmHWM") - rest, *first]), file=output, flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed()), file=output, flush=True)


class Worker:
    """A subject that runs in its own process."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        owner = SUBJECTS[name].owner
        python = options.transformers if owner == "transformers" else sys.executable
        environment = dict(os.environ)
        if options.threads:
            environment["OMP_NUM_THREADS"] = str(options.threads)
            environment["TF_NUM_INTRAOP_THREADS"] = str(options.threads)
        self.process = subprocess.Popen(
            [python, __file__, "--serve", name, *_repeated(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.memory, self.first_step, _, self.loss = self._read()
        self.seconds: list[float] = []
        self.processor: list[float] = []

    def _read(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit("a subject ended early; its error is printed above")
        return json.loads(line)

    def measure(self) -> None:
        """Take a turn."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        seconds, processor, _ = self._read()
        self.seconds.append(seconds)
        self.processor.append(processor)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def _repeated(options: argparse.Namespace) -> list[str]:
    """Return the options that a subject's process takes as well."""
    names = ("nanogpt", "layers", "embd", "heads", "vocabulary", "dropout", "dtype", "rows")
    given = [(name, getattr(options, name)) for name in (*names, "tokens")]
    return [
        part for name, value in given if value is not None for part in (f"--{name}", str(value))
    ]


# --- the comparison ---


def compare(names: list[str], options: argparse.Namespace) -> None:
    """Print what a step of each subject of a framework takes, and ours against each peer's."""
    workers = {}
    for name in names:
        workers[name] = Worker(name, options)
        first = workers[name].first_step
        print(f"{name}: first step {first:.1f} s, loss {workers[name].loss:.3f}", file=sys.stderr)
    for _ in range(options.rounds):
        for worker in workers.values():
            worker.measure()
    print(f"{options.dtype:22}  s a step  processor s  first step s  memory MB")
    for name, worker in workers.items():
        seconds, processor = map(statistics.median, (worker.seconds, worker.processor))
        print(
            f"{name:22}{seconds:10.2f}{processor:13.2f}{worker.first_step:14.1f}"
            f"{worker.memory / 1e6:11.0f}"
        )
    for own in [name for name in names if SUBJECTS[name].owner == "gpt2x"]:
        for peer in [name for name in names if SUBJECTS[name].owner != "gpt2x"]:
            print(f"{own} is {_speed(workers[own], workers[peer])} as fast as {peer}")
    sys.stdout.flush()
    for worker in workers.values():
        worker.close()


def _speed(own: Worker, peer: Worker) -> str:
    """Return how many times as fast a worker is: by the clock, and by seconds of processors."""
    clock = [y / x for x, y in zip(own.seconds, peer.seconds, strict=True)]
    processor = [y / x for x, y in zip(own.processor, peer.processor, strict=True)]
    return (
        f"{statistics.median(clock):.2f} times ({min(clock):.2f} to {max(clock):.2f}; "
        f"by processor seconds {statistics.median(processor):.2f})"
    )


def main() -> None:
    """Run the benchmark, or one subject of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transformers", metavar="PYTHON")
    parser.add_argument("--nanogpt", metavar="FOLDER")
    parser.add_argument("--framework", choices=FRAMEWORKS, action="append")
    parser.add_argument("--subject", choices=SUBJECTS, action="append", help="default: all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--embd", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: as the frameworks choose")
    parser.add_argument("--serve", choices=SUBJECTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        shape = {
            "n_layer": options.layers,
            "n_embd": options.embd,
            "n_head": options.heads,
            "vocab_size": options.vocabulary,
            **{f"{place}_pdrop": options.dropout for place in ("resid", "embd", "attn")},
        }
        setting = Setting(shape, options.dtype, options.rows, options.tokens)
        serve(options.serve, setting, options.nanogpt)
        return
    there = {"gpt2x": True, "nanogpt": options.nanogpt, "transformers": options.transformers}
    for framework in options.framework or filter(_is_installed, FRAMEWORKS):
        names = [
            name
            for name, subject in SUBJECTS.items()
            if subject.framework == framework
            and there[subject.owner]
            and (options.subject is None or name in options.subject)
        ]
        if names:
            compare(names, options)


def _is_installed(framework: str) -> bool:
    return importlib.util.find_spec(FRAMEWORKS[framework]) is not None


if __name__ == "__main__":
    main()
