"""Devices and processes that train one model together, each with all of its weights.

`tf.distribute` keeps the copies alike: it adds the gradients over all of them. Each device has rows
of its own.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.train.engine import Inputs, World


def join() -> tuple[tf.distribute.Strategy, World]:
    """Return how the environment says to train, and with whom.

    Raises InvalidInputError for a cluster that has other tasks than a chief and workers.
    """
    config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    if config.get("cluster"):
        cluster, task = config["cluster"], config.get("task", {})
        tasks = [
            (kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, [])))
        ]
        own = task.get("type"), task.get("index")
        if set(cluster) - {"chief", "worker"} or own not in tasks:
            raise InvalidInputError(
                "TF_CONFIG must name a cluster of a chief and workers, or of workers alone, and as "
                f"its task one of them; got {os.environ['TF_CONFIG']}."
            )
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        devices = strategy.num_replicas_in_sync // len(tasks)
        return strategy, World(tasks.index(own), len(tasks), devices)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        names = [device.name for device in devices]
        return tf.distribute.MirroredStrategy(names), World(devices=len(names))
    return tf.distribute.get_strategy(), World()


def tensors(inputs: Inputs) -> dict[str, tf.Tensor]:
    """Return rows as tensors, with numbers of 32 bits."""
    return {
        name: tf.constant(array, tf.float32 if array.dtype.kind == "f" else tf.int32)
        for name, array in inputs.items()
    }


def divided(strategy: tf.distribute.Strategy, devices: int, inputs: Inputs) -> Any:
    """Give each of the devices of this process its part of the rows."""
    if devices == 1:
        return tensors(inputs)

    def own(context: Any) -> dict[str, tf.Tensor]:
        place = context.replica_id_in_sync_group % devices
        return tensors({n: np.array_split(a, devices)[place] for n, a in inputs.items()})

    return strategy.experimental_distribute_values_from_function(own)


def of_process(strategy: tf.distribute.Strategy, devices: int, values: np.ndarray) -> Any:
    """Give values float64 [N] to the first of the devices of this process, and 0 to the others."""

    def own(context: Any) -> tf.Tensor:
        is_first = context.replica_id_in_sync_group % devices == 0
        return tf.constant(values if is_first else np.zeros_like(values), tf.float64)

    return strategy.experimental_distribute_values_from_function(own)
