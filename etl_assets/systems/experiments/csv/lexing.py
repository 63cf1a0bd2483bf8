"""The rows of a block of lines, in bulk, by the rules of `layout`.

Most lines are plain: one way of separating, quotation marks only round whole cells. Arrow's reader splits these. It
gets a picture of the block in which each character stands in its place, but what is special is blotted out or made
a comma (`picture`). What it cannot split as the rules say goes line by line through `layout.row`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.systems.experiments.csv.blocks import Block
from etl_assets.systems.experiments.csv.layout import WHITE, Header, LineRefused, Way, row
from etl_assets.systems.experiments.csv.picture import HIDDEN_COMMA, Picture, pictured

FEW = 500  # lines that are split one by one sooner than in bulk
Lines = NDArray[np.int64]


@dataclass(frozen=True)
class Unreadable:
    """A line that is no row.

    Attributes:
        line: its number in the file, from 1.
        text: the line as it is in the file; bytes that are not UTF-8 are shown as `\\xe9`.
        rule: why it is none.
    """

    line: int
    text: str
    rule: str


@dataclass(frozen=True)
class Rows:
    """Cells by column, trimmed, NULL where blank, and the number of the line that each row is."""

    lines: Lines
    columns: list[pa.Array]


def lexed(block: Block, head: Header) -> tuple[Rows, list[Unreadable]]:
    """The rows of a block in line order, and the lines that are none; blank lines are neither.

    Args:
        block: some lines of a file, without its header.
        head: the header; it has two columns at least.
    """
    expected = len(head.names)
    parts: list[Rows] = []
    rest = np.arange(block.first_line, block.next_line)
    for way, surplus in _attempts(block, head):
        if len(rest) > FEW:
            found, left = _in_bulk(_only(block, rest), expected, surplus, way)
            parts.append(Rows(rest[found.lines], found.columns))
            rest = rest[left]
    exact, unreadable = _one_by_one(block, rest, expected, head.way)
    return _merged([*parts, exact]), unreadable


def _attempts(block: Block, head: Header) -> list[tuple[Way, int]]:
    """The ways in which plain lines are found, with the number of blank cells behind the others.

    A line that is plain in the mixed way has the same cells in any other that it is plain in; with surplus cells that
    is not so, for they may also stand at its beginning.
    """
    if head.way is Way.EITHER:
        return [(Way.EITHER, 0)]
    mixed = (b"\t" if head.way is Way.COMMA else b",") in block.data
    return [(head.way, surplus) for surplus in sorted({head.surplus, 0}, reverse=True)] + [(Way.EITHER, 0)] * mixed


def _one_by_one(block: Block, lines: Lines, expected: int, own: Way) -> tuple[Rows, list[Unreadable]]:
    values: list[list[str]] = []
    numbers: list[int] = []
    unreadable: list[Unreadable] = []
    for line in lines.tolist():
        try:
            text = block.raw(line).decode()
            if text.strip(WHITE):
                values.append(row(text, expected, own))
                numbers.append(line)
        except UnicodeDecodeError as error:
            rule = f"the line is not UTF-8 text: byte {error.start + 1} of it is 0x{error.object[error.start]:02x}"
            unreadable.append(Unreadable(line, block.text(line), rule))
        except LineRefused as error:
            unreadable.append(Unreadable(line, text, str(error)))
    columns = [pa.array([cells[place] or None for cells in values], pa.string()) for place in range(expected)]
    return Rows(np.array(numbers, dtype=np.int64), columns), unreadable


def _only(block: Block, lines: Lines) -> Block:
    """These lines of a block, as a block of their own that counts from 0."""
    if len(lines) == len(block.ends):
        return Block(block.data, 0, block.ends)
    wanted = np.zeros(len(block.ends), bool)
    wanted[lines - block.first_line] = True
    letters = np.frombuffer(block.data, np.uint8)
    return Block.of(letters[np.repeat(wanted, np.diff(block.ends, prepend=-1))].tobytes(), 0)


def _in_bulk(block: Block, expected: int, surplus: int, way: Way) -> tuple[Rows, Lines]:
    """The rows of the plain lines of a block that counts from 0, and the other lines that are not empty.

    Args:
        block: the lines.
        expected: how many cells a line has.
        surplus: how many more it has that are blank.
        way: how they are separated.
    """
    picture = pictured(block, way)
    cells, refused = _split(picture, expected + surplus)
    trim = pc.ascii_trim_whitespace if block.data.isascii() else _trimmed
    columns = [trim(column) for column in cells]
    plain = ~np.logical_and.reduce([_lengths(column) == 0 for column in columns])  # which a line of TABs has as well
    foreign = b"," if picture.delimiter == "\t" else b"\t"
    for place, column in enumerate(columns):
        if place >= expected:
            plain &= _lengths(column) == 0
        elif re.search(foreign, column.buffers()[2] or b""):
            plain &= ~pc.match_substring(column, foreign.decode()).to_numpy(zero_copy_only=False)
    lines = np.delete(np.arange(len(block.ends)), refused)[plain]
    if len(lines) < len(plain):
        columns = [column.filter(pa.array(plain)) for column in columns]
    left = np.diff(block.ends, prepend=-1) > 1
    left[lines] = False
    return Rows(lines, [_nulled(column, picture.hidden) for column in columns[:expected]]), np.flatnonzero(left)


def _split(picture: Picture, expected: int) -> tuple[list[pa.Array], list[int]]:
    """The cells of all lines that have the expected number, by column, and the places of the lines that have not."""
    from pyarrow import csv

    refused: list[int] = []

    def refuse(line: csv.InvalidRow) -> str:
        refused.append(line.number - 1)
        return "skip"

    names = [str(place) for place in range(expected)]
    table = csv.read_csv(
        pa.py_buffer(picture.data),
        # Line numbers are right in serial mode only. One block, so that no line is cut.
        read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=len(picture.data) + 1),
        parse_options=csv.ParseOptions(
            delimiter=picture.delimiter,
            quote_char=False,
            double_quote=False,
            ignore_empty_lines=False,
            invalid_row_handler=refuse,
        ),
        convert_options=csv.ConvertOptions(
            check_utf8=False, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    return [column.combine_chunks() for column in table.columns], refused


def _trimmed(column: pa.Array) -> pa.Array:
    return pc.utf8_trim(column, characters=WHITE)


def _lengths(column: pa.Array) -> NDArray[np.int32]:
    return np.diff(np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1])


def _nulled(column: pa.Array, hidden: bool) -> pa.Array:
    """A column with NULL for blanks, and commas where the picture hid some."""
    present = _lengths(column) > 0
    _, offsets, text = column.buffers()
    if hidden and text is not None:
        letters = np.frombuffer(text, np.uint8).copy()
        letters[letters == HIDDEN_COMMA] = ord(",")
        text = pa.py_buffer(letters)
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.StringArray.from_buffers(len(column), offsets, text, validity, -1, column.offset)


def _merged(parts: Sequence[Rows]) -> Rows:
    parts = [part for part in parts if len(part.lines)] or parts[-1:]
    if len(parts) == 1:
        return parts[0]
    lines = np.concatenate([part.lines for part in parts])
    order = np.argsort(lines, kind="stable")
    columns = [pa.concat_arrays(same).take(pa.array(order)) for same in zip(*(p.columns for p in parts), strict=True)]
    return Rows(lines[order], columns)
