"""The map of events: where they are, how many a circle is, and what is said of those that are not on it."""

import base64
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.events.cameo import ROOT_CLASSES
from etl_assets.systems.events.contracts import UsEventData
from etl_assets.systems.events.map import cells as map_cells
from etl_assets.systems.events.map import marks as map_marks
from etl_assets.systems.events.map.marks import CLASS_OF, QUAD_CLASSES, Located, located, marks
from etl_assets.systems.events.map.picture import LARGEST_RADIUS, RADIUS_OF_ONE, as_markdown, us_map_svg
from etl_assets_tests.systems.events.raw_rows import needs_shared_file, shared_table

SVG = "{http://www.w3.org/2000/svg}"
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
        self.words = " ".join("".join(text.itertext()) for text in self.root.iter(f"{SVG}text"))
        self.description = self.root.findtext(f"{SVG}desc") or ""
        self.map = self.root.findall(f"{SVG}g")[0]

    @property
    def circles(self) -> list[tuple[str, float]]:
        """Class and radius of each circle of the large map that is all of one class."""
        return [(circle.get("class", ""), float(circle.get("r", ""))) for circle in self.map.iter(f"{SVG}circle")]

    @property
    def sectors(self) -> list[tuple[str, str]]:
        """Class and data of each sector of the large map."""
        return [(path.get("class", ""), path.get("d", "")) for path in self.map.findall(f"{SVG}path")]

    def cell(self, code: str) -> tuple[list[str], list[float]]:
        """What is written above the small map of a code, and the radii of its circles."""
        for cell in self.root.iter(f"{SVG}g"):
            texts = ["".join(text.itertext()) for text in cell.findall(f"{SVG}text")]
            if texts[:1] == [code] and len(texts) > 2:
                return texts[1:], [float(circle.get("r", "")) for circle in cell.iter(f"{SVG}circle")]
        raise AssertionError(f"there is no small map of {code}")


def counts_of(radii: list[float], radius_of_one: float) -> list[int]:
    """How many events circles are, by their areas."""
    return [round((radius / radius_of_one) ** 2) for radius in radii]


# Circles


def test_the_area_of_a_circle_is_the_number_of_events_at_its_place() -> None:
    picture = Picture(table(*[event("04")] * 9, *[event("19", MIAMI)] * 4, event("19", (61.2, -149.9))))
    assert [kind for kind, _ in picture.circles] == ["mark q0", "mark q3", "mark q3"]
    assert counts_of([radius for _, radius in picture.circles], RADIUS_OF_ONE) == [9, 4, 1]
    assert counts_of(picture.cell("19")[1], map_cells.RADIUS_OF_ONE) == [4, 1]
    assert "On the map: 14 of 14 events, in 3 circles." in picture.words


def test_classes_at_one_place_share_a_circle_by_their_numbers() -> None:
    picture = Picture(table(*[event("01")] * 3, event("20")))
    r = 2 * RADIUS_OF_ONE
    assert picture.circles == []
    (cooperation, large), (conflict, small) = picture.sectors
    assert (cooperation, conflict) == ("mark q0", "mark q3")
    # Clockwise from the top: three quarters, then the last one back to the top.
    assert re.findall(r"l(\S+) (\S+)a(\S+) \S+ 0 (\d) 1 (\S+) (\S+)z", large) == [
        ("0.00", f"-{r:.2f}", str(r), "1", f"-{r:.2f}", f"{r:.2f}")
    ]
    assert re.findall(r"a\S+ \S+ 0 (\d) 1 (\S+) (\S+)z", small) == [("0", f"{r:.2f}", f"-{r:.2f}")]


def test_a_crowd_makes_all_circles_smaller_and_no_one_invisible() -> None:
    picture = Picture(table(*[event()] * 10_000, event(at=MIAMI)))
    assert [radius for _, radius in picture.circles] == [LARGEST_RADIUS, 0.8]


@pytest.mark.parametrize("count", [50, 3000])
def test_every_event_is_in_one_circle_of_the_large_map_and_in_one_of_its_root_code(count: int) -> None:
    found = located(scattered(count))
    drawn = marks(found, found.shown, CLASS_OF[found.codes])
    by_class = np.array([mark.counts for mark in drawn.marks]).sum(axis=0)
    assert by_class.tolist() == np.bincount(CLASS_OF[found.codes], minlength=5).tolist()
    assert by_class.sum() == count
    assert len(drawn.marks) <= map_marks.MOST_MARKS
    for row in map_cells.small_maps(found, 0).rows:
        for cell in row.cells:
            assert int(cell.counted) == (found.codes == [*ROOT_CLASSES].index(cell.code)).sum()
            assert len(cell.shapes) <= map_cells.MOST_MARKS


def test_events_that_are_put_together_are_at_their_mean_and_how_near_they_were_is_said() -> None:
    picture, few = Picture(scattered(3000)), Picture(scattered(50))
    found = located(scattered(3000))
    drawn = marks(found, found.shown, CLASS_OF[found.codes])
    weights = [mark.count for mark in drawn.marks]
    assert np.average([mark.x for mark in drawn.marks], weights=weights) == pytest.approx(found.x.mean(), abs=0.05)
    assert np.average([mark.y for mark in drawn.marks], weights=weights) == pytest.approx(found.y.mean(), abs=0.05)
    assert f"closer than about {drawn.merged_km:.0f} km may share a circle" in picture.description
    assert "share a circle" not in few.description


def test_events_of_two_frames_never_share_a_circle() -> None:
    edge = np.array([194.0, 194.0, 194.0])
    nothing = np.zeros(3, np.int64)
    found = Located(nothing, edge, edge, np.array([0, 3, 3]), nothing, {}, {})
    drawn = marks(found, found.shown, nothing)
    assert [mark.count for mark in drawn.marks] == [2, 1]


def test_what_is_only_in_a_state_or_in_the_country_is_pale_and_apart_from_what_is_at_a_place() -> None:
    middle = (39.828175, -98.5795)
    picture = Picture(
        table(
            event(at=middle, name="United States"), event(at=middle, name="United States"),
            event(at=middle), event(name="Colorado, United States"), event(at=MIAMI, name=None), event(at=(34, -84), name=""),
        )
    )  # fmt: skip
    assert sorted(kind for kind, _ in picture.circles) == ["mark q0"] * 3 + ["mark q0 vague"] * 2
    assert "the middle of a state (1 event) or of the country (2)" in picture.description


def test_without_names_of_places_none_is_pale() -> None:
    picture = Picture(table(event(name="United States")).drop_columns("action_geo_full_name"))
    assert [kind for kind, _ in picture.circles] == ["mark q0"]
    assert "Pale" not in picture.words


# What is said


def test_events_that_are_not_on_the_map_are_counted_by_reason_and_in_their_root_code() -> None:
    nowhere: list[Place] = [
        (None, None), (None, -100.0), (math.nan, 1.0), (0.0, 0.0), (-0.0, 0.0), GUAM, (52.5, 13.4), (95.0, 200.0), (math.inf, 0.0),
    ]  # fmt: skip
    picture = Picture(table(event("04"), *(event("04", at) for at in nowhere), event("11", GUAM)))
    assert (
        "On the map: 1 of 11 events, in 1 circle. Not on the map: 4 without coordinates, 2 at (0, 0) and 4 outside of the frames."
        in picture.description
    )
    assert picture.cell("04") == (["10 (1 on the map)", "Consult"], [map_cells.RADIUS_OF_ONE])
    assert picture.cell("11") == (["1 (0 on the map)", "Disapprove"], [])


def test_a_picture_of_events_that_are_all_elsewhere_says_so() -> None:
    picture = Picture(table(event(at=GUAM)))
    assert "On the map: 0 of 1 event, in 0 circles. Not on the map: 1 outside of the frames." in picture.description
    assert picture.circles == []
    assert "Events in a circle" not in picture.words


def test_each_root_code_has_a_small_map_with_its_name_and_number() -> None:
    picture = Picture(table(*(event(code) for code in ROOT_CLASSES), event("01")))
    for code, name in ROOT_CLASSES.items():
        (count, *words), radii = picture.cell(code)
        assert all(len(line) <= map_cells.NAME_LETTERS for line in words)
        assert (count, " ".join(words)) == ("2" if code == "01" else "1", name.capitalize())
        assert counts_of(radii, map_cells.RADIUS_OF_ONE) == [int(count)]
    assert "By root code: 01 Make public statement 2; 02 Appeal 1;" in picture.description
    assert "Verbal cooperation 6 · 29 %" in " ".join(picture.words.split())
    assert "Not in CAMEO" not in picture.words


def test_codes_that_cameo_does_not_know_are_shown_apart_and_named() -> None:
    picture = Picture(table(event("04"), event("21"), event("21"), event("1"), event(None)))
    assert "Events by class: Verbal cooperation 1; Not in CAMEO 4." in picture.description
    assert "Not in CAMEO 21, no code and 1 4" in picture.description
    assert sorted(kind for kind, _ in picture.sectors) == ["mark q0", "mark q4"]


@needs_shared_file
def test_the_classes_of_root_codes_are_those_of_the_feed() -> None:
    raw = shared_table()
    quad = {code: place for place, codes in enumerate(QUAD_CLASSES.values(), 1) for code in codes}
    assert set(zip(raw["event_root_code"].to_pylist(), raw["quad_class"].to_pylist(), strict=True)) == set(quad.items())


@needs_shared_file
def test_the_events_of_a_real_file_are_all_on_the_map() -> None:
    raw = shared_table()
    picture = Picture(raw.filter(pa.compute.equal(raw["action_geo_country_code"], "US")))
    assert "On the map: 533 of 533 events" in picture.description
    assert "the middle of a state (174 events) or of the country (40)" in picture.description
    assert picture.cell("04")[0] == ["126", "Consult"]


def test_no_events_are_a_map_that_says_so() -> None:
    picture = Picture(SCHEMA.empty_table())
    assert "There are no events." in picture.words
    assert picture.description.startswith("There are no events.")
    assert picture.circles == [] and picture.sectors == []
    assert "Verbal" not in picture.words


# The picture as a document


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    drawn = us_map_svg(table(event(text, name=text)), title=text, label=text)
    root = ET.fromstring(drawn)
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags <= {"svg", "title", "desc", "style", "defs", "g", "use", "path", "rect", "text", "tspan", "circle"}
    expected = (text if len(text) < 100 else "x" * 99 + "…").replace("\x00", "\ufffd").replace("\x1f", "\ufffd")
    assert root.findtext(f"{SVG}title") == expected
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)


def test_the_picture_needs_nothing_beside_it_and_has_words_for_who_does_not_see_it() -> None:
    root = Picture(table(event())).root
    links = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert set(links) == {"#land"}
    ids = {element.get("id") for element in root.iter()}
    assert root.get("role") == "img"
    assert set((root.get("aria-labelledby") or "").split()) <= ids


def test_the_same_events_in_another_order_are_the_same_picture() -> None:
    events = pa.concat_tables([scattered(3000), table(*[event(), event("19"), event(None), event(at=GUAM)] * 3)])
    order = np.random.default_rng(1).permutation(events.num_rows)
    again = us_map_svg(events.take(order), title="Events", label="")
    assert again == us_map_svg(events, title="Events", label="")


def test_the_picture_does_not_grow_without_end() -> None:
    assert len(us_map_svg(scattered(20_000), title="Events", label="")) < 350_000


def test_the_metadata_hold_the_whole_picture() -> None:
    svg = us_map_svg(table(event()), title="Events", label="")
    found = re.fullmatch(r"!\[([^]]+)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", as_markdown(svg))
    assert found and found[1] == "Map of the events in the United States by CAMEO root code"
    assert base64.b64decode(found[2]).decode() == svg
