"""The three CSV files, from bytes to rows of text with their line numbers. What the text means is judged in `transform`.

The same data give the same rows in any layout. RE2 finds the lines of one dialect, which Arrow's CSV reader splits; every
other line is split by itself, as `layout` says.
"""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.errors import ConfigurationError
from etl_assets.systems.experiments.csv.layout import WHITE, Header, RejectedLine, header, row

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
FEW = 500  # lines that are split one by one sooner than in bulk
MOST_CELLS = 200  # of a line that is split in bulk; RE2 counts no further than 1000

Places = NDArray[np.int64]


class RejectedFile(ConfigurationError):
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
        """A line as text; a byte that is not UTF-8 is written `\\xe9`."""
        return self.raw(line).decode("utf-8", "backslashreplace")

    def after(self, line: int) -> "Block":
        """The lines behind one of them."""
        cut = int(self.ends[line - self.first_line]) + 1
        return Block(self.data[cut:], line + 1, self.ends[line - self.first_line + 1 :] - cut)


@dataclass(frozen=True)
class CsvFile:
    """A file that is read: its name, and the columns that it must have, in whichever order."""

    name: str
    columns: tuple[str, ...]


USERS = CsvFile("users.csv", ("user_id", "name", "email", "signup_date"))
EXPERIMENTS = CsvFile(
    "user_experiments.csv", ("experiment_id", "user_id", "experiment_compound_ids", "experiment_run_time")
)
COMPOUNDS = CsvFile("compounds.csv", ("compound_id", "compound_name", "compound_structure"))


@dataclass(frozen=True)
class Unreadable:
    """A line that is no row.

    Attributes:
        line: its number in the file, from 1.
        text: the line as it is in the file; a byte that is not UTF-8 is written `\\xe9`.
        rule: why it is none.
    """

    line: int
    text: str
    rule: str


@dataclass(frozen=True)
class Batch:
    """Consecutive lines of a file.

    Attributes:
        rows: int64 `line` (the number of the line in the file, from 1), then a string column per column of the file:
            trimmed, NULL where the cell is blank.
        unreadable: the lines that are no row, in their order.
        block: the lines as they are in the file.
    """

    rows: pa.Table
    unreadable: Sequence[Unreadable]
    block: Block = field(repr=False)


def batches(path: Path, file: CsvFile, *, block_bytes: int = 16 * 2**20) -> Iterator[Batch]:
    """The rows of a file in its order, in batches of about `block_bytes` of it; one batch without rows if it has none.

    Blank lines are counted and left out. Columns that the file does not need are ignored.

    Raises:
        RejectedFile: at the first step, if the file is missing, a folder, not readable, empty, binary, or its header
            lacks a column or has one twice; at any step, if a line is too long to be one, or reading fails.
    """
    source = blocks(path, block_bytes=block_bytes)
    first, line = _first_text(source, path, file)
    head = _header(first.raw(line), f"{path}, line {line}: the header", file)
    for block in chain([first.after(line)], source):
        yield _batch(block, head, file)


def _first_text(source: Iterator[Block], path: Path, file: CsvFile) -> tuple[Block, int]:
    """The first line that is not blank, which is the header, and its block."""
    for block in source:
        blank = len(block.data) - len(block.data.lstrip())
        for line in range(block.first_line + block.data.count(b"\n", 0, blank), block.next_line):
            if block.text(line).strip(WHITE):
                return block, line
    raise RejectedFile(f"{path} has only blank lines: it needs the header {', '.join(file.columns)}")


def _header(raw: bytes, where: str, file: CsvFile) -> Header:
    try:
        head = header(raw.decode(), file.columns)
    except UnicodeDecodeError as error:
        raise RejectedFile(f"{where} is not UTF-8 text (byte {error.start + 1}): save the file as UTF-8") from error
    except RejectedLine as error:
        raise RejectedFile(f"{where} cannot be read: {error}") from error
    if missing := [column for column in file.columns if column not in head.names]:
        raise RejectedFile(
            f"{where} has no column {', '.join(missing)}, it has {_listing(head.names)}: add what is missing"
        )
    if twice := [column for column in file.columns if head.names.count(column) > 1]:
        raise RejectedFile(f"{where} has the column {', '.join(twice)} more than once: leave one of them")
    return head


def _listing(names: Sequence[str], most: int = 12, length: int = 40) -> str:
    listed = ", ".join(repr(name[:length]) for name in names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _batch(block: Block, head: Header, file: CsvFile) -> Batch:
    """The rows of a block in the order of its lines, and the lines that are none; blank lines are neither."""
    parts: list[pa.Table] = []
    rest = np.arange(len(block.ends))
    for separator, surplus in _dialects(head):
        if len(rest) > FEW and separator.encode() in block.data:
            texts = _texts(block, rest)
            matches = pc.match_substring_regex(texts, _pattern(separator, len(head.names), surplus))
            alike = matches.to_numpy(zero_copy_only=False)
            if alike.any():
                columns = _split(texts.filter(matches), separator, head, surplus, file)
                parts.append(_table(rest[alike] + block.first_line, columns, file))
            rest = rest[~alike]
    rows, unreadable = _one_by_one(block, rest, head, file)
    parts = [part for part in (*parts, rows) if part.num_rows] or [rows]
    return Batch(parts[0] if len(parts) == 1 else pa.concat_tables(parts).sort_by("line"), unreadable, block)


def _table(lines: Places, columns: Sequence[pa.Array], file: CsvFile) -> pa.Table:
    return pa.table([pa.array(lines, pa.int64()), *columns], names=["line", *file.columns])


def _texts(block: Block, places: Places) -> pa.StringArray:
    """Some lines of a block, each with its LF."""
    offsets = pa.py_buffer(np.append(0, block.ends + 1).astype(np.int32))
    texts = pa.StringArray.from_buffers(len(block.ends), offsets, pa.py_buffer(block.data))
    return texts if len(places) == len(texts) else texts.take(pa.array(places))


def _dialects(head: Header) -> list[tuple[str, int]]:
    """Separators of lines that may be many, each with the number of blank cells behind the others."""
    return [
        (separator, surplus)
        for surplus in sorted({head.surplus, 0}, reverse=True)
        for separator in (",", "\t")
        if len(head.names) + surplus <= MOST_CELLS
    ]


def _pattern(separator: str, cells: int, surplus: int) -> str:
    """What matches a line, with its LF, that has so many cells by the rules of `layout` and is read alike by Arrow.

    Quotation marks enclose whole cells, right behind a separator; no other cell has a separator in it. What is not UTF-8
    matches nothing. A line of TABs may be blank: it has text in its first cell.
    """
    space = "[ \t]*" if separator == "," else " *"
    quoted, plain = f'"(?:[^"\n]|"")*"{space}', f'{space}[^",\t\n]*{space}'
    first = plain if separator == "," else f' *[^{WHITE}",\n][^",\t\n]*'
    rest = f"(?:{separator}(?:{quoted}|{plain})){{{cells - 1}}}(?:{separator}{space}){{{surplus}}}"
    return f"^(?:{quoted}|{first}){rest}\n$"


def _split(texts: pa.StringArray, separator: str, head: Header, surplus: int, file: CsvFile) -> list[pa.ChunkedArray]:
    """The cells of lines of one dialect, by the columns of the file: trimmed, NULL where blank."""
    from pyarrow import csv

    # Columns are called by their places: a header may have a name twice that nobody needs.
    names = [str(place) for place in range(len(head.names) + surplus)]
    data = texts.buffers()[2]
    table = csv.read_csv(
        data,
        # One block, so that no line is cut.
        read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=len(data) + 1),
        parse_options=csv.ParseOptions(delimiter=separator),
        convert_options=csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
            include_columns=[str(head.names.index(column)) for column in file.columns],
        ),
    )
    columns = [pc.utf8_trim(column, characters=WHITE) for column in table.columns]
    return [pc.if_else(pc.equal(column, ""), None, column) for column in columns]


def _one_by_one(block: Block, places: Places, head: Header, file: CsvFile) -> tuple[pa.Table, list[Unreadable]]:
    wanted = [head.names.index(column) for column in file.columns]
    rows: list[list[str]] = []
    lines: list[int] = []
    unreadable: list[Unreadable] = []
    for line in (places + block.first_line).tolist():
        try:
            text = block.raw(line).decode()
            if text.strip(WHITE):
                rows.append(row(text, len(head.names), head.delimiter))
                lines.append(line)
        except UnicodeDecodeError as error:
            rule = f"the line is not UTF-8 text: byte {error.start + 1} of it is 0x{error.object[error.start]:02x}"
            unreadable.append(Unreadable(line, block.text(line), rule))
        except RejectedLine as error:
            unreadable.append(Unreadable(line, text, str(error)))
    columns = [pa.array([cells[place] or None for cells in rows], pa.string()) for place in wanted]
    return _table(np.array(lines, np.int64), columns, file), unreadable


def blocks(path: Path, *, block_bytes: int) -> Iterator[Block]:
    """The lines of a file in blocks of about `block_bytes`.

    LF, CRLF and a lone CR each end a line. A byte-order mark is left out. Text behind the last line end is a line.

    Raises:
        RejectedFile: the file is missing, no regular file, may not be read, has no byte, or is binary; or a line is
            longer than `LONGEST_LINE` bytes.
    """
    with _opened(path) as file:
        try:
            _refuse_binary(file.peek(BEGINNING)[:BEGINNING], path)
            yield from _blocks(file, path, block_bytes)
        except OSError as error:
            raise RejectedFile(f"{path} cannot be read to its end ({error.strerror}): copy it there again") from error


def _opened(path: Path) -> BufferedReader:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for ever
            what = "a folder" if path.is_dir() else "no regular file"
            raise RejectedFile(f"{path} is {what}: put the CSV file itself there")
        return path.open("rb")
    except FileNotFoundError as error:
        raise RejectedFile(f"{path} is missing: put the file there, or name the folder that has it") from error
    except OSError as error:
        raise RejectedFile(f"{path} cannot be opened ({error.strerror}): make it readable for this process") from error


def _refuse_binary(beginning: bytes, path: Path) -> None:
    for magic, what, remedy in MAGIC:
        if beginning.startswith(magic):
            raise RejectedFile(f"{path} is no CSV file, it looks like {what}: {remedy}")
    if b"\0" in beginning:
        # The ASCII in such text has a zero byte beside each character.
        wide = beginning.count(b"\0") * 5 > len(beginning) * 2
        what, remedy = ("text in UTF-16", "save it as UTF-8") if wide else ("binary data", "put the CSV file there")
        raise RejectedFile(f"{path} is no CSV file, it looks like {what} (byte {beginning.index(0)} is zero): {remedy}")


def _blocks(file: BufferedReader, path: Path, block_bytes: int) -> Iterator[Block]:
    """The blocks behind the byte-order mark; memory is bounded by the size of a block and of the longest line."""
    if file.peek(len(BOM)).startswith(BOM):
        file.read(len(BOM))
    line = 1
    pending: list[bytes] = []
    more = True
    while more and (chunk := file.read(block_bytes)):
        if chunk.endswith(b"\r") and file.peek(1).startswith(b"\n"):
            chunk += file.read(1)
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not (more := bool(file.peek(1))) and not chunk.endswith(b"\n"):
            chunk += b"\n"
        cut = chunk.rfind(b"\n") + 1
        if cut:
            yield (block := _block([*pending, chunk[:cut]], line, path))
            line, pending = block.next_line, []
        pending.append(chunk[cut:])
        if sum(map(len, pending)) > LONGEST_LINE:
            raise _too_long(path, line)
    if line == 1:
        raise RejectedFile(f"{path} is empty: put the CSV file there, it has a header at least")


def _block(chunks: list[bytes], first_line: int, path: Path) -> Block:
    block = Block.of(b"".join(chunks), first_line)
    lengths = np.diff(block.ends, prepend=-1)
    if lengths.max() > LONGEST_LINE + 1:
        raise _too_long(path, first_line + int(lengths.argmax()))
    return block


def _too_long(path: Path, line: int) -> RejectedFile:
    return RejectedFile(
        f"{path}, line {line} is longer than {LONGEST_LINE // 2**20} MiB: is it a CSV file, are its line ends whole?"
    )
