"""NDJSON in chunks of any size, cut into batches of consecutive records: pure, and without looking into the records.

Of each batch the first and the last sequence and the number of lines are checked together, which is all that a stream in
order needs. Only a batch that does not come out right is looked at line by line.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from etl_assets.errors import PermanentError, PlatformError, TransientError

BATCH_RECORDS = 1000
# Of long records fewer make a batch; a line that is longer than this is none of a record.
MAX_BATCH_BYTES = 16 * 1024 * 1024
_SEQUENCE = re.compile(rb'\s*\{\s*"sequence"\s*:\s*(\d{1,18})\s*[,}]')
_EXCERPT_CHARS = 80


@dataclass(frozen=True)
class Cut:
    """Consecutive records: sequence of the first, how many, and their lines, each with its end."""

    first: int
    count: int
    lines: bytes


class Lines:
    """The lines of one answer.

    `fault` is set once what came cannot be right; what was given out before it is. Nothing is given out after it.

    Args:
        what: the stream's name, for messages.
        after: sequence that the records follow on; the API may repeat earlier ones, which are dropped.
    """

    def __init__(self, what: str, *, after: int) -> None:
        self.fault: PlatformError | None = None
        self._what = what
        self._next = after + 1
        self._chunks: list[bytes] = []
        self._ends = 0
        self._size = 0
        # Lines without a sequence, until the next that has one says whether they have a place in the stream.
        self._pending: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Cut]:
        """Take in a chunk; the full batches that are complete with it."""
        self._chunks.append(chunk)
        self._ends += chunk.count(b"\n")
        self._size += len(chunk)
        if self._size > MAX_BATCH_BYTES:
            if not self._ends and self.fault is None:
                self.fault = PermanentError(
                    f"the API's stream {self._what}: the line after sequence {self._next - 1} is longer than"
                    f" {MAX_BATCH_BYTES} bytes: check that PRODUCTION_API_URL names the streaming API"
                )
            return self.flush()
        return self._cut(BATCH_RECORDS) if self._ends >= BATCH_RECORDS else []

    def flush(self) -> list[Cut]:
        """The complete lines that wait for a full batch."""
        return self._cut(1) if self._ends else []

    def end(self) -> list[Cut]:
        """What is left at the end of the answer: a last line without an end counts if it is a whole record."""
        cuts = self.flush()
        rest = b"".join(self._chunks)
        if rest.strip() and self.fault is None:
            if _document(rest) is None:
                self.fault = TransientError(
                    f"the API's stream {self._what} ended in the middle of the line after sequence {self._next - 1}"
                )
            else:
                cuts += self._checked(rest + b"\n", 1)
        if self._pending and self.fault is None:
            self.fault = self._no_record(self._pending[0])
        return cuts

    def _cut(self, multiple: int) -> list[Cut]:
        """All complete lines up to the last whole multiple, in batches."""
        data, ends = _without_empty_lines(b"".join(self._chunks))
        total = len(ends) // multiple * multiple
        cuts: list[Cut] = []
        start = 0
        for done in range(0, total, BATCH_RECORDS):
            count = min(BATCH_RECORDS, total - done)
            end = int(ends[done + count - 1]) + 1
            if self.fault is None:
                cuts += self._checked(data[start:end], count)
            start = end
        self._chunks, self._ends, self._size = [data[start:]], len(ends) - total, len(data) - start
        return cuts

    def _checked(self, lines: bytes, count: int) -> list[Cut]:
        last = lines.rfind(b"\n", 0, -1) + 1
        if self._pending or _sequence_at(lines, 0) != self._next or _sequence_at(lines, last) != self._next + count - 1:
            return self._in_order([*self._pending, *_split(lines)])
        self._next += count
        return [Cut(self._next - count, count, lines)]

    def _in_order(self, lines: list[bytes]) -> list[Cut]:
        """The lines up to the first fault, without the repeated ones; what has no sequence of its own is judged by its place."""
        first, kept, pending = self._next, list[bytes](), list[bytes]()
        for line in lines:
            sequence = _sequence(line)
            if sequence is None:
                self.fault = self._reported(line)
                pending.append(line)
            elif sequence == self._next + len(pending):
                kept += [*pending, line]
                self._next, pending = sequence + 1, []
            elif sequence > self._next:
                self.fault = self._hole(sequence)
            elif pending:
                self.fault = self._no_record(pending[0])
            if self.fault is not None:
                break
        self._pending = pending
        return [Cut(first, len(kept), b"".join(kept))] if kept else []

    def _hole(self, sequence: int) -> PlatformError:
        return PermanentError(
            f"the API's stream {self._what} goes from sequence {self._next - 1} to {sequence}: {self._next} to"
            f" {sequence - 1} are missing; everything before them is published. Ask those who run the API for them; the"
            " relay goes on as soon as it sends them"
        )

    def _reported(self, line: bytes) -> PlatformError | None:
        """What the API says of itself in place of a record, if it does."""
        document = _document(line)
        if not isinstance(document, dict) or not isinstance(document.get("error"), str):
            return None
        return PermanentError(
            f"the API's stream {self._what}, after sequence {self._next - 1}: the API says: {document['error']}"
        )

    def _no_record(self, line: bytes) -> PlatformError:
        excerpt = line.strip().decode("utf-8", "backslashreplace")
        excerpt = excerpt if len(excerpt) <= _EXCERPT_CHARS else excerpt[: _EXCERPT_CHARS - 1] + "…"
        return TransientError(
            f"the API's stream {self._what}, after sequence {self._next - 1}: a line that is no record: {excerpt}"
        )


def _sequence_at(data: bytes, start: int) -> int | None:
    match = _SEQUENCE.match(data, start)
    return int(match[1]) if match else None


def _sequence(line: bytes) -> int | None:
    """The sequence of a record, wherever in its line it stands."""
    found = _sequence_at(line, 0)
    if found is None:
        document = _document(line)
        found = document.get("sequence") if isinstance(document, dict) else None
    return found if type(found) is int else None


def _document(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _split(lines: bytes) -> list[bytes]:
    return [line + b"\n" for line in lines.split(b"\n")[:-1]]


def _without_empty_lines(data: bytes) -> tuple[bytes, np.ndarray]:
    """The same without the heartbeats, and where its lines end; what is after the last end is left as it is."""
    ends = _line_ends(data)
    # No record fits into a line of one byte.
    if len(ends) and np.diff(ends, prepend=-1).min() <= 2:
        *lines, rest = data.split(b"\n")
        data = b"".join(line + b"\n" for line in lines if line.strip()) + rest
        ends = _line_ends(data)
    return data, ends


def _line_ends(data: bytes) -> np.ndarray:
    return np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
