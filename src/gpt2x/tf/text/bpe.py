"""Byte-pair merges of a whole batch of words at once, in core TensorFlow ops.

Byte-pair encoding (Sennrich et al., 2016; byte-level in Radford et al., 2019) merges, word by
word, the adjacent pair of lowest rank, the leftmost among equals, until no adjacent pair is in the
merge table. Here all words take their steps at the same time, on one flat array of symbols.

A long word would need as many passes as it uses different merges, which may be thousands. So each
pass works on segments, which get shorter, and does as much as it can in each:

1. It cuts where no merge can ever join the two sides; the sides do not influence each other.
2. In each segment it merges the pair of lowest rank, the step of the definition.
3. It also merges every pair that no merge of a lower rank can break up. Such a pair would be merged
   later anyway.

Merging "every pair that ranks lower than its two neighbours" would be wrong: with the merges cd,
b·cd, ab in this order, "abcd" ends as a·bcd, although ab ranks below bc.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from gpt2x.tf.text.lookup import static_table
from gpt2x.tf.text.pretokenization import shift_left, shift_right

NO_MERGE = np.iinfo(np.int32).max
"""The rank of a pair that is not in the merge table; higher than every rank in it."""

_MISSING = -1
_UNKNOWN_SYMBOL = (
    "The vocabulary has no token for a part of the text, and its unknown token is not in it "
    "either. Set `unk_token` to a token of the vocabulary, or give a vocabulary with all 256 bytes."
)


class BytePairMerges(tf.Module):
    """The merge table of a byte-level BPE, applied to a batch of words.

    Symbols have numbers of their own: symbol b < 256 is the byte b, and each distinct string that a
    merge makes has a number from 256 on. Symbols need not be in the vocabulary (a merge may lead
    through a string without id), so ids are assigned last.

    Args:
        merge_ranks: rank of each pair of byte strings; lowest merges first.
        vocab: id of each token, as byte strings.
        unknown_id: id of a symbol that is not in `vocab`; None makes such a symbol an error.
    """

    def __init__(
        self,
        merge_ranks: Mapping[tuple[bytes, bytes], int],
        vocab: Mapping[bytes, int],
        unknown_id: int | None,
    ) -> None:
        super().__init__(name="byte_pair_merges")
        # Ranks are renumbered 0, 1, 2 ... in their order, so that they index arrays too.
        pairs = sorted(merge_ranks, key=merge_ranks.__getitem__)
        symbols = _number_symbols(pairs)
        self._n_symbols = len(symbols)
        with tf.init_scope():
            missing = _MISSING if unknown_id is None else unknown_id
            symbol_ids = [vocab.get(symbol, missing) for symbol in symbols]
            self._symbol_ids = tf.constant(symbol_ids, tf.int32)
            self._lacks_ids = _MISSING in symbol_ids
            # Tables of merges have a last row for NO_MERGE.
            merged = [symbols[left + right] for left, right in pairs]
            self._merged_symbol = tf.constant([*merged, 0], tf.int32)
            in_order = _rank_before_their_uses(pairs)
            self._in_order = None if all(in_order) else tf.constant([*in_order, False])
        self._rank = self._rank_table(
            (symbols[left], symbols[right], rank) for rank, (left, right) in enumerate(pairs)
        )
        # The lowest rank of a merge that can ever join two neighbours, after the left one may have
        # grown to the left and the right one to the right.
        grown_left, grown_right = _outer_parts(pairs)
        self._rank_across = self._rank_table(
            (symbols[left_part], symbols[right_part], rank)
            for rank, (left, right) in enumerate(pairs)
            for left_part in grown_left[left]
            for right_part in grown_right[right]
        )

    def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Encode words independently: string [W] -> int32 ragged [W, (tokens)]."""
        # W words; N bytes in all, where the loop begins; M symbols and S segments, while it runs.
        text = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)  # [N]
        n_words, n_bytes = tf.size(words, tf.int64), tf.size(text)
        word_of_byte = tf.repeat(tf.range(n_words), tf.strings.length(words))  # [N]
        state = (
            tf.cast(text, tf.int32),  # symbols [M]
            tf.equal(word_of_byte, shift_left(word_of_byte, fill=-1)),  # to the next symbol [M]
            tf.range(n_bytes),  # the slot of each symbol: where its first byte was [M]
            tf.fill([n_bytes], -1),  # symbols of finished segments, at their slots [N]
        )
        *_, finished = tf.while_loop(
            lambda symbols, *_: tf.size(symbols) > 0,
            self._pass,
            state,
            shape_invariants=(tf.TensorShape([None]),) * len(state),
        )
        slots = tf.where(finished >= 0)[:, 0]
        ids = tf.gather(self._symbol_ids, tf.gather(finished, slots))
        if self._lacks_ids:
            tf.debugging.assert_non_negative(ids, _UNKNOWN_SYMBOL)
        return tf.RaggedTensor.from_value_rowids(
            ids, tf.gather(word_of_byte, slots), nrows=n_words, validate=False
        )

    def _pass(
        self, symbols: tf.Tensor, joined: tf.Tensor, slots: tf.Tensor, finished: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Cut segments, merge in each of them, and remove those where nothing can be merged."""
        # All [M]: of the place between each symbol and the next.
        following = shift_left(symbols)
        across = self._ranks(self._rank_across, symbols, following, joined)
        ranks = self._ranks(self._rank, symbols, following, joined)
        joined = across < NO_MERGE
        segments = tf.cumsum(tf.cast(~joined, tf.int32), exclusive=True)  # [M]
        n_segments = tf.reduce_max(segments) + 1
        lowest = tf.gather(tf.math.unsorted_segment_min(ranks, segments, n_segments), segments)

        active = lowest < NO_MERGE
        done = tf.where(~active)
        finished = tf.tensor_scatter_nd_update(
            finished, tf.gather_nd(slots, done)[:, None], tf.gather_nd(symbols, done)
        )
        merges = self._lowest(active & tf.equal(ranks, lowest), segments, ranks, n_segments)
        # A pair is broken up by a merge that takes its first or its second symbol.
        out_of_reach = ranks < tf.minimum(
            shift_right(across, fill=NO_MERGE), shift_left(across, fill=NO_MERGE)
        )
        if self._in_order is not None:
            # The merges of an early result must still wait for their turn.
            out_of_reach &= tf.gather(self._in_order, self._rank_row(ranks))
        # The two kinds never overlap: each pair would have to rank below the other.
        merges |= out_of_reach

        merged_symbols = tf.gather(self._merged_symbol, self._rank_row(ranks))
        symbols = tf.where(merges, merged_symbols, symbols)
        # A merged symbol is joined to the neighbour of its second part.
        joined = tf.where(merges, shift_left(joined), joined)
        kept = tf.where(active & ~shift_right(merges))[:, 0]
        return tf.gather(symbols, kept), tf.gather(joined, kept), tf.gather(slots, kept), finished

    def _ranks(
        self,
        table: tf.lookup.StaticHashTable,
        left: tf.Tensor,
        right: tf.Tensor,
        joined: tf.Tensor,
    ) -> tf.Tensor:
        """Look up neighbours in a table of ranks; neighbours that are not joined have no rank."""
        keys = tf.cast(left, tf.int64) * self._n_symbols + tf.cast(right, tf.int64)
        return tf.where(joined, table.lookup(keys), NO_MERGE)

    def _lowest(
        self, hits: tf.Tensor, segments: tf.Tensor, ranks: tf.Tensor, n_segments: tf.Tensor
    ) -> tf.Tensor:
        """Choose among the occurrences of each segment's lowest pair those to merge now: bool [M].

        They are merged one by one, from the left. All of them are, unless the result takes part in
        a merge of a lower rank, which is then next.
        """
        merges = _every_other_in_runs(hits)
        if self._in_order is not None:
            place = tf.range(tf.size(hits))
            first = tf.where(hits, place, tf.size(hits))
            first = tf.gather(tf.math.unsorted_segment_min(first, segments, n_segments), segments)
            merges &= tf.gather(self._in_order, self._rank_row(ranks)) | tf.equal(place, first)
        return merges

    def _rank_row(self, ranks: tf.Tensor) -> tf.Tensor:
        """Turn ranks into rows of a table of merges, NO_MERGE into its last row."""
        return tf.minimum(ranks, tf.size(self._merged_symbol) - 1)

    def _rank_table(self, entries: Iterable[tuple[int, int, int]]) -> tf.lookup.StaticHashTable:
        """Map (left, right) to the lowest rank given for it."""
        lowest: dict[int, int] = {}
        for left, right, rank in entries:  # in ascending order of rank
            lowest.setdefault(left * self._n_symbols + right, rank)
        return static_table(
            lowest.keys(),
            lowest.values(),
            key_dtype=tf.int64,
            value_dtype=tf.int32,
            default=NO_MERGE,
        )


def _number_symbols(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, int]:
    symbols = {bytes([byte]): byte for byte in range(256)}
    for left, right in pairs:
        for symbol in (left, right, left + right):
            symbols.setdefault(symbol, len(symbols))
    return symbols


def _outer_parts(
    pairs: Sequence[tuple[bytes, bytes]],
) -> tuple[dict[bytes, set[bytes]], dict[bytes, set[bytes]]]:
    """Return for each symbol the symbols that can become it by growing to the left (right)."""
    grown_left: dict[bytes, set[bytes]] = defaultdict(set)
    grown_right: dict[bytes, set[bytes]] = defaultdict(set)
    for symbol in {part for pair in pairs for part in pair}:
        grown_left[symbol].add(symbol)
        grown_right[symbol].add(symbol)
    for left, right in sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1])):
        # Parts are shorter than the whole, so their lists are complete already.
        grown_left[left + right] |= grown_left[right]
        grown_right[left + right] |= grown_right[left]
    return grown_left, grown_right


def _rank_before_their_uses(pairs: Sequence[tuple[bytes, bytes]]) -> list[bool]:
    """Return for each merge whether all merges that take its result rank after it.

    Training finds merges in this order, except for a few strings that it can make in two ways.
    """
    first_use: dict[bytes, int] = {}
    for rank, pair in enumerate(pairs):
        for symbol in pair:
            first_use.setdefault(symbol, rank)
    return [
        rank < first_use.get(left + right, NO_MERGE) for rank, (left, right) in enumerate(pairs)
    ]


def _every_other_in_runs(hits: tf.Tensor) -> tf.Tensor:
    """Keep the 1st, 3rd, 5th ... of each run of neighbouring hits: bool [M] -> bool [M].

    Hits next to each other overlap ("aaa" contains the pair "aa" twice), and the leftmost wins.
    """
    position = tf.range(tf.size(hits))
    begins_run = hits & ~shift_right(hits)
    run_begin = tf.gather(
        tf.concat([[0], tf.boolean_mask(position, begins_run)], axis=0),
        tf.cumsum(tf.cast(begins_run, tf.int32)),
    )
    return hits & tf.equal((position - run_begin) % 2, 0)
