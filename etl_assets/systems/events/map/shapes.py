"""Marks as circles and sectors of SVG, and the key that says how many events a circle stands for."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from etl_assets.systems.events.map.marks import Mark, Marks

LEAST_RADIUS = 0.8  # what is smaller could not be seen


@dataclass(frozen=True)
class Scale:
    """How large a mark is: its area goes with its count, down to what can be seen."""

    radius_of_one: float

    def radius(self, count: int) -> float:
        """The radius of a mark of so many events, in pixels."""
        return round(max(LEAST_RADIUS, self.radius_of_one * math.sqrt(count)), 2)


@dataclass(frozen=True)
class Sector:
    """A part of a circle, as data of a path."""

    group: int
    d: str


@dataclass(frozen=True)
class Shape:
    """A mark as it is drawn: a circle of one group, or sectors if there are several."""

    x: float
    y: float
    r: float
    group: int
    vague: bool
    sectors: tuple[Sector, ...] = ()


@dataclass(frozen=True)
class KeyCircle:
    """A circle of the key, and what is written below it."""

    x: float
    y: float
    r: float
    label: str
    label_y: float


def scale_for(largest: int, *, one: float, most: float) -> Scale:
    """The scale in which an event has the radius `one`, or a smaller one, so that the largest mark has at most `most`."""
    return Scale(min(one, most / math.sqrt(max(largest, 1))))


def shapes(marks: Marks, scale: Scale, *, group: int | None = None, factor: float = 1.0) -> list[Shape]:
    """Marks as they are drawn.

    Args:
        group: what all of them are; None where the counts of a mark are those of the groups.
        factor: of the places, for a picture that is smaller than the map.
    """
    return [_shape(mark, scale, group, factor) for mark in marks.marks]


def key(scale: Scale, largest: int) -> list[KeyCircle]:
    """Circles for one event, for powers of ten, and for the largest mark, one beside the other and standing on one line."""
    counts = [10**power for power in range(len(str(largest))) if 10**power < largest / 2] + [largest]
    foot, x, circles = 2 * scale.radius(largest), 0.0, []
    for count in counts:
        r, label = scale.radius(count), f"{count:,}"
        half = max(r, 3.5 * len(label))
        circles.append(KeyCircle(round(x + half, 1), round(foot - r, 2), r, label, round(foot + 14, 1)))
        x += 2 * half + 14
    return circles


def _shape(mark: Mark, scale: Scale, group: int | None, factor: float) -> Shape:
    x, y, r = round(mark.x * factor, 1), round(mark.y * factor, 1), scale.radius(mark.count)
    there = [place for place, count in enumerate(mark.counts) if count]
    if group is None and len(there) > 1:
        return Shape(x, y, r, 0, mark.vague, tuple(_sectors(x, y, r, mark.counts)))
    return Shape(x, y, r, there[0] if group is None else group, mark.vague)


def _sectors(x: float, y: float, r: float, counts: Sequence[int]) -> list[Sector]:
    """The sectors of a circle in the order of the groups, clockwise from the top."""
    ends = [end / sum(counts) for end in itertools.accumulate(counts, initial=0)]
    corners = [(r * math.sin(2 * math.pi * end), -r * math.cos(2 * math.pi * end)) for end in ends]
    return [
        Sector(
            group, f"M{x} {y}l{x0:.2f} {y0:.2f}a{r} {r} 0 {int(2 * count > sum(counts))} 1 {x1 - x0:.2f} {y1 - y0:.2f}z"
        )
        for group, (count, (x0, y0), (x1, y1)) in enumerate(zip(counts, corners, corners[1:], strict=False))
        if count
    ]
