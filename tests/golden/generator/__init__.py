"""The parts of ``make_golden.py``, one module for each kind of golden file."""
