"""The map of events: where they are, how many a circle is, and what is said of those that are not on it."""

import base64
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from etl_assets.core.charts.pictures import in_markdown
from etl_assets.core.charts.theme import palette
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.events import map as picture
from etl_assets.systems.events.contracts import UsEventData
from etl_assets.systems.events.map import ALTERNATIVE, us_map_svg
from etl_assets.systems.events.map import places as map_marks
from etl_assets.systems.events.map.places import QUAD_CLASSES, REGIONS, located, marks, notes
from etl_assets.systems.events.transform import ROOT_CLASSES
from etl_assets_tests.systems.events.raw_rows import needs_shared_file, shared_table

SVG = "{http://www.w3.org/2000/svg}"
STYLE = Path(picture.__file__).with_name("map.css").read_text()
COLOURS = palette(Path(picture.__file__).with_name("map.css"))
SCHEMA = arrow_schema(UsEventData, ("event_root_code", "action_geo_full_name", "action_geo_lat", "action_geo_long"))
Place = tuple[float | None, float | None]
DENVER, MIAMI, GUAM = (39.7392, -104.985), (25.7743, -80.1937), (13.4667, 144.7833)
HOSTILE = [
    "<script>alert(1)</script>", '"><svg onload="alert(1)">', "]]>", "&amp;", "{{ 7 * 7 }}", "a\x00b\x1f", "x" * 300,
]  # fmt: skip


def event(code: str | None = "04", at: Place = DENVER, *, name: str | None = "Place, State, Country") -> dict[str, Any]:
    return {"event_root_code": code, "action_geo_full_name": name, "action_geo_lat": at[0], "action_geo_long": at[1]}


def table(*events: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(events), schema=SCHEMA)


def scattered(count: int) -> pa.Table:
    """Events all over the largest frame, no two at one place."""
    random = np.random.default_rng(7)
    codes, latitudes = random.choice([*ROOT_CLASSES], count), random.uniform(32, 48, count)
    return pa.table([codes, ["a, b, c"] * count, latitudes, random.uniform(-118, -75, count)], schema=SCHEMA)


class Picture:
    """A picture as a reader of XML sees it."""

    def __init__(self, events: pa.Table, *, title: str = "Events", label: str = "21 January 2019") -> None:
        self.root = ET.fromstring(us_map_svg(events, title=title, label=label))
        self.texts = [
            (*place(text), "".join(text.itertext())) for text in self.root.iter(f"{SVG}text") if text.get("transform")
        ]
        self.words = " ".join(text for _, _, text in self.texts)
        self.description = self.root.findtext(f"{SVG}desc") or ""
        # Colour, whether it is pale, place, and shape of each circle or sector.
        self.arcs = [
            (path.get("fill", ""), path.get("fill-opacity") is not None, *place(path), path.get("d", ""))
            for group in self.root.iter(f"{SVG}g")
            if "mark-arc" in group.get("class", "")
            for path in group.iter(f"{SVG}path")
        ]

    @property
    def circles(self) -> list[tuple[str, float]]:
        """Class and radius of each circle of the large map that is all of one class."""
        names = {COLOURS[f"q{group}"]: f"q{group}" for group in range(5)}
        large = [(names[fill], pale, d) for fill, pale, _, y, d in self.arcs if y < picture.TOP + picture.MAP_HEIGHT]
        return [(name + " pale" * pale, radius_of(d)) for name, pale, d in large if "L" not in d]

    def cell(self, code: str) -> tuple[list[str], list[float]]:
        """What is written above the small map of a code, and the radii of its circles."""
        ((left, top, _),) = [found for found in self.texts if found[2] == code and found[1] > picture.MAP_HEIGHT]

        def here(x: float, y: float, height: float) -> bool:
            return left <= x <= left + picture.CELL and top <= y < top + height

        texts = [text for x, y, text in self.texts if here(x, y, 40) and text != code]
        return texts, [radius_of(d) for _, _, x, y, d in self.arcs if here(x, y, 150)]


def place(element: ET.Element) -> tuple[float, float]:
    x, y = re.findall(r"-?[0-9.]+", element.get("transform", ""))
    return float(x), float(y)


def radius_of(d: str) -> float:
    """The radius of an arc, by its path."""
    return float(d.partition("A")[2].partition(",")[0])


def counts_of(radii: list[float], radius_of_one: float) -> list[int]:
    """How many events circles are, by their areas."""
    return [round((radius / radius_of_one) ** 2) for radius in radii]


# Circles


def test_the_area_of_a_circle_is_the_number_of_events_at_its_place() -> None:
    drawn = Picture(table(*[event("04")] * 9, *[event("19", MIAMI)] * 4, event("19", (61.2, -149.9))))
    assert [kind for kind, _ in drawn.circles] == ["q0", "q3", "q3"]
    assert counts_of([radius for _, radius in drawn.circles], picture.LARGE_RADII[0]) == [9, 4, 1]
    assert counts_of(drawn.cell("19")[1], picture.SMALL_RADII[0]) == [4, 1]
    assert "On the map: 14 of 14 events, in 3 circles." in drawn.description


def test_classes_at_one_place_share_a_circle_by_their_numbers() -> None:
    events = table(*[event("01")] * 3, event("20"))
    sectors = marks(located(events).drawn).sectors
    # Clockwise from the top: three quarters, then the last one back to the top.
    assert sectors["group"].tolist() == [0, 3]
    assert sectors["start"].tolist() == pytest.approx([0, 1.5 * math.pi])
    assert sectors["end"].tolist() == pytest.approx([1.5 * math.pi, 2 * math.pi])
    drawn = Picture(events)
    assert drawn.circles == []
    assert [fill for fill, *_ in drawn.arcs[:2]] == [COLOURS["q0"], COLOURS["q3"]]


def test_circles_of_the_key_are_as_large_as_those_of_the_map() -> None:
    drawn = Picture(table(*[event()] * 9))
    symbols = [
        path
        for group in drawn.root.iter(f"{SVG}g")
        if "mark-symbol" in group.get("class", "")
        for path in group.iter(f"{SVG}path")
    ]
    of_key = {radius_of(path.get("d", "")) for path in symbols if path.get("stroke") == COLOURS["quiet"]}
    ((_, largest),) = drawn.circles
    assert max(of_key) == pytest.approx(largest, abs=0.01)


def test_a_crowd_makes_all_circles_smaller_and_no_one_invisible() -> None:
    drawn = Picture(table(*[event()] * 10_000, event(at=MIAMI)))
    assert [radius for _, radius in drawn.circles] == [picture.LARGE_RADII[1], 0.8]


@pytest.mark.parametrize("count", [50, 3000])
def test_every_event_is_in_one_circle_of_the_large_map_and_in_one_of_its_root_code(count: int) -> None:
    found = located(scattered(count))
    drawn = marks(found.drawn)
    by_class = drawn.sectors.groupby("group")["count"].sum().tolist()
    assert by_class == np.bincount(found.events["group"]).tolist()
    assert (sum(by_class), len(drawn) <= map_marks.MOST_MARKS) == (count, True)
    for code, small in picture._small_marks(found).items():
        assert small.sectors["count"].sum() == found.counts()[[*ROOT_CLASSES].index(code)]
        assert len(small) <= picture.MOST_SMALL_MARKS


def test_events_that_are_put_together_are_at_their_mean_and_how_near_they_were_is_said() -> None:
    found = located(scattered(3000))
    drawn = marks(found.drawn)
    for name in ("latitude", "longitude"):
        mean = np.average(drawn.sectors[name], weights=drawn.sectors["count"])
        assert mean == pytest.approx(found.events[name].mean(), abs=0.001)
    nearest = f"Events that are closer than about {drawn.merged_km:.0f} km may share a circle."
    assert nearest in notes(found, drawn, small_merged_km=0)
    few = located(scattered(50))
    assert "closer" not in " ".join(notes(few, marks(few.drawn), small_merged_km=0))


def test_what_is_only_in_a_state_or_in_the_country_is_pale_and_apart_from_what_is_at_a_place() -> None:
    middle = (39.828175, -98.5795)
    drawn = Picture(
        table(
            event(at=middle, name="United States"), event(at=middle, name="United States"),
            event(at=middle), event(name="Colorado, United States"), event(at=MIAMI, name=None), event(at=(34, -84), name=""),
        )
    )  # fmt: skip
    assert sorted(kind for kind, _ in drawn.circles) == ["q0"] * 3 + ["q0 pale"] * 2
    assert "the middle of a state (1 event) or of the country (2)" in drawn.description


def test_without_names_of_places_none_is_pale() -> None:
    nameless = table(event(name="United States")).drop_columns("action_geo_full_name")
    assert located(nameless).events["vague"].tolist() == [0]


# Where they are


def test_whatever_counts_as_on_the_map_is_drawn_within_its_frame() -> None:
    places = {name: lattice(name) for name in REGIONS}
    drawn = Picture(table(*(event("04", at) for of_region in places.values() for at in of_region)))
    on_map = [(x, y - picture.TOP) for _, _, x, y, _ in drawn.arcs if y < picture.TOP + picture.MAP_HEIGHT]
    assert len(on_map) == sum(map(len, places.values()))
    counts = {name: sum(inside(at, box) for at in on_map) for name, box in picture.INSETS.items()}
    assert counts == {name: len(places[name]) for name in picture.INSETS}
    assert all(inside(at, (0, 0, picture.MAP_WIDTH, picture.MAP_HEIGHT)) for at in on_map)


def lattice(name: str) -> list[Place]:
    """Places all over a region, up to its edges."""
    along, south, north = map(np.array, zip(*REGIONS[name], strict=True))
    return [
        (lat, (east + 180) % 360 - 180)
        for east in np.linspace(along[0] + 0.01, along[-1] - 0.01, 14).tolist()
        for lat in np.linspace(np.interp(east, along, south) + 0.01, np.interp(east, along, north) - 0.01, 6).tolist()
    ]


def inside(at: tuple[float, float], box: tuple[float, float, float, float]) -> bool:
    left, top, width, height = box
    return left <= at[0] <= left + width and top <= at[1] <= top + height


def test_a_place_of_the_country_is_on_the_map_and_no_other() -> None:
    ours = {
        "Key West": (24.555, -81.78), "San Diego": (32.716, -117.161), "Nogales": (31.34, -110.93), "Brownsville": (25.93, -97.48),
        "Eastport": (44.906, -66.99), "Neah Bay": (48.37, -124.6), "Utqiagvik": (71.29, -156.79), "Attu": (52.9, 172.9),
        "Ketchikan": (55.34, -131.65), "Nantucket": (41.28, -69.96), "Lihue": (21.98, -159.37), "San Juan": (18.466, -66.106),
        "Saint Croix": (17.73, -64.73), "Miami": (25.774, -80.194), "Adak": (51.88, -176.65), "Hilo": (19.7, -155.09),
    }  # fmt: skip
    others = {
        "Guam": (13.47, 144.78), "Pago Pago": (-14.28, -170.7), "nowhere": (0, 0), "Berlin": (52.5, 13.4),
        "Hermosillo": (29.07, -110.97), "the Pacific": (25, -124.9), "the Atlantic": (32, -67), "a pole": (-90, 0), "the other": (90, 180),
    }  # fmt: skip
    on_map = {name: bool(located(table(event(at=at))).events["on_map"][0]) for name, at in {**ours, **others}.items()}
    assert on_map == {**dict.fromkeys(ours, True), **dict.fromkeys(others, False)}


def test_the_outline_goes_round_the_towns_of_the_country_and_says_where_it_comes_from() -> None:
    file = Path(picture.__file__).with_name("us_outline.json")
    given = json.loads(file.read_text())
    assert "U.S. Census Bureau" in given["origin"] and "public domain" in given["licence"]
    assert file.stat().st_size < 50_000
    towns = {"Denver": (39.74, -104.99), "Anchorage": (61.2, -149.6), "Hilo": (19.65, -155.2), "Ponce": (18.1, -66.6)}
    others = {"Toronto": (43.7, -79.6), "Monterrey": (25.67, -100.3), "Lake Michigan": (43.5, -87.0)}
    for shapes in (("land", "islands"), ("coarse_land", "coarse_islands")):
        rings = [np.array(ring) for shape in shapes for (ring,) in given[shape]["coordinates"]]
        assert all(sum(within(ring, at) for ring in rings) == 1 for at in towns.values())
        assert not any(within(ring, at) for ring in rings for at in others.values())


def within(ring: npt.NDArray[np.float64], at: tuple[float, float]) -> bool:
    """Whether a place is inside of a ring: a ray from it crosses the ring an odd number of times."""
    (y, x), (xs, ys) = at, ring.T
    next_x, next_y = np.roll(xs, -1), np.roll(ys, -1)
    crossed = (ys > y) != (next_y > y)
    crossings = xs[crossed] + (y - ys[crossed]) / (next_y - ys)[crossed] * (next_x - xs)[crossed]
    return bool((crossings > x).sum() % 2)


# What is said


def test_events_that_are_not_on_the_map_are_counted_by_reason_and_in_their_root_code() -> None:
    nowhere: list[Place] = [
        (None, None), (None, -100.0), (math.nan, 1.0), (0.0, 0.0), (-0.0, 0.0), GUAM, (52.5, 13.4), (95.0, 200.0), (math.inf, 0.0),
    ]  # fmt: skip
    drawn = Picture(table(event("04"), *(event("04", at) for at in nowhere), event("11", GUAM)))
    assert (
        "On the map: 1 of 11 events, in 1 circle. Not on the map: 4 without coordinates, 2 at (0, 0) and 4 outside of the map."
        in drawn.description
    )
    assert drawn.cell("04") == (["Consult", "1 of 10"], [picture.SMALL_RADII[0]])
    assert drawn.cell("11") == (["Disapprove", "0 of 1"], [])


def test_a_picture_of_events_that_are_all_elsewhere_says_so() -> None:
    drawn = Picture(table(event(at=GUAM)))
    assert "On the map: 0 of 1 event, in 0 circles. Not on the map: 1 outside of the map." in drawn.description
    assert drawn.circles == []
    assert "Events in a circle" not in drawn.words


def test_each_root_code_has_a_small_map_with_its_name_and_number() -> None:
    drawn = Picture(table(*(event(code) for code in ROOT_CLASSES), event("01")))
    for code, name in ROOT_CLASSES.items():
        (*words, count), radii = drawn.cell(code)
        assert all(len(line) <= picture.NAME_LETTERS for line in words)
        assert (count, " ".join(words)) == ("2" if code == "01" else "1", name.capitalize())
        assert counts_of(radii, picture.SMALL_RADII[0]) == [int(count)]
    assert "By root code: 01 Make public statement 2; 02 Appeal 1;" in drawn.description
    assert "Verbal cooperation, 6 · 29 %" in drawn.words
    assert "Not in CAMEO" not in drawn.words


def test_codes_that_cameo_does_not_know_are_shown_apart_and_named() -> None:
    drawn = Picture(table(event("04"), event("21"), event("21"), event("1"), event(None)))
    assert "Events by class: Verbal cooperation 1; Not in CAMEO 4." in drawn.description
    assert "Not in CAMEO 21, no code and 1 4" in drawn.description
    assert {COLOURS["q0"], COLOURS["q4"]} == {fill for fill, *_ in drawn.arcs}


@needs_shared_file
def test_the_classes_of_root_codes_are_those_of_the_feed() -> None:
    raw = shared_table()
    quad = {code: place for place, codes in enumerate(QUAD_CLASSES.values(), 1) for code in codes}
    assert set(zip(raw["event_root_code"].to_pylist(), raw["quad_class"].to_pylist(), strict=True)) == set(quad.items())


@needs_shared_file
def test_the_events_of_a_real_file_are_all_on_the_map() -> None:
    raw = shared_table()
    drawn = Picture(raw.filter(pa.compute.equal(raw["action_geo_country_code"], "US")))
    assert "On the map: 533 of 533 events" in drawn.description
    assert "the middle of a state (174 events) or of the country (40)" in drawn.description
    assert drawn.cell("04")[0] == ["Consult", "126"]


def test_no_events_are_a_map_that_says_so() -> None:
    drawn = Picture(SCHEMA.empty_table())
    assert "There are no events." in drawn.words
    assert drawn.description.startswith("There are no events.")
    assert drawn.arcs == []
    assert "Verbal" not in drawn.words


# The picture as a document


def test_hostile_text_stays_text() -> None:
    title = " ".join(HOSTILE[:-1])
    drawn = us_map_svg(table(*(event(text, name=text) for text in HOSTILE)), title=title, label=HOSTILE[-1])
    root = ET.fromstring(drawn)
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "defs", "g", "path", "rect", "text", "tspan"}
    assert root.findtext(f"{SVG}title") == title.replace("\x00", "\ufffd").replace("\x1f", "\ufffd")
    assert "x" * 99 + "…" in {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)


def test_the_picture_needs_nothing_beside_it_has_words_and_is_all_of_it_in_the_metadata() -> None:
    svg = us_map_svg(table(event()), title="Events", label="")
    root = ET.fromstring(svg)
    assert not [name for element in root.iter() for name in element.attrib if name.endswith("href")]
    assert root.get("role") == "img"
    assert set((root.get("aria-labelledby") or "").split()) <= {element.get("id") for element in root.iter()}
    found = re.fullmatch(r"!\[([^]]+)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", in_markdown(svg, ALTERNATIVE))
    assert found and found[1] == "Map of the events in the United States by CAMEO root code"
    assert base64.b64decode(found[2]).decode() == svg


@pytest.mark.long
def test_the_same_events_in_another_order_are_the_same_picture() -> None:
    events = pa.concat_tables([scattered(3000), table(*[event(), event("19"), event(None), event(at=GUAM)] * 3)])
    order = np.random.default_rng(1).permutation(events.num_rows)
    again = us_map_svg(events.take(order), title="Events", label="")
    assert again == us_map_svg(events, title="Events", label="")


@pytest.mark.long
def test_the_picture_does_not_grow_without_end() -> None:
    assert len(us_map_svg(scattered(20_000), title="Events", label="")) < 350_000


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
