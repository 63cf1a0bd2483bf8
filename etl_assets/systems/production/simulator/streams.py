"""One stream of records as it is served: numbered, made into lines, and changed on purpose where a test asks for it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from etl_assets.systems.production.simulator.files import FileRejected, RecordFile, RecordReader
from etl_assets.systems.production.simulator.scan import is_json

# From memory as many at once as a window of a file holds.
_BLOCK_RECORDS = 4_000


class BeyondEnd(Exception):
    """A place was asked for that the stream does not reach; carries how many records there are."""

    def __init__(self, records: int) -> None:
        super().__init__(records)
        self.records = records


@dataclass
class Changes:
    """What is served other than it is, by sequences; each range includes both ends.

    Attributes:
        holes: left out.
        repeats: served a second time behind their last.
        lines: served in place of the line that belongs there, as they are.
    """

    holes: list[tuple[int, int]] = field(default_factory=list)
    repeats: list[tuple[int, int]] = field(default_factory=list)
    lines: dict[int, str] = field(default_factory=dict)

    def touch(self, first: int, last: int) -> bool:
        """Whether something changes among these sequences."""
        return (
            any(a <= last and b >= first for a, b in self.holes)
            or any(first <= b <= last for _, b in self.repeats)
            or any(first <= sequence <= last for sequence in self.lines)
        )


class ServedStream:
    """The records of a stream: those of a file or some in memory, and behind them what is appended while it is served.

    Args:
        name: of the stream.
        origin: a file of records, or the texts of records.
    """

    def __init__(self, name: str, origin: RecordFile | list[str]) -> None:
        self.name = name
        self.changes = Changes()
        self.file = origin if isinstance(origin, RecordFile) else None
        # Records of the file, once something is appended: from then on it counts as complete.
        self.file_records: int | None = None if self.file else 0
        self.in_memory = [] if isinstance(origin, RecordFile) else list(origin)
        self._lock = Lock()

    def append(self, records: Iterable[Any]) -> None:
        """Adds records at the end: text as it is, which may be other than JSON; anything else as its JSON.

        Raises:
            FileRejected: if the stream is that of a file that cannot be read to its end.
        """
        texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
        with self._lock:
            if self.file and self.file_records is None:
                self.file.limit = self.file.size()
                self.file_records = _count(self.file)
            self.in_memory += texts

    def cursor(self, *, after: int, must_exist: bool) -> "Cursor":
        """A reader of lines.

        Args:
            after: sequence behind which it begins.
            must_exist: whether that many records must be there already.

        Raises:
            BeyondEnd: if they must and are not.
            FileRejected: if the stream is that of a file that cannot be opened.
        """
        cursor = Cursor(self, after=after)
        if must_exist:
            try:
                cursor.expect_start()
            except BaseException:
                cursor.close()
                raise
        return cursor


def _count(file: RecordFile) -> int:
    reader = file.reader()
    try:
        while reader.block():
            pass
        reader.finish()
        return reader.sequence
    finally:
        reader.close()


class Cursor:
    """Reads a stream forward as lines, from one place on. It blocks while it reads: keep it off the event loop."""

    def __init__(self, stream: ServedStream, *, after: int) -> None:
        self._stream = stream
        self._after = after
        self._sequence = after
        self._reader: RecordReader | None = stream.file.reader(after=after) if stream.file else None
        self._records: list[str] = []
        self._checked = False

    def expect_start(self) -> None:
        """Reads up to the place where it begins.

        Raises:
            BeyondEnd: if the stream ends before.
        """
        try:
            self._fill()
        except FileRejected:
            # Raised again when lines are asked for, where it becomes the last line of the answer.
            return
        reached = self._reader.sequence if self._reader else 0
        if self._stream.file_records is not None:
            reached = self._stream.file_records + len(self._stream.in_memory)
        if not self._records and reached < self._after:
            raise BeyondEnd(reached)

    def approach(self, *, for_s: float) -> bool:
        """Reads towards the place where it begins, for about so long; True if it is reached, or cannot be."""
        try:
            return bool(self._records) or self._reader is None or self._reader.approach(for_s=for_s)
        except FileRejected:
            return True

    def lines(self, at_most: int | None = None) -> tuple[int, bytes]:
        """How many records come next, and their lines; none at the end of the stream as it is now.

        Raises:
            FileRejected: if the next record of a file cannot be read.
        """
        if not self._records:
            self._fill()
        records, self._records = self._records[:at_most], self._records[len(self._records[:at_most]) :]
        if not records:
            return 0, b""
        first = self._sequence + 1
        self._sequence += len(records)
        lines = _lines(first, records, checked=self._checked)
        changes = self._stream.changes
        if changes.touch(first, self._sequence):
            lines = self._changed(lines, first, changes)
        return len(records), "".join(lines).encode()

    def _fill(self) -> None:
        """Takes the next block of records from the file, then from memory."""
        if self._reader:
            # Asked before reading: what comes into the file meanwhile is not passed over.
            complete = self._stream.file_records is not None
            self._records, self._checked = self._reader.block(), self._reader.checked
            if self._records or not complete:
                return
            self._reader.close()
            self._reader = None
        begin = self._sequence - (self._stream.file_records or 0)
        self._records, self._checked = self._stream.in_memory[begin : begin + _BLOCK_RECORDS], False

    def _changed(self, lines: list[str], first: int, changes: Changes) -> list[str]:
        """Lines as a test wants them served."""
        result = []
        for sequence, line in enumerate(lines, first):
            if sequence in changes.lines:
                result.append(changes.lines[sequence] + "\n")
            elif not any(a <= sequence <= b for a, b in changes.holes):
                result.append(line)
            for begin, end in changes.repeats:
                if sequence == end:
                    result += self._repeated(begin, end)
        return result

    def _repeated(self, begin: int, end: int) -> list[str]:
        cursor = Cursor(self._stream, after=begin - 1)
        result: list[str] = []
        try:
            while len(result) <= end - begin:
                cursor._fill()
                result += _lines(begin + len(result), cursor._records, checked=cursor._checked)
                cursor._sequence += len(cursor._records)
        finally:
            cursor.close()
        return result[: end - begin + 1]

    def finish(self) -> None:
        """Judges what is left when nothing more is waited for.

        Raises:
            FileRejected: if the file ends inside of a record.
        """
        if self._reader:
            self._reader.finish()

    def close(self) -> None:
        if self._reader:
            self._reader.close()


def _lines(first: int, records: list[str], *, checked: bool) -> list[str]:
    """One line per record: made around its text, which is not rendered again."""
    if checked:
        return [f'{{"sequence":{sequence},"record":{record}}}\n' for sequence, record in enumerate(records, first)]
    return [
        f'{{"sequence":{sequence},"record":{record}}}\n'
        if is_json(record)
        else f'{{"sequence":{sequence},"text":{json.dumps(record)}}}\n'
        for sequence, record in enumerate(records, first)
    ]
