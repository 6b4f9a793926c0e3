"""What the task heads compute in every backend: shapes, losses, and what they refuse.

Their numbers are held to transformers' in the backends' `test_golden.py`. A backend's
`tests/.../test_heads.py` runs these tests by a class of its own.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from support.contract.backend import Backend, assert_close, random_ids

IDS = random_ids(2, 6)
ENDS = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
HEADS = [
    "Model",
    "LMHeadModel",
    "DoubleHeadsModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
]
each_head = pytest.mark.parametrize("name", HEADS)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the loss of each label that counts; logits [..., classes], labels [...]."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    likelihood = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    kept = labels != -100
    return -np.take_along_axis(likelihood[kept], labels[kept][:, None], axis=-1)


class HeadsContract:
    """Each head's outputs and losses, from ids to numbers."""

    backend: Backend

    def loss(self, name: str, ids: np.ndarray = IDS, fields: dict | None = None, **inputs) -> tuple:
        """Return the loss and the output of a model."""
        output = self.backend.call(self.backend.model(name, **(fields or {})), ids, **inputs)
        return float(self.backend.array(output.loss)), output

    @each_head
    def test_ids_or_embeddings_but_not_both(self, name):
        model = self.backend.model(name, pad_token_id=0)
        with pytest.raises(InvalidInputError, match="neither"):
            self.backend.call(model)
        embeddings = np.zeros((1, 3, 24), np.float32)
        with pytest.raises(InvalidInputError, match="both"):
            self.backend.call(model, IDS[:1, :3], inputs_embeds=embeddings)

    @each_head
    def test_unknown_arguments_name_the_nearest(self, name):
        model = self.backend.model(name, pad_token_id=0)
        with pytest.raises(InvalidInputError, match=r"'attention_maks'.*'attention_mask'"):
            self.backend.call(model, IDS, attention_maks=ENDS)

    @each_head
    def test_a_tuple_holds_what_the_output_holds(self, name):
        model = self.backend.model(name, pad_token_id=0)
        output = self.backend.call(model, IDS, output_hidden_states=True)
        as_tuple = self.backend.call(model, IDS, output_hidden_states=True, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert len(as_tuple) == len(output)
        first = next(iter(output))
        assert_close(self.backend.array(as_tuple[0]), self.backend.array(output[first]))

    def test_the_loss_of_a_language_model_is_the_mean_over_labels_that_count(self):
        labels = IDS.copy()
        labels[0, 2:5] = -100
        loss, output = self.loss("LMHeadModel", labels=labels)
        each = cross_entropy(self.backend.array(output.logits)[:, :-1], labels[:, 1:])
        assert each.size == 7
        assert loss == pytest.approx(each.mean(), rel=1e-5)
        for wrong, message in (
            (np.full((2, 6), 61), "labels holds 61"),
            (IDS[:, 1:], r"labels has shape \[2, 5\]"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                self.loss("LMHeadModel", labels=wrong)

    def test_choices_keep_their_shape_and_read_the_token_they_are_told_to(self):
        model, ids = self.backend.model("DoubleHeadsModel"), random_ids(2, 3, 5)
        last = np.array([[4, 2, 0], [1, 3, 4]])
        output = self.backend.call(model, ids, mc_token_ids=last)
        logits, scores = self.backend.array(output.logits), self.backend.array(output.mc_logits)
        assert (logits.shape, scores.shape) == ((2, 3, 5, 61), (2, 3))
        alone = self.backend.call(model, ids[:1, 1:2, :3])
        assert_close(self.backend.array(alone.mc_logits)[0, 0], scores[0, 1])
        assert_close(self.backend.array(alone.logits)[0, 0], logits[0, 1, :3])
        chosen = np.array([2, 0])
        output = self.backend.call(model, ids, mc_labels=chosen)
        expected = cross_entropy(self.backend.array(output.mc_logits), chosen).mean()
        assert float(self.backend.array(output.mc_loss)) == pytest.approx(expected, rel=1e-5)
        for inputs, message in (
            ({"mc_token_ids": np.full((2, 3), 5)}, "mc_token_ids holds 5"),
            ({"mc_labels": np.array([0, 3])}, "mc_labels holds 3"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                self.backend.call(model, ids, **inputs)

    def test_a_text_is_classified_where_its_mask_ends(self):
        """Also where a token that counts has the id of the padding."""
        fields = {"num_labels": 3, "pad_token_id": int(IDS[0, 3])}
        model = self.backend.model("ForSequenceClassification", **fields)
        logits = self.backend.logits(model, IDS, attention_mask=ENDS)
        alone = self.backend.logits(model, IDS[:1, :4], attention_mask=ENDS[:1, :4])
        assert_close(logits[0], alone[0])
        alone = self.backend.logits(model, IDS[1:], attention_mask=ENDS[1:])
        assert_close(logits[1], alone[0])
        model = self.backend.model("ForSequenceClassification", num_labels=3)
        with pytest.raises(InvalidInputError, match=r"attention_mask, or set config\.pad_token_id"):
            self.backend.call(model, IDS)

    @pytest.mark.parametrize(
        ("num_labels", "labels", "kind"),
        [
            (1, np.array([0.5, 2.0], np.float32), "squares"),
            (3, np.array([0, 2]), "classes"),
            (3, np.array([[0, 1, 1], [1, 0, 0]], np.float32), "several"),
        ],
    )
    def test_labels_tell_the_loss_of_a_sequence_classifier(self, num_labels, labels, kind):
        fields = {"num_labels": num_labels, "pad_token_id": 60}
        loss, output = self.loss("ForSequenceClassification", fields=fields, labels=labels)
        logits = self.backend.array(output.logits).astype(np.float64)
        expected = {
            "squares": lambda: (logits[:, 0] - labels) ** 2,
            "classes": lambda: cross_entropy(logits, labels),
            "several": lambda: np.logaddexp(0, logits) - labels * logits,
        }[kind]()
        assert loss == pytest.approx(expected.mean(), rel=1e-5)

    def test_every_token_is_classified(self):
        labels = IDS % 3
        labels[1, :2] = -100
        loss, output = self.loss("ForTokenClassification", fields={"num_labels": 3}, labels=labels)
        logits = self.backend.array(output.logits)
        assert logits.shape == (2, 6, 3)
        assert loss == pytest.approx(cross_entropy(logits, labels).mean(), rel=1e-5)

    def test_a_span_has_two_ends(self):
        """Positions behind the text count for neither end."""
        starts, ends = np.array([1, 0]), np.array([3, 8])
        loss, output = self.loss("ForQuestionAnswering", start_positions=starts, end_positions=ends)
        first, last = (
            self.backend.array(logits) for logits in (output.start_logits, output.end_logits)
        )
        assert first.shape == last.shape == (2, 6)
        of_start = cross_entropy(first, starts).mean()
        of_end = cross_entropy(last[:1], ends[:1]).mean()
        assert loss == pytest.approx((of_start + of_end) / 2, rel=1e-5)
        with pytest.raises(InvalidInputError, match="both start_positions and end_positions"):
            self.loss("ForQuestionAnswering", start_positions=starts)
