"""The ground of the map: projections, frames, and the outline with how it was made."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from etl_assets.systems.events.map import outline as map_outline
from etl_assets.systems.events.map.outline import outline
from etl_assets.systems.events.map.outline_source import outline as outline_of
from etl_assets.systems.events.map.projection import (
    EARTH_KM,
    FRAMES,
    HEIGHT,
    INSETS,
    PX_PER_KM,
    WIDTH,
    Albers,
    Frame,
    placed,
)
from etl_assets.systems.events.map.shapes import key, scale_for

NAMES = [frame.name for frame in FRAMES]
STYLE = Path(map_outline.__file__).with_name("map.css").read_text()


def one(latitude: float, longitude: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.array([latitude]), np.array([longitude])


def test_the_projection_gives_the_worked_example_of_snyder() -> None:
    # Professional Paper 1395, pages 291 and 292: 35° N 75° W on a sphere of radius 1.
    x, y = Albers((29.5, 45.5), 23, -96)(*one(35, -75))
    assert (round(float(x[0]), 7), round(float(y[0]), 7)) == (0.2952720, 0.2416774)


def test_the_origin_of_a_projection_is_its_zero_and_the_date_line_is_no_edge() -> None:
    alaska = INSETS[0].albers
    assert [float(value[0]) for value in alaska(*one(50, -154))] == pytest.approx([0, 0], abs=1e-12)
    x, _ = alaska(np.array([52.0, 52.0]), np.array([179.9, -179.9]))
    assert 0 < x[1] - x[0] < 0.003


@pytest.mark.parametrize("frame", FRAMES, ids=NAMES)
def test_areas_of_the_ground_are_areas_of_the_frame_in_its_north_and_its_south(frame: Frame) -> None:
    step = 1e-3
    for south in (frame.south, frame.north):
        latitudes = south + np.array([0, 0, step, step])
        longitudes = frame.west + np.array([0, step, step, 0])
        x, y = frame.points(latitudes, longitudes)
        drawn = abs(float((x - x[0]) @ np.roll(y - y[0], 1) - (y - y[0]) @ np.roll(x - x[0], 1))) / 2
        ground = EARTH_KM**2 * math.radians(step) ** 2 * math.cos(math.radians(south + step / 2))
        assert drawn / ground == pytest.approx((PX_PER_KM * frame.scale) ** 2, rel=1e-4)


@pytest.mark.parametrize(
    ("latitude", "longitude", "frame"),
    [
        (24.555, -81.78, "United States"),  # Key West
        (25.774, -80.194, "United States"),  # Miami, beside the inset of Puerto Rico
        (32.716, -117.161, "United States"),  # San Diego, above that of Alaska
        (31.34, -110.93, "United States"),  # Nogales
        (25.93, -97.48, "United States"),  # Brownsville
        (44.906, -66.99, "United States"),  # Eastport
        (48.37, -124.6, "United States"),  # Neah Bay
        (61.218, -149.9, "Alaska"),
        (71.29, -156.79, "Alaska"),  # Utqiagvik
        (52.9, 172.9, "Alaska"),  # Attu, beyond the date line
        (55.34, -131.65, "Alaska"),  # Ketchikan
        (21.98, -159.37, "Hawaii"),  # Lihue
        (19.7, -155.09, "Hawaii"),  # Hilo
        (18.466, -66.106, "Puerto Rico"),
        (17.73, -64.73, "Puerto Rico"),  # Saint Croix
    ],
)
def test_a_place_is_in_its_frame(latitude: float, longitude: float, frame: str) -> None:
    x, y, frames = placed(*one(latitude, longitude))
    assert NAMES[frames[0]] == frame
    assert FRAMES[frames[0]].covers(x, y).all()


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (13.47, 144.78),
        (-14.28, -170.7),
        (15.2, 145.75),
        (0, 0),
        (52.5, 13.4),
        (29.07, -110.97),
        (25, -124.9),
        (32, -67),
        (-90, 0),
        (90, 180),
    ],
)
def test_a_place_that_cannot_be_shown_has_no_frame(latitude: float, longitude: float) -> None:
    x, y, frames = placed(*one(latitude, longitude))
    assert frames[0] == -1 and np.isnan(x[0]) and np.isnan(y[0])


def test_places_are_where_they_are_on_any_map() -> None:
    towns = {"Seattle": (47.61, -122.33), "Boston": (42.36, -71.06), "Miami": (25.77, -80.19), "Los Angeles": (34.05, -118.24), "Chicago": (41.88, -87.63)}  # fmt: skip
    x, y, _ = placed(*(np.array(values) for values in zip(*towns.values(), strict=True)))
    assert [[*towns][place] for place in np.argsort(x)] == ["Los Angeles", "Seattle", "Chicago", "Miami", "Boston"]
    assert [[*towns][place] for place in np.argsort(y)] == ["Seattle", "Boston", "Chicago", "Los Angeles", "Miami"]
    # New York is 3,936 km from Los Angeles as the crow flies; the projection is true to one per cent there.
    x, y, _ = placed(np.array([40.71, 34.05]), np.array([-74.01, -118.24]))
    assert math.hypot(x[1] - x[0], y[1] - y[0]) / PX_PER_KM == pytest.approx(3936, rel=0.01)


def test_the_outline_is_inside_of_the_picture_and_says_where_it_comes_from() -> None:
    file = Path(map_outline.__file__).with_name("us_outline.json")
    assert file.stat().st_size < 40_000
    given = json.loads(file.read_text())
    assert "U.S. Census Bureau" in given["origin"] and "public domain" in given["licence"]
    assert outline().land.count("z") == len(given["land"])
    paths = re.findall(r"M([^l]+)l([^Mz]+)", outline().land)
    for (start, steps), ring in zip(paths, given["land"], strict=True):
        drawn = np.cumsum([numbers(start), *np.array(numbers(steps)).reshape(-1, 2)], axis=0)
        assert (drawn >= 0).all() and (drawn <= [WIDTH, HEIGHT]).all()
        for place, end in ((0, 0), (-1, len(ring) - 2)):
            x, y, _ = placed(*one(ring[end + 1], ring[end]))
            assert drawn[place] == pytest.approx([x[0], y[0]], abs=0.06)


def test_the_outline_goes_round_the_towns_of_the_country_and_not_round_its_neighbours() -> None:
    lines = [np.array(ring).reshape(-1, 2) for ring in json.loads(Path(map_outline.__file__).with_name("us_outline.json").read_text())["land"]]  # fmt: skip
    inside = {"Denver": (39.74, -104.99), "Anchorage": (61.2, -149.6), "Hilo": (19.65, -155.2), "Ponce": (18.1, -66.6)}
    outside = {"Toronto": (43.7, -79.6), "Monterrey": (25.67, -100.3), "Lake Michigan": (43.5, -87.0)}
    assert all(sum(map(within, lines, [place] * len(lines))) == 1 for place in inside.values())
    assert not any(within(line, place) for line in lines for place in outside.values())


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", text)]


def within(ring: npt.NDArray[np.float64], place: tuple[float, float]) -> bool:
    """Whether a place is inside of a ring: a ray from it crosses the ring an odd number of times."""
    (y, x), (xs, ys) = place, ring.T
    next_x, next_y = np.roll(xs, -1), np.roll(ys, -1)
    crossed = (ys > y) != (next_y > y)
    at = xs[crossed] + (y - ys[crossed]) / (next_y - ys)[crossed] * (next_x - xs)[crossed]
    return bool((at > x).sum() % 2)


def topology(arcs: list[list[tuple[float, float]]], states: list[Any], nation: list[Any]) -> dict[str, Any]:
    """Quantized to hundredths of degrees, from 130° W and 20° N."""
    quantized = [np.round((np.array(arc) - [-130, 20]) * 100).astype(int) for arc in arcs]
    return {
        "transform": {"scale": [0.01, 0.01], "translate": [-130, 20]},
        "arcs": [np.diff(arc, axis=0, prepend=[[0, 0]]).tolist() for arc in quantized],
        "objects": {
            "states": {"geometries": [{"type": "Polygon", "arcs": rings} for rings in states]},
            "nation": {"geometries": [{"type": "MultiPolygon", "arcs": nation}]},
        },
    }


def test_an_outline_is_made_of_land_and_of_what_two_states_share_without_points_that_nobody_sees() -> None:
    border = [(-100.0, 40.0), (-100.01, 41.0), (-100.0, 42.0)]  # bent by less than a kilometre
    west = [(-100.0, 42.0), (-104.0, 42.0), (-104.0, 40.0), (-100.0, 40.0)]
    east = [(-100.0, 40.0), (-96.0, 40.0), (-96.0, 42.0), (-100.0, 42.0)]
    islet = [(-90.0, 40.0), (-90.01, 40.0), (-90.0, 40.01), (-90.0, 40.0)]
    made = outline_of(topology([border, west, east, islet], [[[0, 1]], [[2, ~0]], [[3]]], [[[~2, ~1]], [[3]]]))
    assert made["borders"] == [[-100.0, 40.0, -100.0, 42.0]]
    assert made["land"] == [[-100.0, 42.0, -96.0, 42.0, -96.0, 40.0, -100.0, 40.0, -104.0, 40.0, -104.0, 42.0]]


def test_the_key_has_powers_of_ten_and_the_largest_circle_on_one_line() -> None:
    scale = scale_for(400, one=2.6, most=26)
    circles = key(scale, 400)
    assert [(circle.label, circle.r) for circle in circles] == [("1", 1.3), ("10", 4.11), ("100", 13.0), ("400", 26.0)]
    assert {round(circle.y + circle.r, 2) for circle in circles} == {52.0}
    assert all(b.x - b.r > a.x + a.r for a, b in itertools.pairwise(circles))
    assert [circle.label for circle in key(scale, 1)] == ["1"]


@pytest.mark.parametrize(("scheme", "paper"), [(0, "#fdfdfb"), (1, "#14181b")])
def test_each_class_stands_out_from_land_and_paper(scheme: int, paper: str) -> None:
    colours = dict(re.findall(r"--(\w+): (#\w{6})", STYLE.split("prefers-color-scheme: dark")[scheme]))
    for name in ("q0", "q1", "q2", "q3", "q4"):
        for behind in (colours["land"], paper):
            low, high = sorted((light(colours[name]), light(behind)))
            assert (high + 0.05) / (low + 0.05) >= 3, (name, behind)


def light(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
