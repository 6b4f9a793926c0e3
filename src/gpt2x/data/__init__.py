"""Files in the package besides code.

`EMBEDDED_MODEL` is the folder of a small GPT-2 that was trained for gpt2x on Shakespeare and the
King James Bible (its `README.md` says how). It loads like any other:

>>> from gpt2x import EMBEDDED_MODEL, GPT2LMHeadModel
>>> model = GPT2LMHeadModel.from_pretrained(EMBEDDED_MODEL)
"""

from pathlib import Path

EMBEDDED_MODEL = Path(__file__).parent / "bard"
