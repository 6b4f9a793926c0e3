"""`tf.data.Dataset`s for `fit`, made of sequences of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gpt2x.errors import InvalidInputError
from gpt2x.models.checks import IGNORE_INDEX

Examples = Sequence[Mapping[str, Any]]

# Other names of the labels, in data sets -> the name of the argument.
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
    """Make a data set of batches; the other arguments are those of `prepare_tf_dataset`.

    Args:
        examples: a sequence of dictionaries, such as a `datasets.Dataset`.
        inputs: columns that the model takes; others are left out.
        labels: those of them that are labels.
    """
    drop = shuffle if drop_remainder is None else drop_remainder
    _check_examples(examples, batch_size, drop)
    if collate_fn is None:
        collate_fn = _stack if tokenizer is None else _padder(tokenizer)

    def batch(indices: Iterable[int]) -> dict[str, np.ndarray]:
        rows = [_named_columns(examples[int(index)], inputs) for index in indices]
        collated = _named_columns(collate_fn(rows, **(collate_fn_args or {})), inputs)
        return {name: _narrow(np.asarray(value)) for name, value in collated.items()}

    sample = batch(range(min(batch_size, len(examples))))
    names = [name for name in sample if name not in labels]
    targets = [name for name in sample if name in labels]
    count = len(examples) // batch_size if drop else -(-len(examples) // batch_size)

    def batches() -> Iterator[Any]:
        order = np.arange(len(examples))
        if shuffle:
            # From TensorFlow's own generator, so that tf.random.set_seed repeats it.
            order = tf.random.shuffle(order).numpy()
        for start in range(0, count * batch_size, batch_size):
            yield _divided(batch(order[start : start + batch_size]), names, targets)

    signature = tf.nest.map_structure(_spec, _divided(sample, names, targets))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return dataset.prefetch(tf.data.AUTOTUNE) if prefetch else dataset


def _check_examples(examples: Examples, batch_size: int, drop_remainder: bool) -> None:
    """Raise InvalidInputError unless the examples make at least one batch."""
    if not hasattr(examples, "__len__") or not hasattr(examples, "__getitem__"):
        raise InvalidInputError(
            "The data set must be a sequence of dictionaries (a list, a datasets.Dataset); got "
            f"{type(examples).__name__}."
        )
    if len(examples) == 0:
        raise InvalidInputError("The data set is empty.")
    if drop_remainder and len(examples) < batch_size:
        raise InvalidInputError(
            f"The data set has {len(examples)} examples, fewer than batch_size={batch_size}, and "
            "drop_remainder leaves out a batch that is not full. Lower batch_size or pass "
            "drop_remainder=False."
        )


def _divided(
    batch: Mapping[str, np.ndarray], names: Sequence[str], targets: Sequence[str]
) -> dict[str, np.ndarray] | tuple[dict[str, np.ndarray], Any]:
    """Return the inputs of a batch, or the pair of inputs and labels: one array or several."""
    x = {name: batch[name] for name in names}
    y = {name: batch[name] for name in targets}
    if not y:
        return x
    return x, y if len(y) > 1 else y[targets[0]]


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
    """Pad with a tokenizer, and labels that have one value a token with -100, on the same side."""

    def pad(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not _labels_each_token(rows):
            return dict(tokenizer.pad(rows, return_tensors="np", verbose=False))
        plain = [{n: v for n, v in row.items() if n != "labels"} for row in rows]
        padded = dict(tokenizer.pad(plain, return_tensors="np", verbose=False))
        width = padded["input_ids"].shape[1]
        labels = np.full((len(rows), width), IGNORE_INDEX)
        is_right = tokenizer.padding_side == "right"
        for label_row, row in zip(labels, rows, strict=True):
            count = len(row["labels"])
            start = 0 if is_right else width - count
            label_row[start : start + count] = row["labels"]
        return padded | {"labels": labels}

    return pad


def _labels_each_token(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether every row has one label for each of its tokens.

    Raises:
        InvalidInputError: if only some rows have, and the labels differ in length.
    """
    if any(np.ndim(row.get("labels", 0)) != 1 for row in rows):
        return False
    counts = [(len(row["labels"]), len(row["input_ids"])) for row in rows]
    others = [(labels, tokens) for labels, tokens in counts if labels != tokens]
    if others and len({labels for labels, _ in counts}) > 1:
        raise InvalidInputError(
            f"An example has {others[0][0]} labels and {others[0][1]} tokens. Give one label for "
            "each token, or each example as many labels."
        )
    return not others


def _narrow(array: np.ndarray) -> np.ndarray:
    """Make 64-bit numbers 32-bit ones, as TensorFlow's models take them."""
    narrower = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
    return array.astype(narrower.get(array.dtype, array.dtype))


def _spec(array: np.ndarray) -> tf.TensorSpec:
    """Return the shape and type of batches, which may differ in rows and in length."""
    shape = [None if axis < 2 else size for axis, size in enumerate(array.shape)]
    return tf.TensorSpec(shape, array.dtype)
