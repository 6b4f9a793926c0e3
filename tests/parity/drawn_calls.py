"""Compare the tokens of drawn calls of `generate` in the three frameworks.

    python tests/parity/drawn_calls.py --seed 7 --calls 1000 --backends pt tf flax

prints each call whose tokens differ from PyTorch's, and ends with status 1 if there is any.
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
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Most of the time goes to compiling. XLA and JAX read these when they start.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from support.drawn_calls import drawn_call
from support.same_tokens import Models, compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--backends", nargs="+", default=["pt", "tf", "flax"])
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder), options.backends)
        for number in range(options.first, options.first + options.calls):
            call = drawn_call(options.seed, number)
            counts[call.strategy] += 1
            for finding in compare(models, call):
                kind = "a tie" if finding.is_tie else "DIFFERENT"
                counts[kind] += 1
                print(f"call {number}, {finding.run}: {kind}\n{call}", flush=True)
                print(f"PyTorch: {finding.expected}\nfound:   {finding.found}", flush=True)
    print(f"{options.calls} calls, {time.process_time() - start:.0f} s of CPU: {dict(counts)}")
    return int(counts["DIFFERENT"] > 0)


if __name__ == "__main__":
    sys.exit(main())
