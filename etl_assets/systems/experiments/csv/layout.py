"""The cells of one line, however it is laid out: commas, TABs, white space round them, quotes, or a mix.

The rules, exactly. A file in bulk is read by `lexing`, which gives every line that is not plain to this module.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

# What is trimmed from a cell: blanks of ASCII and of Unicode. Characters that merely control something are data.
WHITE = (
    " \t\v\f\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
BLANKS, WHITE_SPACE = re.compile(" *+"), re.compile("[ \t]*+")
QUOTED = re.compile('"([^"]*+(?:""[^"]*+)*+)"')


class Way(Enum):
    """What separates the cells of a line."""

    COMMA = "a comma"
    """With any white space round it."""
    EITHER = "a comma, or a TAB that is not beside one"
    TAB = "a TAB"


SEPARATOR = {Way.COMMA: re.compile(","), Way.EITHER: re.compile("[,\t]"), Way.TAB: re.compile("\t")}


class LineRefused(ValueError):
    """A line has no cells; the text says why."""


@dataclass(frozen=True)
class Cells:
    """The cells of a line, trimmed, and whether one holds a separator of another way outside of quotes."""

    values: list[str]
    clean: bool


def split(line: str, way: Way) -> Cells:
    """The cells of a line, if they are separated in this way.

    A cell whose first character is a quotation mark is quoted: separators in it are text, and a doubled mark is one.

    Raises:
        LineRefused: a quoted cell has no end, or goes on behind its end.
    """
    if '"' not in line:
        values = _unquoted(line, way)
        other = "," if way is Way.TAB else "\t"
        return Cells(values, other not in line or not any(other in value for value in values))
    values, clean, position = [], True, 0
    separator, other = SEPARATOR[way], "," if way is Way.TAB else "\t"
    # A TAB before a cell is white space only if a comma separates.
    space = WHITE_SPACE if way is Way.COMMA else BLANKS
    while True:
        start = space.match(line, position).end()  # type: ignore[union-attr]
        if line.startswith('"', start):
            value, position = _quoted(line, start, space, separator, len(values) + 1)
        else:
            found = separator.search(line, start)
            position = found.start() if found else len(line)
            value = line[start:position].strip(WHITE)
            clean = clean and other not in value
        values.append(value)
        if position == len(line):
            return Cells(values, clean)
        if way is Way.EITHER:
            further, position = _separators(line, position)
            values += [""] * (further - 1)
        else:
            position += 1


def _unquoted(line: str, way: Way) -> list[str]:
    """The cells of a line without a quotation mark."""
    if way is not Way.EITHER:
        return [cell.strip(WHITE) for cell in line.split("," if way is Way.COMMA else "\t")]
    first, *others = line.split(",")
    if not others:
        return [cell.strip(WHITE) for cell in first.split("\t")]
    # A TAB at the very beginning or end of a line has no comma beside it: it separates.
    pieces = [first.rstrip(" \t"), *(piece.strip(" \t") for piece in others[:-1]), others[-1].lstrip(" \t")]
    return [cell.strip(WHITE) for piece in pieces for cell in piece.split("\t")]


def _quoted(line: str, start: int, space: re.Pattern[str], separator: re.Pattern[str], number: int) -> tuple[str, int]:
    """The text of the quoted cell that begins at `start`, and where the separator behind it stands."""
    quoted = QUOTED.match(line, start)
    if quoted is None:
        raise LineRefused(f"the quotation mark that opens cell {number} is not closed in its line")
    end = space.match(line, quoted.end()).end()  # type: ignore[union-attr]
    if end < len(line) and not separator.match(line, end):
        raise LineRefused(f"text follows the closed quotation mark of cell {number}")
    return quoted[1].replace('""', '"').strip(WHITE), end


def _separators(line: str, position: int) -> tuple[int, int]:
    """How many separators the run of commas and white space at `position` is, and where it ends.

    One comma and the white space round it are one separator; without a comma each TAB is one.
    """
    before = WHITE_SPACE.match(line, position).end()  # type: ignore[union-attr]
    if line.startswith(",", before):
        return 1, WHITE_SPACE.match(line, before + 1).end()  # type: ignore[union-attr]
    return line.count("\t", position, before), before


def row(line: str, expected: int, own: Way) -> list[str]:
    """The cells of a line of a file with `expected` columns, whose header is laid out in its `own` way.

    The first way that gives the expected number of cells, and leaves no other separator in a cell, decides; else the
    first that gives the number, the header's own before the others. Surplus cells at the end that are blank are white
    space.

    Raises:
        LineRefused: no way gives that number of cells.
    """
    fitting: list[str] | None = None
    for way in _possible(line, expected):
        try:
            cells = split(line, way)
        except LineRefused:
            continue
        values = _without_surplus(cells.values, expected)
        if len(values) == expected:
            if cells.clean:
                return values
            if fitting is None or way is own:
                fitting = values
    if fitting is None:
        number = len(_without_surplus(split(line, own).values, expected))
        counted = "1 cell" if number == 1 else f"{number} cells"
        raise LineRefused(f"{counted} where the header has {expected}")
    return fitting


def _possible(line: str, expected: int) -> list[Way]:
    """The ways in which a line has separators enough, and which are not the same as another."""
    commas, tabs = line.count(","), line.count("\t")
    ways = [Way.COMMA] if commas + 1 >= expected else []
    if commas and tabs and commas + tabs + 1 >= expected:
        ways.append(Way.EITHER)
    if tabs + 1 >= expected:
        ways.append(Way.TAB)
    return ways


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        names: the names of the columns, in lower case.
        way: what separates them.
        surplus: how many blank cells follow them.
    """

    names: list[str]
    way: Way
    surplus: int


def header(line: str, required: Collection[str]) -> Header:
    """The header that a line is, laid out in the way that finds most of the required names.

    Of ways that find as many, one that leaves no other separator in a name is taken, and TABs before a mix.

    Raises:
        LineRefused: a quoted name has no end, or goes on behind its end.
    """
    found: list[tuple[int, bool, Header]] = []
    refused: list[LineRefused] = []
    for way in (Way.COMMA, Way.TAB, Way.EITHER):
        try:
            cells = split(line, way)
        except LineRefused as reason:
            refused.append(reason)
            continue
        names = _without_surplus([name.lower() for name in cells.values], 0)
        head = Header(names, way, len(cells.values) - len(names))
        found.append((len(set(required) & set(names)), cells.clean, head))
    if not found:
        raise refused[0]
    return max(found, key=lambda candidate: candidate[:2])[2]


def _without_surplus(values: list[str], expected: int) -> list[str]:
    length = len(values)
    while length > expected and not values[length - 1]:
        length -= 1
    return values[:length]
