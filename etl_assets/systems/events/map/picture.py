"""Events on a map of the United States, as one picture that needs nothing beside it, small enough for metadata.

A large map has all events, coloured by the feed's four quad classes; below, each of the twenty root codes has a small map of
its own, since twenty colours cannot be told apart. Hue says cooperation or conflict, strength says verbal or material, which
holds for readers who see fewer colours too.
"""

import base64
import functools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl_assets.core.charts.pages import printable, template
from etl_assets.systems.events.map import cells as map_cells
from etl_assets.systems.events.map.cells import small_maps
from etl_assets.systems.events.map.marks import CLASS_OF, QUAD_CLASSES, Located, located, marks
from etl_assets.systems.events.map.outline import outline
from etl_assets.systems.events.map.projection import HEIGHT as MAP_HEIGHT
from etl_assets.systems.events.map.projection import INSETS
from etl_assets.systems.events.map.shapes import KeyCircle, key, scale_for, shapes
from etl_assets.systems.events.map.words import CLASS_NAMES, class_counts, description, notes, with_share

ALTERNATIVE = "Map of the events in the United States by CAMEO root code"
WIDTH, MARGIN, TOP = 1080, 20, 72
SIDE_WIDTH = 236
ENTRY, LINE, NOTE_LETTERS = 20, 16, 42
KNOWN = range(len(QUAD_CLASSES))
LONGEST_TITLE = 100
RADIUS_OF_ONE, LARGEST_RADIUS = 2.6, 26.0


@dataclass(frozen=True)
class Line:
    """A line of text and where it is."""

    y: float
    text: str


@dataclass(frozen=True)
class Entry:
    """A class in the legend."""

    y: float
    group: int
    name: str
    counted: str


@dataclass(frozen=True)
class Side:
    """What is to the right of the large map; x is where it begins, every y is from its top.

    Attributes:
        legend: the classes; those of CAMEO, and one for other codes only if there are any. None where there are no events.
        key: circles of some sizes, from key_y down.
    """

    x: float
    width: float
    legend: list[Entry]
    key: list[KeyCircle]
    key_y: float
    notes: list[Line]


def us_map_svg(events: pa.Table, *, title: str, label: str) -> str:
    """The picture of events: some 60 kB for those of a file, less than 350 kB however many they are.

    Every event is in it or counted beside it: those without coordinates, at (0, 0), or outside of the frames (Guam) too.

    Args:
        events: rows with `event_root_code`, `action_geo_lat`, `action_geo_long` and, if those that are in the middle of a state
            or the country are to be told, `action_geo_full_name`: `UsEventData` has them all.
        title: what it is.
        label: of when the events are.
    """
    found = located(events)
    drawn = marks(found, found.shown, CLASS_OF[found.codes])
    scale = scale_for(drawn.largest, one=RADIUS_OF_ONE, most=LARGEST_RADIUS)
    small = small_maps(found, TOP + MAP_HEIGHT + 34) if len(found.codes) else None
    said = notes(found, drawn, small_merged_km=small.merged_km if small else 0)
    text: str = _template().render(
        title=_short(title),
        label=_short(label),
        description=description(found, said),
        width=WIDTH,
        height=TOP + MAP_HEIGHT + MARGIN + (14 + small.height if small else 0),
        margin=MARGIN,
        top=TOP,
        outline=outline(),
        insets=INSETS,
        shapes=shapes(drawn, scale),
        side=_side(found, key(scale, drawn.largest) if drawn.marks else [], said),
        small=small,
        cells=map_cells,
    )
    return text


def as_markdown(svg: str) -> str:
    """The picture as Markdown that holds all of it, for `MetadataValue.md`."""
    return f"![{ALTERNATIVE}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _side(found: Located, circles: list[KeyCircle], said: list[str]) -> Side:
    counts = class_counts(found).tolist()
    classes = [(group, count) for group, count in enumerate(counts) if count or group in KNOWN] if sum(counts) else []
    legend = [
        Entry(14 + ENTRY * place, group, CLASS_NAMES[group], with_share(count, sum(counts)))
        for place, (group, count) in enumerate(classes)
    ]
    key_y = ENTRY * len(legend) + 26
    below_key = key_y + 8 + circles[0].label_y + 34 if circles else 14 + ENTRY * len(legend)
    return Side(WIDTH - MARGIN - SIDE_WIDTH, SIDE_WIDTH, legend, circles, key_y, _lines(said, top=below_key))


def _lines(paragraphs: list[str], *, top: float) -> list[Line]:
    """Paragraphs as lines, with half a line between any two."""
    lines, y = [], top
    for paragraph in paragraphs:
        for text in textwrap.wrap(paragraph, NOTE_LETTERS):
            lines.append(Line(y, text))
            y += LINE
        y += LINE / 2
    return lines


def _short(text: str) -> str:
    return printable(text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…")


@functools.cache
def _template() -> Any:
    return template(Path(__file__).with_name("map.svg.j2"))
