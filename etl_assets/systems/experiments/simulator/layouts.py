"""The layouts in which the CSV files of the experiments are met: the same data, written in other ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

LayoutName = Literal["comma-tab-lf", "comma-lf", "comma-crlf", "tab-lf", "bom-crlf", "quoted-tab", "mixed"]


@dataclass(frozen=True)
class Style:
    """How a line is written.

    Attributes:
        separator: between two cells.
        quoted: every cell is in quotes, and all but the first begin with a TAB: what a program writes that took the TAB
            of `comma-tab-lf` for a part of the cell.
        end: of the line.
    """

    separator: str
    quoted: bool = False
    end: str = "\n"

    @property
    def before(self) -> str:
        """What stands before the first cell."""
        return '"' if self.quoted else ""

    @property
    def between(self) -> str:
        """What stands between two cells."""
        return f'"{self.separator}"\t' if self.quoted else self.separator

    @property
    def after(self) -> str:
        """What stands behind the last cell."""
        return ('"' if self.quoted else "") + self.end


@dataclass(frozen=True)
class Layout:
    """How files are written.

    Attributes:
        styles: of the lines, in turn.
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

        turn = None if len(self.styles) == 1 else (first - 1 + np.arange(len(columns[0]))) % len(self.styles)

        def by_line(texts: Sequence[str]) -> Any:
            return texts[0] if turn is None else pa.array(texts).take(pa.array(turn))

        between = by_line([style.between for style in self.styles])
        parts: list[Any] = [by_line([style.before for style in self.styles])]
        for column in columns:
            parts += [column, between]
        parts[-1] = by_line([style.after for style in self.styles])
        return pc.binary_join_element_wise(*parts, "")


LAYOUTS: Mapping[str, Layout] = {
    # As the real files are.
    "comma-tab-lf": Layout((Style(",\t"),), blank_line=True, ended=False),
    "comma-lf": Layout((Style(","),)),
    "comma-crlf": Layout((Style(",", end="\r\n"),)),
    "tab-lf": Layout((Style("\t"),)),
    "bom-crlf": Layout((Style(",", end="\r\n"),), mark=True, blank_line=True),
    "quoted-tab": Layout((Style(",", quoted=True),)),
    # All of them in one file, and cells and lines with spaces at their ends.
    "mixed": Layout(
        (Style(",\t"), Style(","), Style("\t", end="\r\n"), Style(",", quoted=True), Style(" , ", end=" \t\n")),
        blank_line=True,
    ),
}
