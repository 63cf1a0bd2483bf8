"""Integer codes for keys: equal keys have equal codes, and codes sort as Postgres sorts the keys (C collation).

On integers, sorting, removing duplicates and matching two sides cost a tenth of what they cost on text.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SIGN = np.uint64(1 << 63)


def key_codes(sides: Sequence[pa.Table], key: Sequence[str]) -> list[np.ndarray]:
    """Codes of the keys of several tables, comparable across them.

    Args:
        sides: tables that all have the key columns, of equal types, without NULLs in them.
        key: names of the key columns.

    Returns:
        One array of unsigned 64-bit codes per table, in row order.
    """
    lengths = [side.num_rows for side in sides]
    words: list[np.ndarray] = []
    for name in key:
        chunks = [chunk for side in sides for chunk in side[name].chunks]
        words += _words(pa.chunked_array(chunks, type=sides[0].schema.field(name).type).combine_chunks())
    return np.split(_packed(words, sum(lengths)), np.cumsum(lengths)[:-1])


def last_of_each(codes: np.ndarray) -> np.ndarray | None:
    """Row numbers, ascending, of the last row of each key; None if no key occurs twice."""
    if np.all(codes[1:] > codes[:-1]):
        return None
    ordered = np.sort(codes)
    if np.all(ordered[1:] != ordered[:-1]):
        return None
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    return np.sort(order[np.append(ordered[1:] != ordered[:-1], True)])


def _words(array: pa.Array) -> list[np.ndarray]:
    """The values of one column as unsigned words, the most significant first."""
    kind = array.type
    if pa.types.is_string(kind):
        return _text_words(array)
    if pa.types.is_boolean(kind):
        return [array.cast(pa.uint8()).to_numpy(zero_copy_only=False).astype(np.uint64)]
    if pa.types.is_floating(kind):
        bits = (array.to_numpy(zero_copy_only=False) + 0.0).view(np.uint64)
        return [np.where(bits >= SIGN, ~bits, bits | SIGN)]
    integers = array.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date(kind) else array.cast(pa.int64())
    return [integers.to_numpy(zero_copy_only=False).view(np.uint64) ^ SIGN]


def _text_words(array: pa.Array) -> list[np.ndarray]:
    """UTF-8 text in words of eight bytes after the prefix that all values share, padded with zero bytes.

    Text has no NUL, so that padding cannot make two values equal.
    """
    if len(array) == 0:
        return []
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, array.offset * 4).astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    extremes = pc.min_max(array).as_py()
    low, high = extremes["min"].encode(), extremes["max"].encode()
    prefix = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    widest = int(lengths.max())
    if widest == prefix:
        return []
    uniform = bool((lengths == widest).all())
    words = []
    for at in range(prefix, widest, 8):
        width = min(8, widest - at)
        block = np.zeros((len(array), 8), dtype=np.uint8)
        if uniform:
            block[:, :width] = data[starts[0] : starts[0] + len(array) * widest].reshape(-1, widest)[:, at : at + width]
        else:
            for i in range(width):
                rows = np.flatnonzero(lengths > at + i)
                block[rows, i] = data[starts[rows] + at + i]
        words.append(block.view(">u8").ravel().astype(np.uint64))
    return words


def _packed(words: list[np.ndarray], rows: int) -> np.ndarray:
    """All words of a key in one: side by side where their ranges fit into 64 bits, else their rank."""
    if not words:
        return np.zeros(rows, dtype=np.uint64)
    if len(words) == 1 or rows == 0:
        return words[0]
    spans = [(int(w.min()), int(w.max() - w.min()).bit_length()) for w in words]
    if sum(bits for _, bits in spans) <= 64:
        packed = np.zeros(rows, dtype=np.uint64)
        for word, (low, bits) in zip(words, spans, strict=True):
            # In place: tens of millions of keys take as much memory as their rows.
            if bits < 64:
                packed <<= np.uint64(bits)
            word -= np.uint64(low)
            packed |= word
        return packed
    return _ranks(words)


def _ranks(words: list[np.ndarray]) -> np.ndarray:
    """Dense ranks over several words: sorted by the first, and only what that leaves open by the following ones."""
    order = np.argsort(words[0])
    for level in range(1, len(words)):
        equal = [word[order[1:]] == word[order[:-1]] for word in words]
        tied = np.logical_and.reduce(equal[:level])
        # Neighbours that are equal in all words are in place already: the two sides of one key, mostly.
        if not (tied & ~np.logical_and.reduce(equal)).any():
            break
        group = np.cumsum(np.insert(~tied, 0, True))
        open_groups = np.unique(group[1:][tied & ~np.logical_and.reduce(equal)])
        members = np.flatnonzero(np.isin(group, open_groups))
        order[members] = order[members][np.lexsort((words[level][order[members]], group[members]))]
    differs = np.logical_or.reduce([word[order[1:]] != word[order[:-1]] for word in words])
    ranks = np.empty(len(order), dtype=np.uint64)
    ranks[order] = np.insert(np.cumsum(differs), 0, 0).astype(np.uint64)
    return ranks
