"""`python -m gpt2x` is the command `gpt2x`."""

from gpt2x.cli import main

main()
