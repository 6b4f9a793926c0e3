"""Peak memory and time of converting a 1.5B-parameter model, against its largest tensor.

    python benchmarks/conversion.py [--preset gpt2-xl] [--dtype bfloat16] [--to gguf]

Makes a model folder with random weights (3 GB at bfloat16) and converts it in a fresh process for
each target. The peak is Linux's VmHWM; the promise is at most three times the largest tensor, as it
is stored or computed in float32, plus 200 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpt2x.checkpoint.convert import TARGETS, convert, open_source
from gpt2x.config import GPT2Config
from loading import make_folder, memory


def run(source: Path, destination: Path, to: str) -> dict[str, float]:
    """Convert, and return what it took."""
    started = time.perf_counter()
    with open_source(source) as opened:
        made = convert(opened, destination, to=to)
        largest = max(tensor.size for tensor in made.tensors.values()) * 4
    return {
        "peak": memory("VmHWM"),
        "limit": 3 * largest + 200e6,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="gpt2-xl")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--to", choices=TARGETS, help="default: all")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child, options.to)))
        return
    with tempfile.TemporaryDirectory() as work:
        source = Path(work, "source")
        size = make_folder(source, GPT2Config.preset(options.preset), options.dtype)
        print(f"{options.preset}, {options.dtype}, {size / 1e9:.1f} GB")
        for to in [options.to] if options.to else TARGETS:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                command = [sys.executable, __file__, "--to", to, "--child", source]
                command.append(Path(folder, "made"))
                result = subprocess.run(command, check=True, capture_output=True, text=True)
            took = json.loads(result.stdout.splitlines()[-1])
            print(
                f"{to:16} peak {took['peak'] / 1e6:5.0f} MB of {took['limit'] / 1e6:.0f} allowed, "
                f"{took['seconds']:.0f} s"
            )


if __name__ == "__main__":
    main()
