"""The layouts in which the CSV files of the experiments are met: the same data, written in other ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

LayoutName = Literal["comma-tab-lf", "comma-lf", "comma-crlf", "tab-lf", "bom-crlf", "quoted-tab", "mixed"]


class Style(NamedTuple):
    """How a line is written: what stands between two cells, at its end, and before its first cell."""

    between: str
    after: str = "\n"
    before: str = ""


# What a program writes that took the TAB of `comma-tab-lf` for a part of the cell.
QUOTED = Style('","\t', '"\n', '"')


@dataclass(frozen=True)
class Layout:
    """How files are written.

    Attributes:
        styles: of the lines, one after another.
        mark: the file begins with a byte-order mark.
        blank_line: users.csv begins with a blank line.
        ended: the last line has an end like all others.
    """

    styles: tuple[Style, ...]
    mark: bool = False
    blank_line: bool = False
    ended: bool = True

    def style(self, line: int) -> Style:
        """The style of a line; the first is 1."""
        return self.styles[(line - 1) % len(self.styles)]

    def lines(self, columns: Sequence["pa.StringArray"], *, first: int) -> "pa.StringArray":
        """The text of each row with its end.

        Args:
            columns: the cells; none has a separator, a quote or a line break in it.
            first: the line that the first row stands in.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        places = pa.array((first - 1 + np.arange(len(columns[0]))) % len(self.styles))
        between, after, before = (pa.array(texts).take(places) for texts in zip(*self.styles, strict=True))
        parts: list[Any] = [before]
        for column in columns:
            parts += [column, between]
        return pc.binary_join_element_wise(*parts[:-1], after, "")


LAYOUTS: Mapping[str, Layout] = {
    # As the real files are.
    "comma-tab-lf": Layout((Style(",\t"),), blank_line=True, ended=False),
    "comma-lf": Layout((Style(","),)),
    "comma-crlf": Layout((Style(",", "\r\n"),)),
    "tab-lf": Layout((Style("\t"),)),
    "bom-crlf": Layout((Style(",", "\r\n"),), mark=True, blank_line=True),
    "quoted-tab": Layout((QUOTED,)),
    # All of them in one file, and cells and lines with spaces at their ends.
    "mixed": Layout((Style(",\t"), Style(","), Style("\t", "\r\n"), QUOTED, Style(" , ", " \t\n")), blank_line=True),
}
