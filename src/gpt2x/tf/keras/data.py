"""Data sets of examples as `tf.data.Dataset`s that `fit` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import IGNORE_INDEX

Examples = Sequence[Mapping[str, Any]]

# What data sets call the labels of a model.
_LABEL_COLUMNS = {"label": "labels", "label_ids": "labels"}


def make_dataset(
    examples: Examples,
    inputs: Sequence[str],
    labels: Sequence[str],
    *,
    batch_size: int,
    shuffle: bool,
    tokenizer: Any = None,
    collate_fn: Callable[..., Mapping[str, Any]] | None = None,
    collate_fn_args: Mapping[str, Any] | None = None,
    drop_remainder: bool | None = None,
    prefetch: bool = True,
) -> tf.data.Dataset:
    """Make a data set of batches; see `prepare_tf_dataset`, whose arguments it has.

    Args:
        examples: a sequence of dictionaries, such as a `datasets.Dataset`.
        inputs: columns that the model takes; others are left out.
        labels: those of them that are labels.
    """
    if not hasattr(examples, "__len__") or not hasattr(examples, "__getitem__"):
        raise InvalidInputError(
            "The data set must be a sequence of dictionaries (a list, a datasets.Dataset); got "
            f"{type(examples).__name__}."
        )
    if len(examples) == 0:
        raise InvalidInputError("The data set is empty.")
    if collate_fn is None:
        collate_fn = _stack if tokenizer is None else _padder(tokenizer)

    def batch(indices: Iterable[int]) -> dict[str, np.ndarray]:
        rows = [_named_columns(examples[int(index)], inputs) for index in indices]
        collated = _named_columns(collate_fn(rows, **(collate_fn_args or {})), inputs)
        return {name: _narrow(np.asarray(value)) for name, value in collated.items()}

    sample = batch(range(min(batch_size, len(examples))))
    features = {name: _spec(value) for name, value in sample.items() if name not in labels}
    targets = {name: _spec(value) for name, value in sample.items() if name in labels}
    drop = shuffle if drop_remainder is None else drop_remainder
    if drop and len(examples) < batch_size:
        raise InvalidInputError(
            f"The data set has {len(examples)} examples, fewer than batch_size={batch_size}, and "
            "drop_remainder leaves out a batch that is not full. Lower batch_size or pass "
            "drop_remainder=False."
        )

    def batches() -> Iterator[Any]:
        order = np.arange(len(examples))
        if shuffle:
            # From TensorFlow's own generator, so that tf.random.set_seed repeats it.
            order = tf.random.shuffle(order).numpy()
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            if drop and len(indices) < batch_size:
                return
            values = batch(indices)
            x = {name: values[name] for name in features}
            if not targets:
                yield x
                continue
            y = {name: values[name] for name in targets}
            yield x, y if len(y) > 1 else next(iter(y.values()))

    target_spec = targets if len(targets) > 1 else next(iter(targets.values()), None)
    signature = (features, target_spec) if targets else features
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    count = len(examples) // batch_size if drop else -(-len(examples) // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE) if prefetch else dataset


def _named_columns(row: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
    named = {_LABEL_COLUMNS.get(name, name): value for name, value in row.items()}
    return {name: value for name, value in named.items() if name in inputs}


def _stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stack examples of one length."""
    try:
        return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    except ValueError as error:
        raise InvalidInputError(
            f"The examples differ in length, so they cannot be stacked ({error}). Pass tokenizer= "
            "to pad them, or collate_fn=."
        ) from error


def _padder(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """Pad with a tokenizer; labels of one value a token are padded with -100, on the same side."""

    def pad(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        by_token = np.ndim(rows[0].get("labels", 0)) == 1 and len(rows[0]["labels"]) == len(
            rows[0]["input_ids"]
        )
        plain = [{n: v for n, v in row.items() if n != "labels" or not by_token} for row in rows]
        padded = dict(tokenizer.pad(plain, return_tensors="np", verbose=False))
        if by_token:
            width = padded["input_ids"].shape[1]
            labels = np.full((len(rows), width), IGNORE_INDEX)
            for label_row, row in zip(labels, rows, strict=True):
                count = len(row["labels"])
                where = slice(width - count, None)
                if tokenizer.padding_side == "right":
                    where = slice(0, count)
                label_row[where] = row["labels"]
            padded["labels"] = labels
        return padded

    return pad


def _narrow(array: np.ndarray) -> np.ndarray:
    """Use 32 bits, as TensorFlow's models do."""
    narrower = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
    return array.astype(narrower.get(array.dtype, array.dtype))


def _spec(array: np.ndarray) -> tf.TensorSpec:
    """Batches may differ in their first two sizes: rows and length."""
    shape = [None if axis < 2 else size for axis, size in enumerate(array.shape)]
    return tf.TensorSpec(shape, array.dtype)
