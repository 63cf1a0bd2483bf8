"""The folder with the three CSV files: what they hold, and whether that is still the same.

From bytes to rows of text with their line numbers; what the text means is judged in `transform`. The same data give the same rows in
any layout: commas, TABs, white space round them, quotes, or a mix. RE2 finds the lines of one plain dialect, which Arrow's CSV reader
splits; every other line is split by itself, by the rules as `split` and `row` have them.
"""

import hashlib
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from io import BufferedReader
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from etl_assets.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
    from etl_assets.systems.experiments.transform import Loaded

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
OTHER_SEPARATORS = ";|"
SEPARATOR_HINT = re.compile(rb"(?i)sep=(.)")
FEW = 500  # lines that are split one by one sooner than in bulk
MOST_CELLS = 200  # of a line that is split in bulk; RE2 counts no further than 1000
# What is trimmed from a cell: blanks of ASCII and of Unicode. Characters that merely control something are data.
WHITE = (
    " \t\v\f\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
QUOTED = r'"([^"]*+(?:""[^"]*+)*+)"'

Places = NDArray[np.int64]
Stamps = Mapping[str, tuple[int, int, int]]


class RejectedFile(ConfigurationError):
    """A file cannot be taken at all; the message names it, and the column if one is missing."""


class RejectedLine(ValueError):
    """A line has no cells; the text says why."""


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
FILES = (USERS, EXPERIMENTS, COMPOUNDS)


# The folder


@dataclass(frozen=True)
class Content:
    """What was in the files at one moment.

    Attributes:
        digests: SHA-256 of each file, by its name.
        stamps: size, time of change and identity of each file, by which a later change shows.
    """

    digests: Mapping[str, str]
    stamps: Stamps

    @property
    def changed_at(self) -> float:
        """When the file that was changed last was changed, as Unix time in s."""
        return max(changed_ns for _, changed_ns, _ in self.stamps.values()) / 1e9

    @property
    def digest(self) -> str:
        """One digest for all three, whatever the files' times are."""
        together = "\n".join(f"{name} {self.digests[name]}" for name in sorted(self.digests))
        return hashlib.sha256(together.encode()).hexdigest()


@dataclass(frozen=True)
class ExperimentFolder:
    """`users.csv`, `user_experiments.csv` and `compounds.csv` in one folder."""

    path: Path

    def sizes(self) -> dict[str, int]:
        """By file, its size in bytes; as `content` raises for one that is missing."""
        return {name: size for name, (size, *_) in self._stamps().items()}

    def content(self) -> Content:
        """Digests of the files, each read once from end to end.

        Raises:
            RejectedFile: if one is missing or cannot be read; names it.
            TransientError: if one changes meanwhile.
        """
        before = self._stamps()
        digests = {file.name: _digest(self.path / file.name) for file in FILES}
        self._require(before)
        return Content(digests, before)

    def read(self) -> tuple["Loaded", Content]:
        """The rows of the three files, judged, and what the files were that they are from.

        Raises:
            RejectedFile: if a file is not what it has to be; names file and column.
            TransientError: if a file changes while it is read: it is being written.
        """
        from etl_assets.systems.experiments.transform import loaded

        content = self.content()
        users, experiments, compounds = (batches(self.path / file.name, file) for file in FILES)
        rows = loaded(users, compounds, experiments)
        self._require(content.stamps)
        return rows, content

    def _stamps(self) -> Stamps:
        stamps = {}
        for path in (self.path / file.name for file in FILES):
            try:
                found = path.stat()
            except OSError as error:
                raise _missing_file(path, error) from None
            stamps[path.name] = (found.st_size, found.st_mtime_ns, found.st_ino)
        return stamps

    def _require(self, before: Stamps) -> None:
        changed = [name for name, stamp in self._stamps().items() if stamp != before[name]]
        if changed:
            raise TransientError(
                f"{', '.join(changed)} in {self.path} changed while it was read, nothing was changed in the tables:"
                " load again when it is complete"
            )


def folder_at(path: Path) -> ExperimentFolder:
    """The folder at a path.

    Raises:
        ConfigurationError: if it is none.
    """
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be looked at: {error.strerror}") from None
    if not is_folder:
        what = "is a file" if exists else "does not exist"
        names = ", ".join(file.name for file in FILES)
        raise ConfigurationError(f"{path} {what}: give the folder with {names}, or set EXPERIMENTS_DIR to it")
    return ExperimentFolder(path)


def _digest(path: Path) -> str:
    try:
        with _opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _missing_file(path, error) from None


def _missing_file(path: Path, error: OSError) -> RejectedFile:
    if isinstance(error, FileNotFoundError):
        folder = path.parent
        others = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
        return RejectedFile(f"{path} is missing (there is: {others or 'nothing'})")
    return RejectedFile(f"{path} cannot be read: {error.strerror}")


# Files


class Delimiter(Enum):
    """What separates the cells of a line: the cell that begins somewhere, quoted or plain, and the separator behind it."""

    COMMA = re.compile(rf'[ \t]*+(?:{QUOTED}[ \t]*+|(?!")([^,]*+))(,|\Z)')
    """With any white space round it."""
    EITHER = re.compile(rf' *+(?:{QUOTED} *+|(?!")([^,\t]*+))([ \t]*+,[ \t]*+|\t[ \t]*+|\Z)')
    """A comma, or a TAB that is not beside one: a comma and the white space round it are one, without a comma each TAB is one."""
    TAB = re.compile(rf' *+(?:{QUOTED} *+|(?!")([^\t]*+))(\t|\Z)')


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        names: the names of the columns, in lower case.
        delimiter: what separates them.
        surplus: how many blank cells follow them.
    """

    names: list[str]
    delimiter: Delimiter
    surplus: int


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
    def lines(self) -> pa.StringArray:
        """The lines, each with its LF; not all need be UTF-8."""
        offsets = pa.py_buffer(np.append(0, self.ends + 1).astype(np.int32))
        return pa.StringArray.from_buffers(len(self.ends), offsets, pa.py_buffer(self.data))

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
    if hint := SEPARATOR_HINT.fullmatch(raw.strip()):
        raise RejectedFile(
            f"{where} is a hint for Excel, `sep={hint[1].decode(errors='replace')}`: delete the line, and separate cells by commas or TABs"
        )
    try:
        head = header(raw.decode(), file.columns)
    except UnicodeDecodeError as error:
        raise RejectedFile(f"{where} is {_not_utf8(error)}") from error
    except RejectedLine as error:
        raise RejectedFile(f"{where} cannot be read: {error}") from error
    for other in OTHER_SEPARATORS:
        names = {name.strip(WHITE + '"').lower() for name in raw.decode().split(other)}
        if len(names & set(file.columns)) > len(set(head.names) & set(file.columns)):
            raise RejectedFile(
                f"{where} separates its cells by `{other}`: save the file with commas or TABs in that place"
            )
    if missing := [column for column in file.columns if column not in head.names]:
        raise RejectedFile(
            f"{where} has no column {', '.join(missing)}, it has {_listing(head.names)}: add what is missing"
        )
    if twice := [column for column in file.columns if head.names.count(column) > 1]:
        raise RejectedFile(f"{where} has the column {', '.join(twice)} more than once: leave one of them")
    return head


def _not_utf8(error: UnicodeDecodeError) -> str:
    """What text is that could not be decoded, with the encoding that it is likely to have."""
    byte = error.object[error.start : error.start + 1]
    letter = byte.decode("cp1252", errors="ignore")
    likely = f", in Windows-1252 the letter {letter}" if letter else ""
    return f"not UTF-8 text: byte {error.start + 1} of it is 0x{byte.hex()}{likely}; save the file as UTF-8"


def _listing(names: Sequence[str], most: int = 12, length: int = 40) -> str:
    listed = ", ".join(repr(name[:length]) for name in names[:most])
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _batch(block: Block, head: Header, file: CsvFile) -> Batch:
    """The rows of a block in the order of its lines, and the lines that are none; blank lines are neither."""
    parts: list[pa.Table] = []
    rest = np.arange(len(block.ends))
    # Of lines that may be many the separator, and the number of blank cells behind the others.
    for surplus, separator in product(sorted({head.surplus, 0}, reverse=True), ",\t"):
        cells = len(head.names) + surplus
        if len(rest) > FEW and cells <= MOST_CELLS and separator.encode() in block.data:
            texts = block.lines if len(rest) == len(block.ends) else block.lines.take(pa.array(rest))
            matches = pc.match_substring_regex(texts, _pattern(separator, len(head.names), surplus))
            alike = matches.to_numpy(zero_copy_only=False)
            if alike.any():
                columns = _in_bulk(texts.filter(matches), separator, cells, head, file)
                parts.append(_table(rest[alike] + block.first_line, columns, file))
            rest = rest[~alike]
    rows, unreadable = _one_by_one(block, rest, head, file)
    parts = [part for part in (*parts, rows) if part.num_rows] or [rows]
    return Batch(parts[0] if len(parts) == 1 else pa.concat_tables(parts).sort_by("line"), unreadable, block)


def _table(lines: Places, columns: Sequence[pa.Array], file: CsvFile) -> pa.Table:
    return pa.table([pa.array(lines, pa.int64()), *columns], names=["line", *file.columns])


def _pattern(separator: str, cells: int, surplus: int) -> str:
    """What matches a line, with its LF, that has so many cells by the rules of `split` and is read alike by Arrow.

    Quotation marks enclose whole cells, right behind a separator; no other cell has a separator in it. What is not UTF-8
    matches nothing. A line of TABs may be blank: it has text in its first cell.
    """
    space = "[ \t]*" if separator == "," else " *"
    quoted, plain = f'"(?:[^"\n]|"")*"{space}', f'{space}[^",\t\n]*{space}'
    first = plain if separator == "," else f' *[^{WHITE}",\n][^",\t\n]*'
    rest = f"(?:{separator}(?:{quoted}|{plain})){{{cells - 1}}}(?:{separator}{space}){{{surplus}}}"
    return f"^(?:{quoted}|{first}){rest}\n$"


def _in_bulk(texts: pa.StringArray, separator: str, cells: int, head: Header, file: CsvFile) -> list[pa.ChunkedArray]:
    """The cells of lines of one dialect, by the columns of the file: trimmed, NULL where blank."""
    # Columns are called by their places: a header may have a name twice that nobody needs.
    names = [str(place) for place in range(cells)]
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
            rule = f"the line is {_not_utf8(error)}"
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
            _reject_binary(file.peek(BEGINNING)[:BEGINNING], path)
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


def _reject_binary(beginning: bytes, path: Path) -> None:
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
            block = Block.of(b"".join([*pending, chunk[:cut]]), line)
            lengths = np.diff(block.ends, prepend=-1)
            if lengths.max() > LONGEST_LINE + 1:
                raise _too_long(path, line + int(lengths.argmax()))
            yield block
            line, pending = block.next_line, []
        pending.append(chunk[cut:])
        if sum(map(len, pending)) > LONGEST_LINE:
            raise _too_long(path, line)
    if line == 1:
        raise RejectedFile(f"{path} is empty: put the CSV file there, it has a header at least")


def _too_long(path: Path, line: int) -> RejectedFile:
    return RejectedFile(
        f"{path}, line {line} is longer than {LONGEST_LINE // 2**20} MiB: is it a CSV file, are its line ends whole?"
    )


# Lines


def split(line: str, delimiter: Delimiter) -> tuple[list[str], bool]:
    """The cells of a line, trimmed, if this separates them; and whether none holds another separator outside of quotes.

    A cell whose first character is a quotation mark is quoted: separators in it are text, and a doubled mark is one.

    Raises:
        RejectedLine: a quoted cell has no end, or goes on behind its end.
    """
    values: list[str] = []
    clean, position, other = True, 0, "," if delimiter is Delimiter.TAB else "\t"
    while cell := delimiter.value.match(line, position):
        quoted, plain, separator = cell.groups()
        values.append((plain if quoted is None else quoted.replace('""', '"')).strip(WHITE))
        clean = clean and (quoted is not None or other not in values[-1])
        if not separator:
            return values, clean
        if delimiter is Delimiter.EITHER and "," not in separator:
            values += [""] * (separator.count("\t") - 1)
        position = cell.end()
    number = len(values) + 1
    if re.match(f"[ \t]*+{QUOTED}", line[position:]):
        raise RejectedLine(f"text follows the closed quotation mark of cell {number}")
    raise RejectedLine(f"the quotation mark that opens cell {number} is not closed in its line")


def row(line: str, expected: int, own: Delimiter) -> list[str]:
    """The cells of a line of a file with `expected` columns, whose header has a delimiter of its `own`.

    The first delimiter that gives the expected number of cells, and leaves no other separator in a cell, decides; else the
    first that gives the number, the header's own before the others. Surplus cells at the end that are blank are white
    space.

    Raises:
        RejectedLine: no delimiter gives that number of cells.
    """
    fitting: list[str] | None = None
    for delimiter in _possible(line, expected):
        try:
            cells, clean = split(line, delimiter)
        except RejectedLine:
            continue
        values = _without_surplus(cells, expected)
        if len(values) == expected:
            if clean:
                return values
            if fitting is None or delimiter is own:
                fitting = values
    if fitting is None:
        number = len(_without_surplus(split(line, own)[0], expected))
        counted = "1 cell" if number == 1 else f"{number} cells"
        raise RejectedLine(f"{counted} where the header has {expected}")
    return fitting


def _possible(line: str, expected: int) -> list[Delimiter]:
    """The delimiters that a line has enough of; a mix of one kind is that kind."""
    commas, tabs = line.count(","), line.count("\t")
    numbers = {Delimiter.COMMA: commas, Delimiter.EITHER: (commas + tabs) * bool(commas and tabs), Delimiter.TAB: tabs}
    return [delimiter for delimiter, number in numbers.items() if number + 1 >= expected]


def header(line: str, required: Collection[str]) -> Header:
    """The header that a line is, by the delimiter that finds most of the required names.

    Of those that find as many, one that leaves no other separator in a name is taken, and TABs before a mix.

    Raises:
        RejectedLine: a quoted name has no end, or goes on behind its end.
    """
    found: list[tuple[int, bool, Header]] = []
    rejected: list[RejectedLine] = []
    for delimiter in (Delimiter.COMMA, Delimiter.TAB, Delimiter.EITHER):
        try:
            cells, clean = split(line, delimiter)
        except RejectedLine as reason:
            rejected.append(reason)
            continue
        names = _without_surplus([name.lower() for name in cells], 0)
        found.append((len(set(required) & set(names)), clean, Header(names, delimiter, len(cells) - len(names))))
    if not found:
        raise rejected[0]
    return max(found, key=lambda candidate: candidate[:2])[2]


def _without_surplus(values: list[str], expected: int) -> list[str]:
    length = len(values)
    while length > expected and not values[length - 1]:
        length -= 1
    return values[:length]
