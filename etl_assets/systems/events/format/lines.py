"""The lines of a file, and which of them are no rows by their mere bytes.

Whatever the bytes are, memory is that of the content and of a few numbers per line: nothing is kept of each byte that is sought.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

TAB, LF, CR, NUL = b"\t", b"\n", b"\r", b"\0"
LAST_OF_ASCII = 127


@dataclass(frozen=True)
class Lines:
    """The lines of a file, counted from 0, each ended by a line feed.

    Attributes:
        content: their bytes.
        ends: where in it the line feed of each line stands.
    """

    content: bytes = field(repr=False)
    ends: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, content: bytes) -> "Lines":
        """The lines of a file; text behind the last line feed is a line."""
        if content and not content.endswith(LF):
            content += LF
        return cls(content, np.flatnonzero(np.frombuffer(content, np.uint8) == ord(LF)))

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, number: int) -> bytes:
        """A line without its line feed."""
        start = int(self.ends[number - 1]) + 1 if number else 0
        return self.content[start : int(self.ends[number])]

    def longest(self) -> int | None:
        """The longest line, the first of several; None where there is no line."""
        return int(np.diff(self.ends, prepend=-1).argmax()) if len(self) else None

    def miscounted(self, fields: int) -> NDArray[np.bool_]:
        """The lines that have another number of fields."""
        tabs = map(self.content.count, repeat(TAB), *self._spans())
        return np.fromiter(tabs, np.int64, len(self)) != fields - 1

    def unclean(self) -> NDArray[np.bool_]:
        """The lines that have a NUL or a carriage return in them, or are not UTF-8."""
        bad = np.zeros(len(self), bool)
        for letter in (NUL, CR):
            if letter in self.content:
                bad |= np.fromiter(map(self.content.find, repeat(letter), *self._spans()), np.int64, len(self)) >= 0
        if not self.content.isascii():
            greatest = np.maximum.reduceat(np.frombuffer(self.content, np.uint8), self._starts())
            for number in np.flatnonzero(greatest > LAST_OF_ASCII).tolist():
                bad[number] |= not _is_text(self.line(number))
        return bad

    def only(self, wanted: NDArray[np.bool_]) -> bytes:
        """The bytes of some lines."""
        if wanted.all():
            return self.content
        edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
        places = np.append(self._starts(), len(self.content))[edges].tolist()
        view = memoryview(self.content)
        return b"".join(view[start:end] for start, end in zip(places[::2], places[1::2], strict=True))

    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([np.zeros(min(1, len(self)), np.int64), self.ends[:-1] + 1])

    def _spans(self) -> tuple[Iterator[int], Iterator[int]]:
        """Where the lines begin and end, as numbers that are made one by one."""
        return iter(self._starts().data), iter(self.ends.data)


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
