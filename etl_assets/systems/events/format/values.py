"""The fields of a row as values, strictly: what a file of the feed does not write is not guessed at.

No blanks around a number, no plus before it, no underscores, nothing infinite; a day is one of the calendar. Whether a value can be
right is judged not here but by the contract.
"""

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.systems.events.files import instant

WHOLE = re.compile(r"(-?)0*([0-9]{1,19})")
NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
DAY = re.compile(r"[0-9]{8}")

# Of text in these letters alone Arrow reads what is read here, or fails.
LETTERS = {"int": b"-0123456789", "float": b"-.0123456789eE"}


def whole(text: str) -> int:
    """A whole number of 64 bits; raises ValueError with the rule that the text breaks, as do all here."""
    matched = WHOLE.fullmatch(text)
    if matched is None:
        raise ValueError("not a whole number")
    value = int(matched[1] + matched[2])
    if not -(2**63) <= value < 2**63:
        raise ValueError("not an integer of 64 bits")
    return value


def number(text: str) -> float:
    """A finite number, with an exponent or without."""
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError("not a number")
    return value


def day(text: str) -> date:
    """A day of the calendar, YYYYMMDD."""
    if DAY.fullmatch(text):
        with contextlib.suppress(ValueError):
            return date.fromisoformat(text)
    raise ValueError("not a day (YYYYMMDD)")


READERS: Mapping[str, Callable[[str], Any]] = {
    "int": whole,
    "float": number,
    "text": str,
    "date": day,
    "timestamp": instant,
}


def cast(texts: pa.StringArray, kind: str, target: pa.DataType) -> pa.Array:
    """A column of fields as values, NULL where a field is empty and where it cannot be read.

    Args:
        texts: the fields, NULL where they are empty.
        kind: of the values, by the names of `READERS`.
        target: the Arrow type that the kind has.
    """
    if kind == "text":
        return texts
    written = texts.buffers()[2]
    if kind in LETTERS and not (written and written.to_pybytes().translate(None, LETTERS[kind])):
        with contextlib.suppress(pa.ArrowInvalid):
            values = texts.cast(target)
            if pc.all(pc.is_finite(values), min_count=0).as_py() is not False:
                return values
    return _each(texts, READERS[kind], target)


def _each(texts: pa.StringArray, read: Callable[[str], Any], target: pa.DataType) -> pa.Array:
    """The values, each different text read once: a file has few days, and one instant."""
    coded = texts.dictionary_encode()
    values: list[Any] = []
    for text in coded.dictionary.to_pylist():
        try:
            values.append(read(text))
        except ValueError:
            values.append(None)
    return pa.array(values, target).take(coded.indices)
