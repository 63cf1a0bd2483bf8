"""A block of lines as a reader of plain separated text can take it: quotation marks and needless TABs out of the way."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl_assets.systems.experiments.csv.blocks import Block
from etl_assets.systems.experiments.csv.layout import Way

COMMA, TAB, SPACE, LF, QUOTE = (ord(character) for character in ',\t \n"')
HIDDEN_COMMA = 0x1C  # stands for a comma inside of quotation marks; lines that have it themselves are not pictured
FAR = 8  # how much white space is skipped round a separator; a line with more is not pictured

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Picture:
    """The lines of a block, each as long as it was.

    Attributes:
        data: the lines; of one that is not plain only blanks are left, which is one cell.
        delimiter: what separates their cells now.
        hidden: whether `HIDDEN_COMMA` stands for commas.
    """

    data: bytes | bytearray
    delimiter: str
    hidden: bool


def pictured(block: Block, way: Way) -> Picture:
    """The picture of a block whose cells are separated in this way."""
    delimiter = "\t" if way is Way.TAB else ","
    quoted = b'"' in block.data
    mixed = way is Way.EITHER and b"\t" in block.data
    blotted = _not_text(block)
    if not quoted and not mixed and not blotted.any():
        return Picture(block.data, delimiter, False)
    original = np.frombuffer(block.data, np.uint8)
    drawing = bytearray(block.data)
    letters = np.frombuffer(drawing, np.uint8)
    hidden = quoted and _unquote(original, letters, block.ends, way, blotted)
    if mixed:
        _unmix(original, letters, block.ends, blotted)
    if blotted.any():
        lengths = np.diff(block.ends, prepend=-1)
        letters[np.repeat(blotted, lengths) & (original != LF)] = SPACE
    return Picture(drawing, delimiter, hidden)


def _not_text(block: Block) -> NDArray[np.bool_]:
    """Which lines are not UTF-8."""
    wrong = np.zeros(len(block.ends), bool)
    try:
        block.data.decode()
    except UnicodeDecodeError:
        high = np.flatnonzero(np.frombuffer(block.data, np.uint8) >= 0x80)
        for place in np.unique(np.searchsorted(block.ends, high)).tolist():
            try:
                block.raw(block.first_line + place).decode()
            except UnicodeDecodeError:
                wrong[place] = True
    return wrong


def _unquote(original: Bytes, letters: Bytes, ends: Places, way: Way, blotted: NDArray[np.bool_]) -> bool:
    """Blanks for quotation marks that enclose whole cells, and whether commas in them were hidden.

    Lines with other marks (doubled, inside a cell, not closed) are blotted.
    """
    marks = np.flatnonzero(original == QUOTE)
    counts = np.diff(np.searchsorted(marks, ends), prepend=0)
    odd = counts % 2 == 1
    blotted |= odd
    lines = np.repeat(np.arange(len(ends)), counts)
    if odd.any():
        even = ~odd[lines]
        marks, lines = marks[even], lines[even]
    separators = {Way.COMMA: (COMMA,), Way.TAB: (TAB,), Way.EITHER: (COMMA, TAB)}[way]
    white = (SPACE, TAB) if way is Way.COMMA else (SPACE,)
    for places, step in ((marks[0::2], -1), (marks[1::2], 1)):
        beside = original[_skipped(original, places, step, white)]
        encloses = np.isin(beside, (*separators, LF))
        blotted[lines[0::2][~encloses]] = True
    letters[marks] = SPACE
    return _hide(original, letters, marks, lines, blotted)


def _hide(original: Bytes, letters: Bytes, marks: Places, lines: Places, blotted: NDArray[np.bool_]) -> bool:
    """Separators between two marks out of the way: a comma hidden, a TAB beside a mark blank; lines with others blotted."""
    inside = np.flatnonzero((original == COMMA) | (original == TAB))
    after = np.searchsorted(marks, inside)
    inside, after = inside[after % 2 == 1], after[after % 2 == 1]
    commas = original[inside] == COMMA
    edge = ~commas & ((marks[after - 1] == inside - 1) | (marks[after] == inside + 1))
    letters[inside[edge]] = SPACE
    blotted[lines[after[~commas & ~edge]]] = True
    if not commas.any():
        return False
    if (original == HIDDEN_COMMA).any():
        blotted[lines[after[commas]]] = True
        return False
    letters[inside[commas]] = HIDDEN_COMMA
    return True


def _unmix(original: Bytes, letters: Bytes, ends: Places, blotted: NDArray[np.bool_]) -> None:
    """Commas for the TABs that separate; those beside a comma are white space."""
    tabs = np.flatnonzero(letters == TAB)
    before, behind = (original[_skipped(original, tabs, step, (SPACE, TAB))] for step in (-1, 1))
    letters[tabs[(before != COMMA) & (behind != COMMA)]] = COMMA
    far = np.isin(before, (SPACE, TAB)) | np.isin(behind, (SPACE, TAB))
    blotted[np.searchsorted(ends, tabs[far])] = True


def _skipped(letters: Bytes, places: Places, step: int, white: tuple[int, ...]) -> Places:
    """The first place beside each that is not white, or, after `FAR` steps, one that is."""
    beside = places + step
    moving = np.flatnonzero(np.isin(letters[beside], white))
    for _ in range(FAR):
        if not len(moving):
            break
        beside[moving] += step
        moving = moving[np.isin(letters[beside[moving]], white)]
    return beside
