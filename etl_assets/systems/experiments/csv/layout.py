"""The cells of one line, however it is laid out: commas, TABs, white space round them, quotes, or a mix.

The rules, exactly. Of a large file `files` gives only those lines to this module that are not of one plain dialect.
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


class Delimiter(Enum):
    """What separates the cells of a line."""

    COMMA = "a comma"
    """With any white space round it."""
    EITHER = "a comma, or a TAB that is not beside one"
    TAB = "a TAB"


PATTERNS = {
    Delimiter.COMMA: re.compile(","),
    Delimiter.EITHER: re.compile("[,\t]"),
    Delimiter.TAB: re.compile("\t"),
}


class RejectedLine(ValueError):
    """A line has no cells; the text says why."""


@dataclass(frozen=True)
class Cells:
    """The cells of a line, trimmed, and whether none holds another separator outside of quotes."""

    values: list[str]
    clean: bool


def split(line: str, delimiter: Delimiter) -> Cells:
    """The cells of a line, if this separates them.

    A cell whose first character is a quotation mark is quoted: separators in it are text, and a doubled mark is one.

    Raises:
        RejectedLine: a quoted cell has no end, or goes on behind its end.
    """
    values: list[str] = []
    clean, position = True, 0
    separator, other = PATTERNS[delimiter], "," if delimiter is Delimiter.TAB else "\t"
    # A TAB before a cell is white space only if a comma separates.
    space = WHITE_SPACE if delimiter is Delimiter.COMMA else BLANKS
    while True:
        start = _behind(space, line, position)
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
        further, position = _separators(line, position) if delimiter is Delimiter.EITHER else (1, position + 1)
        values += [""] * (further - 1)


def _behind(space: re.Pattern[str], line: str, position: int) -> int:
    """Where the white space that begins at a position ends."""
    return space.match(line, position).end()  # type: ignore[union-attr]


def _quoted(line: str, start: int, space: re.Pattern[str], separator: re.Pattern[str], number: int) -> tuple[str, int]:
    """The text of the quoted cell that begins at `start`, and where the separator behind it stands."""
    quoted = QUOTED.match(line, start)
    if quoted is None:
        raise RejectedLine(f"the quotation mark that opens cell {number} is not closed in its line")
    end = _behind(space, line, quoted.end())
    if end < len(line) and not separator.match(line, end):
        raise RejectedLine(f"text follows the closed quotation mark of cell {number}")
    return quoted[1].replace('""', '"').strip(WHITE), end


def _separators(line: str, position: int) -> tuple[int, int]:
    """How many separators the run of commas and white space at `position` is, and where it ends.

    One comma and the white space round it are one separator; without a comma each TAB is one.
    """
    end = _behind(WHITE_SPACE, line, position)
    if line.startswith(",", end):
        return 1, _behind(WHITE_SPACE, line, end + 1)
    return line.count("\t", position, end), end


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
            cells = split(line, delimiter)
        except RejectedLine:
            continue
        values = _without_surplus(cells.values, expected)
        if len(values) == expected:
            if cells.clean:
                return values
            if fitting is None or delimiter is own:
                fitting = values
    if fitting is None:
        number = len(_without_surplus(split(line, own).values, expected))
        counted = "1 cell" if number == 1 else f"{number} cells"
        raise RejectedLine(f"{counted} where the header has {expected}")
    return fitting


def _possible(line: str, expected: int) -> list[Delimiter]:
    """The delimiters that a line has enough of; a mix of one kind is that kind."""
    commas, tabs = line.count(","), line.count("\t")
    numbers = {Delimiter.COMMA: commas, Delimiter.EITHER: (commas + tabs) * bool(commas and tabs), Delimiter.TAB: tabs}
    return [delimiter for delimiter, number in numbers.items() if number + 1 >= expected]


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
            cells = split(line, delimiter)
        except RejectedLine as reason:
            rejected.append(reason)
            continue
        names = _without_surplus([name.lower() for name in cells.values], 0)
        head = Header(names, delimiter, len(cells.values) - len(names))
        found.append((len(set(required) & set(names)), cells.clean, head))
    if not found:
        raise rejected[0]
    return max(found, key=lambda candidate: candidate[:2])[2]


def _without_surplus(values: list[str], expected: int) -> list[str]:
    length = len(values)
    while length > expected and not values[length - 1]:
        length -= 1
    return values[:length]
