"""Ties to other programs: each a module that needs its program, and that gpt2x never imports."""
