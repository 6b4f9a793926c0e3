"""Training in a process of its own, on several devices or as one process of many."""

from __future__ import annotations

import json
import sys
from typing import Any

from gpt2x.train import train


def run(devices: int, arguments: dict[str, Any]) -> None:
    """Train in TensorFlow on so many devices of the processor."""
    import tensorflow as tf

    if devices > 1:
        (cpu, *_) = tf.config.list_physical_devices("CPU")
        configurations = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, configurations)
    train(backend="tf", **arguments)


if __name__ == "__main__":
    run(int(sys.argv[1]), json.loads(sys.argv[2]))
