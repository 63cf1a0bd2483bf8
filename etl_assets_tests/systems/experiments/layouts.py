"""The same table in each layout that is met: for tests that must see no difference between them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

Row = Sequence[str | None]
Layout = Callable[[Sequence[str], Sequence[Row]], bytes]
Line = Callable[[Row], str]

SAMPLE: Mapping[str, tuple[tuple[str, ...], tuple[tuple[str | None, ...], ...]]] = {
    "users.csv": (
        ("user_id", "name", "email", "signup_date"),
        (
            ("1", "Alice", "alice@example.com", "2023-01-01"),
            ("2", "Zoë Núñez", None, "2024-02-29"),
            ("10", None, "judy@example.com", "2023-10-01"),
        ),
    ),
    "user_experiments.csv": (
        ("experiment_id", "user_id", "experiment_compound_ids", "experiment_run_time"),
        (("1", "1", "1;2", "10"), ("2", "1", "2;3", "15.5"), ("3", "10", "3", "0")),
    ),
    "compounds.csv": (
        ("compound_id", "compound_name", "compound_structure"),
        (("1", "Compound A", "C20H25N3O"), ("2", "Compound B", None), ("3", "Compound C", "C8H11NO2")),
    ),
}
"""Header and rows of the three files, small."""


SEPARATORS = (",", "\t", ",\t", " , ")


def joined(separator: str) -> Line:
    """Lines with one separator."""
    return lambda row: separator.join(cell or "" for cell in row)


def quoted(separator: str, inside: str = "") -> Line:
    """Lines with each cell in quotation marks, and something else in them before the cell."""
    return lambda row: separator.join(f'"{inside}{(cell or "").replace(chr(34), chr(34) * 2)}"' for cell in row)


def padded(line: Line, before: str, behind: str) -> Line:
    """Lines with something before and behind each."""
    return lambda row: before + line(row) + behind


def mixed(row: Row) -> str:
    """A line with each separator, one after another; a blank cell is `""`, or two separators would be one."""
    text = row[0] or '""'
    for cell, separator in zip(row[1:], cycle(SEPARATORS), strict=False):
        text += separator + (cell or '""')
    return text


def lines(*ways: Line, end: str = "\n", before: str = "", last: str = "", bom: bool = False) -> Layout:
    """The layout in which header and rows are laid out in each of `ways`, one after another.

    Args:
        ways: how a line is made of a row.
        end: what stands between two lines.
        before: what stands before the header.
        last: what stands behind the last row.
        bom: whether a byte-order mark begins the file.
    """

    def layout(header: Sequence[str], rows: Sequence[Row]) -> bytes:
        all_rows: list[Row] = [header, *rows]
        text = end.join(way(row) for way, row in zip(cycle(ways), all_rows, strict=False))
        return (before + text + last).encode("utf-8-sig" if bom else "utf-8")

    return layout


def reordered(layout: Layout) -> Layout:
    """The columns from the last to the first, and one between them that nobody asked for."""

    def turned(row: Row, extra: str) -> list[str]:
        return [cell or "" for cell in (*row[:0:-1], extra, row[0])]

    return lambda header, rows: layout(
        turned(header, "remark"), [turned(row, f"n{place}") for place, row in enumerate(rows)]
    )


COMMA, TAB, COMMA_TAB, SPACED = joined(","), joined("\t"), joined(",\t"), joined("  ,  ")
LAYOUTS: Mapping[str, Layout] = {
    "comma and TAB": lines(COMMA_TAB),
    "plain comma": lines(COMMA, last="\n"),
    "TAB only": lines(TAB, last="\n"),
    "CRLF": lines(COMMA_TAB, end="\r\n", last="\r\n"),
    "lone CR": lines(COMMA_TAB, end="\r", last="\r"),
    "byte-order mark": lines(COMMA, bom=True),
    "leading blank line": lines(COMMA_TAB, before="\n"),
    "trailing newline": lines(COMMA_TAB, last="\n"),
    "no newline at the end": lines(COMMA),
    "trailing spaces and TABs": lines(padded(COMMA_TAB, "", "  \t \t"), last="\n \t\n"),
    "trailing TABs behind TABs": lines(padded(TAB, "", "\t\t"), last="\n"),
    "spaces round cells": lines(padded(SPACED, "  ", "  "), last="\n"),
    "spaces round cells between TABs": lines(joined(" \t  "), last="\n"),
    "TABs round cells": lines(padded(joined("\t,\t\t"), "\t", "\t"), last="\n"),
    "surplus separators": lines(padded(COMMA, "", ",,"), last="\n"),
    "quoted": lines(quoted(","), last="\n"),
    "quoted, comma and TAB": lines(quoted(",\t"), last="\n"),
    "quoted, TAB only": lines(quoted("\t"), last="\n"),
    "quoted cells that begin with a TAB": lines(quoted(",", "\t"), last="\n"),
    "quoted cells that begin with a TAB, TAB only": lines(quoted("\t", "\t"), last="\n"),
    "only the rows quoted": lines(COMMA, *[quoted(",", "\t")] * 50, last="\n"),
    "mix of lines": lines(COMMA_TAB, TAB, COMMA, quoted(","), quoted("\t", "\t"), SPACED, mixed, last="\n"),
    "mix of lines under a TAB header": lines(TAB, COMMA, COMMA_TAB, quoted(",\t"), mixed, last="\n"),
    "mix inside of lines": lines(mixed, last="\n"),
    "blank lines between": lines(COMMA, end="\n \t\n\n", before="\r\n\n", last="\n\n"),
    "columns in another order": reordered(lines(COMMA_TAB, last="\n")),
    "byte-order mark, blank line, CRLF, quoted, TAB only": lines(
        quoted("\t"), end="\r\n", before="\r\n", last="\r\n", bom=True
    ),
    "lone CR, TAB only, another order": reordered(lines(TAB, end="\r")),
    "mix of lines, CRLF, byte-order mark, another order": reordered(lines(COMMA_TAB, TAB, mixed, end="\r\n", bom=True)),
}
"""How a table is written down, by the name of the layout: bytes of a header and rows.

A cell has no white space round it and no comma, TAB, quotation mark or line end (where all cells are quoted it may
have commas and quotation marks); a blank one is None. The first cell of a row is not blank.
"""


def write(folder: Path, layout: str, tables: Mapping[str, tuple[Sequence[str], Sequence[Row]]] = SAMPLE) -> Path:
    """Writes tables as files of one layout into a folder, and gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (header, rows) in tables.items():
        (folder / name).write_bytes(LAYOUTS[layout](header, rows))
    return folder
