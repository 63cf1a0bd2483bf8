"""The three CSV files, from bytes to rows of text with their line numbers. What the text means is judged in `transform`.

The same data give the same rows in any layout: `layout` has its rules, `lexing` applies them in bulk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pyarrow as pa

from etl_assets.systems.experiments.csv.blocks import Block, FileRefused, blocks
from etl_assets.systems.experiments.csv.layout import WHITE, Header, LineRefused, header
from etl_assets.systems.experiments.csv.lexing import Unreadable, lexed

__all__ = ["COMPOUNDS", "EXPERIMENTS", "USERS", "Batch", "CsvFile", "FileRefused", "Unreadable", "batches"]


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

    def text(self, row: int) -> str:
        """The line of a row exactly as it is in the file, without its end."""
        return self.block.text(self.rows["line"][row].as_py())


def batches(path: Path, file: CsvFile, *, block_bytes: int = 16 * 2**20) -> Iterator[Batch]:
    """The rows of a file in its order, in batches of about `block_bytes` of it; one batch without rows if it has none.

    Blank lines are counted and left out. Columns that the file does not need are ignored.

    Raises:
        FileRefused: at the first step, if the file is missing, a folder, not readable, empty, binary, or its header
            lacks a column or has one twice; at any step, if a line is too long to be one, or reading fails.
    """
    source = blocks(path, block_bytes=block_bytes)
    first, line = _first_text(source, path, file)
    head = _header(first.raw(line), f"{path}, line {line}: the header", file)
    places = [head.names.index(column) for column in file.columns]
    for block in chain([first.after(line)], source):
        rows, unreadable = lexed(block, head)
        columns = [pa.array(rows.lines), *(rows.columns[place] for place in places)]
        yield Batch(pa.table(columns, names=["line", *file.columns]), unreadable, block)


def _first_text(source: Iterator[Block], path: Path, file: CsvFile) -> tuple[Block, int]:
    """The first line that is not blank, which is the header, and its block."""
    for block in source:
        blank = len(block.data) - len(block.data.lstrip())
        for line in range(block.first_line + block.data.count(b"\n", 0, blank), block.next_line):
            if block.text(line).strip(WHITE):
                return block, line
    raise FileRefused(f"{path} has only blank lines: it needs the header {', '.join(file.columns)}")


def _header(raw: bytes, where: str, file: CsvFile) -> Header:
    try:
        head = header(raw.decode(), file.columns)
    except UnicodeDecodeError as error:
        raise FileRefused(f"{where} is not UTF-8 text (byte {error.start + 1}): save the file as UTF-8") from error
    except LineRefused as error:
        raise FileRefused(f"{where} cannot be read: {error}") from error
    if missing := [column for column in file.columns if column not in head.names]:
        raise FileRefused(
            f"{where} has no column {', '.join(missing)}, it has {_shown(head.names)}: add what is missing"
        )
    if twice := [column for column in file.columns if head.names.count(column) > 1]:
        raise FileRefused(f"{where} has the column {', '.join(twice)} more than once: leave one of them")
    return head


def _shown(names: Sequence[str], most: int = 12, length: int = 40) -> str:
    shown = [repr(name[:length]) for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
