"""How well predictions fit labels, by scikit-learn, SciPy and seqeval."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# Labels of the schemes BIO, BIOES and their kin, which seqeval reads.
_ENTITY = re.compile(r"O|[BIES]-.+")


def of_single_labels(targets: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return accuracy, and F1 averaged over the labels; both are int [N]."""
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "accuracy": float(accuracy_score(targets, found)),
        "f1": float(f1_score(targets, found, average="macro", zero_division=0.0)),
    }


def of_several_labels(targets: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return the share of rows without a mistake, and F1 as an average over labels and of all.

    Both are 0 or 1, int [N, labels]. A label that neither has counts in no average.
    """
    from sklearn.metrics import accuracy_score, f1_score

    used = (targets | found).any(axis=0)
    if not used.any():
        return {"accuracy": 1.0, "f1": 1.0, "f1_micro": 1.0}
    targets, found = targets[:, used], found[:, used]
    averages = {"f1": "macro", "f1_micro": "micro"}
    if targets.shape[1] == 1:
        averages = dict.fromkeys(averages, "binary")
        targets, found = targets[:, 0], found[:, 0]
    scores = {
        name: float(f1_score(targets, found, average=average, zero_division=0.0))
        for name, average in averages.items()
    }
    return {"accuracy": float(accuracy_score(targets, found)), **scores}


def of_numbers(targets: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return the mean squared error, and Pearson's correlation, 0 if either is constant.

    Both are float [N].
    """
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_squared_error

    varies = len(targets) > 1 and np.ptp(targets) > 0 and np.ptp(found) > 0
    return {
        "mse": float(mean_squared_error(targets, found)),
        "pearson": float(pearsonr(targets, found).statistic) if varies else 0.0,
    }


def of_tags(targets: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return accuracy of words; precision, recall and F1 of entities; a sequence for each text.

    If labels are not those of entities (O, B-, I-, E-, S-), F1 is averaged over the labels.
    """
    from sklearn.metrics import accuracy_score, f1_score

    every_target = [label for row in targets for label in row]
    every_found = [label for row in found for label in row]
    scores = {"accuracy": float(accuracy_score(every_target, every_found))}
    if not all(map(_ENTITY.fullmatch, {*every_target, *every_found})):
        f1 = f1_score(every_target, every_found, average="macro", zero_division=0.0)
        return {**scores, "f1": float(f1)}
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    rows = [[*row] for row in targets], [[*row] for row in found]
    precision, recall, f1, _ = precision_recall_fscore_support(
        *rows, average="micro", zero_division=0
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1), **scores}
