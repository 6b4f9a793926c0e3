"""Training in a process of its own, on several devices or as one process of many.

Arguments: the devices of the processor, and those of `train` as JSON. Samples are printed.
With `hide_labels` among them, three rows in four have no labels.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from gpt2x.train import train
from gpt2x.train.loop import Reporter
from support.process_groups import hide_labels


class Printer(Reporter):
    """Prints samples."""

    def sample(self, text: str) -> None:
        print("SAMPLE", json.dumps(text), flush=True)


def give_devices(backend: str, devices: int) -> None:
    """Let the processor be so many devices."""
    if backend == "tf":
        import tensorflow as tf

        (cpu, *_) = tf.config.list_physical_devices("CPU")
        configurations = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, configurations)
    if backend == "flax":
        import jax

        jax.config.update("jax_num_cpu_devices", devices)


def run(devices: int, arguments: dict[str, Any]) -> None:
    """Train on so many devices of the processor."""
    if devices > 1:
        give_devices(arguments["backend"], devices)
    with pytest.MonkeyPatch.context() as patch:
        if arguments.pop("hide_labels", False):
            hide_labels(patch)
        train(reporter=Printer(), **arguments)


if __name__ == "__main__":
    run(int(sys.argv[1]), json.loads(sys.argv[2]))
