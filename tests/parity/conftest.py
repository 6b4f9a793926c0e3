"""The tests that compare frameworks."""

from __future__ import annotations

import os

# Tiny models run in no time; what takes time is to compile them. XLA and JAX read these when they
# start.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
