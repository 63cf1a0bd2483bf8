"""The lines of a file, and which of them are no rows by their mere bytes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TAB, LF, CR, NUL = b"\t", b"\n", b"\r", b"\0"


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
        return cls(content, _places(content, LF))

    def __len__(self) -> int:
        return len(self.ends)

    def line(self, number: int) -> bytes:
        """A line without its line feed."""
        start = int(self.ends[number - 1]) + 1 if number else 0
        return self.content[start : int(self.ends[number])]

    def miscounted(self, fields: int) -> NDArray[np.bool_]:
        """The lines that have another number of fields."""
        tabs = _places(self.content, TAB)
        return np.diff(np.searchsorted(tabs, self.ends), prepend=0) != fields - 1

    def unclean(self) -> NDArray[np.bool_]:
        """The lines that have a NUL or a carriage return in them, or are not UTF-8."""
        bad = np.zeros(len(self), bool)
        for letter in (NUL, CR):
            if letter in self.content:
                bad[self._with(_places(self.content, letter))] = True
        if not self.content.isascii():
            letters = np.frombuffer(self.content, np.uint8)
            for number in self._with(np.flatnonzero(letters > 127)).tolist():
                bad[number] |= not _is_text(self.line(number))
        return bad

    def only(self, wanted: NDArray[np.bool_]) -> bytes:
        """The bytes of some lines."""
        if wanted.all():
            return self.content
        letters = np.frombuffer(self.content, np.uint8)
        return letters[np.repeat(wanted, np.diff(self.ends, prepend=-1))].tobytes()

    def _with(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The lines that these bytes are in."""
        return np.unique(np.searchsorted(self.ends, places))


def _places(content: bytes, letter: bytes) -> NDArray[np.int64]:
    return np.flatnonzero(np.frombuffer(content, np.uint8) == ord(letter))


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
