"""Compare the tokens of drawn calls of `generate` in the three frameworks.

    python tests/parity/drawn_calls.py --seed 7 --calls 1000 --backends flax tf-xla

prints each call whose tokens differ from PyTorch's, and each form of calls for which XLA compiled
more than once, and ends with status 1 if there is any. Calls of one form follow one another.
`--first 57 --calls 1` repeats number 57 of the seed alone. Differences of rounding, which PyTorch
itself shows if its weights are moved by 1e-5 of themselves, are counted as ties. The test suite
runs a small part of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Most of the time goes to compiling. JAX reads this when it starts.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from support.compilations import Compilations
from support.drawn_calls import drawn_call

BACKENDS = ("pt", "tf", "tf-xla", "tf-eager", "flax", "flax-stepwise")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--per-form", type=int, default=10, help="calls of a form")
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=["tf", "tf-xla", "flax"],
        help="what is compared with PyTorch: TensorFlow's graphs, its XLA, op by op ...",
    )
    parser.add_argument(
        "--alone",
        action="store_true",
        help="run each prompt alone in all of these, too; compilations are then not compared",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        modules = Path(folder) / "modules"
        modules.mkdir()
        # XLA reads this when TensorFlow starts.
        flags = (os.environ.get("XLA_FLAGS", ""), Compilations.flags(modules))
        os.environ["XLA_FLAGS"] = " ".join((*flags, "--xla_backend_optimization_level=0"))
        return run(options, Path(folder), Compilations(modules))


def run(options: argparse.Namespace, folder: Path, compilations: Compilations) -> int:
    from support.same_tokens import Models, compare

    counts: Counter[str] = Counter()
    compiled: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    start = time.process_time()
    models = Models(folder, options.backends)
    if "flax" in models.others:
        compilations.listen()
    if "tf" in models.others:
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    for number in range(options.first, options.first + options.calls):
        form = number // options.per_form
        if number % options.per_form == 0:
            models.forget()
        call = drawn_call(options.seed, form, number)
        counts[call.strategy] += 1
        for finding in compare(models, call, options.alone):
            kind = "a tie" if finding.is_tie else "DIFFERENT"
            counts[kind] += 1
            print(f"call {number}, {finding.run}: {kind}\n{call}")
            print(f"PyTorch: {finding.expected}\nfound:   {finding.found}", flush=True)
        for backend, count in compilations.take().items():
            compiled[backend, form] += [number] * count
        if (number + 1) % options.per_form == 0:
            found = {backend: compiled[backend, form] for backend in ("tf", "flax")}
            print(f"form {form}, {call.strategy}: compiled in {found}", flush=True)
    for (backend, form), numbers in compiled.items():
        counts[f"forms compiled by {backend}"] += bool(numbers)
        if len(set(numbers)) > 1 and not options.alone:
            counts["COMPILED AGAIN"] += 1
            print(f"form {form}, {backend}: COMPILED AGAIN, in the calls {numbers}")
    seconds = time.process_time() - start
    print(f"{options.calls} calls, {seconds:.0f} s of CPU: {dict(counts)}", flush=True)
    return int(counts["DIFFERENT"] + counts["COMPILED AGAIN"] > 0)


if __name__ == "__main__":
    sys.exit(main())
