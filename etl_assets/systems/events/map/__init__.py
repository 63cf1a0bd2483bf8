"""Events on a map of the United States, as one picture that needs nothing beside it, small enough for metadata.

A large map has all events, coloured by the feed's four quad classes; below, each of the twenty root codes has a small map of
its own, since twenty colours cannot be told apart. Hue says cooperation or conflict, strength says verbal or material, which
holds for readers who see fewer colours too.

All is one layered chart of Vega-Lite, with places in pixels from its upper left corner; where a place on the ground is, Vega's
projections say. It is written as a specification: through Altair's objects its eighty layers take twenty times as long.
"""

import functools
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from etl_assets.core.charts.pictures import standalone, svg
from etl_assets.core.charts.theme import TEXT_SIZE, palette
from etl_assets.systems.events.map.places import (
    CLASS_NAMES,
    CLASS_OF,
    CODES,
    ISLANDS,
    SOURCE,
    Located,
    Marks,
    description,
    located,
    marks,
    notes,
    with_share,
)

__all__ = ["ALTERNATIVE", "us_map_svg"]

ALTERNATIVE = "Map of the events in the United States by CAMEO root code"
LONGEST_TITLE = 100
Layer = dict[str, Any]
WIDTH, TOP, SIDE = 1040, 58, 796
MAP_WIDTH, MAP_HEIGHT = 766, 446
ENTRY, LINE, NOTE_LETTERS = 20, 15, 38

# Of the small maps: of one, of the gap to the next, of the text above it; of a row's heading.
CELL, BETWEEN, CELL_TEXT, NAME_LETTERS = 160, 16, 44, 22
SMALL = CELL / MAP_WIDTH
HEADING, BELOW = 28, 24
ROW = round(HEADING + CELL_TEXT + MAP_HEIGHT * SMALL + BELOW)
MOST_SMALL_MARKS = 40

# Hundredths of pixels are nobody's to see.
PLACES, DECIMALS = re.compile(r' (?:d|transform)="[^"]*"'), re.compile(r"(\.\d\d)\d+")
# The radius of one event, if no circle becomes larger than the second number by that; and of what could not be seen else.
LARGE_RADII, SMALL_RADII, LEAST_RADIUS = (2.6, 26.0), (1.9, 13.0), 0.8
# The scale of the largest region, and where the middle of the projection is; Alaska and Hawaii are where Vega has them.
SCALE, CENTRE = 960, (408, 218)
INSETS = {"Alaska": (0, 333, 203, 110), "Hawaii": (203, 377, 95, 66), ISLANDS: (664, 389, 102, 54)}
ISLANDS_SCALE, ISLANDS_CENTRE = 1.5 * SCALE, (715, 421)
AT = {name: {"field": name, "type": "quantitative", "scale": None, "axis": None} for name in ("x", "y")}


@dataclass(frozen=True)
class Place:
    """Where a map is in the picture, in pixels, and how large beside the large one."""

    x: float
    y: float
    factor: float = 1.0

    def projection(self, *, islands: bool) -> dict[str, Any]:
        """That of the states, or of Puerto Rico and the Virgin Islands, which has a parallel and a scale of its own."""
        scale, (x, y) = (ISLANDS_SCALE, ISLANDS_CENTRE) if islands else (SCALE, CENTRE)
        placed = {"scale": scale * self.factor, "translate": [self.x + x * self.factor, self.y + y * self.factor]}
        if not islands:
            return {"type": "albersUsa", "precision": 0, **placed}
        sphere = {"parallels": [8, 18], "rotate": [66.2, 0, 0], "center": [0, 18.2]}
        return {"type": "conicEqualArea", "precision": 0, **sphere, **placed}


class Drawing:
    """What is drawn, in the order in which it is added; texts, dots and boxes come last. Colours are given by name."""

    def __init__(self) -> None:
        self._maps: list[Layer] = []
        self._boxes: list[Layer] = []
        self._dots: list[Layer] = []
        self._texts: dict[tuple[Any, ...], list[Layer]] = {}

    def text(self, x: float, y: float, text: str, *, colour: str = "ink", **font: Any) -> None:
        """A line of text on its foot, in a font as Vega-Lite names it."""
        font = {"align": "left", "fontSize": TEXT_SIZE, "fontWeight": 400, **font, "color": _colours()[colour]}
        self._texts.setdefault(tuple(font.items()), []).append({"x": x, "y": y, "text": text})

    def dot(self, x: float, y: float, radius: float, *, fill: str = "", stroke: str = "") -> None:
        """A circle."""
        # Vega takes the area of the square around a circle for its size.
        self._dots.append({"x": x, "y": y, "area": 4 * radius * radius, **_look(fill, stroke)})

    def box(self, x: float, y: float, width: float, height: float, *, fill: str = "", stroke: str = "") -> None:
        """A rectangle by its upper left corner."""
        self._boxes.append({"x": x, "y": y, "x2": x + width, "y2": y + height, **_look(fill, stroke)})

    def shape(self, place: Place, name: str, **look: Any) -> None:
        """A shape of the outline."""
        mark, islands = {"type": "geoshape", "clip": False, **look}, name.endswith("islands")
        self._maps.append({"data": {"name": name}, "mark": mark, "projection": place.projection(islands=islands)})

    def circles(self, drawn: Marks, place: Place, radius_of_one: float, group: int | None = None) -> None:
        """Marks as circles, in sectors where they are of several classes; all of one colour where a group is given."""
        colours = [_colours()[f"q{number}"] for number in range(len(CLASS_NAMES))]
        rows = drawn.sectors.assign(
            r=[_radius(total, radius_of_one) for total in drawn.sectors["total"]],
            colour=[colours[of if group is None else group] for of in drawn.sectors["group"]],
        )
        for (islands, vague), some in rows.groupby(["islands", "vague"]):
            # How the others look says `map.css`, for all of them.
            look = {"fillOpacity": 0.28, "strokeWidth": 0.8} if vague else {}
            encoding = {
                **{name: _field(name) for name in ("latitude", "longitude")},
                **{name: _field(of, stack=None) for name, of in (("theta", "start"), ("radius", "r"))},
                "theta2": {"field": "end"},
                **{name: _field("colour", "nominal") for name in ("fill", "stroke")[: 1 + bool(vague)]},
            }
            columns = ["latitude", "longitude", "start", "end", "r", "colour"]
            self._maps.append(
                {
                    "data": {"values": some[columns].to_dict("records")},
                    "mark": {"type": "arc", "clip": False, **look},
                    "projection": place.projection(islands=bool(islands)),
                    "encoding": encoding,
                }
            )

    def chart(self, height: float) -> dict[str, Any]:
        """All of it in Vega-Lite."""
        look = {name: _field(name, "nominal") for name in ("fill", "stroke")}
        corners = {**AT, **{name: {"field": name} for name in ("x2", "y2")}}
        layers = [
            *self._maps,
            {"data": {"values": self._boxes}, "mark": "rect", "encoding": {**corners, **look}},
            {
                "data": {"values": self._dots},
                "mark": {"type": "point", "shape": "circle", "strokeWidth": 1, "opacity": 1},
                "encoding": {**AT, "size": _field("area"), **look},
            },
        ]
        for font, rows in self._texts.items():
            mark = {"type": "text", "baseline": "alphabetic", **dict(font)}
            layers.append({"data": {"values": rows}, "mark": mark, "encoding": {**AT, "text": {"field": "text"}}})
        shapes = {name: [{"type": "Feature", "geometry": shape}] for name, shape in _outline().items()}
        frame = {"width": WIDTH, "height": height, "padding": 20, "background": _colours()["paper"]}
        return {**frame, "datasets": shapes, "layer": layers}


def _field(name: str, kind: str = "quantitative", **more: Any) -> dict[str, Any]:
    """A column whose values are taken as they are."""
    return {"field": name, "type": kind, "scale": None, **more}


def _look(fill: str, stroke: str) -> dict[str, str]:
    named = {"fill": fill, "stroke": stroke}
    return {name: _colours()[colour] if colour else "transparent" for name, colour in named.items()}


def us_map_svg(events: pa.Table, *, title: str, label: str) -> str:
    """The picture of events: some 140 kB for those of a file, less than 350 kB however many they are.

    Every event is in it or counted beside it: those without coordinates, at (0, 0), or outside of the map (Guam) too.

    Args:
        events: rows with `event_root_code`, `action_geo_lat`, `action_geo_long` and, if those that are in the middle of a state
            or the country are to be told, `action_geo_full_name`: `UsEventData` has them all.
        title: what it is.
        label: of when the events are.
    """
    found = located(events)
    drawn, small = marks(found.drawn), _small_marks(found)
    paragraphs = notes(found, drawn, small_merged_km=max((one.merged_km for one in small.values()), default=0))
    drawing = Drawing()
    drawing.text(0, 16, _short(title), fontSize=18, fontWeight=600)
    drawing.text(0, 38, _short(label), colour="quiet")
    _add_large_map(drawing, drawn)
    _add_side(drawing, found, drawn, paragraphs)
    height = TOP + MAP_HEIGHT + 36 + _add_small_maps(drawing, found, small, TOP + MAP_HEIGHT + 30)
    drawing.text(0, height, SOURCE, colour="quiet")
    spoken = description(found, [*paragraphs, SOURCE])
    picture = svg(drawing.chart(height), name="map", colours=_colours(), title=_short(title), description=spoken)
    return standalone(PLACES.sub(lambda found: DECIMALS.sub(r"\1", found[0]), picture), _colours())


@functools.cache
def _colours() -> Any:
    return palette(Path(__file__).with_name("map.css"))


@functools.cache
def _outline() -> dict[str, Any]:
    """Shapes by name, as GeoJSON; the file says where they come from and under which licence."""
    given = json.loads(Path(__file__).with_name("us_outline.json").read_text())
    return {name: shape for name, shape in given.items() if isinstance(shape, dict)}


def _small_marks(found: Located) -> dict[str, Marks]:
    """The marks of each root code, whether it has events or not; of codes that CAMEO does not know only if there are any."""
    codes = [code for code, count in zip(CODES, found.counts(), strict=True) if code or count]
    events = found.drawn.assign(group=0)
    small = {code: marks(events[events["code"] == CODES.index(code)], most=MOST_SMALL_MARKS) for code in codes}
    return small if len(found.events) else {}


def _groups(found: Located) -> list[int]:
    """The classes that are named: those of CAMEO, and one for other codes only if there are any."""
    counts = found.class_counts()
    return [group for group in range(len(CLASS_NAMES)) if group < len(CLASS_NAMES) - 1 or counts[group]]


def _radius_of_one(largest: int, radii: tuple[float, float]) -> float:
    """The radius of one event: the usual one, or a smaller one, so that the largest circle is not too large."""
    one, most = radii
    return min(one, most / math.sqrt(max(largest, 1)))


def _radius(count: float, radius_of_one: float) -> float:
    """The radius of a circle whose area goes with its count, down to what can be seen."""
    return round(max(LEAST_RADIUS, radius_of_one * math.sqrt(count)), 2)


def _add_large_map(drawing: Drawing, drawn: Marks) -> None:
    place = Place(0, TOP)
    for name in ("land", "islands"):
        drawing.shape(place, name, fill=_colours()["land"], stroke=None)
    drawing.shape(place, "borders", filled=False, stroke=_colours()["paper"], strokeWidth=0.8)
    drawing.circles(drawn, place, _radius_of_one(drawn.largest, LARGE_RADII))
    for name, (x, y, width, height) in INSETS.items():
        drawing.box(x, TOP + y, width, height, stroke="rule")
        drawing.text(x + 4, TOP + y + 13, name, colour="quiet", fontSize=10.5)


def _add_side(drawing: Drawing, found: Located, drawn: Marks, paragraphs: Sequence[str]) -> None:
    """To the right of the large map: the classes, the sizes of circles, and the notes."""
    counts, y = found.class_counts(), TOP + 14
    for group in _groups(found) if sum(counts) else []:
        drawing.dot(SIDE + 7, y - 4, 6.0, fill=f"q{group}")
        drawing.text(SIDE + 22, y, CLASS_NAMES[group])
        drawing.text(WIDTH, y, with_share(counts[group], sum(counts)), align="right", colour="quiet")
        y += ENTRY
    if len(drawn):
        y = _add_key(drawing, "Events in a circle", drawn.largest, LARGE_RADII, SIDE, y + 12)
    for number, paragraph in enumerate(paragraphs):
        for line in textwrap.wrap(paragraph, NOTE_LETTERS):
            drawing.text(SIDE, y, line, colour="quiet" if number else "ink")
            y += LINE
        y += LINE // 2


def _add_key(drawing: Drawing, name: str, largest: int, radii: tuple[float, float], x: float, y: int) -> int:
    """Circles for one event, for a power of ten, and for the largest mark, one beside the other and standing on one line.

    Gives where what is below it may begin.
    """
    powers = [10**power for power in range(len(str(largest))) if 10**power < largest / 2]
    counts = [*powers[:: math.ceil(len(powers) / 2) or 1], largest]
    radius_of_one = _radius_of_one(largest, radii)
    foot = y + 8 + 2 * _radius(largest, radius_of_one)
    drawing.text(x, y, name, colour="quiet")
    for count in counts:
        r, label = _radius(count, radius_of_one), f"{count:,}"
        half = max(r, 4 * len(label))
        drawing.dot(x + half, foot - r, r, stroke="quiet")
        drawing.text(x + half, foot + 14, label, align="center", colour="quiet")
        x += 2 * half + 12
    return round(foot) + 46


def _add_small_maps(drawing: Drawing, found: Located, small: Mapping[str, Marks], y: int) -> int:
    """A map for each root code, those of a quad class in a row; gives how high they are together."""
    if not small:
        return 0
    largest = max(one.largest for one in small.values())
    if largest:
        # The first class has a code less than a row has space for.
        _add_key(drawing, "Events in a circle, below", largest, SMALL_RADII, 5 * (CELL + BETWEEN), y + 21)
    totals = found.class_counts()
    for group in _groups(found):
        codes = [code for code in small if CLASS_OF[CODES.index(code)] == group]
        drawing.box(0, y, len(codes) * (CELL + BETWEEN) - BETWEEN, 3, fill=f"q{group}")
        share = with_share(totals[group], len(found.events))
        drawing.text(0, y + 19, f"{CLASS_NAMES[group]}, {share}", fontWeight=600)
        for column, code in enumerate(codes):
            place = Place(column * (CELL + BETWEEN), y + HEADING + CELL_TEXT, SMALL)
            _add_heading(drawing, place, code, found, int(small[code].sectors["count"].sum()))
            for name in ("coarse_land", "coarse_islands"):
                drawing.shape(place, name, fill=_colours()["land"], stroke=None)
            drawing.circles(small[code], place, _radius_of_one(largest, SMALL_RADII), group)
        y += ROW
    return len(_groups(found)) * ROW


def _add_heading(drawing: Drawing, place: Place, code: str, found: Located, on_map: int) -> None:
    """Above a small map: code, count, and how many of it are on the map where that are not all; the name below."""
    x, y, count = place.x, place.y - CELL_TEXT + 12, found.counts()[CODES.index(code)]
    drawing.text(x, y, code, fontWeight=600)
    drawing.text(x + CELL, y, f"{count:,}" if count == on_map else f"{on_map:,} of {count:,}", align="right")
    for number, line in enumerate(textwrap.wrap(found.code_name(code), NAME_LETTERS)[:2], 1):
        drawing.text(x, y + 14 * number, line, colour="quiet")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"
