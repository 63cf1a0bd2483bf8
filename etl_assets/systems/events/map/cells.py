"""The small maps: one for each root code, those of a quad class in a row."""

import textwrap
from dataclasses import dataclass

import numpy as np

from etl_assets.systems.events.map.marks import CLASS_OF, CODES, Located, marks
from etl_assets.systems.events.map.projection import HEIGHT as MAP_HEIGHT
from etl_assets.systems.events.map.projection import WIDTH as MAP_WIDTH
from etl_assets.systems.events.map.shapes import KeyCircle, Shape, key, scale_for, shapes
from etl_assets.systems.events.map.words import CLASS_NAMES, class_counts, code_name, counted_cell, with_share

COLUMNS, CELL, BETWEEN = 6, 160, 16
FACTOR = CELL / MAP_WIDTH
# From the top of a row: its cells, then in a cell the map, below a code and two lines of its name.
CELLS, MAP = 42, 34
ROW = round(CELLS + MAP + MAP_HEIGHT * FACTOR + 20)
KEY, KEY_TEXT = CELLS - 8, "Events in a circle, small maps"
NAME_LETTERS = 27
RADIUS_OF_ONE, LARGEST_RADIUS = 1.9, 13.0
MOST_MARKS = 60  # in one small map


@dataclass(frozen=True)
class Cell:
    """The small map of a root code; its name may take two lines."""

    x: float
    code: str
    name: list[str]
    counted: str
    shapes: list[Shape]


@dataclass(frozen=True)
class Row:
    """The small maps of a class."""

    y: float
    width: float
    group: int
    name: str
    counted: str
    cells: list[Cell]


@dataclass(frozen=True)
class SmallMaps:
    """All small maps, the key of their circles, how high they are together, and how near events may share a circle."""

    rows: list[Row]
    key: list[KeyCircle]
    key_x: float
    key_y: float
    height: float
    merged_km: float


def small_maps(found: Located, top: float) -> SmallMaps:
    """The small maps below a place; a row for codes that CAMEO does not know only if there are any."""
    everywhere = np.zeros(len(found.codes), np.int64)
    drawn = [
        marks(found, found.shown & (found.codes == place), everywhere, number=1, most=MOST_MARKS)
        for place in range(len(CODES))
    ]
    largest = max(one.largest for one in drawn)
    scale = scale_for(largest, one=RADIUS_OF_ONE, most=LARGEST_RADIUS)
    totals = class_counts(found)
    rows: list[Row] = []
    for group, name in enumerate(CLASS_NAMES):
        if group + 1 < len(CLASS_NAMES) or totals[group]:
            places = np.flatnonzero(group == CLASS_OF).tolist()
            circles = [shapes(drawn[place], scale, group=group, factor=FACTOR) for place in places]
            cells = [
                _cell(found, place, number, of) for number, (place, of) in enumerate(zip(places, circles, strict=True))
            ]
            counted = with_share(int(totals[group]), len(found.codes))
            rows.append(Row(top + len(rows) * ROW, _left(len(cells)) - BETWEEN, group, name, counted, cells))
    return SmallMaps(
        rows=rows,
        key=key(scale, largest) if largest else [],
        # The first class has a code less than a row has room for.
        key_x=_left(COLUMNS - 1),
        key_y=top,
        height=ROW * len(rows),
        merged_km=max(one.merged_km for one in drawn),
    )


def _left(column: int) -> int:
    return column * (CELL + BETWEEN)


def _cell(found: Located, place: int, column: int, circles: list[Shape]) -> Cell:
    code = CODES[place]
    total, shown = int(found.counts()[place]), int(found.counts(found.shown)[place])
    name = textwrap.wrap(code_name(code, found), NAME_LETTERS)[:2]
    return Cell(_left(column), code, name, counted_cell(total, shown), circles)
