"""A file in blocks of whole lines, in constant memory: any line end, numbered lines, and what is no text at all refused."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etl_assets.errors import ConfigurationError

LONGEST_LINE = 16 * 2**20
BOM = b"\xef\xbb\xbf"
# How files begin that are not what their name says; the longer of two that begin alike comes first.
MAGIC = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "extract it, or export the sheet as CSV"),
    (b"PK\x05\x06", "an empty ZIP archive", "put the CSV file itself there"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook", "export the sheet as CSV"),
    (b"\x1f\x8b", "a gzip archive", "extract it"),
    (b"BZh", "a bzip2 archive", "extract it"),
    (b"\xfd7zXZ\x00", "an xz archive", "extract it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "extract it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "extract it"),
    (b"PAR1", "a parquet file", "export it as CSV"),
    (b"%PDF-", "a PDF document", "export the table as CSV"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"\xff\xfe\x00\x00", "text in UTF-32", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
)
BEGINNING = 4096


class FileRefused(ConfigurationError):
    """A file cannot be taken at all; the message names it, and the column if one is missing."""


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a file.

    Attributes:
        data: the lines, each ended by one LF, whatever its end in the file is.
        first_line: the number in the file of the first of them, from 1.
        ends: where in `data` the LF of each line stands.
    """

    data: bytes = field(repr=False)
    first_line: int
    ends: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, data: bytes, first_line: int) -> "Block":
        """The block of some whole lines."""
        return cls(data, first_line, np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")))

    @property
    def next_line(self) -> int:
        """The number of the line that follows the block."""
        return self.first_line + len(self.ends)

    def raw(self, line: int) -> bytes:
        """The bytes of a line, by its number in the file, without its end."""
        place = line - self.first_line
        start = int(self.ends[place - 1]) + 1 if place else 0
        return self.data[start : int(self.ends[place])]

    def text(self, line: int) -> str:
        """A line as text; bytes that are not UTF-8 are shown as `\\xe9`."""
        return self.raw(line).decode("utf-8", "backslashreplace")

    def after(self, line: int) -> "Block":
        """The lines behind one of them."""
        cut = int(self.ends[line - self.first_line]) + 1
        return Block(self.data[cut:], line + 1, self.ends[line - self.first_line + 1 :] - cut)


def blocks(path: Path, *, block_bytes: int) -> Iterator[Block]:
    """The lines of a file in blocks of about `block_bytes`.

    LF, CRLF and a lone CR each end a line. A byte-order mark is left out. Text behind the last line end is a line.

    Raises:
        FileRefused: the file is missing, no regular file, may not be read, has no byte, or is binary; or a line is
            longer than `LONGEST_LINE` bytes.
    """
    with _opened(path) as file:
        try:
            _refuse_binary(file.peek(BEGINNING)[:BEGINNING], path)
            yield from _blocks(file, path, block_bytes)
        except OSError as error:
            raise FileRefused(f"{path} cannot be read to its end ({error.strerror}): copy it there again") from error


def _opened(path: Path) -> BufferedReader:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for ever
            what = "a folder" if path.is_dir() else "no regular file"
            raise FileRefused(f"{path} is {what}: put the CSV file itself there")
        return path.open("rb")
    except FileNotFoundError as error:
        raise FileRefused(f"{path} is missing: put the file there, or name the folder that has it") from error
    except OSError as error:
        raise FileRefused(f"{path} cannot be opened ({error.strerror}): make it readable for this process") from error


def _refuse_binary(beginning: bytes, path: Path) -> None:
    for magic, what, remedy in MAGIC:
        if beginning.startswith(magic):
            raise FileRefused(f"{path} is no CSV file, it looks like {what}: {remedy}")
    if b"\0" in beginning:
        # The ASCII in such text has a zero byte beside each character.
        wide = beginning.count(b"\0") * 5 > len(beginning) * 2
        what, remedy = ("text in UTF-16", "save it as UTF-8") if wide else ("binary data", "put the CSV file there")
        raise FileRefused(f"{path} is no CSV file, it looks like {what} (byte {beginning.index(0)} is zero): {remedy}")


def _blocks(file: BufferedReader, path: Path, block_bytes: int) -> Iterator[Block]:
    """The blocks behind the byte-order mark; memory is bounded by the size of a block and of the longest line."""
    if file.peek(len(BOM)).startswith(BOM):
        file.read(len(BOM))
    line = 1
    pending: list[bytes] = []
    more = True
    while more and (piece := file.read(block_bytes)):
        if piece.endswith(b"\r") and file.peek(1).startswith(b"\n"):
            piece += file.read(1)
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not (more := bool(file.peek(1))) and not piece.endswith(b"\n"):
            piece += b"\n"
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield (block := _block([*pending, piece[:cut]], line, path))
            line, pending = block.next_line, []
        pending.append(piece[cut:])
        if sum(map(len, pending)) > LONGEST_LINE:
            raise _too_long(path, line)
    if line == 1:
        raise FileRefused(f"{path} is empty: put the CSV file there, it has a header at least")


def _block(pieces: list[bytes], first_line: int, path: Path) -> Block:
    block = Block.of(b"".join(pieces), first_line)
    lengths = np.diff(block.ends, prepend=-1)
    if lengths.max() > LONGEST_LINE + 1:
        raise _too_long(path, first_line + int(lengths.argmax()))
    return block


def _too_long(path: Path, line: int) -> FileRefused:
    return FileRefused(
        f"{path}, line {line} is longer than {LONGEST_LINE // 2**20} MiB: is it a CSV file, are its line ends whole?"
    )
