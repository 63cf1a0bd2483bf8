"""The rules by which an event is a US event: what the settings may say, and where each rule draws its line."""

import math
from typing import Any

import pytest

from etl_assets.errors import ConfigurationError
from etl_assets.systems.events.transform import ByCountryCode, InBox, UsRule, us_rule
from etl_assets_tests.systems.events.raw_rows import event, raw_table

SOUTH, NORTH, WEST, EAST = 24.396308, 49.384358, -125.0, -66.93457


def reason(rule: UsRule, **values: Any) -> str | None:
    """Why a rule leaves out an event with such values; None where it lets it through."""
    return rule.reasons_left_out(raw_table(event(**values))).to_pylist()[0]


def test_without_settings_us_events_are_those_with_the_country_code_of_the_united_states() -> None:
    assert us_rule() == ByCountryCode(("US",))


def test_territories_are_added_by_their_codes_each_once_and_in_capitals() -> None:
    rule = us_rule("country_code", ["US", " rq ", "VQ", "GQ", "AQ", "CQ", "us"])

    assert rule == ByCountryCode(("US", "RQ", "VQ", "GQ", "AQ", "CQ"))


def test_the_box_is_that_of_the_contiguous_states_and_does_not_look_at_country_codes() -> None:
    assert us_rule("bounding_box", ["nonsense"]) == InBox(south=SOUTH, north=NORTH, west=WEST, east=EAST)


@pytest.mark.parametrize("name", ["", "box", "COUNTRY_CODE", "country code"])
def test_an_unknown_rule_is_refused_with_the_rules_that_there_are(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        us_rule(name)

    assert str(refused.value) == (
        f"EVENTS_US_RULE is {name!r}, which is no rule: set it to country_code or bounding_box"
    )


@pytest.mark.parametrize("code", ["USA", "U", "", "U1", "43", "ÜS", "U S", "US;RQ", "US\n\nRQ"])
def test_what_is_no_country_code_of_two_letters_is_refused_with_what_it_may_be(code: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        us_rule("country_code", ["US", code])

    assert str(refused.value) == (
        f"EVENTS_US_COUNTRY_CODES has {code!r}, which is no country code of FIPS 10-4: write its two letters, US for the"
        " United States, RQ, VQ, GQ, AQ, CQ for its territories, separated by commas"
    )


@pytest.mark.parametrize(("iso", "fips"), [("PR", "RQ"), ("GU", "GQ"), ("pr", "RQ")])
def test_a_territory_by_its_code_in_iso_is_refused_with_the_one_that_the_feed_has(iso: str, fips: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"^EVENTS_US_COUNTRY_CODES has '{iso}', .* FIPS 10-4 .* write {fips}$"
    ):
        us_rule("country_code", [iso])


def test_no_country_code_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="^EVENTS_US_COUNTRY_CODES names no country: set it to US"):
        us_rule("country_code", [])


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        ("US", None),
        ("RQ", None),
        ("GM", "another country"),
        ("GQ", "another country"),
        ("NA", "another country"),
        ("us", "another country"),
        (None, "no action location"),
    ],
)
def test_the_country_code_decides_by_fips(code: str | None, left_out: str | None) -> None:
    assert reason(ByCountryCode(("US", "RQ")), action_geo_country_code=code) == left_out


@pytest.mark.parametrize(("lat", "long"), [(0.0, 0.0), (None, None), (61.2, -149.9), (-41.3, 174.8)])
def test_the_country_code_decides_wherever_the_coordinates_are(lat: float | None, long: float | None) -> None:
    assert reason(us_rule(), action_geo_lat=lat, action_geo_long=long) is None


@pytest.mark.parametrize("lat", [SOUTH, NORTH])
@pytest.mark.parametrize("long", [WEST, EAST])
def test_the_corners_are_in_the_box(lat: float, long: float) -> None:
    assert reason(InBox(), action_geo_lat=lat, action_geo_long=long, action_geo_country_code="CA") is None


@pytest.mark.parametrize(
    ("lat", "long"),
    [
        (math.nextafter(SOUTH, -90), -100.0),
        (math.nextafter(NORTH, 90), -100.0),
        (40.0, math.nextafter(WEST, -180)),
        (40.0, math.nextafter(EAST, 180)),
        (0.0, 0.0),
        (65.0, -100.0),
        (40.0, 100.0),
    ],
)
def test_what_is_beyond_an_edge_is_outside_the_box_whatever_its_country_code(lat: float, long: float) -> None:
    assert reason(InBox(), action_geo_lat=lat, action_geo_long=long) == "outside the box"


@pytest.mark.parametrize(("lat", "long"), [(None, None), (40.0, None), (None, -100.0), (65.0, None), (None, 100.0)])
def test_what_lacks_a_coordinate_is_in_no_box(lat: float | None, long: float | None) -> None:
    assert reason(InBox(), action_geo_lat=lat, action_geo_long=long) == "no coordinates"
