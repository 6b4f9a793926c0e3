"""Peak memory and time of converting 1.5B parameters from every format into every other.

    python benchmarks/conversion.py [--from openai-tf] [--to gguf] [--shape wide] [--layers 4]

Makes the sources one after the other (3 to 6 GB; see large_sources.py), converts each in a new
process per target, and deletes both. The peak is Linux's VmHWM, including Python and numpy. The
limit is three times the largest tensor, as it is read or written, plus 200 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from gpt2x.checkpoint.conversion import TARGETS, convert
from gpt2x.config import GPT2Config
from gpt2x.errors import WeightsError
from gpt2x.formats.registry import all_formats
from large_sources import MAKERS
from loading import memory

#: Targets that are written tensor by tensor; Keras and Orbax need all tensors at once.
STREAMED = [target for target in TARGETS if target not in ("keras-tf", "orbax")]

#: The largest tensor of GPT-2 is its embedding, that of the wide model a projection. gpt2-xl gets
#: twice its number of heads, so that two tensor-parallel ranks can share them.
SHAPES = {
    "gpt2-xl": {**GPT2Config.preset("gpt2-xl").to_dict(), "n_head": 50},
    "wide": {"vocab_size": 1000, "n_positions": 64, "n_embd": 8192, "n_head": 64, "n_layer": 2},
}


def run(source: Path, destination: Path, to: str, dtype: str | None) -> dict[str, Any]:
    """Convert; return memory and time, or the reason why the target cannot hold the model."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "nanoGPT computes")
        try:
            made = convert(source, destination, to=to, dtype=dtype)
        except WeightsError as error:
            return {"refused": str(error)}
    written = {"q8_0": 34 / 32, "float16": 2, "bfloat16": 2, "float32": 4}
    largest = max(
        max(tensor.nbytes, tensor.size * written[made.stored[name]])
        for name, tensor in made.tensors.items()
    )
    return {
        "peak": memory("VmHWM"),
        "limit": 3 * largest + 200e6,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="source", choices=MAKERS, help="default: all")
    parser.add_argument("--to", choices=STREAMED, help="default: all")
    parser.add_argument(
        "--dtype", choices=all_formats()["gguf"].dtypes, help="default: the source's"
    )
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-xl")
    parser.add_argument("--layers", type=int, help="fewer, for a quicker run")
    parser.add_argument("--folder", type=Path, help="where there is room; default: as for tempfile")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child, options.to, options.dtype)))
        return
    config = GPT2Config.from_dict(SHAPES[options.shape])
    config.n_layer = options.layers or config.n_layer
    print(f"{'from':20} {'to':17} {'peak':>8} {'allowed':>8} {'time':>6}")
    for name in [options.source] if options.source else MAKERS:
        with tempfile.TemporaryDirectory(dir=options.folder) as work:
            made = Path(work, "source")
            made.mkdir()
            try:
                source = MAKERS[name](made, config)
            except ImportError as error:
                print(f"{name:20} left out: {error}")
                continue
            for to in [options.to] if options.to else STREAMED:
                destination = Path(work, "made")
                command = [sys.executable, __file__, "--child", source, destination, "--to", to]
                command += ["--dtype", options.dtype] if options.dtype else []
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                took = json.loads(result.stdout.splitlines()[-1])
                if "refused" in took:
                    print(f"{name:20} {to:17} left out: {took['refused']}")
                    continue
                verdict = "" if took["peak"] <= took["limit"] else "EXCEEDED"
                print(
                    f"{name:20} {to:17} {took['peak'] / 1e6:5.0f} MB {took['limit'] / 1e6:5.0f} MB "
                    f"{took['seconds']:4.0f} s {verdict}",
                    flush=True,
                )
                shutil.rmtree(destination)


if __name__ == "__main__":
    main()
