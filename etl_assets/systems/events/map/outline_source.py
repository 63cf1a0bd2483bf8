"""How the outline of the United States that the picture is drawn on was made of a larger one; nothing else uses this.

npm pack us-atlas@3.0.1 && tar -xzf us-atlas-3.0.1.tgz
python -m etl_assets.systems.events.map.outline_source package/states-10m.json > etl_assets/systems/events/map/us_outline.json
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etl_assets.systems.events.map.projection import FRAMES, Frame, Numbers

TOLERANCE_PX = 0.6
LEAST_AREA_PX = 2.0
ORIGIN = (
    "U.S. Census Bureau, cartographic boundary files, 2017 edition, 1:10,000,000, as TopoJSON by the package us-atlas 3.0.1; "
    "simplified by etl_assets/systems/events/map/outline_source.py"
)
LICENCE = (
    "The data are a work of the United States government and in the public domain (17 U.S.C. 105). The package is under the "
    "ISC licence: Copyright 2013-2019 Michael Bostock. Permission to use, copy, modify, and/or distribute this software for "
    "any purpose with or without fee is hereby granted, provided that the above copyright notice and this permission notice "
    'appear in all copies. THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS '
    "SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY "
    "SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR "
    "PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE "
    "USE OR PERFORMANCE OF THIS SOFTWARE."
)


def outline(topology: dict[str, Any]) -> dict[str, Any]:
    """The outline: closed lines round land, and the borders between two states, as longitude and latitude in turn.

    Args:
        topology: of the objects `states` and `nation`, with quantized arcs.
    """
    arcs = [_arc(topology["transform"], arc) for arc in topology["arcs"]]
    lines = [None if (frame := _frame(arc)) is None else _simple(arc, frame) for arc in arcs]
    land = [
        np.concatenate([_arc_of(lines, number)[:-1] for number in ring])
        for ring in _rings(topology["objects"]["nation"])
        if lines[_place(ring[0])] is not None
    ]
    uses = Counter(_place(number) for ring in _rings(topology["objects"]["states"]) for number in ring)
    borders = [line for place, line in enumerate(lines) if line is not None and uses[place] > 1]
    return {
        "origin": ORIGIN,
        "licence": LICENCE,
        "land": [_numbers(ring) for ring in land if _area(ring) >= LEAST_AREA_PX],
        "borders": [_numbers(line) for line in borders],
    }


def _arc(transform: dict[str, Any], arc: Sequence[Sequence[int]]) -> Numbers:
    return np.cumsum(np.array(arc), axis=0) * transform["scale"] + transform["translate"]


def _place(number: int) -> int:
    """The place of an arc in the list; one that is walked backwards is written as its complement."""
    return ~number if number < 0 else number


def _arc_of(lines: Sequence[Numbers | None], number: int) -> Numbers:
    line = lines[_place(number)]
    assert line is not None, "a ring has arcs in several frames"
    return line[::-1] if number < 0 else line


def _rings(collection: dict[str, Any]) -> Iterator[Sequence[int]]:
    for geometry in collection["geometries"]:
        for polygon in geometry["arcs"] if geometry["type"] == "MultiPolygon" else [geometry["arcs"]]:
            yield from polygon


def _frame(line: Numbers) -> Frame | None:
    return next((frame for frame in FRAMES if frame.has(line[:, 1], line[:, 0]).all()), None)


def _simple(line: Numbers, frame: Frame) -> Numbers:
    """A line without the points that are nearer to the rest than the tolerance, by Douglas and Peucker's method."""
    points = np.column_stack(frame.points(line[:, 1], line[:, 0]))
    kept = {0, len(line) - 1}
    pieces = [(0, len(line) - 1)]
    while pieces:
        first, last = pieces.pop()
        along, between = points[last] - points[first], points[first + 1 : last] - points[first]
        # Of a closed line the ends are one point; the distance is then that from it.
        share = np.clip(between @ along / (along @ along or 1.0), 0, 1)
        distances = np.hypot(*(between - share[:, None] * along).T)
        if distances.size and distances.max() > TOLERANCE_PX:
            middle = first + 1 + int(distances.argmax())
            kept.add(middle)
            pieces += [(first, middle), (middle, last)]
    return line[sorted(kept)]


def _area(ring: Numbers) -> float:
    frame = _frame(ring)
    assert frame is not None
    x, y = frame.points(ring[:, 1], ring[:, 0])
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def _numbers(line: Numbers) -> list[float]:
    return [round(float(value), 2) for value in line.ravel()]


if __name__ == "__main__":
    print(json.dumps(outline(json.loads(Path(sys.argv[1]).read_text())), separators=(",", ":")))
