"""Peak memory and time of `from_pretrained`, against the size of the model.

    python benchmarks/loading.py [--backend pt] [--preset gpt2] [--dtype float32]

Makes a model folder with random weights and loads it in a new process, which has loaded a tiny
model first. The peak is Linux's VmHWM, less the memory in use before; the limit is 1.1 times the
size of the model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gpt2x.config import GPT2Config
from gpt2x.models.loading import resolve
from gpt2x.models.saving import save_folder
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.load_plan import numpy_dtype, plan_load
from gpt2x.weights.table import Head, parameter_shapes

CLASSES = {"pt": "GPT2LMHeadModel", "tf": "TFGPT2LMHeadModel", "flax": "FlaxGPT2LMHeadModel"}
FRAMEWORKS = {"pt": "torch", "tf": "tensorflow", "flax": "flax"}
TINY = {"n_embd": 64, "n_layer": 1, "n_head": 1, "vocab_size": 100, "n_positions": 16}


def make_folder(path: Path, config: GPT2Config, dtype: str, safe: bool = True) -> int:
    """Save random weights and return their size in bytes."""
    generator = np.random.default_rng(0)

    def tensor(shape: tuple[int, ...]) -> LazyTensor:
        def draw() -> np.ndarray:
            values = generator.standard_normal(shape, np.float32) * np.float32(0.02)
            return values.astype(numpy_dtype(dtype))

        return LazyTensor(shape, numpy_dtype(dtype), draw)

    tensors = {name: tensor(shape) for name, shape in parameter_shapes(config, Head.LM).items()}
    save_folder(path, config, tensors, Head.LM, safe_serialization=safe)
    return sum(tensor.nbytes for tensor in tensors.values())


def memory(field: str) -> int:
    """Return the bytes of a field of /proc/self/status, such as VmHWM (peak) or VmRSS (now)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This benchmark reads /proc/self/status, which only Linux has.")


def load(backend: str, folder: Path, small: Path, dtype: str) -> dict[str, float]:
    """Load `small` and then `folder`; return the memory and time of the second."""
    keep = []
    for path in (small, folder):
        before, started = memory("VmRSS"), time.perf_counter()
        if backend == "core":
            with resolve("GPT2LMHeadModel", path, dtype=dtype) as source:
                plan = plan_load(source.checkpoint, source.config, Head.LM)
                keep.append(dict(plan.arrays(source.dtype)))
        else:
            import gpt2x

            keep.append(getattr(gpt2x, CLASSES[backend]).from_pretrained(path, dtype=dtype))
    return {"peak": memory("VmHWM") - before, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["core", *CLASSES], help="default: all installed")
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--dtype", default="float32", help="of the file")
    parser.add_argument("--load-dtype", default="auto", help="of the loaded model")
    parser.add_argument("--bin", action="store_true", help="pytorch_model.bin, not safetensors")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(load(options.backend, *options.child, options.load_dtype)))
        return
    installed = [name for name, module in FRAMEWORKS.items() if importlib.util.find_spec(module)]
    with tempfile.TemporaryDirectory() as work:
        folder, small = Path(work, "model"), Path(work, "small")
        config, tiny = GPT2Config.preset(options.preset), GPT2Config(**TINY)
        size = make_folder(folder, config, options.dtype, not options.bin)
        make_folder(small, tiny, options.dtype, not options.bin)
        if options.load_dtype != "auto":
            size = size * numpy_dtype(options.load_dtype).itemsize
            size //= numpy_dtype(options.dtype).itemsize
        print(f"{options.preset}, {options.dtype} -> {options.load_dtype}, {size / 1e6:.0f} MB")
        for backend in [options.backend] if options.backend else ["core", *installed]:
            command = [sys.executable, __file__, "--backend", backend, "--child", folder, small]
            command += ["--load-dtype", options.load_dtype]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(result.stdout.splitlines()[-1])
            print(
                f"{backend:5} peak {measured['peak'] / size:.3f} x the model, "
                f"{measured['seconds']:.2f} s"
            )


if __name__ == "__main__":
    main()
